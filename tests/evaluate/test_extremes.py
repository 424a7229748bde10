import numpy as np
import pytest

from amma.evaluate.metrics.exact import fmax
from amma.evaluate.report.extremes import NUMBER, TOP, find_extremes, protein_f
from amma.evaluate.report.scored import Scored
from amma.evaluate.tasks.task import Split, Task
from amma.evaluate.tasks.term_names import Origin, TermNames

K = 6
NAMES = TermNames(tuple("abcdef"), ("A", "", "C", "D", "E", "F"), (Origin.TABLE,) * K)


def make_task(num_proteins: int) -> Task:
    rng = np.random.default_rng(0)

    def split(number: int) -> Split:
        return Split(tuple(f"p{n:02d}" for n in range(number)), np.arange(number), rng.random((number, K)) < 0.4, (), 0)

    return Task("ec", NAMES.terms, split(4), split(20), split(num_proteins))


def make_scored(task: Task, name: str, *seeds: int) -> Scored:
    """Scores that know something, with one decimal: ties are common."""
    found = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        valid, test = (
            (0.4 * s.target_NK + 0.6 * rng.random(s.target_NK.shape)).round(1).astype(np.float32)
            for s in (task.valid, task.test)
        )
        found.append(Scored.untuned(name, valid, test, task=task))
    return Scored(name, *(sum((getattr(each, part) for each in found), ()) for part in ("valid", "test", "terms")))


def brute_f(scored: Scored, task: Task, n: int) -> float:
    values = []
    for valid, test in zip(scored.valid, scored.test, strict=True):
        threshold = fmax(valid, task.valid.target_NK).threshold
        predicted = {k for k in range(K) if test[n, k] >= threshold}
        true = {k for k in range(K) if task.test.target_NK[n, k]}
        values.append(2 * len(predicted & true) / (len(predicted) + len(true)) if predicted | true else 0.0)
    return float(np.mean(values))


def test_the_best_and_the_worst_are_those_of_a_plain_count() -> None:
    task = make_task(60)
    task.test.target_NK[7] = False
    trained, untrained = make_scored(task, "trained", 1, 2, 3), make_scored(task, "untrained", 4)
    lengths, identity_N = list(range(100, 160)), np.linspace(0, 1, 60)
    found = find_extremes(task, NAMES, trained=trained, untrained=untrained, length_N=lengths, identity_N=identity_N)
    f = {n: brute_f(trained, task, n) for n in range(60) if task.test.target_NK[n].any()}
    assert 7 not in f
    mean = np.mean(trained.test, axis=0)
    wrong = {n: max([mean[n, k] for k in range(K) if not task.test.target_NK[n, k]], default=-1.0) for n in f}
    best = sorted(f, key=lambda n: (-f[n], -task.test.target_NK[n].sum(), n))[:NUMBER]
    worst = sorted(f, key=lambda n: (f[n], -wrong[n], n))[:NUMBER]
    assert [record.id for record in found.best] == [task.test.ids[n] for n in best]
    assert [record.id for record in found.worst] == [task.test.ids[n] for n in worst]
    for n, record in zip([*best, *worst], [*found.best, *found.worst], strict=True):
        assert record.f == pytest.approx(f[n])
        assert record.f_untrained == pytest.approx(brute_f(untrained, task, n))
        assert record.num_residues == lengths[n]
        assert record.identity == pytest.approx(identity_N[n], abs=1e-6)
        assert {each.term for each in record.true} == {NAMES.terms[k] for k in range(K) if task.test.target_NK[n, k]}
        scores = [each.score for each in record.predicted]
        assert scores == sorted(scores, reverse=True) == pytest.approx(sorted(mean[n], reverse=True)[:TOP], abs=1e-6)
        for each in record.predicted:
            k = NAMES.terms.index(each.term)
            assert each.true == task.test.target_NK[n, k]
            assert each.name == (None if each.term == "b" else each.term.upper())


def test_of_few_proteins_none_is_both_best_and_worst() -> None:
    task = make_task(5)
    task.test.target_NK[:] = np.eye(5, K, dtype=bool)
    scored = make_scored(task, "trained", 1)
    found = find_extremes(task, NAMES, trained=scored, untrained=scored, length_N=[9] * 5, identity_N=np.zeros(5))
    assert (len(found.best), len(found.worst)) == (2, 2)
    assert not {record.id for record in found.best} & {record.id for record in found.worst}


def test_where_nothing_is_predicted_or_true_f_is_zero() -> None:
    score_NK, target_NK = np.full((2, 3), 0.5, dtype=np.float32), np.array([[True, False, False], [False] * 3])
    assert protein_f(score_NK, target_NK, np.inf).tolist() == [0, 0]
    assert protein_f(score_NK, target_NK, 0.5).tolist() == [0.5, 0]
