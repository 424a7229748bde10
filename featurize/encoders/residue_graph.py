"""Turn Cα traces into the graph that GearNet-Edge reads.

Nodes are residues that have a Cα. Edges are of seven relations: the five sequence offsets −2 to +2, "within 10 Å" and
"among the 10 nearest". A second graph, the line graph, joins edges that follow each other (k → j, then j → i) by the
angle they make, in eight bins.

The rules are those of torchdrug 0.2.1 (AlphaCarbonNode, SequentialEdge, SpatialEdge, KNNEdge, edge feature "gearnet",
SpatialLineGraph), with these points settled that torchdrug leaves open:

* More than `max_neighbors` residues within the radius: the first by index are kept. torch_cluster does so on CUDA,
  where the published weights were trained; its CPU code keeps whatever its k-d tree finds first. torch_cluster up to
  1.6.3 looks for one neighbour more and then drops the residue itself, so 33 stay where a residue comes after its
  first 33 neighbours (its issue 219); here it is never more than `max_neighbors`, as in its later versions.
* Equally distant neighbours: the one with the smaller index.
* A straight angle belongs to the last bin (torchdrug counts it as the first bin of the next edge).
* The cross product is taken over the coordinates (torchdrug's takes the first dimension of size 3, which is another
  one when there are exactly three pairs of edges).

Two edges between the same residues (spatial and nearest) make the same angles with everything. The line graph is
therefore built on distinct pairs of residues, half the work, and its sums are shared by the edges of a pair.

Legend: N residues, Q residues looked at together, E edges, P distinct (in, out) pairs of residues, T pairs of pairs
that meet in a residue, R rows of sums, S summands, F features.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from amma.manifests.settings import Settings

RESIDUES = "GASPVTCILNDQKEMHFRYW"
"""torchdrug's order; a residue's type is its place here."""
RESIDUE_TABLE = "torchdrug-0.2.1"
UNKNOWN = len(RESIDUES)
"""Place of all other letters (B, O, U, X, Z) in a node feature; in edge features they count as glycine."""
NODE_WIDTH = len(RESIDUES) + 1
MAX_OFFSET = 10
"""Sequence distances in edge features are clamped to this."""
COINCIDENT = 1e-10
"""Residues closer than this, in Å, are not neighbours (torchdrug's `eps`)."""
DISTANCES_AT_ONCE = 1 << 22
PAIRS_PER_BLOCK = 2048
"""At 512 features, what a block touches stays in a CPU's caches."""


class GraphConfig(Settings):
    """Which residues are joined; the defaults are those of the published GearNet-Edge weights."""

    sequential_distance: int = Field(default=2, ge=0)
    """Offsets in the chain up to this, both ways and none, are relations of their own."""
    radius: float = Field(default=10.0, gt=0)
    """Å; neighbours are strictly nearer."""
    max_neighbors: int = Field(default=32, ge=1)
    num_nearest: int = Field(default=10, ge=1)
    min_sequence_distance: int = Field(default=5, ge=0)
    """Spatial and nearest neighbours closer than this in the chain are dropped after they were chosen."""
    num_angle_bins: int = Field(default=8, ge=1)

    @property
    def num_sequential(self) -> int:
        """Relations that are sequence offsets."""
        return 2 * self.sequential_distance + 1

    @property
    def num_relations(self) -> int:
        """Sequence offsets, spatial, nearest: in this order."""
        return self.num_sequential + 2

    @property
    def edge_width(self) -> int:
        """Number of edge features: two residue types, relation, clamped sequence distance, distance."""
        return 2 * len(RESIDUES) + self.num_relations + MAX_OFFSET + 1 + 1


@dataclass(frozen=True, slots=True)
class RowSums:
    """Which rows of one matrix add up to which row of another.

    Row `target_R[r]` consists of `num_parts` sums side by side. Sum g, counted over all rows, adds the rows
    `source_S[offset[g]:offset[g + 1]]` and may be empty; rows of empty sums only are left out. `target_R` rises
    strictly.
    """

    num_parts: int
    target_R: Int64[Tensor, " R"]
    offset: Int64[Tensor, " starts"]
    source_S: Int64[Tensor, " S"]


@dataclass(frozen=True, slots=True)
class LineBlock:
    """The line graph as seen by a run of pairs: per angle bin or group of bins, which pairs lead to each pair.

    Targets are counted from `pairs.start`, sources from the first pair of the graph; `edges` are those of the pairs.
    """

    pairs: slice
    edges: slice
    bins: tuple[RowSums, ...]


@dataclass(frozen=True, slots=True)
class ResidueGraph:
    """The graphs of several chains side by side, not joined.

    `edges_E3` holds (in, out, relation), sorted by out, in, relation: those of a pair of residues are neighbours, and
    pair p has the edges `pair_offset[p]:pair_offset[p + 1]`.
    """

    node_feature_NF: Float[Tensor, "N nodes_F"]
    edge_feature_EF: Float[Tensor, "E edges_F"]
    edges_E3: Int64[Tensor, "E 3"]
    pair_E: Int64[Tensor, " E"]
    pair_offset: Int64[Tensor, " starts"]
    node_sums: tuple[RowSums, ...]
    """The nodes whose edges reach a node: per sequence offset, then per other relation."""
    edge_sums: tuple[RowSums, ...]
    """The edges that reach a node, likewise."""
    line: tuple[LineBlock, ...]


def residue_types(letters: str) -> Int64[Tensor, " N"]:
    """Place of each letter in `RESIDUES`, `UNKNOWN` for every other letter."""
    place = np.full(256, UNKNOWN, dtype=np.int64)
    place[np.frombuffer(RESIDUES.encode(), dtype=np.uint8)] = np.arange(len(RESIDUES))
    return torch.from_numpy(place[np.frombuffer(letters.encode("latin-1", "replace"), dtype=np.uint8)])


def find_edges(position_N3: Float32[Tensor, "N 3"], config: GraphConfig) -> Int64[Tensor, "E 3"]:
    """Edges (in, out, relation) of one chain, in no particular order.

    A residue is a neighbour by its place among the residues that have a Cα, not by its number: gaps in the chain count
    as bonds. Nearest and spatial edges run from the neighbour to the residue that it is a neighbour of.
    """
    count = len(position_N3)
    index_N = torch.arange(count, device=position_N3.device)
    parts = []
    for offset in range(-config.sequential_distance, config.sequential_distance + 1):
        start_K = index_N[max(0, -offset) : max(0, count - max(0, offset))]
        parts.append(_with_relation(start_K, start_K + offset, offset + config.sequential_distance))
    at_once = max(1, DISTANCES_AT_ONCE // max(1, count))
    for query_Q in torch.split(index_N, at_once):
        squared_QN = _squared_distances(position_N3[query_Q], position_N3)
        squared_QN[torch.arange(len(query_Q), device=query_Q.device), query_Q] = math.inf
        for relation, (near_K, of_K) in (
            (config.num_sequential, _within(squared_QN, config.radius, config.max_neighbors)),
            (config.num_sequential + 1, _nearest(squared_QN, config.num_nearest)),
        ):
            out_K = query_Q[of_K]
            apart_K = (position_N3[near_K] - position_N3[out_K]).norm(dim=-1) >= COINCIDENT
            apart_K &= (near_K - out_K).abs() >= config.min_sequence_distance
            parts.append(_with_relation(near_K[apart_K], out_K[apart_K], relation))
    return torch.cat(parts)


def build_graph(
    chains: Sequence[tuple[str, Float[Tensor, "_ 3"]]],
    config: GraphConfig,
    *,
    edges: Sequence[Int64[Tensor, "_ 3"]] | None = None,
    line: bool = True,
    pairs_per_block: int = PAIRS_PER_BLOCK,
    bins_at_once: int = 1,
) -> ResidueGraph:
    """The graph of several chains, each given by its letters and Cα positions in Å.

    `edges`, one table (in, out, relation) per chain, replaces the edges that `find_edges` would find. Edges are decided
    in float32; distances and angles are of the positions' own precision. `line` is False for a network that has no use
    for the line graph. `bins_at_once` angle bins share one matrix product. Memory beyond the graph itself is bounded by
    `pairs_per_block` and `DISTANCES_AT_ONCE`. An empty chain has no nodes and disturbs nothing.
    """
    position_N3 = torch.cat([position for _, position in chains])
    symbol_N = residue_types("".join(letters for letters, _ in chains)).to(position_N3.device)
    if edges is None:
        edges = [find_edges(position.float(), config) for _, position in chains]
    first = np.cumsum([0, *(len(letters) for letters, _ in chains)]).tolist()
    shift = torch.tensor([1, 1, 0], device=position_N3.device)
    edges_E3 = torch.cat([table + start * shift for start, table in zip(first, edges, strict=False)])
    in_E, out_E, relation_E = edges_E3.unbind(1)
    num_nodes = len(position_N3)
    edges_E3 = edges_E3[((out_E * num_nodes + in_E) * config.num_relations + relation_E).argsort()]
    in_E, out_E, relation_E = edges_E3.unbind(1)
    key_P, pair_E, edges_P = torch.unique_consecutive(out_E * num_nodes + in_E, return_inverse=True, return_counts=True)
    pair_offset = _starts(edges_P)
    # Two groups: a residue has all sequential edges but at the ends, and either both kinds of others or none. Few and
    # wide products also add in an order like that of torchdrug's single one: sums here are of thousands, and with
    # another order the two differ by more than 1e-5 of the features' root mean square, most of it torchdrug's rounding.
    edge_sums = (
        _row_sums(relation_E, range(config.num_sequential), out_E),
        _row_sums(relation_E, range(config.num_sequential, config.num_relations), out_E),
    )
    return ResidueGraph(
        node_feature_NF=functional.one_hot(symbol_N, NODE_WIDTH).to(position_N3.dtype),
        edge_feature_EF=edge_features(edges_E3, symbol_N, position_N3, config),
        edges_E3=edges_E3,
        pair_E=pair_E,
        pair_offset=pair_offset,
        node_sums=tuple(replace(sums, source_S=in_E[sums.source_S]) for sums in edge_sums),
        edge_sums=edge_sums,
        line=_line_blocks(key_P, pair_offset, position_N3, config.num_angle_bins, pairs_per_block, bins_at_once)
        if line
        else (),
    )


def edge_features(
    edges_E3: Int64[Tensor, "E 3"],
    symbol_N: Int64[Tensor, " N"],
    position_N3: Float[Tensor, "N 3"],
    config: GraphConfig,
) -> Float[Tensor, "E edges_F"]:
    """One-hot type of the in and of the out residue, of relation and clamped sequence distance; distance in Å."""
    in_E, out_E, relation_E = edges_E3.unbind(1)
    type_N = symbol_N.where(symbol_N != UNKNOWN, 0)
    one_hot = torch.cat(
        [
            functional.one_hot(type_N[in_E], len(RESIDUES)),
            functional.one_hot(type_N[out_E], len(RESIDUES)),
            functional.one_hot(relation_E, config.num_relations),
            functional.one_hot((in_E - out_E).abs().clamp(max=MAX_OFFSET), MAX_OFFSET + 1),
        ],
        dim=1,
    )
    distance_E = (position_N3[in_E] - position_N3[out_E]).norm(dim=-1)
    return torch.cat([one_hot.to(distance_E.dtype), distance_E.unsqueeze(1)], dim=1)


def angle_bins(first_T3: Float[Tensor, "T 3"], second_T3: Float[Tensor, "T 3"], num_bins: int) -> Int64[Tensor, " T"]:
    """Bin of the angle, 0 to π, between two vectors; a zero vector makes the angle 0.

    The operations are torchdrug's, one by one, so that angles at the border of two bins fall on the same side.
    """
    # Adding zero turns the -0 of a zero vector into +0; atan2(0, -0) would be π.
    along_T = (first_T3 * second_T3).sum(dim=-1) + 0.0
    across_T = torch.cross(first_T3, second_T3, dim=-1).norm(dim=-1)
    angle_T = torch.atan2(across_T, along_T)
    return (angle_T / math.pi * num_bins).long().clamp(max=num_bins - 1)


def _line_blocks(
    key_P: Int64[Tensor, " P"],
    pair_offset: Int64[Tensor, " starts"],
    position_N3: Float[Tensor, "N 3"],
    num_bins: int,
    pairs_per_block: int,
    bins_at_once: int,
) -> tuple[LineBlock, ...]:
    """The line graph over pairs sorted by (out, in), a run of pairs at a time."""
    num_nodes = len(position_N3)
    out_P, in_P = key_P // max(1, num_nodes), key_P % max(1, num_nodes)
    vector_P3 = position_N3[out_P] - position_N3[in_P]
    leading_N = torch.bincount(out_P, minlength=num_nodes)  # pairs that lead to a node; they lie side by side
    first_N = _starts(leading_N)
    blocks = []
    bounds = [*range(0, len(key_P), pairs_per_block), len(key_P)]
    edge_bounds = pair_offset[torch.tensor(bounds, device=pair_offset.device)].tolist()
    for (start, stop), edges in zip(pairwise(bounds), pairwise(edge_bounds), strict=True):
        middle_B = in_P[start:stop]
        count_B = leading_N[middle_B]
        pair_T = torch.repeat_interleave(count_B)
        within_T = torch.arange(len(pair_T), device=pair_T.device) - _starts(count_B)[pair_T]
        source_T = first_N[middle_B][pair_T] + within_T
        bin_T = angle_bins(vector_P3[start:stop][pair_T], -vector_P3[source_T], num_bins)
        groups = (range(first, min(first + bins_at_once, num_bins)) for first in range(0, num_bins, bins_at_once))
        sums = (_row_sums(bin_T, group, pair_T, source_T) for group in groups)
        blocks.append(LineBlock(slice(start, stop), slice(*edges), tuple(sums)))
    return tuple(blocks)


def _row_sums(kind_T: Tensor, kinds: range, target_T: Tensor, source_T: Tensor | None = None) -> RowSums:
    """The sums over items of some kinds, one part a kind; `target_T` is sorted; without `source_T`, of items."""
    item_S = ((kind_T >= kinds.start) & (kind_T < kinds.stop)).nonzero().squeeze(1)
    target_R, row_S = torch.unique_consecutive(target_T[item_S], return_inverse=True)
    sum_S = row_S * len(kinds) + kind_T[item_S] - kinds.start
    if len(kinds) > 1:
        sum_S, order_S = sum_S.sort(stable=True)
        item_S = item_S[order_S]
    offset = _starts(torch.bincount(sum_S, minlength=len(target_R) * len(kinds)))
    return RowSums(len(kinds), target_R, offset, item_S if source_T is None else source_T[item_S])


def _starts(count_R: Tensor) -> Tensor:
    """Where each of several runs starts, and where the last one ends."""
    return functional.pad(count_R.cumsum(0), (1, 0))


def _with_relation(in_K: Tensor, out_K: Tensor, relation: int) -> Tensor:
    return torch.stack([in_K, out_K, torch.full_like(in_K, relation)], dim=1)


def _squared_distances(query_Q3: Tensor, position_N3: Tensor) -> Tensor:
    """Exact differences, summed in the order x, y, z (`torch.cdist` goes through inexact inner products)."""
    total_QN = (query_Q3[:, None, 0] - position_N3[None, :, 0]).square_()
    for axis in (1, 2):
        total_QN += (query_Q3[:, None, axis] - position_N3[None, :, axis]).square_()
    return total_QN


def _within(squared_QN: Tensor, radius: float, limit: int) -> tuple[Tensor, Tensor]:
    """(neighbour, query) of the first `limit` neighbours by index within the radius."""
    near_QN = squared_QN < radius * radius
    query_K, neighbor_K = near_QN.nonzero().unbind(1)
    rank_K = torch.arange(len(query_K), device=query_K.device) - _starts(near_QN.sum(1))[query_K]
    kept_K = rank_K < limit
    return neighbor_K[kept_K], query_K[kept_K]


def _nearest(squared_QN: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """(neighbour, query) of the nearest; the query itself, at infinity, is none of them."""
    num_queries, count = squared_QN.shape
    # Bits of non-negative floats sort as integers; below them the index, so that no two keys are equal.
    key_QN = squared_QN.view(torch.int32).long() << 32 | torch.arange(count, device=squared_QN.device)
    nearest_QK = key_QN.topk(max(0, min(limit, count - 1)), largest=False, sorted=False).indices
    query_Q = torch.arange(num_queries, device=squared_QN.device)
    return nearest_QK.flatten(), query_Q.repeat_interleave(nearest_QK.shape[1])
