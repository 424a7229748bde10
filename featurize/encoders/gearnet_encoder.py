"""The structure encoder: GearNet-Edge over the whole chain, several proteins in one disjoint graph."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from amma.featurize.encoders.gearnet import GearNet, GearNetConfig
from amma.featurize.encoders.gearnet_weights import load_gearnet, random_gearnet
from amma.featurize.encoders.protocol import Encoded, EncoderInput
from amma.featurize.encoders.residue_graph import RESIDUE_TABLE, build_graph
from amma.featurize.encoders.weights import sha256_of_state
from amma.manifests.structures import Chain
from amma.manifests.table import Modality, Protein

TINY = GearNetConfig(hidden_widths=(16,) * 6)


class GearNetEncoder:
    """Features of every residue that has a Cα, by a frozen GearNet-Edge.

    The graph is that of the whole chain. `max_residues` only limits which residues get a row: those before that index
    of the sequence, so that structure and sequence features cover the same residues where the sequence encoder has a
    limit; None gives all.
    """

    modality = Modality.STR

    def __init__(
        self,
        model: GearNet,
        *,
        weights_sha256: str,
        random_weights: bool = False,
        max_residues: int | None = None,
        device: str = "cpu",
    ) -> None:
        self.name = "random-gearnet-edge" if random_weights else "gearnet-edge"
        self.random_weights = random_weights
        self.config = model.config
        self.width = model.config.width
        self.max_residues = max_residues
        self._weights_sha256 = weights_sha256
        self._model = model.to(device).eval().requires_grad_(False)
        self._device = device

    @classmethod
    def from_file(
        cls,
        path: Path,
        config: GearNetConfig | None = None,
        *,
        max_residues: int | None = None,
        device: str = "cpu",
    ) -> "GearNetEncoder":
        """Load torchdrug's weights; without `config`, in their published size. `WeightsError` if they do not fit."""
        model, sha256 = load_gearnet(path, config or GearNetConfig())
        return cls(model, weights_sha256=sha256, max_residues=max_residues, device=device)

    @classmethod
    def random(
        cls,
        *,
        seed: int = 0,
        config: GearNetConfig = TINY,
        max_residues: int | None = None,
        device: str = "cpu",
    ) -> "GearNetEncoder":
        """The same class with seeded random weights, by default at toy size; torch's random state is left alone."""
        model = random_gearnet(seed, config)
        sha256 = sha256_of_state(model)
        return cls(model, weights_sha256=sha256, random_weights=True, max_residues=max_residues, device=device)

    def fingerprint(self) -> dict[str, Any]:
        """What decides the numbers."""
        return {
            "encoder": "gearnet-edge",
            "backend": "amma",
            "architecture": self.config.model_dump(mode="json"),
            "weights_sha256": self._weights_sha256,
            "random_weights": self.random_weights,
            "dtype": "float32",
            "residue_table": RESIDUE_TABLE,
            "crowded": "the first max_neighbors by index",
            "long": "graph of the whole chain",
            "max_residues": self.max_residues,
        }

    def lengths(self, proteins: Sequence[Protein]) -> list[int]:
        """Residues with a Cα, of those before `max_residues`; 0 without a structure."""
        return [0 if protein.structure is None else self._num_rows(protein) for protein in proteins]

    def cost(self, rows: int) -> int:
        """Residues: edges grow with them."""
        return rows

    @torch.inference_mode()
    def encode(self, batch: Sequence[EncoderInput]) -> list[Encoded]:
        """Features of each protein; `index` holds the residue of each row."""
        if not batch:
            return []
        chains = [_chain_of(item) for item in batch]
        traces = [(chain.letters, torch.tensor(chain.ca, device=self._device)) for chain in chains]
        features_ND = self._model(build_graph(traces, self.config.graph)).cpu().numpy()
        encoded = []
        start = 0
        for chain in chains:
            features_RD = features_ND[start : start + len(chain.residue)]
            start += len(chain.residue)
            wanted_R = slice(None) if self.max_residues is None else chain.residue < self.max_residues
            encoded.append(Encoded(features=features_RD[wanted_R].copy(), index=chain.residue[wanted_R].copy()))
        return encoded

    def _num_rows(self, protein: Protein) -> int:
        length = len(protein.sequence)
        limit = length if self.max_residues is None else min(length, self.max_residues)
        return limit - sum(residue < limit for residue in set(protein.unresolved))


def _chain_of(item: EncoderInput) -> Chain:
    if item.chain is None:
        raise ValueError(f"{item.protein.id!r}: a structure encoder needs the protein's chain")
    return item.chain
