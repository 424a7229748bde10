import numpy as np
import pytest

from amma.evaluate.metrics.exact import aupr, fmax
from amma.evaluate.metrics.paired import compare
from amma.evaluate.report.pairs import paired_with
from amma.evaluate.report.scored import Scored
from amma.evaluate.tasks.task import Split, Task
from amma.train.data.validation_split import Clusters

CLUSTERS = Clusters(np.arange(30) // 2, "pairs")


@pytest.fixture(scope="module")
def task() -> Task:
    rng = np.random.default_rng(0)
    splits = [Split(tuple(map(str, range(n))), np.arange(n), rng.random((n, 4)) < 0.4, (), 0) for n in (3, 10, 30)]
    return Task("ec", tuple("abcd"), *splits)


def make_scored(task: Task, name: str, seed: int, knows: float) -> Scored:
    rng = np.random.default_rng(seed)
    valid, test = (
        (knows * split.target_NK + rng.random(split.target_NK.shape)).astype(np.float32)
        for split in (task.valid, task.test)
    )
    return Scored.untuned(name, valid, test, task=task)


def test_the_trained_model_is_set_against_every_other_row(task: Task) -> None:
    trained = make_scored(task, "trained", 1, 0.8)
    others = [make_scored(task, "untrained", 2, 0.2), make_scored(task, "label frequency", 3, 0.0)]
    steps: list[int] = []
    pairs = paired_with(trained, others, task, CLUSTERS, num_resamples=200, advance=steps.append)
    assert [pair.against for pair in pairs] == ["untrained", "label frequency"]
    assert steps == [1, 1]
    for pair, other in zip(pairs, others, strict=True):
        best = [fmax(scored.test[0], task.test.target_NK).value for scored in (trained, other)]
        assert pair.fmax.difference == pytest.approx(best[0] - best[1], abs=1e-6)
        area = [aupr(scored.test[0], task.test.target_NK) for scored in (trained, other)]
        assert pair.aupr.difference == pytest.approx(area[0] - area[1], abs=1e-6)
        expected = compare(trained.test, other.test, task.test.target_NK, CLUSTERS.number, 200)
        assert (pair.fmax.interval.low, pair.aupr.interval.high) == (expected.fmax.low, expected.aupr.high)
        assert (pair.fmax.p_swap, pair.aupr.p_bootstrap) == (expected.fmax.p_swap, expected.aupr.p_bootstrap)
        assert pair.aupr.p_swap < 0.05


def test_without_resamples_nothing_is_tested(task: Task) -> None:
    scored = make_scored(task, "trained", 1, 0.8)
    assert paired_with(scored, [scored], task, CLUSTERS, num_resamples=0) == ()
