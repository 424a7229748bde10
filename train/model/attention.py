"""Attention within each protein of a packed batch.

The only place that knows how. On a GPU, in half precision, one call serves proteins of any lengths. Elsewhere proteins
of equal length that lie side by side go through one call of torch's fused attention, as a view and without a copy;
`amma.train.model.tokens.join` sorts proteins so that they do.

Shapes: B proteins, Q tokens that ask, T tokens that answer, H heads, K channels of a head.
"""

from itertools import groupby

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from amma.featurize.encoders.packed_attention import Segments, takes_any_lengths, varlen_attention


def attend(
    query_QHK: Float[Tensor, "Q H K"],
    key_THK: Float[Tensor, "T H K"],
    value_THK: Float[Tensor, "T H K"],
    asking: Segments,
    answering: Segments,
) -> Float[Tensor, "Q H K"]:
    """softmax(q·k/√K)·v, each query over the tokens of its own protein; a protein without any is no trouble.

    Each protein asks with its rows of `asking` and answers with those of `answering`. Right for any order of proteins;
    equal lengths side by side make it fast.
    """
    varlen = varlen_attention()
    if varlen is not None and takes_any_lengths(query_QHK) and len(query_QHK):
        return varlen(
            query_QHK,
            key_THK,
            value_THK,
            asking.starts,
            answering.starts,
            max(asking.lengths),
            max(answering.lengths),
        )
    lengths = zip(asking.lengths, answering.lengths, strict=True)
    groups = [(queries, keys, sum(1 for _ in run)) for (queries, keys), run in groupby(lengths)]
    # torch.split and not slices: the gradient of a slice is a whole matrix of zeros, once per group.
    query_parts = torch.split(query_QHK, [queries * proteins for queries, _, proteins in groups])
    key_parts, value_parts = (
        torch.split(tensor, [keys * proteins for _, keys, proteins in groups]) for tensor in (key_THK, value_THK)
    )
    mixed = []
    for (queries, _, proteins), *packed in zip(groups, query_parts, key_parts, value_parts, strict=True):
        if queries:
            query, key, value = (rows.view(proteins, -1, *rows.shape[1:]).transpose(1, 2) for rows in packed)
            mixed.append(scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(0, 1))
    if not mixed:
        return query_QHK
    return torch.cat(mixed) if len(mixed) > 1 else mixed[0]
