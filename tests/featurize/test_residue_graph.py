"""The graph of a chain, against enumeration in plain Python and against torchdrug's own edges."""

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from amma.featurize.encoders import residue_graph
from amma.featurize.encoders.residue_graph import (
    RESIDUES,
    UNKNOWN,
    GraphConfig,
    ResidueGraph,
    angle_bins,
    build_graph,
    edge_features,
    find_edges,
    residue_types,
)

CONFIG = GraphConfig()
Edges = set[tuple[int, int, int]]


def ball(length: int, seed: int, volume: float = 130.0) -> Tensor:
    """Random positions, `volume` Å³ for each as in a protein."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(length, 3, generator=generator) * (length * volume) ** (1 / 3)


def letters_of(length: int, seed: int = 0) -> str:
    return "".join(np.random.default_rng(seed).choice(list(RESIDUES + "XU"), size=length))


def enumerated_edges(position: Tensor, config: GraphConfig = CONFIG) -> Edges:
    """All edges by looping over all pairs of residues, in the words of torchdrug's documentation."""
    ca = position.numpy()
    edges = set()
    for i in range(len(ca)):
        distances = []
        for j in range(len(ca)):
            dx, dy, dz = ca[j] - ca[i]
            distances.append(dx * dx + dy * dy + dz * dz)
            if abs(i - j) <= config.sequential_distance:
                edges.add((j, i, i - j + config.sequential_distance))
        others = [j for j in range(len(ca)) if j != i]
        within = [j for j in others if distances[j] < np.float32(config.radius**2)][: config.max_neighbors]
        nearest = sorted(others, key=lambda j: (distances[j], j))[: config.num_nearest]
        for relation, found in ((5, within), (6, nearest)):
            for j in found:
                if abs(i - j) >= config.min_sequence_distance and distances[j] > 0:
                    edges.add((j, i, relation))
    return edges


def enumerated_line(pairs: set[tuple[int, int]], position: Tensor) -> set[tuple[tuple[int, int], tuple[int, int], int]]:
    """(pair, the pair it leads to, angle bin) by looping over all pairs of pairs, in float64."""
    ca = position.double().numpy()
    line = set()
    for k, j in pairs:
        for middle, i in pairs:
            if middle == j:
                v, w = ca[i] - ca[j], ca[k] - ca[j]
                angle = math.atan2(float(np.linalg.norm(np.cross(v, w))), float(v @ w) + 0.0)
                line.add(((k, j), (j, i), min(7, int(angle / math.pi * 8))))
    return line


def edge_set(table: Tensor) -> Edges:
    return {(i, j, r) for i, j, r in table.tolist()}


def line_set(graph: ResidueGraph) -> list[tuple[tuple[int, int], tuple[int, int], int]]:
    """The line graph of `graph` in the form of `enumerated_line`, with whatever is there twice."""
    first = graph.pair_offset[:-1]
    pairs = [tuple(row) for row in graph.edges_E3[first, :2].tolist()]
    line = []
    for block in graph.line:
        for angle_bin, rows in enumerate(block.bins):
            ends = rows.offset.tolist()
            for target, (start, stop) in zip(rows.target_R.tolist(), pairwise(ends), strict=True):
                leads_to = pairs[target + block.pairs.start]
                line += [(pairs[source], leads_to, angle_bin) for source in rows.source_S[start:stop].tolist()]
    return line


@pytest.mark.parametrize("length", [1, 2, 3, 4, 7, 10, 11, 12, 25, 60])
@pytest.mark.parametrize("seed", range(3))
def test_edges_and_angles_are_those_found_by_looping_over_all_pairs(length: int, seed: int) -> None:
    position = ball(length, seed)
    graph = build_graph([(letters_of(length), position)], CONFIG)

    expected = enumerated_edges(position)
    assert edge_set(graph.edges_E3) == expected
    assert len(graph.edges_E3) == len(expected)

    line = line_set(graph)
    assert set(line) == enumerated_line({(i, j) for i, j, _ in expected}, position)
    assert len(set(line)) == len(line)


def test_three_residues_have_the_edges_written_down_here() -> None:
    position = torch.tensor([[0.0, 0, 0], [3.8, 0, 0], [3.8, 3.8, 0]])
    assert edge_set(find_edges(position, CONFIG)) == {
        (0, 0, 2), (1, 1, 2), (2, 2, 2),
        (0, 1, 3), (1, 2, 3), (0, 2, 4),
        (1, 0, 1), (2, 1, 1), (2, 0, 0),
    }  # fmt: skip


def test_a_single_residue_has_only_itself() -> None:
    graph = build_graph([("W", torch.zeros(1, 3))], CONFIG)
    assert graph.edges_E3.tolist() == [[0, 0, 2]]
    assert line_set(graph) == [((0, 0), (0, 0), 0)]


def test_every_edge_is_summed_into_its_node_once_in_the_column_of_its_relation() -> None:
    position = ball(50, seed=3)
    graph = build_graph([(letters_of(50), position)], CONFIG)
    for summed, from_nodes in ((graph.edge_sums, False), (graph.node_sums, True)):
        seen: list[tuple[int, int, int]] = []
        first_relation = 0
        for rows in summed:
            ends = rows.offset.tolist()
            for number, (start, stop) in enumerate(pairwise(ends)):
                node = int(rows.target_R[number // rows.num_parts])
                relation = first_relation + number % rows.num_parts
                for source in rows.source_S[start:stop].tolist():
                    came_from = source if from_nodes else int(graph.edges_E3[source, 0])
                    seen.append((came_from, node, relation))
            first_relation += rows.num_parts
        assert sorted(seen) == sorted(map(tuple, graph.edges_E3.tolist()))


def test_a_crowded_residue_keeps_the_first_32_neighbours_by_index() -> None:
    position = ball(60, seed=1, volume=2.0)  # a ball of 5 Å: everybody is everybody's neighbour
    spatial = {(i, j) for i, j, relation in edge_set(find_edges(position, CONFIG)) if relation == 5}
    for residue in range(60):
        others = [i for i in range(60) if i != residue][:32]
        assert {i for i, j in spatial if j == residue} == {i for i in others if abs(i - residue) >= 5}


@pytest.mark.parametrize("seed", range(5))
def test_equally_distant_neighbours_are_taken_by_index(seed: int) -> None:
    corner = torch.stack(torch.meshgrid(*[torch.arange(4.0)] * 3, indexing="ij"), dim=-1).reshape(-1, 3)
    position = 4 * corner[torch.randperm(64, generator=torch.Generator().manual_seed(seed))]
    assert edge_set(find_edges(position, CONFIG)) == enumerated_edges(position)


def test_residues_at_the_same_place_are_not_neighbours() -> None:
    position = ball(20, seed=0)
    position[12] = position[3]
    edges = {(i, j) for i, j, relation in edge_set(find_edges(position, CONFIG)) if relation >= 5}
    assert (3, 12) not in edges
    assert (12, 3) not in edges


def test_the_radius_is_strict() -> None:
    position = torch.zeros(7, 3)
    position[:, 0] = 100 * torch.arange(7)
    position[6] = torch.tensor([10.0, 0, 0])
    spatial = [edge for edge in edge_set(find_edges(position, CONFIG)) if edge[2] == 5]
    assert spatial == []
    position[6, 0] = 9.999
    spatial = [edge for edge in edge_set(find_edges(position, CONFIG)) if edge[2] == 5]
    assert sorted(spatial) == [(0, 6, 5), (6, 0, 5)]


def test_working_in_small_pieces_gives_the_same_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = (letters_of(40), ball(40, seed=2))
    whole = build_graph([chain], CONFIG)
    monkeypatch.setattr(residue_graph, "DISTANCES_AT_ONCE", 100)
    pieces = build_graph([chain], CONFIG, pairs_per_block=7)
    assert len(pieces.line) > 10
    assert torch.equal(pieces.edges_E3, whole.edges_E3)
    assert sorted(line_set(pieces)) == sorted(line_set(whole))
    covered = [edge for block in pieces.line for edge in range(block.edges.start, block.edges.stop)]
    assert covered == list(range(len(pieces.edges_E3)))


def test_chains_side_by_side_are_not_joined_and_an_empty_one_does_no_harm() -> None:
    chains = [(letters_of(length, length), ball(length, length)) for length in (30, 0, 1, 17)]
    graph = build_graph(chains, CONFIG)
    expected: Edges = set()
    line = []
    start = 0
    for letters, position in chains:
        if letters:
            alone = build_graph([(letters, position)], CONFIG)
            expected |= {(i + start, j + start, r) for i, j, r in edge_set(alone.edges_E3)}
            line += [
                ((k + start, j + start), (j + start, i + start), angle) for (k, j), (_, i), angle in line_set(alone)
            ]
        start += len(letters)
    assert edge_set(graph.edges_E3) == expected
    assert sorted(line_set(graph)) == sorted(line)


def test_nothing_but_empty_chains_is_an_empty_graph() -> None:
    graph = build_graph([("", torch.zeros(0, 3))], CONFIG)
    assert graph.node_feature_NF.shape == (0, 21)
    assert graph.edge_feature_EF.shape == (0, 59)
    assert graph.line == ()


def test_three_angles_at_once_are_each_that_of_their_own_vectors() -> None:
    # With exactly three pairs a cross product without `dim` runs over the pairs instead of x, y, z.
    first = torch.tensor([[1.0, 0, 0], [0, 2, 0], [1, 1, 0]])
    second = torch.tensor([[0.0, 3, 0], [0, 1, 0], [-1, -1, 0.2]])
    assert angle_bins(first, second, 8).tolist() == [4, 0, 7]

    position = torch.tensor([[0.0, 0, 0], [5, 0, 0], [5, 5, 1], [9, 1, 2], [1, 1, 1]])
    edges = torch.tensor([[0, 1, 3], [1, 2, 3], [1, 3, 4], [1, 4, 5]])
    line = line_set(build_graph([("GAVLI", position)], CONFIG, edges=[edges]))
    assert len(line) == 3
    assert set(line) == enumerated_line({(0, 1), (1, 2), (1, 3), (1, 4)}, position)


def test_zero_vectors_are_at_angle_zero_and_straight_ones_in_the_last_bin() -> None:
    first = torch.tensor([[0.0, 0, 0], [0, 0, 0], [1, 0, 0], [-1, -1, -1]])
    second = torch.tensor([[-1.0, -2, -3], [1, 2, 3], [-2, 0, 0], [0, 0, 0]])
    assert angle_bins(first, second, 8).tolist() == [0, 0, 7, 0]


def test_letters_outside_the_twenty_are_unknown_as_nodes_and_glycine_in_edges() -> None:
    assert residue_types(RESIDUES).tolist() == list(range(20))
    assert residue_types("UOBZXJx*é").tolist() == [UNKNOWN] * 9
    graph = build_graph([("XW", ball(2, seed=0))], CONFIG)
    assert graph.node_feature_NF.argmax(dim=1).tolist() == [UNKNOWN, 19]
    for (i, j, _), feature in zip(graph.edges_E3.tolist(), graph.edge_feature_EF, strict=True):
        assert feature[:20].nonzero().flatten().tolist() == [(0, 19)[i]]
        assert feature[20:40].nonzero().flatten().tolist() == [(0, 19)[j]]


def test_edge_features_say_who_how_and_how_far() -> None:
    position = torch.zeros(15, 3)
    position[:, 0] = 2.0 * torch.arange(15)
    edges = torch.tensor([[0, 14, 6], [5, 3, 0]])
    features = edge_features(edges, residue_types("G" * 3 + "A" * 12), position, CONFIG)
    assert features[0].nonzero().flatten().tolist() == [0, 21, 46, 57, 58]
    assert features[1].nonzero().flatten().tolist() == [1, 21, 40, 49, 58]
    assert features[:, 58].tolist() == [28.0, 4.0]


def golden_chains(shared: Path) -> list[tuple[str, dict[str, np.ndarray]]]:
    return [(path.stem, dict(np.load(path))) for path in sorted((shared / "golden" / "gearnet").glob("*.npz"))]


def test_edges_are_torchdrugs_in_all_chains_without_crowded_residues(shared: Path) -> None:
    crowded = []
    for name, golden in golden_chains(shared):
        position = torch.from_numpy(golden["ca"])
        neighbors = (torch.cdist(position.double(), position.double()) < CONFIG.radius).sum(1) - 1
        own, theirs = edge_set(find_edges(position, CONFIG)), edge_set(torch.from_numpy(golden["edge_list"]))
        if int(neighbors.max()) > CONFIG.max_neighbors:
            crowded.append(name)
            # Of a crowded residue's edges either may lack some that the other keeps; nothing else may differ.
            assert all(relation == 5 and neighbors[j] > CONFIG.max_neighbors for _, j, relation in own ^ theirs)
        else:
            assert own == theirs, name
    assert crowded == ["2MTA-L_64"]


def test_features_of_torchdrugs_edges_are_torchdrugs(shared: Path) -> None:
    for _, golden in golden_chains(shared):
        symbol = residue_types(str(golden["sequence"]))
        assert symbol.tolist() == golden["residue_type"].tolist()
        edges = torch.from_numpy(golden["edge_list"]).long()
        features = edge_features(edges, symbol, torch.from_numpy(golden["ca"]), CONFIG)
        torch.testing.assert_close(features, torch.from_numpy(golden["edge_feature"]), rtol=1e-6, atol=0)
