import time

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, precision_recall_curve

from amma.evaluate.metrics import per_term
from amma.evaluate.metrics.per_term import term_figures


def make_case(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, (30, 9)))
    score = [rng.random(shape), rng.integers(0, 4, shape) / 3, np.full(shape, 0.5), rng.normal(size=shape)][seed % 4]
    target = rng.random(shape) < rng.choice([0.05, 0.3, 1.0], p=[0.4, 0.5, 0.1])
    return score.astype([np.float64, np.float32][seed % 2]), target


def best_f(score: np.ndarray, target: np.ndarray) -> tuple[float, float]:
    """Every distinct score of the term is tried, the highest one first."""
    best, at = -1.0, np.nan
    for threshold in np.unique(score)[::-1]:
        predicted = score >= threshold
        f = 2 * (predicted & target).sum() / (predicted.sum() + target.sum())
        if f > best:
            best, at = float(f), float(threshold)
    return best, at


@pytest.mark.parametrize("pairs_at_once", [1, 60, 1 << 18])
def test_every_term_has_what_scikit_learn_and_brute_force_say(pairs_at_once: int, monkeypatch) -> None:
    monkeypatch.setattr(per_term, "PAIRS_AT_ONCE", pairs_at_once)  # one term, a few, all in a block
    for seed in range(120):
        score, target = make_case(seed)
        figures = term_figures(score, target)
        np.testing.assert_array_equal(figures.positives_K, target.sum(axis=0))
        for k in range(target.shape[1]):
            found = figures.average_precision_K[k], figures.fmax_K[k], figures.threshold_K[k]
            if not target[:, k].any():
                assert np.isnan(found).all()
                continue
            expected = average_precision_score(target[:, k], score[:, k])
            assert found == pytest.approx((expected, *best_f(score[:, k], target[:, k])), abs=1e-12), (seed, k)


def test_the_best_f_is_that_of_scikit_learns_curve() -> None:
    rng = np.random.default_rng(0)
    score, target = rng.integers(0, 30, (200, 5)) / 30, rng.random((200, 5)) < 0.1
    figures = term_figures(score, target)
    for k in range(5):
        precision, recall, _ = precision_recall_curve(target[:, k], score[:, k])
        f = 2 * precision * recall / np.maximum(precision + recall, 1e-300)
        assert figures.fmax_K[k] == pytest.approx(f.max(), abs=1e-12)


def test_means_are_over_the_terms_with_a_true_pair() -> None:
    score = np.array([[0.9, 0.2, 0.7], [0.8, 0.3, 0.6]])
    target = np.array([[True, False, False], [False, False, True]])
    figures = term_figures(score, target)
    assert figures.num_terms == 2
    assert figures.macro_aupr == pytest.approx((1 + 1 / 2) / 2)
    assert figures.macro_fmax == pytest.approx((1 + 2 / 3) / 2)
    assert figures.positives_K.tolist() == [1, 0, 1]


def test_without_a_true_pair_there_are_no_means() -> None:
    figures = term_figures(np.ones((3, 4)), np.zeros((3, 4), dtype=bool))
    assert (figures.num_terms, figures.macro_aupr, figures.macro_fmax) == (0, None, None)
    assert np.isnan(figures.average_precision_K).all()


def test_a_constant_predicts_the_term_for_everybody() -> None:
    target = np.arange(10)[:, None] < 3
    figures = term_figures(np.full((10, 1), 0.25), target)
    assert figures.average_precision_K[0] == pytest.approx(0.3)
    assert figures.fmax_K[0] == pytest.approx(2 * 0.3 / 1.3)
    assert figures.threshold_K[0] == 0.25


def test_infinities_are_the_largest_and_the_smallest_scores() -> None:
    score = np.array([[np.inf], [0.5], [-np.inf], [0.4]])
    target = np.array([[True], [False], [True], [False]])
    figures = term_figures(score, target)
    assert figures.average_precision_K[0] == pytest.approx((1 + 2 / 4) / 2)
    assert (figures.fmax_K[0], figures.threshold_K[0]) == (pytest.approx(2 / 3), np.inf)


def test_3000_proteins_by_2000_terms_take_a_second() -> None:
    rng = np.random.default_rng(0)
    score, target = rng.random((3000, 2000), dtype=np.float32), rng.random((3000, 2000)) < 0.01
    started = time.process_time()
    assert term_figures(score, target).num_terms == 2000
    assert time.process_time() - started < 6  # 0.5 on an idle machine
