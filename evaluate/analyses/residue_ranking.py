"""How well a score of residues finds the annotated ones of a protein.

Legend: L residues of one protein.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from sklearn.metrics import average_precision_score, roc_auc_score

from amma.evaluate.metrics.scores import checked_scores


@dataclass(frozen=True, slots=True)
class Ranking:
    """Figures of one protein."""

    precision: float
    average_precision: float
    auroc: float


def precision_at(score_L: Float[np.ndarray, " L"], annotated_L: Bool[np.ndarray, " L"], number: int) -> float:
    """The share of annotated residues among the `number` with the highest scores.

    Where equal scores straddle the cut, it is the mean over the orders in which they could stand.
    """
    cut = np.sort(score_L)[-number]
    above_L, tied_L = score_L > cut, score_L == cut
    places = number - int(above_L.sum())
    hits = int(annotated_L[above_L].sum()) + places * float(annotated_L[tied_L].mean())
    return hits / number


def rank_residues(score_L: Float[np.ndarray, " L"], annotated_L: Bool[np.ndarray, " L"]) -> Ranking:
    """Precision among the k highest, k the number of annotated residues; average precision; AUROC (scikit-learn's).

    Raises `ValueError` if no residue or every one is annotated, or for NaN scores.
    """
    number = int(annotated_L.sum())
    if not 0 < number < len(annotated_L):
        raise ValueError(f"{number} of {len(annotated_L)} residues are annotated; some have to be, and some not")
    checked_scores(score_L[None], annotated_L[None])
    return Ranking(
        precision=precision_at(score_L, annotated_L, number),
        average_precision=float(average_precision_score(annotated_L, score_L)),
        auroc=float(roc_auc_score(annotated_L, score_L)),
    )


def chance_of(annotated_L: Bool[np.ndarray, " L"]) -> Ranking:
    """What an order at random gives on average.

    That is k/L and 0.5 for precision and AUROC. For average precision it is more than k/L where proteins are short, as
    the first places count for much: ((k − 1)/(L − 1) (L − H) + H) / L, H the sum of 1/i up to L.
    """
    length, number = len(annotated_L), int(annotated_L.sum())
    harmonic = float((1 / np.arange(1, length + 1)).sum())
    average_precision = ((number - 1) / (length - 1) * (length - harmonic) + harmonic) / length
    return Ranking(precision=number / length, average_precision=average_precision, auroc=0.5)
