"""A predictor in memory: proteins of a store in, probabilities out.

Shapes: B proteins, N proteins asked for, K terms.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int64
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from amma.evaluate.config import Protocol, Readout
from amma.evaluate.predictor.folder import FACTS, SHARED, Member, find_predictor, read_predictor
from amma.evaluate.predictor.saving import ENCODER, HEAD, MODEL, mean_probability, needed
from amma.evaluate.predictor.tuned_sequence import TunedSequenceEncoders
from amma.evaluate.tuning.finetune import probabilities
from amma.evaluate.tuning.head import Head
from amma.evaluate.tuning.readout import AttentionPooling, represent
from amma.evaluate.tuning.tunable_esm import TunableEsm
from amma.evaluate.tuning.visible import VisibleDraws
from amma.featurize.store.fingerprint import differences
from amma.featurize.store.reader import FeatureStore
from amma.manifests.errors import CheckpointError, FingerprintError
from amma.manifests.table import Modality
from amma.train.model.family import make_model
from amma.train.model.fusion import FusionModel

UNREAD = str(Modality.FUNC)
"""The part of a fingerprint that says how texts are encoded: a prediction sees no text."""


class Predictor:
    """The tuned models and heads of all seeds. `path` is the predictor's folder, or the report that it is in.

    Raises `CheckpointError` if it is not there, damaged, or of a newer major version (`E_VERSION`).
    """

    def __init__(self, path: Path, *, device: torch.device | str = "cpu") -> None:
        self.folder = find_predictor(path)
        self.facts = read_predictor(self.folder)
        self._device = torch.device(device)
        self._is_paper = self.facts.config.protocol is Protocol.PAPER
        self._models: list[FusionModel] = []
        self._encoders: list[TunableEsm] = []
        self._heads: list[Head] = []
        try:
            shared = load_file(self.folder / SHARED)
            if self._is_paper:
                self._sequence = TunedSequenceEncoders(self.facts.encoders["seq"], self.facts.config.precision)
            for member in self.facts.members:
                self._add(member, shared)
        except (KeyError, ValueError, RuntimeError, SafetensorError) as error:
            reason = str(error).strip().split("\n")[0]
            raise CheckpointError(
                f"{self.folder}: its weights are not those of the model in {FACTS} ({reason}). Run amma-eval function "
                "again."
            ) from error

    @torch.no_grad()
    def probabilities(self, store: FeatureStore, proteins: Int64[np.ndarray, " N"]) -> Float64[np.ndarray, "N K"]:
        """The calibrated probability of each term for proteins (numbers in the store) with any residue features."""
        scores = []
        readout, size = self.facts.config.readout, self.facts.config.batch_size
        draws = self._draws(store)
        for start in range(0, len(proteins), size):
            rows = proteins[start : start + size]
            inputs = self._sequence.inputs(store, rows) if self._is_paper else None
            per_seed = []
            vectors_BD: Tensor | None = None
            for place, (model, head) in enumerate(zip(self._models, self._heads, strict=True)):
                # Where only heads were tuned, one pass through the model serves all of them.
                if vectors_BD is None or head.pooling is not None or model is not self._models[place - 1]:
                    renew = partial(inputs.renewed, esm=self._encoders[place]) if inputs is not None else None
                    vectors_BD = represent(
                        model,
                        store,
                        rows,
                        readout,
                        device=self._device,
                        pooling=head.pooling,
                        renew=renew,
                        draws=draws,
                    )
                per_seed.append(probabilities(head(vectors_BD).float().cpu()))
            scores.append(mean_probability([member.calibration for member in self.facts.members], per_seed))
        return np.concatenate(scores) if scores else np.zeros((0, len(self.facts.terms)))

    def _draws(self, store: FeatureStore) -> VisibleDraws | None:
        number, mask = self.facts.config.draws, self.facts.mask
        return None if number is None or mask is None else VisibleDraws(store, number, mask)

    def check_features(self, fingerprint: Mapping[str, Any], *, source: str) -> None:
        """Raise `FingerprintError` naming each field in which features are not what the predictor was tuned on."""
        tuned_on, given = (
            {key: value for key, value in each.items() if key != UNREAD} for each in (self.facts.encoders, fingerprint)
        )
        lines = differences(tuned_on, given)
        if lines:
            raise FingerprintError(
                f"{source}: not the features that {self.folder} was tuned on (tuned -> here): {'; '.join(lines)}. "
                "Give the encoders, weights and settings of the store it was tuned on."
            )

    def _add(self, member: Member, shared: Mapping[str, Tensor]) -> None:
        weights = load_file(self.folder / member.file)
        tuned = {name.removeprefix(MODEL): value for name, value in weights.items() if name.startswith(MODEL)}
        model = self._models[0] if self._models and not tuned else self._model({**shared, **tuned})
        if self._is_paper:
            esm = {name.removeprefix(ENCODER): value for name, value in weights.items() if name.startswith(ENCODER)}
            self._encoders.append(self._sequence.load(esm, self._device))
        config = self.facts.config
        width = model.config.width
        pooling = AttentionPooling(width) if config.readout is Readout.ATTENTION else None
        head = Head(torch.zeros(1, width), torch.zeros(1, len(self.facts.terms), dtype=torch.bool), pooling)
        head.load_state_dict({name.removeprefix(HEAD): v for name, v in weights.items() if name.startswith(HEAD)})
        self._models.append(model)
        self._heads.append(head.to(self._device).eval())

    def _model(self, weights: Mapping[str, Tensor]) -> FusionModel:
        """A model whose decoders, which are not asked for anything here, have weights of no meaning."""
        model = make_model(self.facts.model, {Modality(name): width for name, width in self.facts.widths.items()})
        missing = needed(model).difference(weights)
        if missing:
            raise KeyError(f"no {min(missing)}")
        model.load_state_dict(weights, strict=False)
        strange = set(weights).difference(model.state_dict())
        if strange:
            raise KeyError(f"{min(strange)} is not of this model")
        return model.to(self._device).eval()
