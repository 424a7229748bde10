"""Fmax and AUPR over labelled proteins only: those without a true term are left out.

ProteinWorkshop leaves them out (of scores after a softmax over terms); torchdrug, and the figures this project leads
with, keep them. In a branch where most proteins are unlabelled the two differ by a lot, so they never share a name.
`exact.py` has the definitions.

Shapes: N proteins, K terms.
"""

import numpy as np
from jaxtyping import Bool, Float

from amma.evaluate.metrics.exact import Fmax, aupr, fmax
from amma.evaluate.metrics.scores import checked_scores


def labelled_fmax(score_NK: Float[np.ndarray, "N K"], target_NK: Bool[np.ndarray, "N K"]) -> Fmax:
    """`exact.fmax` of the proteins with at least one true term; 0 if there is none.

    Raises `ValueError` for NaN scores, those of the other proteins included.
    """
    return fmax(*_labelled(score_NK, target_NK))


def labelled_aupr(score_NK: Float[np.ndarray, "N K"], target_NK: Bool[np.ndarray, "N K"]) -> float:
    """`exact.aupr` of the proteins with at least one true term; 0 if there is none.

    Raises `ValueError` for NaN scores, those of the other proteins included.
    """
    return aupr(*_labelled(score_NK, target_NK))


def _labelled(
    score_NK: Float[np.ndarray, "N K"], target_NK: Bool[np.ndarray, "N K"]
) -> tuple[Float[np.ndarray, "M K"], Bool[np.ndarray, "M K"]]:
    labelled_N = target_NK.any(axis=1)
    return checked_scores(score_NK, target_NK)[labelled_N], target_NK[labelled_N]
