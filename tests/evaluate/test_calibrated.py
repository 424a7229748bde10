import numpy as np
import pytest

from amma.evaluate.config import Rates
from amma.evaluate.metrics.calibration import fit_calibration, reliability
from amma.evaluate.report.calibrated import calibrated, calibration_facts
from amma.evaluate.report.scored import Scored
from amma.evaluate.tasks.task import Split, Task
from amma.evaluate.tuning.protocol import Outcome, SeedRun, Trial


def make_task() -> Task:
    def split(number: int) -> Split:
        return Split(tuple(map(str, range(number))), np.arange(number), np.zeros((number, 4), dtype=bool), (), 0)

    return Task("ec", tuple("abcd"), split(3), split(400), split(500))


def test_scores_that_say_too_much_are_mended_by_what_validation_knows() -> None:
    rng = np.random.default_rng(0)
    task = make_task()
    runs = []
    probabilities = []
    for split in (task.valid, task.test):
        probabilities.append(rng.uniform(0.02, 0.7, split.target_NK.shape))
        split.target_NK[:] = rng.random(split.target_NK.shape) < probabilities[-1]
    for seed in range(2):
        # The log-odds doubled: as sure of everything as an overfitted model is.
        valid, test = (
            (1 / (1 + np.exp(-2 * np.log(value / (1 - value)) - 0.1 * seed))).astype(np.float32)
            for value in probabilities
        )
        runs.append(SeedRun(Trial(Rates(None, 1e-3), seed, 1, 1, 0.5, 0.1), valid, test))
    facts = calibration_facts(task, Scored.tuned("trained", Outcome((), tuple(runs)), task=task))
    assert [run.seed for run in facts.runs] == [0, 1]
    for run, scored in zip(facts.runs, runs, strict=True):
        fitted = fit_calibration(scored.valid_VK, task.valid.target_NK)
        assert run.fitted == fitted
        assert run.fitted.slope == pytest.approx(0.5, abs=0.08)
        assert run.before == reliability(scored.test_NK, task.test.target_NK)
        assert run.after == reliability(fitted.apply(scored.test_NK), task.test.target_NK)
        written = calibrated(scored.test_NK, fitted)
        assert written.dtype == np.float32
        assert np.array_equal(np.argsort(written, axis=None), np.argsort(scored.test_NK, axis=None))
    assert facts.ece_before.values == tuple(run.before.expected_error for run in facts.runs)
    assert facts.brier_after.values == tuple(run.after.brier for run in facts.runs)
    assert facts.ece_after.mean < facts.ece_before.mean / 2
    assert facts.brier_after.mean < facts.brier_before.mean
