"""What `report.json` tells of how far probabilities can be taken at their word."""

from amma.evaluate.metrics.calibration import Calibration, Reliability
from amma.evaluate.report.estimates import Summary
from amma.manifests.settings import Settings


class CalibrationRun(Settings):
    """One seed: the line fitted on validation, and the reliability of test scores before and after it."""

    seed: int
    fitted: Calibration
    before: Reliability
    after: Reliability


class CalibrationFacts(Settings):
    """The trained model's probabilities on the test split, before and after the calibration fitted on validation.

    `ece` is the expected calibration error (`Reliability.expected_error`), `brier` the mean squared error.
    """

    ece_before: Summary
    ece_after: Summary
    brier_before: Summary
    brier_after: Summary
    runs: tuple[CalibrationRun, ...]
