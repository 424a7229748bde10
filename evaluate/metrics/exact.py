"""Protein-centric Fmax and pair-centric AUPR by their exact definitions, ties grouped.

A term is predicted for a protein where its score is at least the threshold. Only the order of scores matters, so
logits and probabilities give the same figures, and infinities are scores like others (`scores.py`). Figures are
computed in float64; memory is linear in the number of pairs, time is that of sorting them.

Constant scores leave one threshold, at which everything is predicted: recall is the share of labelled proteins, the
precision of a protein is its share of true terms, and AUPR is the share of true pairs. NaN is refused.

Shapes: N proteins, K terms, T thresholds (the distinct scores of true pairs, descending).

No other threshold needs a look. Between two of them only false pairs are added: recall stays, every protein's
precision falls or stays, and a protein that gets its first prediction enters the mean with precision 0. So the
largest F is reached at the score of a true pair, and the average precision has its steps there.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from amma.evaluate.metrics.scores import checked_scores

ROWS_AT_ONCE = 256
"""Proteins sorted in one go: bounds working memory without changing any number."""


@dataclass(frozen=True, slots=True)
class Fmax:
    """The largest F over all thresholds, and the highest threshold at which it is reached.

    Without a single true pair `value` is 0 and `threshold` is infinite (nothing is predicted).
    """

    value: float
    threshold: float
    precision: float
    recall: float


@dataclass(frozen=True, slots=True)
class Curve:
    """Precision and recall at each threshold, thresholds descending."""

    threshold: Float[np.ndarray, " T"]
    precision: Float[np.ndarray, " T"]
    recall: Float[np.ndarray, " T"]


def fmax(score_NK: Float[np.ndarray, "N K"], target_NK: Bool[np.ndarray, "N K"]) -> Fmax:
    """Protein-centric Fmax: the largest harmonic mean of precision and recall over all thresholds.

    Precision is averaged over the proteins with at least one prediction, recall over all N proteins. A protein
    without any true term counts: its recall is 0, and its precision is 0 as soon as it has a prediction. This is
    CAFA's definition with every distinct score as a threshold; without ties torchdrug 0.2.1 gives the same number.

    Raises `ValueError` for NaN scores.
    """
    curve = protein_curve(score_NK, target_NK)
    if not len(curve.threshold):
        return Fmax(0.0, math.inf, 0.0, 0.0)
    f_T = _harmonic(curve.precision, curve.recall)
    best = int(f_T.argmax())
    return Fmax(float(f_T[best]), float(curve.threshold[best]), float(curve.precision[best]), float(curve.recall[best]))


def protein_curve(score_NK: Float[np.ndarray, "N K"], target_NK: Bool[np.ndarray, "N K"]) -> Curve:
    """Protein-centric precision and recall at every threshold that can be the best; see `fmax`."""
    score_NK = checked_scores(score_NK, target_NK)
    num_proteins, num_terms = score_NK.shape
    ascending_T = np.unique(score_NK[target_NK])
    num_thresholds = len(ascending_T)
    # The level of a pair is the number of thresholds at which it is predicted; sums over the pairs predicted at the
    # t-th lowest threshold are sums over levels above t.
    precision_L, started_L, recall_L = np.zeros((3, num_thresholds + 1))
    rank_K = np.arange(1, num_terms + 1)
    for start in range(0, num_proteins if num_thresholds else 0, ROWS_AT_ONCE):
        rows_RK, true_RK = score_NK[start : start + ROWS_AT_ONCE], target_NK[start : start + ROWS_AT_ONCE]
        num_rows = len(rows_RK)
        level_RK = np.searchsorted(ascending_T, np.sort(rows_RK, axis=1), side="right")[:, ::-1]
        # Ascending over the whole block, so that one binary search finds where a true pair's level begins in its row.
        place_RK = np.arange(num_rows)[:, None] * (num_thresholds + 1) + (num_thresholds - level_RK)
        true_row, _ = np.nonzero(true_RK)
        true_level = np.searchsorted(ascending_T, rows_RK[true_RK], side="right")
        true_place = np.searchsorted(
            place_RK.ravel(), true_row * (num_thresholds + 1) + (num_thresholds - true_level), side="left"
        )
        hits_RK = np.bincount(true_place, minlength=level_RK.size).reshape(level_RK.shape).cumsum(axis=1)
        # Inside a group of equal levels these are no precisions, but their differences add up to that at its end.
        change_RK = np.diff(hits_RK / rank_K, axis=1, prepend=0.0)
        precision_L += np.bincount(level_RK.ravel(), change_RK.ravel(), minlength=num_thresholds + 1)
        started_L += np.bincount(level_RK[:, 0], minlength=num_thresholds + 1)
        recall_L += np.bincount(true_level, 1.0 / true_RK.sum(axis=1)[true_row], minlength=num_thresholds + 1)
    sum_precision_T, num_started_T, sum_recall_T = (
        per_level[:0:-1].cumsum() for per_level in (precision_L, started_L, recall_L)
    )
    return Curve(ascending_T[::-1], sum_precision_T / num_started_T, sum_recall_T / num_proteins)


def pair_curve(score_NK: Float[np.ndarray, "N K"], target_NK: Bool[np.ndarray, "N K"]) -> Curve:
    """Micro-averaged precision and recall over all protein–term pairs, at the distinct scores of true pairs.

    Raises `ValueError` for NaN scores.
    """
    score_NK = checked_scores(score_NK, target_NK)
    ascending_T, num_true_T = np.unique(score_NK[target_NK], return_counts=True)
    num_predicted_T = score_NK.size - np.searchsorted(np.sort(score_NK, axis=None), ascending_T, side="left")
    num_hit_T = num_true_T[::-1].cumsum()
    return Curve(ascending_T[::-1], num_hit_T / num_predicted_T[::-1], num_hit_T / max(int(num_true_T.sum()), 1))


def aupr(score_NK: Float[np.ndarray, "N K"], target_NK: Bool[np.ndarray, "N K"]) -> float:
    """Pair-centric area under the precision–recall curve: average precision over all pairs, ties grouped.

    The sum over thresholds of the step in recall times the precision there, without interpolation: what
    `sklearn.metrics.average_precision_score` gives for the flattened pairs. Without a single true pair it is 0, as
    in scikit-learn and torchdrug. Raises `ValueError` for NaN scores.
    """
    curve = pair_curve(score_NK, target_NK)
    return float(np.sum(np.diff(curve.recall, prepend=0.0) * curve.precision))


def f_at(score_NK: Float[np.ndarray, "N K"], target_NK: Bool[np.ndarray, "N K"], threshold: float) -> float:
    """Protein-centric F at one threshold, as `fmax` defines precision and recall; 0 where nothing is predicted."""
    predicted_NK = checked_scores(score_NK, target_NK) >= np.float64(threshold)
    num_hits_N = (predicted_NK & target_NK).sum(axis=1)
    num_predicted_N, num_true_N = predicted_NK.sum(axis=1), target_NK.sum(axis=1)
    started_N = num_predicted_N > 0
    if not started_N.any():
        return 0.0
    precision = (num_hits_N[started_N] / num_predicted_N[started_N]).mean()
    recall = (num_hits_N / np.maximum(num_true_N, 1)).mean()
    return float(_harmonic(np.array([precision]), np.array([recall]))[0])


def _harmonic(precision_T: Float[np.ndarray, " T"], recall_T: Float[np.ndarray, " T"]) -> Float[np.ndarray, " T"]:
    total_T = precision_T + recall_T
    f_T: Float[np.ndarray, " T"] = np.zeros(precision_T.shape)
    np.divide(2 * precision_T * recall_T, total_T, out=f_T, where=total_T > 0)
    return f_T
