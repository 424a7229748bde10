"""Fmax and AUPR as torchdrug 0.2.1 computes them, for comparison with figures published with it.

Both walk single protein–term pairs in the order `torch.argsort` puts them, so pairs with equal scores are counted
one after the other in an order that carries no meaning. Without ties they equal `exact.py` to rounding; with ties
they are evaluated inside the groups and come out larger or smaller. Scores that are all equal give NaN or an
arbitrary number, as they do there. NaN scores, which torchdrug takes for the largest of all, are refused. Use the
exact figures; name these where they are shown.

Shapes: N proteins, K terms, P = N·K pairs in descending order of their scores.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from amma.evaluate.metrics.scores import refuse_nan

TINY = 1e-10
"""What torchdrug adds to denominators."""


def fmax_torchdrug(score_NK: Float[Tensor, "N K"], target_NK: Bool[Tensor, "N K"]) -> float:
    """`f1_max` of torchdrug/metrics/metric.py: F after each single pair, the largest of them.

    Precision is averaged over the proteins that have a pair so far, recall over all N.
    Raises `ValueError` for NaN scores.
    """
    refuse_nan(score_NK.numpy(force=True))
    num_proteins, num_terms = score_NK.shape
    column_K, row_N = (torch.arange(n, device=score_NK.device) for n in (num_terms, num_proteins))
    order_NK = score_NK.argsort(descending=True, dim=1)
    hits_NK = target_NK.gather(1, order_NK).to(score_NK.dtype).cumsum(1)
    precision_NK = hits_NK / (column_K + 1)
    recall_NK = hits_NK / (hits_NK[:, -1:] + TINY)
    # Where each pair stands in its own row's order: a second sort, over all pairs, walks through these places.
    rank_NK = torch.empty_like(order_NK).scatter_(1, order_NK, column_K.expand_as(order_NK))
    walk_P = score_NK.flatten().argsort(descending=True)
    place_P = (row_N[:, None] * num_terms + rank_NK).flatten()[walk_P]
    first_P = rank_NK.flatten()[walk_P] == 0

    def running(per_pair_NK: Tensor) -> Tensor:
        now_P, before_P = per_pair_NK.flatten()[place_P], per_pair_NK.flatten()[place_P - 1]
        return (now_P - torch.where(first_P, torch.zeros_like(before_P), before_P)).cumsum(0)

    precision_P = running(precision_NK) / first_P.cumsum(0)
    recall_P = running(recall_NK) / num_proteins
    return float((2 * precision_P * recall_P / (precision_P + recall_P + TINY)).max())


def aupr_torchdrug(score_NK: Float[Tensor, "N K"], target_NK: Bool[Tensor, "N K"]) -> float:
    """`area_under_prc` of torchdrug/metrics/metric.py over all pairs: the mean of precision at each true pair.

    Raises `ValueError` for NaN scores.
    """
    refuse_nan(score_NK.numpy(force=True))
    target_P = target_NK.flatten()[score_NK.flatten().argsort(descending=True)]
    precision_P = target_P.cumsum(0) / torch.arange(1, len(target_P) + 1, device=target_P.device)
    return float(precision_P[target_P].sum() / (target_P.sum() + TINY))
