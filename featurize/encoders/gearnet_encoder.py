"""The structure encoder: GearNet-Edge, or the plain GearNet, over whole chains, several in one disjoint graph.

Memory goes with the residues of the graph, and is bounded by what a batch may cost: where chains are longer than the
rows that are wanted of them, a batch is computed in several pieces. On real chains at the published size a residue
takes about 165 kB in float32 and 115 kB in bfloat16 (torchdrug: 730 kB): a batch of 8,192 residues 1.3 GB, and a chain
of 35,000 that goes alone 5.8 GB.

Legend: N residues of all chains of a group together, D width.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32

from amma.featurize.encoders.gearnet import GearNet, GearNetConfig
from amma.featurize.encoders.gearnet_frozen import DTYPES, FrozenGearNet
from amma.featurize.encoders.gearnet_weights import load_gearnet, random_gearnet
from amma.featurize.encoders.structure_encoder import StructureEncoder
from amma.featurize.encoders.weights import sha256_of_state
from amma.manifests.structures import Chain

TINY = GearNetConfig(hidden_widths=(16,) * 6)


class GearNetEncoder(StructureEncoder):
    """By a frozen GearNet of our own.

    `precision` (fp32, bf16, fp16) is that of matrices, products and edge features.
    """

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
        super().__init__(
            model.config, weights_sha256=weights_sha256, random_weights=random_weights, max_residues=max_residues
        )
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
        return self._decided(
            {"backend": "amma"},
            dtype=str(DTYPES[self._precision]).removeprefix("torch."),
            crowded="the first max_neighbors by index",
        )

    def cost(self, rows: int) -> int:
        """Residues: edges grow with them. What a batch's chains have beyond their rows, `encode` computes in pieces."""
        return rows

    def _features(self, chains: Sequence[Chain]) -> Float32[np.ndarray, "N D"]:
        graph = self._model.graph([(chain.letters, torch.tensor(chain.ca)) for chain in chains])
        features_ND: Float32[np.ndarray, "N D"] = self._model(graph).cpu().numpy()
        return features_ND
