"""Softmax attention within each protein of a packed batch, by fused kernels: no matrix of tokens × tokens is kept.

Legend: T tokens of all proteins, one after another; H heads; K channels of a head.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import cast

import torch
from jaxtyping import Float, Int32
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

HALVES = (torch.float16, torch.bfloat16)
"""What the GPU kernel for proteins of different lengths computes in."""


@dataclass(frozen=True, slots=True)
class Segments:
    """Where each protein of a packed batch lies: tokens `starts[b]` to `starts[b + 1]`, `lengths[b]` of them (≥ 1)."""

    lengths: tuple[int, ...]
    starts: Int32[Tensor, " starts"]
    """On the device of the batch."""

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device | str) -> "Segments":
        """Proteins of these lengths, one after another."""
        starts = torch.tensor([0, *lengths]).cumsum(0)
        return cls(tuple(lengths), starts.to(device=device, dtype=torch.int32))


def attend(
    query_THK: Float[Tensor, "T H K"],
    key_THK: Float[Tensor, "T H K"],
    value_THK: Float[Tensor, "T H K"],
    segments: Segments,
) -> Float[Tensor, "T H K"]:
    """softmax(q·k/√K)·v, each token over the tokens of its own protein.

    On a GPU one call serves all proteins in half precision; else one call serves a run of proteins of equal length, and
    what it computes for each does not depend on the others.
    """
    varlen = varlen_attention()
    if varlen is not None and takes_any_lengths(query_THK):
        starts, longest = segments.starts, max(segments.lengths)
        return varlen(query_THK, key_THK, value_THK, starts, starts, longest, longest)
    mixed_THK = query_THK.new_empty(query_THK.shape)
    begin = 0
    for length, run in groupby(segments.lengths):
        proteins = sum(1 for _ in run)
        rows = slice(begin, begin + proteins * length)
        query, key, value = (
            packed[rows].view(proteins, length, *packed.shape[1:]).transpose(1, 2)
            for packed in (query_THK, key_THK, value_THK)
        )
        mixed_THK[rows] = scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(0, 1)
        begin = rows.stop
    return mixed_THK


@lru_cache
def varlen_attention() -> Callable[..., Tensor] | None:
    """Torch's attention over several lengths, None in versions that lack it."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return cast(Callable[..., Tensor], varlen_attn)


def takes_any_lengths(query_THK: Tensor) -> bool:
    """Whether that kernel takes such heads: FlashAttention's conditions."""
    channels = query_THK.shape[2]
    return query_THK.is_cuda and query_THK.dtype in HALVES and channels % 8 == 0 and channels <= 256
