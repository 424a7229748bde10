"""Where a GearNet's weights come from: torchdrug's published file, or seeded random numbers.

Random weights need care: GearNet adds up neighbours without dividing by their number, so values grow from layer to
layer up to the limit of fp16. Here the batch norms hold the statistics that the random network really has on a few
synthetic chains, and every layer gives numbers around 1, as a trained one does.
"""

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor, nn

from amma.featurize.encoders.gearnet import GearNet, GearNetConfig
from amma.featurize.encoders.residue_graph import RESIDUES, build_graph
from amma.featurize.encoders.weights import (
    LoadedFile,
    fill_with_random_numbers,
    load_state,
    load_torch_file,
    one_line,
)
from amma.manifests.errors import WeightsError
from amma.manifests.files import sha256_of_file
from amma.manifests.known_weights import known_weights

PUBLISHED = "gearnet-edge"
CALIBRATION_LENGTH = 96
CALIBRATION_CHAINS = 9
PULL = 0.98
MIN_VARIANCE = 1e-2
"""A channel that hardly varies is not blown up."""


def load_gearnet(path: Path, config: GearNetConfig) -> tuple[GearNet, str]:
    """A GearNet with the weights of a file (`.pth` of torchdrug, or `.safetensors`), and the file's sha256.

    Raises `WeightsError` if the file is missing or damaged, or if any of its names or shapes is not that of `config`.
    """
    if not path.is_file():
        published = known_weights()[PUBLISHED]
        if not config.edges:
            raise WeightsError(
                f"{path}: no such weights file. None of a plain GearNet are published; give those that you trained "
                "with torchdrug (https://github.com/DeepGraphLearning/GearNet), or use encoder gearnet-edge."
            )
        raise WeightsError(
            f"{path}: no such weights file. Those of GearNet-Edge are {published.file}: get them from "
            f"{published.address} and put them into {path.parent}."
        )
    loaded = _load_safetensors(path) if path.suffix == ".safetensors" else load_torch_file(path)
    state = _state_of(loaded, edges=config.edges)
    model = GearNet(config)
    load_state(model, state, source=str(path))
    return model.eval(), loaded.sha256


def random_gearnet(seed: int, config: GearNetConfig) -> GearNet:
    """A GearNet with seeded random weights, the same on every machine; torch's random state is left alone.

    Statistics are measured in float64 and rounded to float16, so that the last bits of one CPU's arithmetic do not
    show in them.
    """
    with torch.random.fork_rng(devices=[]):
        model = GearNet(config)
    fill_with_random_numbers(model, seed)
    measured = deepcopy(model).double().train()
    norms = _batch_norms(measured)
    for norm in norms:
        norm.momentum = 1.0  # what was measured last counts alone
    chains = [(letters, torch.from_numpy(position)) for letters, position in synthetic_chains(seed)]
    everything = CALIBRATION_CHAINS * CALIBRATION_LENGTH**2
    with torch.no_grad():
        measured(build_graph(chains, config.graph, line=config.edges, pairs_per_block=everything))
    for norm, source in zip(_batch_norms(model), norms, strict=True):
        if norm.running_mean is not None and source.running_mean is not None:
            norm.running_mean.copy_(source.running_mean.half())
        if norm.running_var is not None and source.running_var is not None:
            norm.running_var.copy_(source.running_var.clamp(min=MIN_VARIANCE).half())
    return model.eval()


def synthetic_chains(seed: int) -> list[tuple[str, Float64[np.ndarray, "N 3"]]]:
    """Letters and Cα traces (Å) of helix bundles, of stacked sheets and of compact coils, in equal numbers.

    Positions are rounded to 0.001 Å, as in a PDB file: they are the same on every machine.
    """
    generator = np.random.Generator(np.random.Philox(key=seed))
    alphabet = np.array(list(RESIDUES + "X"))
    chains = []
    for number in range(CALIBRATION_CHAINS):
        if number % 3 == 0:
            position = _elements(length=16, rise=1.5, turn=100.0, radius=2.3, in_row=3, apart=9.5)
        elif number % 3 == 1:
            position = _elements(length=8, rise=3.3, turn=180.0, radius=0.9, in_row=4, apart=4.8)
        else:
            step = generator.random((CALIBRATION_LENGTH, 3)) - 0.5
            step *= 3.8 / np.linalg.norm(step, axis=1, keepdims=True)
            # A random walk drawn back to its start, so that it stays as dense as a protein.
            since = np.subtract.outer(np.arange(CALIBRATION_LENGTH), np.arange(CALIBRATION_LENGTH))
            position = np.tril(PULL ** np.abs(since)) @ step
        # Without disorder many distances and angles would be equal, and the last bit of one would decide.
        position = position + 0.3 * (generator.random(position.shape) - 0.5)
        letters = alphabet[(generator.random(CALIBRATION_LENGTH) * len(alphabet)).astype(int)]
        chains.append(("".join(letters), position.round(3)))
    return chains


def _elements(
    *, length: int, rise: float, turn: float, radius: float, in_row: int, apart: float
) -> Float64[np.ndarray, "N 3"]:
    """Straight elements of `length` residues side by side in rows 9.5 Å apart, each running against the one before.

    A residue rises by `rise` (Å) and turns by `turn` (degrees) around the axis of its element, at `radius` (Å).
    """
    step = np.arange(CALIBRATION_LENGTH)
    element, along = step // length, step % length
    along = np.where(element % 2 == 0, along, length - 1 - along)
    angle = np.deg2rad(turn) * step
    row, place = element // in_row, element % in_row
    return np.stack([rise * along, apart * place + radius * np.sin(angle), 9.5 * row + radius * np.cos(angle)], axis=1)


def _batch_norms(model: nn.Module) -> list[nn.BatchNorm1d]:
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm1d)]


def _load_safetensors(path: Path) -> LoadedFile:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return LoadedFile(path, load_file(path), sha256_of_file(path))
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: not a readable safetensors file ({one_line(error)}). Get it again.") from error


def _state_of(loaded: LoadedFile, *, edges: bool) -> dict[str, Tensor]:
    """The state of a checkpoint, if it is a bare one as torchdrug's are, with or without edge layers as wanted."""
    data: Any = loaded.data
    if not isinstance(data, dict) or not all(isinstance(value, Tensor) for value in data.values()):
        raise WeightsError(
            f"{loaded.path}: holds something other than the parameters of a GearNet. Expected the plain state_dict "
            f"that torchdrug publishes as {known_weights()[PUBLISHED].file}."
        )
    if "layers.0.linear.weight" in data:
        has_edges = any(name.startswith("edge_layers.") for name in data)
        known = known_weights()[PUBLISHED]
        if edges and not has_edges:
            raise WeightsError(
                f"{loaded.path}: a GearNet without edge layers; this encoder is GearNet-Edge, which torchdrug builds "
                f"with num_angle_bin=8. Use {known.file} from {known.address}, or encoder gearnet for the plain one."
            )
        if has_edges and not edges:
            raise WeightsError(
                f"{loaded.path}: a GearNet-Edge; this encoder is the plain GearNet, which has no edge layers. "
                "Use encoder gearnet-edge for these weights."
            )
    return data
