"""What `report.json` tells of how far probabilities can be taken at their word."""

from amma.evaluate.report.estimates import Summary
from amma.manifests.settings import Settings


class ReliabilityBin(Settings):
    """Pairs of protein and term with a probability from `low` to `high`: what was predicted, and what was true.

    `predicted` is the mean probability and `observed` the share of true pairs; None where there is no pair.
    """

    low: float
    high: float
    num_pairs: int
    predicted: float | None
    observed: float | None


class ReliabilityRecord(Settings):
    """Bins over all pairs, the expected calibration error (their mean gap, weighted by pairs) and the Brier score."""

    bins: tuple[ReliabilityBin, ...]
    ece: float
    brier: float


class CalibrationRun(Settings):
    """One seed: calibrated = sigmoid(slope · logit + intercept), fitted on validation, and the test split."""

    seed: int
    slope: float
    intercept: float
    before: ReliabilityRecord
    after: ReliabilityRecord


class CalibrationFacts(Settings):
    """The trained model's probabilities on the test split, before and after the calibration fitted on validation."""

    ece_before: Summary
    ece_after: Summary
    brier_before: Summary
    brier_after: Summary
    runs: tuple[CalibrationRun, ...]
