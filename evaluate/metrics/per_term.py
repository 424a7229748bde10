"""Figures of single terms: average precision, the best F, and their means over the terms a split can tell about.

Here proteins are ranked within a term, so scores of different terms are never compared. A term without a true pair
in the split has no figures (NaN), and takes no part in means; the number of terms that do stands beside every mean.

Shapes: N proteins, K terms, R terms of a block.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64

from amma.evaluate.metrics.scores import checked_scores

PAIRS_AT_ONCE = 1 << 18
"""Scores sorted in one go: bounds working memory without changing any number."""


@dataclass(frozen=True, slots=True)
class TermFigures:
    """What is known of each term; NaN where it has no true pair.

    `fmax_K` is the largest F of a term over all thresholds of its own, and `threshold_K` the highest one where it is
    reached; `positives_K` counts its true pairs.
    """

    average_precision_K: Float64[np.ndarray, " K"]
    fmax_K: Float64[np.ndarray, " K"]
    threshold_K: Float64[np.ndarray, " K"]
    positives_K: Int64[np.ndarray, " K"]

    @property
    def num_terms(self) -> int:
        """Terms with at least one true pair: what means are over."""
        return int((self.positives_K > 0).sum())

    @property
    def macro_aupr(self) -> float | None:
        """The mean of the terms' average precisions; None if no term has one."""
        return _mean(self.average_precision_K)

    @property
    def macro_fmax(self) -> float | None:
        """The mean of the terms' best F, each at a threshold of its own; None if no term has one."""
        return _mean(self.fmax_K)


def term_figures(score_NK: Float[np.ndarray, "N K"], target_NK: Bool[np.ndarray, "N K"]) -> TermFigures:
    """Average precision (ties grouped, as in scikit-learn), best F and its threshold of every term.

    Where all proteins have the same score for a term, both follow from the share π of them that have it: average
    precision is π and the best F is 2π / (1 + π), as everything is predicted. Raises `ValueError` for NaN scores.
    """
    score_NK = checked_scores(score_NK, target_NK)
    positives_K: Int64[np.ndarray, " K"] = target_NK.sum(axis=0, dtype=np.int64)
    average_precision_K, fmax_K, threshold_K = np.full((3, len(positives_K)), np.nan)
    known = np.flatnonzero(positives_K)
    terms_at_once = max(1, PAIRS_AT_ONCE // max(len(score_NK), 1))
    for start in range(0, len(known), terms_at_once):
        block = known[start : start + terms_at_once]
        average_precision_K[block], fmax_K[block], threshold_K[block] = _block(
            score_NK[:, block].T, target_NK[:, block].T, positives_K[block]
        )
    return TermFigures(average_precision_K, fmax_K, threshold_K, positives_K)


def _block(
    score_RN: Float[np.ndarray, "R N"], target_RN: Bool[np.ndarray, "R N"], positives_R: Int64[np.ndarray, " R"]
) -> tuple[Float64[np.ndarray, " R"], Float64[np.ndarray, " R"], Float64[np.ndarray, " R"]]:
    order_RN = np.argsort(score_RN, axis=1)[:, ::-1]
    sorted_RN = np.take_along_axis(score_RN, order_RN, axis=1)
    hits_RN = np.take_along_axis(target_RN, order_RN, axis=1).cumsum(axis=1)
    # Proteins with equal scores are predicted together: only the last of them is a place to look at.
    last_RN = np.ones(sorted_RN.shape, dtype=np.bool_)
    np.not_equal(sorted_RN[:, :-1], sorted_RN[:, 1:], out=last_RN[:, :-1])
    term, place = np.nonzero(last_RN)
    hits = hits_RN[last_RN]
    # Each term begins anew, after the previous one has found all that it has.
    first = np.diff(term, prepend=-1) > 0
    gained = hits - np.where(first, 0, np.roll(hits, 1))
    average_precision_R = np.bincount(term, gained * hits / (place + 1), minlength=len(positives_R)) / positives_R
    f_RN = np.where(last_RN, 2 * hits_RN / (np.arange(1, hits_RN.shape[1] + 1) + positives_R[:, None]), 0.0)
    best_R = f_RN.argmax(axis=1)[:, None]
    fmax_R, threshold_R = (np.take_along_axis(values_RN, best_R, axis=1)[:, 0] for values_RN in (f_RN, sorted_RN))
    return average_precision_R, fmax_R, threshold_R.astype(np.float64)


def _mean(figure_K: Float64[np.ndarray, " K"]) -> float | None:
    known = figure_K[~np.isnan(figure_K)]
    return float(known.mean()) if len(known) else None
