"""Probabilities one can take at their word: Platt's line on the logit, and how often what was said came true.

The line is fitted on validation pairs and rises, so the order of scores stays as it is, and with it Fmax and AUPR.

Shapes: V proteins of validation, N proteins, K terms.
"""

from typing import Annotated, Any

import numpy as np
from jaxtyping import Bool, Float, Float64
from pydantic import Field

from amma.manifests.settings import Settings

MAX_STEPS = 100
SMALLEST_SLOPE = 1e-3
"""A flatter line says that scores tell nothing; in rounding it would tie what differs."""
NUM_BINS = 10


class Calibration(Settings):
    """`sigmoid(slope · logit(score) + intercept)`, fitted on `num_pairs` pairs of which `num_true` are true.

    Where no rising line can be fitted it is the identity, and `identity_because` says why.
    """

    slope: Annotated[float, Field(gt=0)] = 1.0
    intercept: float = 0.0
    num_pairs: Annotated[int, Field(ge=0)]
    num_true: Annotated[int, Field(ge=0)]
    identity_because: str | None = None

    def apply(self, score_NK: Float[np.ndarray, "N K"]) -> Float64[np.ndarray, "N K"]:
        """Calibrated probabilities of scores between 0 and 1. Raises `ValueError` for any that are not."""
        if self.identity_because is not None:
            return _checked(score_NK).astype(np.float64)
        return _sigmoid(self.slope * _logit(score_NK) + self.intercept)


class ReliabilityBin(Settings):
    """Pairs whose score is above `low` (the first bin: at least) and at most `high`.

    `predicted` is their mean score, `observed` the share of them that is true; both None in an empty bin.
    """

    low: float
    high: float
    count: int
    predicted: float | None
    observed: float | None


class Reliability(Settings):
    """Bins of equal width from 0 to 1; over all pairs, None where there is none:

    `expected_error` is the mean over pairs of |predicted - observed| of their bin, `brier` of (score - truth)².
    """

    bins: tuple[ReliabilityBin, ...]
    num_pairs: int
    expected_error: float | None
    brier: float | None


def fit_calibration(score_VK: Float[np.ndarray, "V K"], target_VK: Bool[np.ndarray, "V K"]) -> Calibration:
    """The line of largest likelihood over all pairs, with Platt's targets (1999).

    These are (n₊ + 1)/(n₊ + 2) for true and 1/(n₋ + 2) for false pairs, which keeps the line finite where scores
    separate the two. Scores are probabilities. Raises `ValueError` for scores outside 0 to 1.
    """
    logit_P, true_P = _logit(score_VK).ravel(), target_VK.ravel()
    num_true, num_false = int(true_P.sum()), int((~true_P).sum())
    facts: dict[str, Any] = {"num_pairs": len(true_P), "num_true": num_true}
    if not num_true or not num_false:
        missing = "true" if not num_true else "false"
        return Calibration(identity_because=f"no validation pair is {missing}", **facts)
    if logit_P.min() == logit_P.max():
        return Calibration(identity_because="all validation scores are equal", **facts)
    wanted_P = np.where(true_P, (num_true + 1) / (num_true + 2), 1 / (num_false + 2))
    slope, intercept = _line(logit_P, wanted_P)
    if not slope >= SMALLEST_SLOPE:
        because = f"on validation, true pairs do not have the higher scores (slope {slope:.2g})"
        return Calibration(identity_because=because, **facts)
    return Calibration(slope=slope, intercept=intercept, **facts)


def reliability(
    score_NK: Float[np.ndarray, "N K"], target_NK: Bool[np.ndarray, "N K"], num_bins: int = NUM_BINS
) -> Reliability:
    """How the probabilities of all pairs compare with how often these are true; as scikit-learn bins them.

    Raises `ValueError` for scores outside 0 to 1.
    """
    score_P, true_P = _checked(score_NK).astype(np.float64).ravel(), target_NK.ravel()
    edges = np.linspace(0.0, 1.0, num_bins + 1)
    bin_P = np.searchsorted(edges[1:-1], score_P)
    count, sum_score, sum_true = (
        np.bincount(bin_P, weight_P, minlength=num_bins) for weight_P in (None, score_P, true_P.astype(np.float64))
    )
    bins = tuple(
        ReliabilityBin(
            low=float(edges[place]),
            high=float(edges[place + 1]),
            count=int(number),
            predicted=float(sum_score[place] / number) if number else None,
            observed=float(sum_true[place] / number) if number else None,
        )
        for place, number in enumerate(count)
    )
    total = len(score_P)
    return Reliability(
        bins=bins,
        num_pairs=total,
        expected_error=float(np.abs(sum_score - sum_true).sum() / total) if total else None,
        brier=float(np.mean((score_P - true_P) ** 2)) if total else None,
    )


def _line(logit_P: np.ndarray, wanted_P: np.ndarray) -> tuple[float, float]:
    """Slope and intercept by Newton's method; a step that does not lower the loss is halved until it does."""
    centre, scale = float(logit_P.mean()), float(logit_P.std())
    x_P = (logit_P - centre) / scale
    slope, intercept = 0.0, float(np.log(wanted_P.mean() / (1 - wanted_P.mean())))
    loss = _loss(slope * x_P + intercept, wanted_P)
    for _ in range(MAX_STEPS):
        said_P = _sigmoid(slope * x_P + intercept)
        off_P, weight_P = said_P - wanted_P, said_P * (1 - said_P)
        gradient = np.array([off_P @ x_P, off_P.sum()])
        mixed = weight_P @ x_P
        curvature = np.array([[weight_P @ x_P**2, mixed], [mixed, weight_P.sum()]])
        step = np.linalg.lstsq(curvature, gradient, rcond=None)[0]
        for _ in range(MAX_STEPS):
            lower = _loss((slope - step[0]) * x_P + intercept - step[1], wanted_P)
            if lower <= loss:
                break
            step = step / 2
        else:
            break
        slope, intercept = slope - float(step[0]), intercept - float(step[1])
        gained, loss = loss - lower, lower
        if gained <= 1e-12 * abs(loss) and np.abs(step).max() < 1e-8:
            break
    return slope / scale, intercept - slope * centre / scale


def _loss(line_P: np.ndarray, wanted_P: np.ndarray) -> float:
    return float((np.logaddexp(0.0, line_P) - wanted_P * line_P).sum())


def _sigmoid(line: np.ndarray) -> np.ndarray:
    # Of the negative magnitude only: no overflow, and small probabilities keep all their digits.
    small = np.exp(-np.abs(line))
    sigmoid: np.ndarray = np.where(line >= 0, 1 / (1 + small), small / (1 + small))
    return sigmoid


def _logit(score: np.ndarray) -> np.ndarray:
    """Exactly 0 and 1, which rounding makes of logits that are finite, become the nearest that are none."""
    held = np.finfo(_checked(score).dtype)
    exact = score.astype(np.float64)
    shortfall = np.maximum(1 - exact, float(held.eps) / 4)
    finite: np.ndarray = np.log(np.maximum(exact, float(held.smallest_subnormal))) - np.log(shortfall)
    return finite


def _checked(score: np.ndarray) -> np.ndarray:
    if not ((score >= 0) & (score <= 1)).all():
        raise ValueError("scores must be probabilities, between 0 and 1")
    return score
