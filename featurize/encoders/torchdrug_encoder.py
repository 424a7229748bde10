"""The second backend of the structure encoders: the same weights through torchdrug 0.2.1 itself.

It is slower and keeps other spatial neighbours of crowded residues (torch_cluster's choice, which differs between CPU
and GPU); it is there for those who want the reference's own numbers, and for the parity test. Always in float32.

Legend: N residues of all chains of a group together, D width.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32

from amma.featurize.encoders.gearnet import GearNet, GearNetConfig
from amma.featurize.encoders.structure_encoder import StructureEncoder
from amma.featurize.encoders.torchdrug_worker import (
    ANSWER_TIMEOUT_S,
    START_TIMEOUT_S,
    TorchdrugWorker,
    find_python,
    installed_versions,
)
from amma.manifests.structures import Chain


class TorchdrugEncoder(StructureEncoder):
    """By torchdrug's GearNet with the weights of `model`.

    Raises `WeightsError` if torchdrug's environment (`python`, by default that of `make torchdrug`) is missing.
    """

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
        super().__init__(
            model.config, weights_sha256=weights_sha256, random_weights=random_weights, max_residues=max_residues
        )
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
        return self._decided(
            {
                "backend": "torchdrug",
                "backend_version": self._versions["torchdrug"],
                "torch_cluster": self._versions["torch-cluster"],
                "device": torch.device(self._device).type,
            },
            dtype="float32",
            crowded="torch_cluster's choice",
        )

    def cost(self, rows: int) -> int:
        """Four times the residues: torchdrug holds every sum of a layer at once, empty ones too (730 kB a residue)."""
        return 4 * rows

    def close(self) -> None:
        """End torchdrug's process."""
        self.worker.close()

    def _features(self, chains: Sequence[Chain]) -> Float32[np.ndarray, "N D"]:
        lengths = [len(chain.letters) for chain in chains]
        if not sum(lengths):
            return np.zeros((0, self.width), dtype=np.float32)
        answer = self.worker.compute(
            "".join(chain.letters for chain in chains),
            np.concatenate([chain.ca for chain in chains]),
            [length for length in lengths if length],
            threads=torch.get_num_threads(),
        )
        return answer.features_ND


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
