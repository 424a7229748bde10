"""A linear map of many rows, by the faster of the two libraries that torch multiplies float32 with on a CPU.

torch gives float32 products to MKL, which leaves half of the vector unit unused on processors that are not Intel's.
oneDNN, which torch brings too and uses for bfloat16, does not. Only the order of additions differs.

Shapes: T tokens, I input channels, O output channels.
"""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear

SMALLEST_WEIGHT = 1 << 16
"""Weights of fewer numbers are left to MKL: below that the way there and back costs more than is won."""


def mkl_is_slow() -> bool:
    """Whether MKL uses half of what this processor has: 512-bit vectors, and another maker than Intel."""
    cpuinfo = Path("/proc/cpuinfo")
    return (
        torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and cpuinfo.exists()
        and "GenuineIntel" not in cpuinfo.read_text()
    )


PREFER_ONEDNN = mkl_is_slow()
"""Looked at once: the same for a whole process, so that what is computed twice is computed alike."""

IN_PLACE = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
"""What torch's own compiler calls oneDNN by: it takes matrices as they lie, where the public way copies them there and
back (a tenth to a fifth of the time). None in a torch that lacks it."""


def multiply(
    x_TI: Float[Tensor, "T I"], weight_OI: Float[Tensor, "O I"], bias_O: Float[Tensor, " O"]
) -> Float[Tensor, "T O"]:
    """x·Wᵀ + b, as `torch.nn.functional.linear` up to rounding."""
    if (
        PREFER_ONEDNN
        and weight_OI.numel() >= SMALLEST_WEIGHT
        and x_TI.device.type == "cpu"
        and x_TI.dtype == weight_OI.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
    ):
        product_TO: Tensor = product(x_TI, weight_OI, bias_O)
        return product_TO
    return linear(x_TI, weight_OI, bias_O)


class Linear(nn.Linear):
    """`torch.nn.Linear` with `multiply`."""

    def forward(self, input: Float[Tensor, "T I"]) -> Float[Tensor, "T O"]:
        """The map of each row by itself."""
        return multiply(input, self.weight, self.bias)


# An operator of its own, so that torch.compile takes it as it is.
@torch.library.custom_op("amma::product", mutates_args=())
def product(left: Tensor, right: Tensor, bias: Tensor | None) -> Tensor:
    """What oneDNN gives for left · rightᵀ (+ bias)."""
    if not left.numel():
        zeros = left.new_zeros(len(left), len(right))
        return zeros if bias is None else zeros + bias
    if IN_PLACE is not None:
        answer: Tensor = IN_PLACE(left, right, bias, "none", [], "")
        return answer
    return linear(left.to_mkldnn(), right, bias).to_dense()


@product.register_fake
def _outline(left: Tensor, right: Tensor, bias: Tensor | None) -> Tensor:
    return left.new_empty(left.shape[0], right.shape[0])


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
    left, right, _ = inputs
    ctx.save_for_backward(left, right)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    left, right = ctx.saved_tensors
    wants_left, wants_right, wants_bias = ctx.needs_input_grad
    return (
        product(grad, right.t(), None) if wants_left else None,
        product(grad.t(), left.t(), None) if wants_right else None,
        grad.sum(0) if wants_bias else None,
    )


product.register_autograd(_backward, setup_context=_keep)
