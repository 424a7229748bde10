"""Our GearNet against torchdrug 0.2.1 itself, through the same weights, on real chains (needs `make torchdrug`)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from amma.featurize.encoders.gearnet import GearNet, GearNetConfig
from amma.featurize.encoders.gearnet_encoder import GearNetEncoder
from amma.featurize.encoders.gearnet_frozen import FrozenGearNet
from amma.featurize.encoders.gearnet_weights import load_gearnet, random_gearnet
from amma.featurize.encoders.protocol import EncoderInput
from amma.featurize.encoders.residue_graph import find_edges
from amma.featurize.encoders.torchdrug_encoder import TorchdrugEncoder, script_model
from amma.featurize.encoders.torchdrug_worker import TorchdrugWorker, find_python
from amma.manifests.chains import read_chains
from amma.manifests.errors import WeightsError
from amma.manifests.structures import Chain
from amma.manifests.table import Protein

EDGE = GearNetConfig(hidden_widths=(64,) * 6)
PLAIN = GearNetConfig(hidden_widths=(64,) * 6, edges=False)
BOUND = 1e-5
"""Largest absolute difference over the root mean square of the reference."""
CHAINS = 50
AT_ONCE = 10


@dataclass(frozen=True)
class Reference:
    """One chain and what torchdrug makes of it."""

    name: str
    letters: str
    position_N3: Tensor
    edges_E3: Tensor
    features_ND: Tensor

    @property
    def crowded(self) -> bool:
        """Whether torchdrug had to choose among more than 32 neighbours of a residue; which, cannot be derived."""
        return is_crowded(self.position_N3.double())


def is_crowded(position_N3: Tensor) -> bool:
    return int((torch.cdist(position_N3, position_N3) < 10).sum(1).max()) - 1 > EDGE.graph.max_neighbors


@pytest.fixture(scope="module")
def python() -> Path:
    try:
        return find_python()
    except WeightsError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def chains(shared: Path) -> list[tuple[str, str, np.ndarray]]:
    """Real chains by a seeded choice; those with reference files of their own are tested elsewhere."""
    golden = {path.stem.removesuffix("_64") for path in (shared / "golden" / "gearnet").glob("*.npz")}
    paths = sorted((shared / "data" / "real" / "structures").iterdir())
    paths = [path for path in paths if path.name.split(".")[0] not in golden]
    chosen = np.random.Generator(np.random.Philox(key=50)).choice(len(paths), CHAINS, replace=False)
    result = []
    for path in (paths[index] for index in sorted(chosen)):
        raw = read_chains(path.read_bytes(), path.name)[0]
        kept = np.isfinite(raw.ca).all(axis=1)
        letters = "".join(letter for letter, keep in zip(raw.letters, kept, strict=True) if keep)
        result.append((path.name.split(".")[0], letters, raw.ca[kept].astype(np.float32)))
    return result


def references(model: GearNet, python: Path, chains: Sequence[tuple[str, str, np.ndarray]]) -> Iterator[Reference]:
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    worker = TorchdrugWorker(python, script_model(model.config, "cpu"), weights)
    for first in range(0, len(chains), AT_ONCE):
        batch = chains[first : first + AT_ONCE]
        lengths = [len(letters) for _, letters, _ in batch]
        letters, ca = "".join(letters for _, letters, _ in batch), np.concatenate([ca for _, _, ca in batch])
        answer = worker.compute(letters, ca, lengths, edges=True, threads=torch.get_num_threads())
        assert answer.edges_E3 is not None
        start = 0
        for name, own_letters, own_ca in batch:
            stop = start + len(own_letters)
            here = (answer.edges_E3[:, 0] >= start) & (answer.edges_E3[:, 0] < stop)
            edges = torch.from_numpy(answer.edges_E3[here]) - torch.tensor([start, start, 0])
            features = torch.from_numpy(answer.features_ND[start:stop])
            yield Reference(name, own_letters, torch.from_numpy(own_ca), edges, features)
            start = stop
    worker.close()


def differences(model: GearNet, found: Sequence[Reference]) -> dict[str, float]:
    """How far our features are from each reference; torchdrug's own edges are fed in where they cannot be derived."""
    frozen = FrozenGearNet(model)
    result = {}
    for item in found:
        edges = [item.edges_E3] if item.crowded else None
        trace = [(item.letters, item.position_N3)]
        ours = frozen(frozen.graph(trace, edges=edges))
        rms = float(item.features_ND.square().mean().sqrt())
        result[item.name] = float((ours - item.features_ND).abs().max()) / rms
    return result


def edge_set(table: Tensor) -> set[tuple[int, int, int]]:
    return {(i, j, relation) for i, j, relation in table.tolist()}


def test_fifty_real_chains_have_torchdrugs_edges_and_features(
    python: Path, shared: Path, chains: list[tuple[str, str, np.ndarray]]
) -> None:
    model, _ = load_gearnet(shared / "golden" / "gearnet" / "gearnet_edge_64.pth", EDGE)
    found = list(references(model, python, chains))
    assert len(found) == CHAINS
    for item in found:
        if not item.crowded:
            assert edge_set(find_edges(item.position_N3, EDGE.graph)) == edge_set(item.edges_E3), item.name
    assert 0 < sum(item.crowded for item in found) < CHAINS / 2
    apart = differences(model, found)
    assert max(apart.values()) <= BOUND, {name: value for name, value in apart.items() if value > BOUND}


def test_a_gearnet_without_edge_layers_is_torchdrugs(python: Path, chains: list[tuple[str, str, np.ndarray]]) -> None:
    model = random_gearnet(3, PLAIN)
    found = list(references(model, python, chains[:AT_ONCE]))
    apart = differences(model, found)
    assert max(apart.values()) <= BOUND, apart


def test_unknown_letters_and_the_shortest_chains_are_torchdrugs(python: Path) -> None:
    model = random_gearnet(0, EDGE)
    generator = np.random.default_rng(0)
    chains = [
        (str(count), letters[:count], (generator.random((count, 3)) * 12).astype(np.float32))
        for count, letters in enumerate(["X", "WX", "XXA", "GXUOB", "AXCDEFGHIK"] * 2, start=1)
        for count in [min(count, len(letters))]
    ]
    found = list(references(model, python, chains))
    assert len(found) == 10
    assert max(differences(model, found).values()) <= BOUND


def test_both_backends_are_one_encoder_with_two_fingerprints(
    python: Path, chains: list[tuple[str, str, np.ndarray]]
) -> None:
    model = random_gearnet(1, EDGE)
    ours = GearNetEncoder(model, weights_sha256="0" * 64, random_weights=True, max_residues=80)
    theirs = TorchdrugEncoder(model, weights_sha256="0" * 64, random_weights=True, max_residues=80, python=python)
    batch = []
    for name, letters, ca in [chain for chain in chains if not is_crowded(torch.from_numpy(chain[2]).double())][:4]:
        row = Protein(name, letters, structure=f"{name}.pdb")
        batch.append(EncoderInput(row, Chain(np.arange(len(letters), dtype=np.int32), letters, ca)))
    for one, other in zip(ours.encode(batch), theirs.encode(batch), strict=True):
        assert one.index is not None
        assert other.index is not None
        assert one.index.tolist() == other.index.tolist()
        rms = float(np.sqrt(np.square(other.features).mean()))
        assert float(np.abs(one.features - other.features).max()) <= BOUND * rms
    theirs.close()
    assert ours.name == theirs.name
    assert ours.fingerprint() != theirs.fingerprint()


def test_a_lock_left_by_a_build_that_was_killed_is_no_obstacle(python: Path) -> None:
    folders = list((python.parent.parent / "torch_extensions").glob("torch_ext*"))
    assert folders, "make torchdrug compiles the extension into its own environment"
    (folders[0] / "lock").touch()
    model = random_gearnet(0, GearNetConfig(hidden_widths=(4,)))
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    worker = TorchdrugWorker(python, script_model(model.config, "cpu"), weights, start_timeout_s=120.0)
    ca = np.random.default_rng(0).random((9, 3)).astype(np.float32) * 9
    assert worker.compute("ACDEFGHIK", ca, [9]).features_ND.shape == (9, 4)
    worker.close()
