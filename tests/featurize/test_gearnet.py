"""GearNet-Edge against torchdrug's outputs and against its definition written out; its weights, read and random."""

import math
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from amma.featurize.encoders.gearnet import GearNet, GearNetConfig, RelationalConv
from amma.featurize.encoders.gearnet_weights import load_gearnet, random_gearnet, synthetic_chains
from amma.featurize.encoders.residue_graph import RESIDUES, GraphConfig, angle_bins, build_graph, find_edges
from amma.featurize.encoders.weights import sha256_of_state
from amma.manifests.errors import WeightsError

SMALL = GearNetConfig(hidden_widths=(8, 8, 6))
TINY = GearNetConfig(hidden_widths=(16,) * 6)
GOLDEN = GearNetConfig(hidden_widths=(64,) * 6)
REFERENCE_BOUND = 1e-5
"""Largest absolute difference over the root mean square of the reference, in fp32."""


def ball(length: int, seed: int, volume: float = 130.0) -> tuple[str, Tensor]:
    """Letters and random positions, `volume` Å³ for each as in a protein."""
    generator = torch.Generator().manual_seed(seed)
    position = torch.rand(length, 3, generator=generator) * (length * volume) ** (1 / 3)
    letters = "".join(np.random.default_rng(seed).choice(list(RESIDUES + "X"), size=length))
    return letters, position


def relative_difference(found: Tensor, reference: Tensor) -> float:
    return float((found - reference).abs().max() / reference.square().mean().sqrt())


def written_out(model: GearNet, letters: str, position: Tensor) -> Tensor:
    """GearNet-Edge by its definition: dense sums over every edge and every pair of edges, doubles counted twice."""
    graph = build_graph([(letters, position)], model.config.graph)
    edges = find_edges(position.float(), model.config.graph)
    order = [tuple(edge) for edge in graph.edges_E3.tolist()]
    edge_in, edge_out, relation = torch.tensor(sorted(map(tuple, edges.tolist()), key=order.index)).unbind(1)
    leads_to = edge_out[:, None] == edge_in[None, :]
    first, then = leads_to.nonzero().unbind(1)
    bins = angle_bins(
        position[edge_out[then]] - position[edge_in[then]], position[edge_in[first]] - position[edge_in[then]], 8
    )

    def sums(value: Tensor, source: Tensor, target: Tensor, kind: Tensor, count: int, kinds: int) -> Tensor:
        total = torch.zeros(count * kinds, value.shape[1], dtype=value.dtype)
        return total.index_add_(0, target * kinds + kind, value[source]).view(count, -1)

    def convolution(layer: RelationalConv, related: Tensor, own: Tensor) -> Tensor:
        return functional.relu(layer.batch_norm(layer.linear(related) + layer.self_loop(own)))

    node, edge = graph.node_feature_NF, graph.edge_feature_EF
    every_edge, outputs = torch.arange(len(edge)), []
    for layer, edge_layer, norm in zip(model.layers, model.edge_layers, model.batch_norms, strict=True):
        edge = convolution(edge_layer, sums(edge, first, then, bins, len(edge), 8), edge)
        hidden = convolution(layer, sums(node, edge_in, edge_out, relation, len(node), 7), node)
        if hidden.shape == node.shape:
            hidden = hidden + node
        update = sums(edge, every_edge, edge_out, relation, len(node), 7)
        node = norm(hidden + functional.relu(layer.linear(update)))
        outputs.append(node)
    return torch.cat(outputs, dim=1)


@pytest.mark.parametrize("length", [1, 2, 3, 9, 40])
def test_features_are_those_of_the_definition(length: int) -> None:
    model = random_gearnet(1, SMALL).double()
    letters, position = ball(length, seed=length)
    graph = build_graph([(letters, position.double())], SMALL.graph, pairs_per_block=50)
    with torch.inference_mode():
        expected = written_out(model, letters, position.double())
        torch.testing.assert_close(model(graph), expected, rtol=1e-9, atol=1e-9)


def test_features_are_torchdrugs(shared: Path) -> None:
    folder = shared / "golden" / "gearnet"
    model, _ = load_gearnet(folder / "gearnet_edge_64.pth", GOLDEN)
    differences = {}
    for path in sorted(folder.glob("*.npz")):
        golden = np.load(path)
        position = torch.from_numpy(golden["ca"])
        crowded = int((torch.cdist(position, position) < 10).sum(1).max()) - 1 > GOLDEN.graph.max_neighbors
        # Which neighbours of a crowded residue torchdrug keeps on a CPU cannot be derived.
        edges = [torch.from_numpy(golden["edge_list"]).long()] if crowded else None
        with torch.inference_mode():
            found = model(build_graph([(str(golden["sequence"]), position)], GOLDEN.graph, edges=edges))
        differences[path.stem] = relative_difference(found, torch.from_numpy(golden["node_feature"]))
    assert len(differences) == 10
    assert max(differences.values()) <= REFERENCE_BOUND, differences


def test_published_size_has_torchdrugs_names_and_3072_features(shared: Path) -> None:
    golden = torch.load(shared / "golden" / "gearnet" / "gearnet_edge_64.pth", weights_only=True)
    with torch.device("meta"):
        published = GearNet(GearNetConfig())
    assert published.config.width == 3072
    assert set(published.state_dict()) == set(golden)
    for name, tensor in published.state_dict().items():
        # The golden weights differ in the hidden width alone: 64 instead of 512.
        scaled = tuple(size if size in (21, 59, 147, 472, 168) else size // 8 for size in tensor.shape)
        assert scaled == tuple(golden[name].shape), name


def test_a_chain_is_the_same_alone_and_among_others() -> None:
    model = random_gearnet(0, TINY)
    chains = [ball(length, seed=length) for length in (70, 1, 33, 150)]
    with torch.inference_mode():
        together = model(build_graph(chains, TINY.graph))
        assert torch.equal(together, model(build_graph(chains, TINY.graph)))
        for (letters, position), found in zip(chains, together.split([70, 1, 33, 150]), strict=True):
            alone = model(build_graph([(letters, position)], TINY.graph))
            assert relative_difference(found, alone) <= REFERENCE_BOUND


def test_turning_and_moving_a_protein_does_not_change_its_features() -> None:
    model = random_gearnet(0, TINY).double()
    letters, position = ball(60, seed=5)
    rotation, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    graphs = [
        build_graph([(letters, moved)], TINY.graph)
        for moved in (position.double(), position.double() @ rotation + torch.tensor([5.0, -3.0, 1.0]))
    ]
    assert torch.equal(graphs[0].edges_E3, graphs[1].edges_E3)
    with torch.inference_mode():
        torch.testing.assert_close(model(graphs[0]), model(graphs[1]), rtol=1e-9, atol=1e-9)


def test_weights_survive_both_file_formats(tmp_path: Path) -> None:
    model = random_gearnet(3, SMALL)
    torch.save(model.state_dict(), tmp_path / "a.pth")
    save_file(model.state_dict(), tmp_path / "a.safetensors")
    for name in ("a.pth", "a.safetensors"):
        loaded, sha256 = load_gearnet(tmp_path / name, SMALL)
        assert not loaded.training
        assert sha256_of_state(loaded) == sha256_of_state(model)
        assert re.fullmatch("[0-9a-f]{64}", sha256)


def test_absent_weights_are_an_error_that_says_where_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        load_gearnet(tmp_path / "mc_gearnet_edge.pth", GearNetConfig())
    for part in ("mc_gearnet_edge.pth", "https://zenodo.org/records/7593637", str(tmp_path)):
        assert part in str(caught.value)


def test_a_gearnet_without_edge_layers_is_refused_by_name(tmp_path: Path) -> None:
    state = random_gearnet(0, SMALL).state_dict()
    torch.save({k: v for k, v in state.items() if not k.startswith("edge_layers.")}, tmp_path / "plain.pth")
    with pytest.raises(WeightsError, match=r"without edge layers.*num_angle_bin=8"):
        load_gearnet(tmp_path / "plain.pth", SMALL)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("layers.1.linear.weight"), r"layers\.1\.linear\.weight is missing"),
        (lambda state: state.update(extra=torch.zeros(1)), "extra is not part of this architecture"),
        (lambda state: state.update({"layers.0.linear.bias": torch.zeros(9)}), r"shape \(9,\), expected \(8,\)"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(change: object, message: str, tmp_path: Path) -> None:
    state = random_gearnet(0, SMALL).state_dict()
    change(state)  # type: ignore[operator]
    torch.save(state, tmp_path / "odd.pth")
    with pytest.raises(WeightsError, match=message):
        load_gearnet(tmp_path / "odd.pth", SMALL)


def test_a_checkpoint_that_is_more_than_weights_is_refused(tmp_path: Path) -> None:
    torch.save({"model": random_gearnet(0, SMALL).state_dict()}, tmp_path / "wrapped.pth")
    with pytest.raises(WeightsError, match="plain state_dict"):
        load_gearnet(tmp_path / "wrapped.pth", SMALL)


class Dropper:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.path), "w")


def test_code_in_a_weights_file_is_not_run(tmp_path: Path) -> None:
    proof = tmp_path / "ran"
    torch.save({"layers.0.linear.weight": Dropper(proof)}, tmp_path / "bad.pth")
    (tmp_path / "worse.pth").write_bytes(pickle.dumps(Dropper(proof), protocol=2))
    for name in ("bad.pth", "worse.pth"):
        with pytest.raises(WeightsError, match=name):
            load_gearnet(tmp_path / name, SMALL)
    assert not proof.exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_files_cut_short_are_refused(suffix: str, tmp_path: Path) -> None:
    state = random_gearnet(0, SMALL).state_dict()
    path = tmp_path / f"cut{suffix}"
    if suffix == ".pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    whole = path.read_bytes()
    for length in (0, 5, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(WeightsError, match="cut"):
            load_gearnet(path, SMALL)


def test_random_weights_are_those_of_their_seed_on_every_machine() -> None:
    torch.manual_seed(11)
    before = torch.get_rng_state()
    hashes = [sha256_of_state(random_gearnet(seed, TINY)) for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), before)
    assert hashes[0] == hashes[1] != hashes[2]
    # Written down once: another machine, or a later version, must make the same weights.
    assert hashes[0] == "d974f3cc665d9dcee59e6527b65b0b87acdeecbe3827c8b7d90268b9cbfd7c40"


@pytest.mark.parametrize("seed", range(3))
def test_random_weights_give_numbers_around_one(seed: int) -> None:
    model = random_gearnet(seed, TINY)
    folded = [chain for number, chain in enumerate(synthetic_chains(seed + 100)) if number % 3 < 2]
    others = [(letters, torch.from_numpy(position).float()) for letters, position in folded]
    with torch.inference_mode():
        features = model(build_graph(others, TINY.graph))
        for layer in features.split(16, dim=1):
            assert 0.2 < float(layer.std()) < 2
        assert float(features.std(dim=0).min()) > 1e-3
        # However crowded: at twice a protein's density every residue has all its 32 neighbours. fp16 ends at 65,504.
        for volume in (130.0, 60.0, 1.0):
            assert float(model(build_graph([ball(300, seed=9, volume=volume)], TINY.graph)).abs().max()) < 5000


def test_synthetic_chains_look_like_chains() -> None:
    chains = synthetic_chains(0)
    assert len({letters for letters, _ in chains}) == len(chains)
    for letters, position in chains:
        assert len(letters) == len(position)
        assert set(letters) <= set(RESIDUES + "X")
        assert np.array_equal(position, position.round(3))
    steps = [np.linalg.norm(np.diff(position, axis=0), axis=1) for _, position in chains]
    assert math.isclose(float(np.median(np.concatenate(steps))), 3.8, abs_tol=0.3)


def test_another_number_of_bins_and_offsets_works_throughout() -> None:
    config = GearNetConfig(hidden_widths=(4, 4), graph=GraphConfig(sequential_distance=1, num_angle_bins=3))
    model = random_gearnet(0, config)
    with torch.inference_mode():
        assert model(build_graph([ball(30, seed=0)], config.graph)).shape == (30, 8)
    assert model.layers[1].linear.weight.shape == (4, 5 * 4)
    assert model.edge_layers[0].linear.weight.shape == (21, 3 * config.graph.edge_width)
    assert config.graph.edge_width == 57
