"""Products with matrices that never change, by the fastest exact library at hand.

On x86 CPUs torch multiplies float32 matrices by MKL, which leaves half and more of a CPU's rate unused that is not
Intel's (measured: 40–100 GFLOP/s a core against 200–240 of oneDNN on a Zen 5). oneDNN is part of torch; its product of
a matrix that was packed beforehand is what torch's own compiler emits (`torch.compile` with freezing).

Legend: R rows, I inputs, O outputs.
"""

from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

ROWS = 1024
"""oneDNN packs for products of about so many rows; others are right as well."""


class MatrixProduct:
    """`x @ weight.T` in the precision of `weight`, without a bias and without gradients."""

    def __init__(self, weight_OI: Float[Tensor, "O I"]) -> None:
        self._weight_OI = weight_OI.detach().contiguous()
        self._packed: Tensor | None = None
        if packs(weight_OI):
            self._packed = torch.ops.mkldnn._reorder_linear_weight(self._weight_OI, ROWS)

    @property
    def dtype(self) -> torch.dtype:
        """What factors and results are in; products add up in float32."""
        return self._weight_OI.dtype

    def __call__(self, value_RI: Float[Tensor, "R I"]) -> Float[Tensor, "R O"]:
        """The product, of the same precision as the matrix; rows of other precision are rounded to it first."""
        value_RI = value_RI.to(self.dtype)
        if self._packed is None or not len(value_RI):
            return functional.linear(value_RI, self._weight_OI)
        return cast(Tensor, torch.ops.mkldnn._linear_pointwise(value_RI, self._packed, None, "none", [], ""))


def packs(weight_OI: Tensor) -> bool:
    """Whether oneDNN can take the product over: float32 on a CPU, in a torch that was built with it."""
    return (
        weight_OI.device.type == "cpu"
        and weight_OI.dtype == torch.float32
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    )
