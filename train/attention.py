"""Attention within each protein of a packed batch.

The only place that knows how: proteins of equal length that lie side by side go through one call of torch's fused
attention, as a view and without a copy. `amma.train.tokens.join` sorts proteins so that they do.

Shapes: B proteins, T tokens of the batch, H heads, K channels of a head.
"""

from itertools import groupby

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def attend(
    query_THK: Float[Tensor, "T H K"],
    key_THK: Float[Tensor, "T H K"],
    value_THK: Float[Tensor, "T H K"],
    offsets: Int64[Tensor, " offsets"],
) -> Float[Tensor, "T H K"]:
    """softmax(q·k/√K)·v, each token over the tokens of its own protein; a protein of length 0 is no trouble.

    Right for any order of proteins; equal lengths side by side make it fast.
    """
    outputs = []
    row = 0
    for length, run in groupby(offsets.diff().tolist()):
        num_proteins = sum(1 for _ in run)
        if length == 0:
            continue
        rows = slice(row, row + num_proteins * length)
        row = rows.stop
        query, key, value = (
            tensor[rows].reshape(num_proteins, length, *tensor.shape[1:]).transpose(1, 2)
            for tensor in (query_THK, key_THK, value_THK)
        )
        outputs.append(scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(0, 1))
    if not outputs:
        return value_THK
    return torch.cat(outputs) if len(outputs) > 1 else outputs[0]
