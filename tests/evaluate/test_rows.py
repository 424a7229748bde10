import numpy as np
import pytest

from amma.evaluate.config import Rates
from amma.evaluate.metrics.bootstrap import draw_resamples
from amma.evaluate.report.calibrated import calibration_facts
from amma.evaluate.report.hierarchy import Hierarchy
from amma.evaluate.report.results import Row
from amma.evaluate.report.rows import Scorer
from amma.evaluate.report.scored import Scored
from amma.evaluate.report.slices import Slices
from amma.evaluate.tasks.ontology import Ontology
from amma.evaluate.tasks.task import Split, Task
from amma.evaluate.tuning.protocol import Outcome, SeedRun, Trial

TERMS = ("1.1.1.1", "1.1.1.2", "2.7.1.1", "3.4.21.4")


@pytest.fixture
def task() -> Task:
    rng = np.random.default_rng(0)
    splits = [
        Split(tuple(f"p{n:02d}" for n in range(number)), np.arange(number), rng.random((number, 4)) < 0.3, (), 0)
        for number in (20, 8, 16)
    ]
    return Task("ec", TERMS, *splits)


def make_scorer(task: Task, *, resamples: bool = True) -> Scorer:
    target_NK = task.test.target_NK
    return Scorer(
        task,
        draw_resamples(np.arange(len(target_NK)), 50) if resamples else None,
        Slices.by_identity(np.linspace(0, 1, len(target_NK)), target_NK),
        Slices.by_length(np.full(len(target_NK), 150), target_NK),
        Hierarchy(task, Ontology.of_ec(TERMS), 0.01),
    )


def constant(task: Task, value: float) -> Outcome:
    valid, test = (np.full(split.target_NK.shape, value, dtype=np.float32) for split in (task.valid, task.test))
    return Outcome((), (SeedRun(Trial(Rates(None, 1e-3), 0, 1, 1, 0.1, 0.1), valid, test),))


def test_constant_scores_have_defined_figures(task: Task) -> None:
    scored = Scored.tuned("trained", constant(task, 0.25), task=task)
    row, target_NK = make_scorer(task).row(scored), task.test.target_NK
    # Everything is predicted or nothing is: precision is the share of true pairs, recall that of labelled proteins.
    precision, recall = target_NK.mean(), target_NK.any(axis=1).mean()
    assert row.fmax.mean == pytest.approx(2 * precision * recall / (precision + recall))
    assert row.aupr.mean == pytest.approx(precision)
    assert row.macro_aupr.mean == pytest.approx(target_NK.mean(axis=0).mean())
    assert row.labelled_aupr.mean == pytest.approx(target_NK[target_NK.any(axis=1)].mean())
    assert row.f_at_threshold.mean == row.fmax.mean
    assert row.cafa is not None
    assert row.cafa.tau is not None
    assert row.cafa.tau.mean == pytest.approx(0.01)
    assert Row.model_validate_json(row.model_dump_json()) == row
    (run,) = calibration_facts(task, scored).runs
    assert run.fitted.identity_because == "all validation scores are equal"
    assert run.before == run.after


def test_a_score_that_is_nan_is_refused(task: Task) -> None:
    outcome = constant(task, 0.25)
    outcome.runs[0].test_NK[3, 1] = np.nan
    with pytest.raises(ValueError, match="protein 3, term 1 is NaN"):
        Scored.tuned("trained", outcome, task=task)


def test_without_resamples_a_row_has_no_interval(task: Task) -> None:
    row = make_scorer(task, resamples=False).row(Scored.tuned("trained", constant(task, 0.5), task=task))
    assert (row.fmax_interval, row.aupr_interval) == (None, None)


def test_a_split_without_any_label_has_figures_of_zero_and_no_macro_term(task: Task) -> None:
    task.test.target_NK[:] = False
    scorer = Scorer(
        task,
        None,
        Slices.by_identity(np.zeros(16), task.test.target_NK),
        Slices.by_length(np.full(16, 150), task.test.target_NK),
        None,
    )
    row = scorer.row(Scored.tuned("trained", constant(task, 0.5), task=task))
    assert (row.fmax.mean, row.aupr.mean, row.macro_aupr.mean, row.num_macro_terms) == (0, 0, 0, 0)
    assert {(each.fmax, each.aupr) for each in row.by_identity + row.by_length} == {(None, None)}
    assert row.runs[0].fmax_threshold is None
