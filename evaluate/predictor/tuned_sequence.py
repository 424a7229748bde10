"""The sequence encoders that protocol `paper` tuned, one a seed: they read new proteins themselves.

Legend: N proteins.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from amma.evaluate.config import Precision
from amma.evaluate.tuning.sequence_features import SequenceInputs
from amma.evaluate.tuning.tunable_esm import TunableEsm
from amma.featurize.encoders.esm import EsmEncoder
from amma.featurize.encoders.esm_checkpoint import random_model
from amma.featurize.store.reader import FeatureStore
from amma.manifests.table import Modality, Protein


class TunedSequenceEncoders:
    """Makes encoders of the architecture, layer and limit that a store's sequence features are of."""

    def __init__(self, made_by: Mapping[str, Any], precision: Precision | None) -> None:
        self._made_by = made_by
        self._precision = precision or Precision.FP32
        # Of no layer: what it is asked for is how residues become tokens.
        self._reader = EsmEncoder(
            self._empty(),
            name="sequence encoder",
            weights_sha256="",
            layer=0,
            max_residues=made_by.get("max_residues"),
            long=made_by.get("long", "truncate"),
        )

    def load(self, weights: Mapping[str, Tensor], device: torch.device) -> TunableEsm:
        """An encoder with these weights; raises `RuntimeError` if they are of another architecture."""
        esm = TunableEsm(self._empty(), layer=self._made_by["layer"])
        esm.load_state_dict(weights)
        return esm.to(device).eval()

    def inputs(self, store: FeatureStore, proteins: Int64[np.ndarray, " N"]) -> SequenceInputs:
        """What the encoders read of those of `proteins` (numbers in the store) that have sequence features."""
        present = proteins[store.length(Modality.SEQ)[proteins] > 0].tolist()
        sequences = store.sequences().take(present)
        tokens = {
            row: self._reader.tokens(Protein(id=str(row), sequence=sequence))
            for row, sequence in zip(present, sequences, strict=True)
        }
        return SequenceInputs(tokens, self._precision)

    def _empty(self) -> Any:
        """A model of the right shape, with weights of no meaning."""
        sizes = self._made_by["architecture"]
        return random_model(
            seed=0,
            architecture=sizes["family"],
            layers=sizes["layers"],
            width=sizes["width"],
            heads=sizes["heads"],
        )
