"""A GearNet as it is run: matrices packed, edges updated in place, in a precision of choice.

In float32 it is the network of `gearnet.py` up to rounding. In bfloat16 and float16, matrices, the factors of products
and edge features are rounded; sums, norms, node features and what layers add to them stay in float32.

Batch norms are not folded into the matrices: that would save a hundredth of the time, and move the result away from
torchdrug's, whose rounding of the norms is then no longer the same.

Legend: N residues, R rows, S summands, D width, K sums side by side.
"""

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from amma.featurize.encoders.gearnet import GearNet, RelationalConv, add_rows, propagate
from amma.featurize.encoders.matrix_product import MatrixProduct
from amma.featurize.encoders.residue_graph import ResidueGraph, RowSums

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class FrozenGearNet:
    """Residue features of a `GearNet` that is not trained any more, on its device, in a given precision."""

    def __init__(self, model: GearNet, precision: str = "fp32") -> None:
        dtype = DTYPES[precision]
        self.config = model.config
        self._layers = _frozen(model.layers, dtype, state_dtype=torch.float32)
        self._edge_layers = _frozen(model.edge_layers, dtype, state_dtype=dtype)
        self._norms = list(model.batch_norms)

    @torch.inference_mode()
    def __call__(self, graph: ResidueGraph) -> Float[Tensor, "N D"]:
        """Features of every residue in float32, all layers side by side."""
        return propagate(self._layers, self._edge_layers, self._norms, graph)


class FrozenConv:
    """A `RelationalConv` in evaluation mode; the rows it gives are kept in `state_dtype`."""

    def __init__(self, layer: RelationalConv, dtype: torch.dtype, state_dtype: torch.dtype) -> None:
        self.in_width, self.out_width = layer.in_width, layer.out_width
        self.state_dtype = state_dtype
        self._batch_norm = layer.batch_norm
        self._linear_DK = layer.linear.weight.detach().to(dtype)
        self._bias_D = layer.linear.bias.detach()
        self._self_loop = MatrixProduct(layer.self_loop.weight.to(dtype))
        self._self_bias_D = layer.self_loop.bias.detach()
        self._products: dict[tuple[int, int], MatrixProduct] = {}

    def relate(
        self, value_SD: Float[Tensor, "S D"], sums: Sequence[RowSums], num_rows: int
    ) -> Float[Tensor, "R out_D"]:
        """`linear` of the sums of all relations side by side; rows that nothing reaches cost nothing."""
        total_RD = self._bias_D.repeat(num_rows, 1)
        first = 0
        for rows in sums:
            product = self._product(first, rows.num_parts)
            first += rows.num_parts
            if len(rows.target_R):
                added_RK = add_rows(value_SD, rows.source_S, rows.offset).view(len(rows.target_R), -1)
                related_RD = product(added_RK)
                if len(rows.target_R) == num_rows:
                    total_RD += related_RD
                else:
                    # Each target occurs once, so what `index_add_` would sort for need not be sorted.
                    total_RD.index_copy_(0, rows.target_R, total_RD.index_select(0, rows.target_R).add_(related_RD))
        return total_RD

    def combine(
        self, related_RD: Float[Tensor, "R out_D"], own_RD: Float[Tensor, "R in_D"]
    ) -> Float[Tensor, "R out_D"]:
        """Batch norm and ReLU of what came from others and of the row itself; overwrites `related_RD`."""
        total_RD = related_RD.add_(self._self_loop(own_RD)).add_(self._self_bias_D)
        return cast(Tensor, self._batch_norm(total_RD)).relu_()

    def _product(self, first: int, parts: int) -> MatrixProduct:
        """The columns of `linear` that belong to the relations `first` to `first + parts`."""
        if (first, parts) not in self._products:
            columns = slice(first * self.in_width, (first + parts) * self.in_width)
            self._products[first, parts] = MatrixProduct(self._linear_DK[:, columns])
        return self._products[first, parts]


def _frozen(layers: nn.ModuleList, dtype: torch.dtype, state_dtype: torch.dtype) -> list[FrozenConv]:
    return [FrozenConv(layer, dtype, state_dtype) for layer in cast(Iterable[RelationalConv], layers)]
