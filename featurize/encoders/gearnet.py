"""GearNet and GearNet-Edge (Zhang et al., ICLR 2023) in plain torch, equal to torchdrug 0.2.1's, for inference.

Parameters have torchdrug's names, so that its checkpoints load strictly. The features of a residue are those of all
layers, side by side.

Only rows that something is summed into are computed, one matrix product per group of relations or angle bins, block by
block; the sums go through `embedding_bag`, which adds the rows of a bag in their order, on GPUs too, and never holds
the gathered summands. `gearnet_frozen` has the same network as it is run.

Legend: N residues, E edges, P pairs of residues, B pairs of a block, R rows, S summands, D width, K sums side by side.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from amma.featurize.encoders.residue_graph import NODE_WIDTH, GraphConfig, ResidueGraph, RowSums
from amma.manifests.settings import Settings


class GearNetConfig(Settings):
    """Shape of a `GearNet`; the defaults are those of the published weights."""

    hidden_widths: tuple[int, ...] = Field(default=(512,) * 6, min_length=1)
    edges: bool = True
    """Whether messages also run between edges: GearNet-Edge if so, else the plain GearNet."""
    graph: GraphConfig = GraphConfig()

    @property
    def width(self) -> int:
        """Features of a residue: all hidden layers, side by side."""
        return sum(self.hidden_widths)

    def name(self, *, random: bool) -> str:
        """What encoders of this architecture are called."""
        return f"{'random-' if random else ''}gearnet{'-edge' if self.edges else ''}"


@runtime_checkable
class Convolution(Protocol):
    """What a layer must be able to do: a `RelationalConv`, or the frozen form of one."""

    in_width: int
    out_width: int

    @property
    def state_dtype(self) -> torch.dtype:
        """What the rows that this layer gives are kept in."""

    def relate(self, value_SD: Tensor, sums: Sequence[RowSums], num_rows: int) -> Tensor:
        """`linear` of the sums of all relations side by side; rows that nothing reaches cost nothing."""

    def combine(self, related_RD: Tensor, own_RD: Tensor) -> Tensor:
        """Batch norm and ReLU of what came from others and of the row itself; may overwrite `related_RD`."""


class RelationalConv(nn.Module):
    """One convolution: sums per relation through `linear`, the row itself through `self_loop`, batch norm, ReLU.

    It serves nodes (relations are edge types) and pairs (relations are angle bins) alike.
    """

    def __init__(self, in_width: int, out_width: int, num_relations: int) -> None:
        super().__init__()
        self.in_width = in_width
        self.out_width = out_width
        self.batch_norm = nn.BatchNorm1d(out_width)
        self.self_loop = nn.Linear(in_width, out_width)
        self.linear = nn.Linear(num_relations * in_width, out_width)

    @property
    def state_dtype(self) -> torch.dtype:
        """What the rows that this layer gives are kept in: the precision of its parameters."""
        return self.linear.weight.dtype

    def relate(
        self, value_SD: Float[Tensor, "S D"], sums: Sequence[RowSums], num_rows: int
    ) -> Float[Tensor, "R out_D"]:
        """`linear` of the sums of all relations side by side; rows that nothing reaches cost nothing."""
        total_RD = self.linear.bias.repeat(num_rows, 1)
        widths = [rows.num_parts * self.in_width for rows in sums]
        for rows, weight_DK in zip(sums, torch.split(self.linear.weight, widths, dim=1), strict=True):
            if len(rows.target_R):
                added_RK = add_rows(value_SD, rows.source_S, rows.offset).view(len(rows.target_R), -1)
                # Each target occurs once, so what `index_add_` would sort for need not be sorted.
                reached_RD = total_RD.index_select(0, rows.target_R).addmm_(added_RK, weight_DK.T)
                total_RD.index_copy_(0, rows.target_R, reached_RD)
        return total_RD

    def combine(
        self, related_RD: Float[Tensor, "R out_D"], own_RD: Float[Tensor, "R in_D"]
    ) -> Float[Tensor, "R out_D"]:
        """Batch norm and ReLU of what came from others and what comes from the row itself."""
        own_part_RD = torch.addmm(related_RD, own_RD, self.self_loop.weight.T) + self.self_loop.bias
        return functional.relu(self.batch_norm(own_part_RD))


class GearNet(nn.Module):
    """Residue features from a `ResidueGraph`.

    Use it in evaluation mode. In training mode batch statistics would be those of the last block of pairs;
    `random_gearnet` alone does that, with a single block.
    """

    def __init__(self, config: GearNetConfig) -> None:
        super().__init__()
        self.config = config
        widths = [NODE_WIDTH, *config.hidden_widths]
        # An edge layer's output has the width of its node layer's input: both go through that layer's `linear`.
        edge_widths = [config.graph.edge_width, *widths[:-1]]
        self.layers = nn.ModuleList(
            RelationalConv(before, after, config.graph.num_relations) for before, after in pairwise(widths)
        )
        self.edge_layers = nn.ModuleList(
            RelationalConv(before, after, config.graph.num_angle_bins)
            for before, after in pairwise(edge_widths if config.edges else [])
        )
        self.batch_norms = nn.ModuleList(nn.BatchNorm1d(width) for width in config.hidden_widths)

    def forward(self, graph: ResidueGraph) -> Float[Tensor, "N D"]:
        """Features of every residue, all layers side by side."""
        return propagate(
            cast(Iterable[RelationalConv], self.layers),
            cast(Iterable[RelationalConv], self.edge_layers),
            self.batch_norms,
            graph,
        )


def propagate(
    layers: Iterable[Convolution],
    edge_layers: Iterable[Convolution],
    norms: Iterable[Callable[[Tensor], Tensor]],
    graph: ResidueGraph,
) -> Float[Tensor, "N D"]:
    """Send messages through all layers; `edge_layers` is empty for a GearNet without them."""
    node_ND, edge_ED = graph.node_feature_NF, graph.edge_feature_EF
    edge_steps = list(edge_layers)
    hidden = []
    for number, (layer, norm) in enumerate(zip(layers, norms, strict=True)):
        next_ND = layer.combine(layer.relate(node_ND, graph.node_sums, len(node_ND)), node_ND)
        if next_ND.shape == node_ND.shape:
            next_ND = next_ND + node_ND
        if edge_steps:
            edge_ED = convolve_edges(edge_steps[number], edge_ED, graph)
            next_ND = next_ND + functional.relu(layer.relate(edge_ED, graph.edge_sums, len(node_ND)))
        node_ND = norm(next_ND)
        hidden.append(node_ND)
    return torch.cat(hidden, dim=1)


def convolve_edges(
    layer: Convolution, edge_ED: Float[Tensor, "E in_D"], graph: ResidueGraph
) -> Float[Tensor, "E out_D"]:
    """A convolution over the line graph: edges of a pair are added up first, and share what reaches their pair.

    Where widths allow it and no gradients are wanted, the result takes the place of `edge_ED`: only the pairs' sums are
    there twice.
    """
    pair_PD = add_rows(edge_ED, torch.arange(len(edge_ED), device=edge_ED.device), graph.pair_offset)
    result_ED = edge_ED
    if edge_ED.shape[1] != layer.out_width or edge_ED.dtype != layer.state_dtype or torch.is_grad_enabled():
        result_ED = edge_ED.new_empty(len(edge_ED), layer.out_width, dtype=layer.state_dtype)
    for block in graph.line:
        related_BD = layer.relate(pair_PD, block.bins, block.pairs.stop - block.pairs.start)
        pair_B = graph.pair_E[block.edges] - block.pairs.start
        result_ED[block.edges] = layer.combine(related_BD.index_select(0, pair_B), edge_ED[block.edges])
    return result_ED


def add_rows(value_SD: Tensor, source: Tensor, offset: Tensor) -> Tensor:
    """Row r: the sum of rows `source[offset[r]:offset[r + 1]]`."""
    return functional.embedding_bag(source, value_SD, offset, mode="sum", include_last_offset=True)
