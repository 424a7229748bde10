"""GearNet as it is run: equal to its definition in fp32, close to it in halves, plain or with edges, of any length."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from amma.featurize.encoders.builders import published_gearnet
from amma.featurize.encoders.gearnet import GearNetConfig
from amma.featurize.encoders.gearnet_encoder import GearNetEncoder
from amma.featurize.encoders.gearnet_frozen import FrozenGearNet
from amma.featurize.encoders.gearnet_rows import groups_within_cost
from amma.featurize.encoders.gearnet_weights import load_gearnet, random_gearnet
from amma.featurize.encoders.protocol import EncoderInput
from amma.featurize.encoders.registry import EncoderSpec, Place, build_encoder
from amma.featurize.encoders.residue_graph import RESIDUES, build_graph
from amma.manifests.errors import WeightsError
from amma.manifests.structures import Chain
from amma.manifests.table import Modality, Protein

EDGE = GearNetConfig(hidden_widths=(32,) * 6)
PLAIN = GearNetConfig(hidden_widths=(32,) * 6, edges=False)
LARGEST = {"fp32": 1e-5, "bf16": 0.25, "fp16": 0.03}
"""Largest absolute difference from float64 over the root mean square of that."""
TYPICAL = {"fp32": 1e-6, "bf16": 1.5e-2, "fp16": 2e-3}
"""Root mean square of the difference over that of the features."""


def ball(length: int, seed: int) -> tuple[str, Tensor]:
    """Letters and random positions at the density of a protein."""
    generator = torch.Generator().manual_seed(seed)
    position = torch.rand(length, 3, generator=generator) * (length * 130.0) ** (1 / 3)
    return "".join(np.random.default_rng(seed).choice(list(RESIDUES + "X"), size=length)), position


def exact(config: GearNetConfig, chains: list[tuple[str, Tensor]]) -> Tensor:
    model = random_gearnet(0, config).double()
    with torch.inference_mode():
        return model(build_graph([(letters, ca.double()) for letters, ca in chains], config.graph, line=config.edges))


def chain_of(letters: str, position: Tensor) -> Chain:
    return Chain(np.arange(len(letters), dtype=np.int32), letters, position.numpy())


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("config", [EDGE, PLAIN], ids=["edge", "plain"])
def test_every_precision_keeps_its_bound(config: GearNetConfig, precision: str) -> None:
    chains = [ball(length, seed=length) for length in (150, 1, 60)]
    frozen = FrozenGearNet(random_gearnet(0, config), precision)
    found, wanted = frozen(frozen.graph(chains)), exact(config, chains)
    assert found.dtype == torch.float32
    rms = wanted.square().mean().sqrt()
    apart = (found - wanted).abs() / rms
    assert float(apart.max()) <= LARGEST[precision]
    assert float(apart.square().mean().sqrt()) <= TYPICAL[precision]
    if precision != "fp32":
        assert float(apart.max()) > LARGEST["fp32"]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_chain_is_the_same_alone_and_among_others(precision: str) -> None:
    frozen = FrozenGearNet(random_gearnet(0, EDGE), precision)
    chains = [ball(length, seed=length) for length in (70, 1, 33, 150)]
    together = frozen(frozen.graph(chains))
    assert torch.equal(together, frozen(frozen.graph(chains)))
    for chain, found in zip(chains, together.split([70, 1, 33, 150]), strict=True):
        alone = frozen(frozen.graph([chain]))
        assert float((found - alone).abs().max() / alone.square().mean().sqrt()) <= LARGEST[precision]


def test_running_it_does_not_change_the_graph_or_the_weights() -> None:
    model = random_gearnet(0, EDGE)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    frozen = FrozenGearNet(model)
    graph = frozen.graph([ball(40, seed=1)])
    features = graph.edge_feature_EF.clone()
    assert torch.equal(frozen(graph), frozen(graph))
    assert torch.equal(graph.edge_feature_EF, features)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_golden_chains_keep_the_bound_of_bf16(shared: Path) -> None:
    folder = shared / "golden" / "gearnet"
    model, _ = load_gearnet(folder / "gearnet_edge_64.pth", GearNetConfig(hidden_widths=(64,) * 6))
    frozen = FrozenGearNet(model, "bf16")
    for path in sorted(folder.glob("*.npz"))[:4]:
        golden = np.load(path)
        edges = [torch.from_numpy(golden["edge_list"]).long()]
        graph = frozen.graph([(str(golden["sequence"]), torch.from_numpy(golden["ca"]))], edges=edges)
        wanted = torch.from_numpy(golden["node_feature"])
        apart = (frozen(graph) - wanted).abs() / wanted.square().mean().sqrt()
        assert float(apart.max()) <= LARGEST["bf16"]
        assert float(apart.square().mean().sqrt()) <= TYPICAL["bf16"]


def test_a_plain_gearnet_knows_nothing_of_angles_and_distances() -> None:
    model = random_gearnet(0, PLAIN)
    assert not any(name.startswith("edge_layers") for name in model.state_dict())
    letters, position = ball(12, seed=0)
    frozen = FrozenGearNet(model)
    # So few residues that all are neighbours, however far the first ones are moved within the radius.
    moved = position * 0.5
    assert torch.equal(frozen.graph([(letters, moved)]).edges_E3, frozen.graph([(letters, moved * 0.9)]).edges_E3)
    assert torch.equal(frozen(frozen.graph([(letters, moved)])), frozen(frozen.graph([(letters, moved * 0.9)])))


def test_each_architecture_refuses_the_weights_of_the_other(tmp_path: Path) -> None:
    for config, other in ((EDGE, PLAIN), (PLAIN, EDGE)):
        torch.save(random_gearnet(0, config).state_dict(), tmp_path / "weights.pth")
        assert load_gearnet(tmp_path / "weights.pth", config)[0].config == config
        with pytest.raises(WeightsError, match=r"encoder gearnet for the plain one|Use encoder gearnet-edge"):
            load_gearnet(tmp_path / "weights.pth", other)


def test_encoders_of_both_architectures_say_what_they_are(tmp_path: Path) -> None:
    place = Place(None, "cpu", "bf16", max_residues=7)
    edge = build_encoder(EncoderSpec(name="random-gearnet-edge"), Modality.STR, place)
    plain = build_encoder(EncoderSpec(name="random-gearnet"), Modality.STR, place)
    assert (edge.name, plain.name) == ("random-gearnet-edge", "random-gearnet")
    assert edge.fingerprint()["encoder"] == "gearnet-edge"
    assert plain.fingerprint()["encoder"] == "gearnet"
    assert edge.fingerprint()["dtype"] == plain.fingerprint()["dtype"] == "bfloat16"
    torch.save(random_gearnet(0, PLAIN).state_dict(), tmp_path / "toy.pth")
    with pytest.raises(WeightsError, match="shape"):  # the published size is expected
        published_gearnet(EncoderSpec(name="gearnet", options={"file": tmp_path / "toy.pth"}), place)


def test_a_batch_of_cut_chains_is_computed_in_pieces_no_larger_than_it_was_said_to_cost() -> None:
    chains = [chain_of(*ball(length, seed=length)) for length in (90, 40, 90, 10, 5)]
    groups = list(groups_within_cost(chains, 20))
    assert [len(chain.letters) for group in groups for chain in group] == [90, 40, 90, 10, 5]
    assert [[len(chain.letters) for chain in group] for group in groups] == [[90], [40], [90], [10, 5]]
    assert [len(group) for group in groups_within_cost(chains, None)] == [5]
    assert list(groups_within_cost([], 20)) == []
    encoder = GearNetEncoder.random(max_residues=20)
    items = [EncoderInput(Protein("P", chain.letters, structure="p.pdb"), chain) for chain in chains]
    for item, found in zip(items, encoder.encode(items), strict=True):
        np.testing.assert_allclose(found.features, encoder.encode([item])[0].features, rtol=1e-4, atol=1e-4)


MEASURED = """
import json, resource, sys
import numpy as np, torch
torch.set_num_threads(1)
from amma.featurize.encoders.gearnet_encoder import GearNetEncoder
from amma.featurize.encoders.protocol import EncoderInput
from amma.manifests.structures import Chain
from amma.manifests.table import Protein
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
encoder = GearNetEncoder.random(max_residues=1022)
def item(count):
    ca = (np.random.default_rng(0).random((count, 3)) * (130 * count) ** (1 / 3)).astype(np.float32)
    letters = "ACDEFGHIKLMNPQRSTVWY" * (count // 20)
    return EncoderInput(Protein("P", letters, structure="p.pdb"), Chain(np.arange(count, dtype=np.int32), letters, ca))
encoder.encode([item(100)])
before = peak()
found = encoder.encode([item(int(sys.argv[1]))] + [item(1000)] * 3)
shapes = [one.features.shape[0] for one in found]
finite = all(bool(np.isfinite(one.features).all()) for one in found)
print(json.dumps({"mb": peak() - before, "rows": shapes, "finite": finite}))
"""


def measured(residues: int) -> dict[str, object]:
    command = [sys.executable, "-c", MEASURED, str(residues)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)  # type: ignore[no-any-return]


def test_a_chain_of_five_thousand_residues_takes_memory_in_proportion() -> None:
    found = measured(5000)
    assert (found["rows"], found["finite"]) == ([1022, 1000, 1000, 1000], True)
    assert float(str(found["mb"])) < 600


@pytest.mark.slow
def test_a_chain_of_35000_residues_takes_memory_in_proportion() -> None:
    found = measured(35_000)
    assert (found["rows"], found["finite"]) == ([1022, 1000, 1000, 1000], True)
    assert float(str(found["mb"])) < 3500
