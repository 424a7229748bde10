"""What every figure asks of scores: one for each protein and term, and none of them NaN.

Only the order of scores matters to the figures here, so infinities are scores like others, the largest and the
smallest; they may come from logits of 0 and 1. NaN has no place in any order, and is refused by every figure.

Shapes: N proteins, K terms.
"""

import numpy as np
from jaxtyping import Bool, Float


def checked_scores(score_NK: Float[np.ndarray, "N K"], target_NK: Bool[np.ndarray, "_ _"]) -> Float[np.ndarray, "N K"]:
    """The scores as they are, in their own precision: sorting float32 is twice as fast, and the order is the same.

    Raises `ValueError` where a score is NaN, naming protein and term, or where the shapes differ.
    """
    score_NK = np.asarray(score_NK)
    if score_NK.shape != np.shape(target_NK):
        raise ValueError(
            f"scores are {_by(score_NK.shape)} and labels {_by(np.shape(target_NK))}; "
            "expected a score for each protein (row) and term (column) of the labels"
        )
    refuse_nan(score_NK)
    return score_NK


def refuse_nan(score_NK: Float[np.ndarray, "N K"]) -> None:
    """Raise `ValueError` with protein and term (row and column, from 0) of the first score that is NaN."""
    nan_NK = np.isnan(score_NK)
    if nan_NK.any():
        row, column = np.argwhere(nan_NK)[0]
        raise ValueError(f"scores must be numbers; that of protein {row}, term {column} is NaN")


def _by(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape)) or "a single number"
