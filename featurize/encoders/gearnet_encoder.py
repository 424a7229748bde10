"""The structure encoder: GearNet-Edge, or the plain GearNet, over whole chains, several in one disjoint graph.

Memory goes with the residues of the graph, and is bounded by what a batch may cost: where chains are longer than the
rows that are wanted of them, a batch is computed in several pieces. On real chains at the published size a residue
takes about 165 kB in float32 and 115 kB in bfloat16 (torchdrug: 730 kB): a batch of 8,192 residues 1.3 GB, and a chain
of 35,000 that goes alone 5.8 GB.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from amma.featurize.encoders.gearnet import GearNet, GearNetConfig
from amma.featurize.encoders.gearnet_frozen import DTYPES, FrozenGearNet
from amma.featurize.encoders.gearnet_rows import chain_of, groups_within_cost, keep_rows, num_rows
from amma.featurize.encoders.gearnet_weights import load_gearnet, random_gearnet
from amma.featurize.encoders.protocol import Encoded, EncoderInput
from amma.featurize.encoders.residue_graph import RESIDUE_TABLE
from amma.featurize.encoders.weights import sha256_of_state
from amma.manifests.structures import Chain
from amma.manifests.table import Modality, Protein

TINY = GearNetConfig(hidden_widths=(16,) * 6)


class GearNetEncoder:
    """Features of every residue that has a Cα, by a frozen GearNet; rows as in `gearnet_rows`.

    `precision` (fp32, bf16, fp16) is that of matrices, products and edge features.
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
        precision: str = "fp32",
    ) -> None:
        self.name = model.config.name(random=random_weights)
        self.random_weights = random_weights
        self.config = model.config
        self.width = model.config.width
        self.max_residues = max_residues
        self._weights_sha256 = weights_sha256
        self._model = FrozenGearNet(model.to(device).eval().requires_grad_(False), precision)
        self._precision = precision

    @classmethod
    def from_file(
        cls,
        path: Path,
        config: GearNetConfig | None = None,
        *,
        max_residues: int | None = None,
        device: str = "cpu",
        precision: str = "fp32",
    ) -> "GearNetEncoder":
        """Load torchdrug's weights; without `config`, in their published size. `WeightsError` if they do not fit."""
        model, sha256 = load_gearnet(path, config or GearNetConfig())
        return cls(model, weights_sha256=sha256, max_residues=max_residues, device=device, precision=precision)

    @classmethod
    def random(
        cls,
        *,
        seed: int = 0,
        config: GearNetConfig = TINY,
        max_residues: int | None = None,
        device: str = "cpu",
        precision: str = "fp32",
    ) -> "GearNetEncoder":
        """The same class with seeded random weights, by default at toy size; torch's random state is left alone."""
        model = random_gearnet(seed, config)
        return cls(
            model,
            weights_sha256=sha256_of_state(model),
            random_weights=True,
            max_residues=max_residues,
            device=device,
            precision=precision,
        )

    def fingerprint(self) -> dict[str, Any]:
        """What decides the numbers."""
        return {
            "encoder": self.config.name(random=False),
            "backend": "amma",
            "architecture": self.config.model_dump(mode="json"),
            "weights_sha256": self._weights_sha256,
            "random_weights": self.random_weights,
            "dtype": str(DTYPES[self._precision]).removeprefix("torch."),
            "residue_table": RESIDUE_TABLE,
            "crowded": "the first max_neighbors by index",
            "long": "graph of the whole chain",
            "max_residues": self.max_residues,
        }

    def lengths(self, proteins: Sequence[Protein]) -> list[int]:
        """Residues with a Cα, of those before `max_residues`; 0 without a structure."""
        return [num_rows(protein, self.max_residues) for protein in proteins]

    def cost(self, rows: int) -> int:
        """Residues: edges grow with them. What a batch's chains have beyond their rows, `encode` computes in pieces."""
        return rows

    def encode(self, batch: Sequence[EncoderInput]) -> list[Encoded]:
        """Features of each protein; `index` holds the residue of each row."""
        encoded = []
        for group in groups_within_cost([chain_of(item) for item in batch], self.max_residues):
            encoded += self._encode(group)
        return encoded

    def _encode(self, chains: Sequence[Chain]) -> list[Encoded]:
        graph = self._model.graph([(chain.letters, torch.tensor(chain.ca)) for chain in chains])
        features_ND = self._model(graph).cpu().numpy()
        encoded = []
        start = 0
        for chain in chains:
            encoded.append(keep_rows(chain, features_ND[start : start + len(chain.residue)], self.max_residues))
            start += len(chain.residue)
        return encoded
