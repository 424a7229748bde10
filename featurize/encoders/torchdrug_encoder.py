"""The second backend of the structure encoders: the same weights through torchdrug 0.2.1 itself.

It is slower and keeps other spatial neighbours of crowded residues (torch_cluster's choice, which differs between CPU
and GPU); it is there for those who want the reference's own numbers, and for the parity test. Always in float32.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from amma.featurize.encoders.gearnet import GearNet, GearNetConfig
from amma.featurize.encoders.gearnet_rows import chain_of, groups_within_cost, keep_rows, num_rows
from amma.featurize.encoders.protocol import Encoded, EncoderInput
from amma.featurize.encoders.residue_graph import RESIDUE_TABLE
from amma.featurize.encoders.torchdrug_worker import (
    ANSWER_TIMEOUT_S,
    START_TIMEOUT_S,
    TorchdrugWorker,
    find_python,
    installed_versions,
)
from amma.manifests.structures import Chain
from amma.manifests.table import Modality, Protein


class TorchdrugEncoder:
    """Features of every residue that has a Cα, by torchdrug's GearNet with the weights of `model`.

    Raises `WeightsError` if torchdrug's environment (`python`, by default that of `make torchdrug`) is missing.
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
        python: Path | None = None,
        start_timeout_s: float = START_TIMEOUT_S,
        answer_timeout_s: float = ANSWER_TIMEOUT_S,
    ) -> None:
        python = python or find_python()
        self._versions = installed_versions(python)
        self.name = model.config.name(random=random_weights)
        self.random_weights = random_weights
        self.config = model.config
        self.width = model.config.width
        self.max_residues = max_residues
        self._weights_sha256 = weights_sha256
        self._device = device
        self.worker = TorchdrugWorker(
            python,
            script_model(model.config, device),
            {name: tensor.cpu().numpy() for name, tensor in model.state_dict().items()},
            start_timeout_s=start_timeout_s,
            answer_timeout_s=answer_timeout_s,
        )

    def fingerprint(self) -> dict[str, Any]:
        """What decides the numbers; the kind of device is part of it, since torch_cluster's choices depend on it."""
        return {
            "encoder": self.config.name(random=False),
            "backend": "torchdrug",
            "backend_version": self._versions["torchdrug"],
            "torch_cluster": self._versions["torch-cluster"],
            "device": torch.device(self._device).type,
            "architecture": self.config.model_dump(mode="json"),
            "weights_sha256": self._weights_sha256,
            "random_weights": self.random_weights,
            "dtype": "float32",
            "residue_table": RESIDUE_TABLE,
            "crowded": "torch_cluster's choice",
            "long": "graph of the whole chain",
            "max_residues": self.max_residues,
        }

    def lengths(self, proteins: Sequence[Protein]) -> list[int]:
        """Residues with a Cα, of those before `max_residues`; 0 without a structure."""
        return [num_rows(protein, self.max_residues) for protein in proteins]

    def cost(self, rows: int) -> int:
        """Four times the residues: torchdrug holds every sum of a layer at once, empty ones too (730 kB a residue)."""
        return 4 * rows

    def encode(self, batch: Sequence[EncoderInput]) -> list[Encoded]:
        """Features of each protein; `index` holds the residue of each row."""
        encoded = []
        for group in groups_within_cost([chain_of(item) for item in batch], self.max_residues):
            encoded += self._encode(group)
        return encoded

    def close(self) -> None:
        """End torchdrug's process."""
        self.worker.close()

    def _encode(self, chains: Sequence[Chain]) -> list[Encoded]:
        lengths = [len(chain.letters) for chain in chains]
        features_ND = np.zeros((0, self.width), dtype=np.float32)
        if sum(lengths):
            answer = self.worker.compute(
                "".join(chain.letters for chain in chains),
                np.concatenate([chain.ca for chain in chains]),
                [length for length in lengths if length],
                threads=torch.get_num_threads(),
            )
            features_ND = answer.features_ND
        ends = np.cumsum(lengths)[:-1]
        parts = np.split(features_ND, ends)
        return [keep_rows(chain, part, self.max_residues) for chain, part in zip(chains, parts, strict=True)]


def script_model(config: GearNetConfig, device: str) -> dict[str, Any]:
    """The model as `torchdrug_script.py` reads it, without weights."""
    graph = config.graph
    return {
        "hidden_dims": list(config.hidden_widths),
        "num_angle_bin": graph.num_angle_bins if config.edges else None,
        "sequential_distance": graph.sequential_distance,
        "radius": graph.radius,
        "max_neighbors": graph.max_neighbors,
        "num_nearest": graph.num_nearest,
        "min_sequence_distance": graph.min_sequence_distance,
        "device": device,
    }
