"""A GearNet as it is run: matrices packed, edges updated in place, in a precision of choice.

In float32 it is the network of `gearnet.py` up to rounding. In bfloat16 and float16, matrices, the factors of products
and edge features are rounded; sums, norms, node features and what layers add to them stay in float32.

Batch norms are not folded into the matrices: that would save a hundredth of the time, and move the result away from
torchdrug's, whose rounding of the norms is then no longer the same. What limits the agreement with torchdrug in float32
is the `linear` of node layers: its inputs are sums of many positive numbers, and oneDNN adds up all of them in one go,
where torchdrug's MKL does so in pieces. Those products are cut into pieces here too; that costs little, since there are
twenty times fewer residues than edges. Over 50 real chains the largest difference fell from 1.1e-5 of the features'
root mean square to 7e-6 (torchdrug itself is as far from the exact result).

Legend: N residues, R rows, S summands, D width, K sums side by side.
"""

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from amma.featurize.encoders.gearnet import GearNet, RelationalConv, add_rows, propagate
from amma.featurize.encoders.matrix_product import MatrixProduct
from amma.featurize.encoders.residue_graph import ResidueGraph, RowSums, build_graph

PAIRS_PER_BLOCK = {"cpu": 512, "cuda": 16384}
"""At 512 features, what a block touches stays in a CPU's caches; a GPU wants much to do at once."""
LEAST_COLUMNS = 64
COLUMN_PIECES = 4
"""Products of node layers in float32 run over a quarter of a relation's columns at a time, but not fewer than 64."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class FrozenGearNet:
    """Residue features of a `GearNet` that is not trained any more, on its device, in a given precision."""

    def __init__(self, model: GearNet, precision: str = "fp32") -> None:
        dtype = DTYPES[precision]
        self.config = model.config
        self._device = next(model.parameters()).device
        self._layers = _frozen(model.layers, dtype, nodes=True)
        self._edge_layers = _frozen(model.edge_layers, dtype, nodes=False)
        self._norms = list(model.batch_norms)

    def graph(
        self,
        chains: Sequence[tuple[str, Float[Tensor, "_ 3"]]],
        *,
        edges: Sequence[Int64[Tensor, "_ 3"]] | None = None,
    ) -> ResidueGraph:
        """The graph of some chains, cut as this network wants it: all angle bins in one product."""
        return build_graph(
            [(letters, position_N3.to(self._device)) for letters, position_N3 in chains],
            self.config.graph,
            edges=edges,
            line=self.config.edges,
            pairs_per_block=PAIRS_PER_BLOCK.get(self._device.type, PAIRS_PER_BLOCK["cuda"]),
            bins_at_once=self.config.graph.num_angle_bins,
        )

    @torch.inference_mode()
    def __call__(self, graph: ResidueGraph) -> Float[Tensor, "N D"]:
        """Features of every residue in float32, all layers side by side."""
        return propagate(self._layers, self._edge_layers, self._norms, graph)


class FrozenConv:
    """A `RelationalConv` in evaluation mode; the rows it gives are kept in `state_dtype`, `linear` is cut if wanted."""

    def __init__(self, layer: RelationalConv, dtype: torch.dtype, state_dtype: torch.dtype, *, in_pieces: bool) -> None:
        self.in_width, self.out_width = layer.in_width, layer.out_width
        self.state_dtype = state_dtype
        self._batch_norm = layer.batch_norm
        self._linear_DK = layer.linear.weight.detach().to(dtype)
        self._bias_D = layer.linear.bias.detach()
        self._self_loop = MatrixProduct(layer.self_loop.weight.to(dtype))
        self._self_bias_D = layer.self_loop.bias.detach()
        self._columns = (
            max(LEAST_COLUMNS, -(-layer.in_width // COLUMN_PIECES)) if in_pieces else layer.linear.in_features
        )
        self._products: dict[tuple[int, int], list[MatrixProduct]] = {}

    def relate(
        self, value_SD: Float[Tensor, "S D"], sums: Sequence[RowSums], num_rows: int
    ) -> Float[Tensor, "R out_D"]:
        """`linear` of the sums of all relations side by side; rows that nothing reaches cost nothing."""
        total_RD = self._bias_D.repeat(num_rows, 1)
        first = 0
        for rows in sums:
            products = self._products_of(first, rows.num_parts)
            first += rows.num_parts
            if len(rows.target_R):
                added_RK = add_rows(value_SD, rows.source_S, rows.offset).view(len(rows.target_R), -1)
                every_row = len(rows.target_R) == num_rows
                # Each target occurs once, so what `index_add_` would sort for need not be sorted.
                reached_RD = total_RD if every_row else total_RD.index_select(0, rows.target_R)
                for product, piece_RK in zip(products, torch.split(added_RK, self._columns, dim=1), strict=True):
                    reached_RD += product(piece_RK.contiguous())
                if not every_row:
                    total_RD.index_copy_(0, rows.target_R, reached_RD)
        return total_RD

    def combine(
        self, related_RD: Float[Tensor, "R out_D"], own_RD: Float[Tensor, "R in_D"]
    ) -> Float[Tensor, "R out_D"]:
        """Batch norm and ReLU of what came from others and of the row itself; overwrites `related_RD`."""
        total_RD = related_RD.add_(self._self_loop(own_RD)).add_(self._self_bias_D)
        return cast(Tensor, self._batch_norm(total_RD)).relu_()

    def _products_of(self, first: int, parts: int) -> list[MatrixProduct]:
        """The columns of `linear` that belong to the relations `first` to `first + parts`, in pieces."""
        if (first, parts) not in self._products:
            columns = slice(first * self.in_width, (first + parts) * self.in_width)
            pieces = torch.split(self._linear_DK[:, columns], self._columns, dim=1)
            self._products[first, parts] = [MatrixProduct(piece_DK) for piece_DK in pieces]
        return self._products[first, parts]


def _frozen(layers: nn.ModuleList, dtype: torch.dtype, *, nodes: bool) -> list[FrozenConv]:
    in_pieces = nodes and dtype == torch.float32
    state_dtype = torch.float32 if nodes else dtype
    return [
        FrozenConv(layer, dtype, state_dtype, in_pieces=in_pieces) for layer in cast(Iterable[RelationalConv], layers)
    ]
