import numpy as np
import pytest

from amma.evaluate.metrics.exact import Fmax, aupr, fmax
from amma.evaluate.metrics.labelled import labelled_aupr, labelled_fmax


def test_proteins_without_a_true_term_are_left_out() -> None:
    for seed in range(50):
        rng = np.random.default_rng(seed)
        score, target = rng.random((20, 6)), rng.random((20, 6)) < 0.3
        target[rng.random(20) < 0.4] = False
        kept = [row for row in range(20) if target[row].any()]
        assert labelled_fmax(score, target) == fmax(score[kept], target[kept])
        assert labelled_aupr(score, target) == aupr(score[kept], target[kept])
        assert labelled_fmax(score, target).value > fmax(score, target).value


def test_a_worked_example() -> None:
    # Alone, the labelled protein is predicted without fault; beside an unlabelled one, recall is at most 1/2.
    score, target = np.array([[0.9, 0.1], [0.95, 0.2]]), np.array([[True, False], [False, False]])
    assert labelled_fmax(score, target) == Fmax(1.0, 0.9, 1.0, 1.0)
    assert labelled_aupr(score, target) == 1.0
    assert fmax(score, target).value == pytest.approx(0.5)
    assert aupr(score, target) == pytest.approx(0.5)


def test_where_all_proteins_are_labelled_nothing_changes() -> None:
    rng = np.random.default_rng(0)
    score, target = rng.random((12, 4)), rng.random((12, 4)) < 0.5
    target[:, 0] = True
    assert labelled_fmax(score, target) == fmax(score, target)
    assert labelled_aupr(score, target) == aupr(score, target)


def test_without_any_labelled_protein_both_are_zero() -> None:
    score, target = np.ones((3, 2)), np.zeros((3, 2), dtype=bool)
    assert labelled_fmax(score, target).value == 0.0
    assert labelled_aupr(score, target) == 0.0
