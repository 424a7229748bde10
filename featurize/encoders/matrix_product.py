"""Products with matrices that never change, by the fastest exact library at hand.

On x86 CPUs torch multiplies float32 matrices by MKL, which leaves half and more of a CPU's rate unused that is not
Intel's (measured: 40–100 GFLOP/s a core against 200–240 of oneDNN on a Zen 5). oneDNN is part of torch; its product of
a matrix that was packed beforehand is what torch's own compiler emits (`torch.compile` with freezing). Where that is
not there, or does not give what `torch.nn.functional.linear` gives, the latter is used.

Legend: R rows, I inputs, O outputs.
"""

from functools import lru_cache
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

ROWS = 1024
"""oneDNN packs for products of about so many rows; others are right as well."""


class MatrixProduct:
    """`x @ weight.T + bias` in the precision of `weight`, or GELU (by erf) of that, without gradients.

    On a CPU the weight is kept as it was packed, and not as it was given.
    """

    def __init__(
        self, weight_OI: Float[Tensor, "O I"], bias_O: Float[Tensor, " O"] | None = None, *, gelu: bool = False
    ) -> None:
        self.dtype = weight_OI.dtype
        """What factors and results are in; products add up in float32."""
        self._outputs = len(weight_OI)
        self._gelu = gelu
        self._bias_O = None if bias_O is None else bias_O.detach().to(self.dtype)
        self._packed = weight_OI.device.type == "cpu" and packs(self.dtype)
        self._weight = weight_OI.detach().contiguous()
        if self._packed:
            self._weight = torch.ops.mkldnn._reorder_linear_weight(self._weight, ROWS)

    def __call__(self, value_RI: Float[Tensor, "R I"]) -> Float[Tensor, "R O"]:
        """The product, of the same precision as the matrix; rows of other precision are rounded to it first."""
        value_RI = value_RI.to(self.dtype)
        if not len(value_RI):
            return value_RI.new_empty((0, self._outputs))
        if not self._packed:
            product_RO = functional.linear(value_RI, self._weight, self._bias_O)
            return functional.gelu(product_RO) if self._gelu else product_RO
        # Within the product, GELU costs no memory of its own and sees sums that are not rounded yet.
        after: tuple[str, list[float], str] = ("gelu", [], "none") if self._gelu else ("none", [], "")
        return cast(Tensor, torch.ops.mkldnn._linear_pointwise(value_RI, self._weight, self._bias_O, *after))


@lru_cache
def packs(dtype: torch.dtype) -> bool:
    """Whether oneDNN's product with a packed matrix is there on this CPU, and right; found by trying it."""
    generator = torch.Generator().manual_seed(0)
    value, weight, bias = (torch.rand(shape, generator=generator).to(dtype) for shape in [(5, 48), (32, 48), (32,)])
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)
        product = torch.ops.mkldnn._linear_pointwise(value, packed, bias, "none", [], "")
        curved = torch.ops.mkldnn._linear_pointwise(value, packed, bias, "gelu", [], "none")
    # These operators are torch's own affair: another version may lack them or want other arguments.
    except (AttributeError, NotImplementedError, RuntimeError, TypeError):
        return False
    expected = functional.linear(value, weight, bias)
    bound = 16 * torch.finfo(dtype).eps
    return all(
        torch.allclose(found, wanted, rtol=bound)
        for found, wanted in ((product, expected), (curved, functional.gelu(expected)))
    )
