"""A linear map whose weights never change: converted once, to the precision asked for and to the fastest layout.

On x86 CPUs torch multiplies float32 matrices by MKL, which leaves more than half of a CPU's rate unused that is not
Intel's. oneDNN does not, and is part of torch: its product with a matrix that was packed beforehand is what torch's own
compiler emits. Where it is not there, or does not give what `torch.nn.functional.linear` gives, the latter is used.

Legend: R rows, I inputs, O outputs.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


class FrozenLinear:
    """`x @ weight.T + bias`; several linear maps of the same input become one, their outputs side by side.

    Weights are copied, rounded to `dtype` and kept on `device`; products are added up in float32 whatever `dtype` is.
    """

    def __init__(self, *maps: nn.Linear, dtype: torch.dtype, device: torch.device) -> None:
        weight_OI = _side_by_side([linear.weight for linear in maps], dtype, device)
        self._bias_O = _side_by_side([linear.bias for linear in maps], dtype, device)
        self._packed = weight_OI.device.type == "cpu" and packing_works(dtype)
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight_OI) if self._packed else weight_OI

    def __call__(self, value_RI: Float[Tensor, "R I"]) -> Float[Tensor, "R O"]:
        """The map of each row; `value_RI` is of this map's dtype and has at least one row."""
        if not self._packed:
            return functional.linear(value_RI, self._weight, self._bias_O)
        product = torch.ops.mkldnn._linear_pointwise(value_RI, self._weight, self._bias_O, "none", [], "")
        return cast(Tensor, product)


@lru_cache
def packing_works(dtype: torch.dtype) -> bool:
    """Whether oneDNN's product with a packed matrix is there on this CPU, and right; found by trying it."""
    generator = torch.Generator().manual_seed(0)
    value, weight, bias = (torch.rand(shape, generator=generator).to(dtype) for shape in [(5, 48), (32, 48), (32,)])
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight)
        product = torch.ops.mkldnn._linear_pointwise(value, packed, bias, "none", [], "")
        # These operators are torch's own affair: another version may lack them or give them other arguments.
    except (AttributeError, NotImplementedError, RuntimeError, TypeError):
        return False
    return torch.allclose(product, functional.linear(value, weight, bias), rtol=2 * torch.finfo(dtype).eps)


def _side_by_side(parts: Sequence[Tensor], dtype: torch.dtype, device: torch.device) -> Tensor:
    # `cat` copies even a single part: it may be a view of a file that is not there for ever.
    return torch.cat([part.detach() for part in parts]).to(device=device, dtype=dtype)
