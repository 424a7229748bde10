import math
import time
import tracemalloc

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from amma.evaluate.metrics.exact import Fmax, aupr, f_at, fmax, pair_curve, protein_curve


def brute_force_fmax(score: np.ndarray, target: np.ndarray) -> float:
    """The definition, word for word: every distinct score is tried as a threshold."""
    best = 0.0
    for threshold in np.unique(score):
        predicted = score >= threshold
        precisions, recalls = [], []
        for row_predicted, row_target in zip(predicted, target, strict=True):
            hits = int((row_predicted & row_target).sum())
            if row_predicted.any():
                precisions.append(hits / int(row_predicted.sum()))
            recalls.append(hits / int(row_target.sum()) if row_target.any() else 0.0)
        precision, recall = np.mean(precisions), np.mean(recalls)
        if precision + recall > 0:
            best = max(best, 2 * precision * recall / (precision + recall))
    return float(best)


def random_case(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores with or without ties, densities from none to all, some rows and columns without any true pair."""
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, (14, 11)))
    score = [
        rng.random(shape),
        rng.normal(size=shape).astype(np.float32).astype(np.float64),
        rng.integers(0, 4, shape) / 3,
        rng.integers(-20, 20, shape) / 7,
        np.full(shape, 0.5),
    ][seed % 5]
    target = rng.random(shape) < rng.choice([0.0, 0.05, 0.3, 0.8, 1.0], p=[0.02, 0.3, 0.4, 0.2, 0.08])
    target[rng.random(shape[0]) < 0.2] = False
    target[:, rng.random(shape[1]) < 0.2] = False
    return score, target


def test_fmax_equals_brute_force_on_1000_cases_with_ties_constants_and_empty_rows_and_columns() -> None:
    cases = [random_case(seed) for seed in range(1000)]
    assert sum(not target.any(axis=0).all() for _, target in cases) > 200
    assert sum(len(np.unique(score)) == 1 for score, _ in cases) >= 200
    assert sum(not target.any(axis=1).all() for _, target in cases) > 200
    assert sum(len(np.unique(score)) < score.size for score, _ in cases) > 400
    for seed, (score, target) in enumerate(cases):
        best = fmax(score, target)
        assert best.value == pytest.approx(brute_force_fmax(score, target), abs=1e-12), seed
        if target.any():
            assert f_at(score, target, best.threshold) == pytest.approx(best.value, abs=1e-12), seed


def test_aupr_equals_scikit_learn_on_1000_cases() -> None:
    for seed in range(1000):
        score, target = random_case(seed)
        if target.any():
            expected = average_precision_score(target.ravel(), score.ravel())
            assert aupr(score, target) == pytest.approx(expected, abs=1e-12), seed


def test_more_proteins_than_one_block_give_the_same_as_brute_force() -> None:
    rng = np.random.default_rng(1)
    score, target = rng.integers(0, 50, (700, 6)) / 50, rng.random((700, 6)) < 0.2
    assert fmax(score, target).value == pytest.approx(brute_force_fmax(score, target), abs=1e-12)


def test_a_worked_example_with_ties() -> None:
    # At 0.9 the first protein has one hit of one, the second none predicted: P = 1, R = 1/4.
    # At 0.5 everything is predicted: P = (2/3 + 1/3) / 2, R = 1: F = 2/3. In between there is no threshold.
    score = np.array([[0.9, 0.5, 0.5], [0.5, 0.5, 0.5]])
    target = np.array([[True, True, False], [False, True, False]])
    best = fmax(score, target)
    assert (best.value, best.threshold, best.precision, best.recall) == pytest.approx((2 / 3, 0.5, 0.5, 1.0))


def test_proteins_without_labels_lower_recall_and_precision() -> None:
    score, target = np.array([[0.9, 0.1]]), np.array([[True, False]])
    assert fmax(score, target).value == 1.0
    with_unlabelled = fmax(np.array([[0.9, 0.1], [0.95, 0.2]]), np.array([[True, False], [False, False]]))
    assert with_unlabelled.precision == 0.5
    assert with_unlabelled.recall == 0.5


def test_without_a_true_pair_both_metrics_are_zero() -> None:
    score, target = np.random.default_rng(0).random((3, 4)), np.zeros((3, 4), dtype=bool)
    assert fmax(score, target) == Fmax(0.0, math.inf, 0.0, 0.0)
    assert aupr(score, target) == 0.0
    assert f_at(score, target, 0.5) == 0.0
    assert not len(protein_curve(score, target).threshold)


def test_of_constant_scores_everything_is_predicted() -> None:
    # Four proteins with 2, 1, 1 and 0 of five terms: P = (2 + 1 + 1 + 0) / 5 / 4, R = 3/4, and 4 of 20 pairs are true.
    target = np.zeros((4, 5), dtype=bool)
    target[[0, 0, 1, 2], [0, 1, 1, 4]] = True
    for value in (0.0, 0.5, -np.inf, np.inf):
        score = np.full((4, 5), value)
        best = fmax(score, target)
        assert (best.precision, best.recall, best.threshold) == pytest.approx((0.2, 0.75, value))
        assert best.value == pytest.approx(2 * 0.2 * 0.75 / 0.95)
        assert aupr(score, target) == pytest.approx(0.2)


def test_infinities_are_the_largest_and_the_smallest_scores() -> None:
    for seed in range(0, 200):
        score, target = random_case(seed)
        ordinary, infinite = score.copy(), score.copy()
        rng = np.random.default_rng(seed)
        for value, stand_in in ((np.inf, score.max() + 1), (-np.inf, score.min() - 1)):
            chosen = rng.random(score.shape) < 0.2
            ordinary[chosen], infinite[chosen] = stand_in, value
        assert fmax(infinite, target).value == fmax(ordinary, target).value
        assert aupr(infinite, target) == aupr(ordinary, target)
        if target.any():
            assert f_at(infinite, target, fmax(infinite, target).threshold) == pytest.approx(
                fmax(ordinary, target).value
            )


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_scores_of_lower_precision_give_what_they_give_in_float64(dtype: type) -> None:
    for seed in range(60):
        score, target = random_case(seed)
        score = score.astype(dtype)
        assert fmax(score, target) == fmax(score.astype(np.float64), target)
        assert aupr(score, target) == aupr(score.astype(np.float64), target)
        # 0.7 is a little more than its nearest float32: a score of that must not reach it.
        for threshold in (0.3, 0.7, 1 / 3):
            assert f_at(score, target, threshold) == f_at(score.astype(np.float64), target, threshold)


def test_only_the_order_of_scores_matters() -> None:
    for seed in range(0, 100, 5):
        score, target = random_case(seed)
        probability = 1 / (1 + np.exp(-4 * score))
        assert fmax(probability, target).value == fmax(score, target).value
        assert aupr(probability, target) == aupr(score, target)


def test_the_order_of_proteins_and_terms_does_not_matter() -> None:
    rng = np.random.default_rng(3)
    for seed in range(100):
        score, target = random_case(seed)
        rows, columns = rng.permutation(score.shape[0]), rng.permutation(score.shape[1])
        shuffled = score[rows][:, columns], target[rows][:, columns]
        assert fmax(*shuffled).value == pytest.approx(fmax(score, target).value, abs=1e-12)
        assert aupr(*shuffled) == pytest.approx(aupr(score, target), abs=1e-12)


def test_curves_descend_in_threshold_and_rise_in_recall() -> None:
    score, target = random_case(40)
    for curve in (protein_curve(score, target), pair_curve(score, target)):
        assert (np.diff(curve.threshold) < 0).all()
        assert (np.diff(curve.recall) > 0).all()
        assert ((curve.precision > 0) & (curve.precision <= 1)).all()


def test_3000_proteins_by_2000_terms_take_seconds_and_memory_that_is_linear() -> None:
    rng = np.random.default_rng(0)
    score, target = rng.random((3000, 2000)), rng.random((3000, 2000)) < 0.005
    started = time.process_time()
    fmax(score, target)
    aupr(score, target)
    assert time.process_time() - started < 5  # 0.3 on an idle machine
    peaks = []
    for proteins in (1500, 3000):
        tracemalloc.start()
        fmax(score[:proteins], target[:proteins])
        aupr(score[:proteins], target[:proteins])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 2.1 * peaks[0]
    assert peaks[1] < 2 * score.nbytes
