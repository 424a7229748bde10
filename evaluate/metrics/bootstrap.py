"""How far the figures would move with other test proteins: resamples of whole sequence clusters.

Proteins of one cluster are not independent, so clusters are drawn with replacement, and all proteins of a cluster come
along as often as it was drawn (a resample has as many clusters as the test split, and about as many proteins). Every
row and seed of a report sees the same resamples; figures are averaged over seeds within a resample, and the interval
is the middle 95 % of these averages. It says nothing about how training varies: that is what the standard deviation
over seeds is for.

Shapes: B resamples, N proteins, K terms, T thresholds.
"""

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64

from amma.evaluate.metrics.scores import checked_scores
from amma.train.model.masking import generator_for

LEVEL = 0.95
SEED = 0
MAX_THRESHOLDS = 1000
"""Thresholds looked at in each resample. More distinct scores of true pairs than that are thinned to their quantiles,
which moves a figure by less than 0.001; with them 1,000 resamples of 2,000 proteins and 500 terms take half a second
on one core for a seed of a row, most of it multiplying matrices, and 0.1 GB."""
THRESHOLDS_AT_ONCE = 250
DECIMALS = 6
"""Bounds are rounded: a sum may come out a last bit different where a matrix product is split otherwise."""


def draw_resamples(cluster_N: Int64[np.ndarray, " N"], number: int, *, seed: int = SEED) -> Float64[np.ndarray, "B N"]:
    """How often each protein is in each resample; the same for the same clusters, whatever these are called."""
    _, first_N, inverse_N = np.unique(cluster_N, return_index=True, return_inverse=True)
    rank = np.empty(len(first_N), dtype=np.int64)
    rank[np.argsort(first_N)] = np.arange(len(first_N))
    num_clusters = len(first_N)
    drawn = generator_for(seed).multinomial(num_clusters, np.full(num_clusters, 1 / num_clusters), size=number)
    weight_BN: Float64[np.ndarray, "B N"] = drawn[:, rank[inverse_N]].astype(np.float64)
    return weight_BN


def resampled_figures(
    weight_BN: Float64[np.ndarray, "B N"], score_NK: Float[np.ndarray, "N K"], target_NK: Bool[np.ndarray, "N K"]
) -> tuple[Float64[np.ndarray, " B"], Float64[np.ndarray, " B"]]:
    """Fmax and AUPR (`exact.py`) of each resample; 0 for one without a true pair.

    What a protein adds to precision and recall at a threshold does not depend on the resample, so it is worked out
    once, and all resamples are one matrix product. Raises `ValueError` for NaN scores.
    """
    score_NK = checked_scores(score_NK, target_NK)
    threshold_T = _thresholds(score_NK, target_NK)
    sorted_NK, num_true_N = np.sort(score_NK, axis=1), target_NK.sum(axis=1)
    true_scores = [np.sort(row[true]) for row, true in zip(score_NK, target_NK, strict=True)]
    total_B, all_true_B = weight_BN.sum(axis=1), weight_BN @ num_true_N
    fmax_B = np.zeros(len(weight_BN))
    aupr_B, recall_before_B = np.zeros(len(weight_BN)), np.zeros(len(weight_BN))
    for start in range(0, len(threshold_T), THRESHOLDS_AT_ONCE):
        part_T = threshold_T[start : start + THRESHOLDS_AT_ONCE]
        predicted_NT = score_NK.shape[1] - np.stack([np.searchsorted(row, part_T) for row in sorted_NK])
        hit_NT = num_true_N[:, None] - np.stack([np.searchsorted(row, part_T) for row in true_scores])
        precision_BT = _over(weight_BN @ _over(hit_NT, predicted_NT), weight_BN @ (predicted_NT > 0))
        recall_BT = _over(weight_BN @ _over(hit_NT, num_true_N[:, None]), total_B[:, None])
        fmax_B = np.maximum(fmax_B, _over(2 * precision_BT * recall_BT, precision_BT + recall_BT).max(axis=1))
        pair_hit_BT = weight_BN @ hit_NT
        pair_recall_BT = _over(pair_hit_BT, all_true_B[:, None])
        step_BT = np.diff(pair_recall_BT, axis=1, prepend=recall_before_B[:, None])
        aupr_B += (step_BT * _over(pair_hit_BT, weight_BN @ predicted_NT)).sum(axis=1)
        recall_before_B = pair_recall_BT[:, -1]
    return fmax_B, aupr_B


def middle(value_B: Float64[np.ndarray, " B"]) -> tuple[float, float]:
    """The bounds that leave out the same share at either end, `LEVEL` in between."""
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(value_B, [tail, 1 - tail])
    return round(float(low), DECIMALS), round(float(high), DECIMALS)


def _thresholds(score_NK: Float[np.ndarray, "N K"], target_NK: Bool[np.ndarray, "N K"]) -> Float[np.ndarray, " T"]:
    """Scores of true pairs, descending; see `exact.py` for why no others are needed."""
    true_scores = np.sort(score_NK[target_NK])
    descending_T = np.unique(true_scores)[::-1]
    if len(descending_T) > MAX_THRESHOLDS:
        places = np.linspace(0, len(true_scores) - 1, MAX_THRESHOLDS).round().astype(np.int64)
        descending_T = np.unique(true_scores[places])[::-1]
    return descending_T


def _over(upper: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """The quotient, 0 where there is nothing to divide by."""
    quotient = np.zeros(np.broadcast_shapes(upper.shape, lower.shape))
    np.divide(upper, lower, out=quotient, where=np.broadcast_to(lower > 0, quotient.shape))
    return quotient
