"""Figures of the test proteins that are far from training: below an identity to their nearest training sequence.

DeepFRI publishes its test sets at 30, 40, 50, 70 and 95 % (`manifests/deepfri.py` reads its lists), and torchdrug's
`test_cutoff` takes one of them. The sets are nested: each cut-off keeps all that a lower one keeps.

Shapes: N test proteins, K terms.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from amma.evaluate.metrics.exact import aupr, fmax
from amma.evaluate.metrics.scores import checked_scores

CUTOFFS = (0.3, 0.4, 0.5, 0.7, 0.95)


@dataclass(frozen=True, slots=True)
class BelowCutoff:
    """Figures of the proteins with an identity below `below`; None where none of these has a true term."""

    below: float
    num_proteins: int
    fmax: float | None
    aupr: float | None


def figures_below(
    identity_N: Float[np.ndarray, " N"],
    score_NK: Float[np.ndarray, "N K"],
    target_NK: Bool[np.ndarray, "N K"],
    cutoffs: Sequence[float] = CUTOFFS,
) -> tuple[BelowCutoff, ...]:
    """Exact Fmax and AUPR of the proteins below each cut-off, in the order of `cutoffs`.

    `identity_N` is that to the nearest training sequence, from 0 (nothing alike was found) to 1. A protein exactly at
    a cut-off is not below it. Raises `ValueError` for identities outside 0 to 1, and for NaN scores.
    """
    identity_N = np.asarray(identity_N)
    wrong = np.flatnonzero(~((identity_N >= 0) & (identity_N <= 1)))
    if len(wrong):
        raise ValueError(f"identities are fractions from 0 to 1; that of protein {wrong[0]} is {identity_N[wrong[0]]}")
    return figures_listed({cutoff: identity_N < cutoff for cutoff in cutoffs}, score_NK, target_NK)


def figures_listed(
    kept_N: Mapping[float, Bool[np.ndarray, " N"]],
    score_NK: Float[np.ndarray, "N K"],
    target_NK: Bool[np.ndarray, "N K"],
) -> tuple[BelowCutoff, ...]:
    """The same for proteins that a list names: which of them are left (True) at each cut-off.

    Raises `ValueError` for NaN scores.
    """
    score_NK = checked_scores(score_NK, target_NK)
    return tuple(_figures(cutoff, score_NK[kept], target_NK[kept]) for cutoff, kept in kept_N.items())


def _figures(cutoff: float, score_NK: Float[np.ndarray, "N K"], target_NK: Bool[np.ndarray, "N K"]) -> BelowCutoff:
    if not target_NK.any():
        return BelowCutoff(cutoff, len(score_NK), None, None)
    return BelowCutoff(cutoff, len(score_NK), fmax(score_NK, target_NK).value, aupr(score_NK, target_NK))
