"""What the structure encoders of either backend share: all but how the features of a group of chains are computed.

Legend: N residues of all chains of a group together, D width.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32

from amma.featurize.encoders.gearnet import GearNetConfig
from amma.featurize.encoders.gearnet_rows import chain_of, groups_within_cost, keep_rows, num_rows
from amma.featurize.encoders.protocol import Encoded, EncoderInput
from amma.featurize.encoders.residue_graph import RESIDUE_TABLE
from amma.manifests.structures import Chain
from amma.manifests.table import Modality, Protein


class StructureEncoder(ABC):
    """Features of every residue that has a Cα, by a GearNet; rows as in `gearnet_rows`, members as in `Encoder`."""

    modality = Modality.STR

    def __init__(
        self, config: GearNetConfig, *, weights_sha256: str, random_weights: bool, max_residues: int | None
    ) -> None:
        self.name = config.name(random=random_weights)
        self.random_weights = random_weights
        self.config = config
        self.width = config.width
        self.max_residues = max_residues
        self._weights_sha256 = weights_sha256

    def lengths(self, proteins: Sequence[Protein]) -> list[int]:
        """Residues with a Cα, of those before `max_residues`; 0 without a structure."""
        return [num_rows(protein, self.max_residues) for protein in proteins]

    def encode(self, batch: Sequence[EncoderInput]) -> list[Encoded]:
        """Features of each protein; `index` holds the residue of each row."""
        encoded = []
        for chains in groups_within_cost([chain_of(item) for item in batch], self.max_residues):
            ends = np.cumsum([len(chain.letters) for chain in chains])[:-1]
            parts = np.split(self._features(chains), ends)
            encoded += [keep_rows(chain, part, self.max_residues) for chain, part in zip(chains, parts, strict=True)]
        return encoded

    def _decided(self, backend: Mapping[str, str], *, dtype: str, crowded: str) -> dict[str, Any]:
        """The fingerprint of the model computed by `backend`; `crowded` says which of too many neighbours it keeps."""
        return {
            "encoder": self.config.name(random=False),
            **backend,
            "architecture": self.config.model_dump(mode="json"),
            "weights_sha256": self._weights_sha256,
            "random_weights": self.random_weights,
            "dtype": dtype,
            "residue_table": RESIDUE_TABLE,
            "crowded": crowded,
            "long": "graph of the whole chain",
            "max_residues": self.max_residues,
        }

    @abstractmethod
    def _features(self, chains: Sequence[Chain]) -> Float32[np.ndarray, "N D"]:
        """The rows of all residues of these chains, in their order."""
