"""How reliable the trained model's probabilities are, and what a calibration fitted on validation makes of them.

Shapes: N proteins of a split, K terms.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32

from amma.evaluate.metrics.calibration import Calibration, Reliability, fit_calibration, reliability
from amma.evaluate.report.calibration_results import CalibrationFacts, CalibrationRun
from amma.evaluate.report.estimates import Summary
from amma.evaluate.report.scored import Scored
from amma.evaluate.tasks.task import Task


def calibration_facts(task: Task, trained: Scored) -> CalibrationFacts:
    """Fit a line for every seed on its validation scores, and look at the test split before and after it."""
    runs = []
    for run in trained.runs:
        fitted = fit_calibration(run.valid_VK, task.valid.target_NK)
        runs.append(
            CalibrationRun(
                seed=run.trial.seed,
                fitted=fitted,
                before=reliability(run.test_NK, task.test.target_NK),
                after=reliability(fitted.apply(run.test_NK), task.test.target_NK),
            )
        )
    before, after = [run.before for run in runs], [run.after for run in runs]
    return CalibrationFacts(
        ece_before=_summary(before, "expected_error"),
        ece_after=_summary(after, "expected_error"),
        brier_before=_summary(before, "brier"),
        brier_after=_summary(after, "brier"),
        runs=tuple(runs),
    )


def calibrated(score_NK: Float32[np.ndarray, "N K"], fitted: Calibration) -> Float32[np.ndarray, "N K"]:
    """Calibrated probabilities as predictions are written."""
    calibrated_NK: Float32[np.ndarray, "N K"] = fitted.apply(score_NK).astype(np.float32)
    return calibrated_NK


def _summary(records: Sequence[Reliability], figure: str) -> Summary:
    return Summary.of([getattr(record, figure) for record in records])
