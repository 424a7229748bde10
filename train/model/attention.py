"""Attention within each protein of a packed batch.

The only place that knows how: proteins of equal length that lie side by side go through one call of torch's fused
attention, as a view and without a copy. `amma.train.model.tokens.join` sorts proteins so that they do.

Shapes: B proteins, Q tokens that ask, T tokens that answer, H heads, K channels of a head.
"""

from itertools import groupby

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def attend(
    query_QHK: Float[Tensor, "Q H K"],
    key_THK: Float[Tensor, "T H K"],
    value_THK: Float[Tensor, "T H K"],
    query_offsets: Int64[Tensor, " offsets"],
    offsets: Int64[Tensor, " offsets"],
) -> Float[Tensor, "Q H K"]:
    """softmax(q·k/√K)·v, each query over the tokens of its own protein; a protein without any is no trouble.

    Protein b asks with the rows `query_offsets[b]:query_offsets[b + 1]` and answers with those of `offsets`. Right for
    any order of proteins; equal lengths side by side make it fast.
    """
    lengths = zip(query_offsets.diff().tolist(), offsets.diff().tolist(), strict=True)
    groups = [(asking, answering, sum(1 for _ in run)) for (asking, answering), run in groupby(lengths)]
    # torch.split and not slices: the gradient of a slice is a whole matrix of zeros, once per group.
    queries = torch.split(query_QHK, [asking * proteins for asking, _, proteins in groups])
    keys, values = (
        torch.split(tensor, [answering * proteins for _, answering, proteins in groups])
        for tensor in (key_THK, value_THK)
    )
    mixed = []
    for (asking, _, proteins), *packed in zip(groups, queries, keys, values, strict=True):
        if asking:
            query, key, value = (rows.view(proteins, -1, *rows.shape[1:]).transpose(1, 2) for rows in packed)
            mixed.append(scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(0, 1))
    if not mixed:
        return query_QHK
    return torch.cat(mixed) if len(mixed) > 1 else mixed[0]
