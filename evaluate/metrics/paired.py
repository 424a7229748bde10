"""Is one side better than another on the same proteins? A paired bootstrap and a paired permutation test.

Both work on whole sequence clusters, as proteins of one cluster are not independent, and both see the two sides on
the same resamples or the same swaps. A side may have several seeds: its figure is their mean, within every resample.

* Bootstrap: clusters are drawn with replacement (`bootstrap.py`); the interval is the middle 95 % of the differences,
  and p is twice the share of resamples whose difference is on the other side of zero, or zero.
* Swap: were the sides alike, each cluster's scores could as well have come from the other side. So the scores of
  random halves of the clusters are swapped between the sides, and p is the share of swaps that put the sides at least
  as far apart as they are. Scores of different models have no common scale, so each seed's scores are first replaced
  by their ranks among all of its scores, which changes none of its figures.

Both p count the data as they are as one more draw (+1 above and below), so neither is ever 0. Random numbers are a
pure function of the seed. As in `bootstrap.py`, many thresholds are thinned; `difference` is exact.

Shapes: N proteins, K terms, P = N·K pairs, B resamples or swaps, M = 2N proteins of both sides.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64

from amma.evaluate.metrics.bootstrap import draw_resamples, middle, resampled_figures
from amma.evaluate.metrics.exact import aupr, fmax
from amma.evaluate.metrics.scores import checked_scores
from amma.train.model.masking import generator_for

SWAPS = 1
"""Sets the random numbers of swaps apart from those of resamples."""
ROUNDING = 1e-9
"""Differences closer than this are equal: a sum may come out a last bit different in another order."""


@dataclass(frozen=True, slots=True)
class PairedFigure:
    """How far side a is above side b in one figure, the bounds of that, and two-sided p of there being no difference.

    `low` and `high` bound the middle 95 % of resamples.
    """

    difference: float
    low: float
    high: float
    p_bootstrap: float
    p_swap: float


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Side a minus side b: in exact Fmax and in exact AUPR."""

    fmax: PairedFigure
    aupr: PairedFigure


def compare(
    scores_a: Sequence[Float[np.ndarray, "N K"]],
    scores_b: Sequence[Float[np.ndarray, "N K"]],
    target_NK: Bool[np.ndarray, "N K"],
    cluster_N: Int64[np.ndarray, " N"],
    num_resamples: int,
    seed: int = 0,
) -> PairedDifference:
    """Compare two sides, each given as the scores of its seeds, over `num_resamples` resamples and as many swaps.

    Raises `ValueError` for a side without scores, for NaN scores, and for scores of another shape than the labels'.
    """
    if not (scores_a and scores_b) or num_resamples < 1:
        raise ValueError("expected the scores of at least one seed on either side, and at least one resample")
    scores_a, scores_b = ([checked_scores(each, target_NK) for each in side] for side in (scores_a, scores_b))
    weight_BN = draw_resamples(cluster_N, num_resamples, seed=seed)
    resampled_2B = _mean_figures(scores_a, target_NK, weight_BN) - _mean_figures(scores_b, target_NK, weight_BN)
    swapped_2B = swapped_differences(scores_a, scores_b, target_NK, draw_swaps(cluster_N, num_resamples, seed=seed))
    figures = []
    for metric, resampled_B, swapped_B in zip((_fmax, aupr), resampled_2B, swapped_2B, strict=True):
        mean_a, mean_b = (np.mean([metric(each, target_NK) for each in side]) for side in (scores_a, scores_b))
        low, high = middle(resampled_B)
        figures.append(
            PairedFigure(float(mean_a - mean_b), low, high, _p_of_resamples(resampled_B), _p_of_swaps(swapped_B))
        )
    return PairedDifference(*figures)


def draw_swaps(cluster_N: Int64[np.ndarray, " N"], number: int, *, seed: int = 0) -> Bool[np.ndarray, "B N"]:
    """Whose scores change sides (True), cluster by cluster with probability 1/2; the first row swaps nobody."""
    _, first_N, inverse_N = np.unique(cluster_N, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first_N))
    drawn = generator_for(seed, SWAPS).random((number, len(first_N))) < 0.5
    nobody = np.zeros((1, len(first_N)), dtype=np.bool_)
    swap_BN: Bool[np.ndarray, "B N"] = np.concatenate([nobody, drawn])[:, rank[inverse_N]]
    return swap_BN


def swapped_differences(
    scores_a: Sequence[Float[np.ndarray, "N K"]],
    scores_b: Sequence[Float[np.ndarray, "N K"]],
    target_NK: Bool[np.ndarray, "N K"],
    swap_BN: Bool[np.ndarray, "B N"],
) -> Float64[np.ndarray, "2 B"]:
    """Differences in Fmax and AUPR after each swap of ranks.

    Seeds swap with seeds: first with first where both sides have as many, else each with each.
    """
    ranks_a, ranks_b = ([_ranks(each) for each in side] for side in (scores_a, scores_b))
    pairs = list(zip(ranks_a, ranks_b, strict=True) if len(ranks_a) == len(ranks_b) else product(ranks_a, ranks_b))
    # Each protein stands there twice, with its scores of either side, and a side has one of the two: a resample of 2N.
    target_MK = np.concatenate([target_NK, target_NK])
    weight_BM = np.concatenate([~swap_BN, swap_BN], axis=1).astype(np.float64)
    total_2B = np.zeros((2, len(swap_BN)))
    for rank_a_NK, rank_b_NK in pairs:
        rank_MK = np.concatenate([rank_a_NK, rank_b_NK])
        total_2B += np.stack(resampled_figures(weight_BM, rank_MK, target_MK))
        total_2B -= np.stack(resampled_figures(1 - weight_BM, rank_MK, target_MK))
    return total_2B / len(pairs)


def _mean_figures(
    scores: Sequence[Float[np.ndarray, "N K"]],
    target_NK: Bool[np.ndarray, "N K"],
    weight_BN: Float64[np.ndarray, "B N"],
) -> Float64[np.ndarray, "2 B"]:
    """Fmax and AUPR of each resample, averaged over seeds."""
    mean_2B: Float64[np.ndarray, "2 B"] = np.mean(
        [resampled_figures(weight_BN, each, target_NK) for each in scores], axis=0
    )
    return mean_2B


def _fmax(score_NK: Float[np.ndarray, "N K"], target_NK: Bool[np.ndarray, "N K"]) -> float:
    return fmax(score_NK, target_NK).value


def _ranks(score_NK: Float[np.ndarray, "N K"]) -> Float64[np.ndarray, "N K"]:
    """The share of this matrix's scores that are at most as large: equal scores have equal ranks."""
    order_P = np.argsort(score_NK, axis=None)
    sorted_P = score_NK.ravel()[order_P]
    rank_P = np.empty(sorted_P.size)
    rank_P[order_P] = np.searchsorted(sorted_P, sorted_P, side="right") / sorted_P.size
    return rank_P.reshape(score_NK.shape)


def _p_of_resamples(difference_B: Float64[np.ndarray, " B"]) -> float:
    below, above = (difference_B <= ROUNDING).sum(), (difference_B >= -ROUNDING).sum()
    return float(min(1.0, 2 * (1 + min(below, above)) / (1 + len(difference_B))))


def _p_of_swaps(difference_B: Float64[np.ndarray, " B"]) -> float:
    """The first difference is that of the data as they are, and counts as one of the swaps."""
    return float((abs(difference_B) >= abs(difference_B[0]) - ROUNDING).mean())
