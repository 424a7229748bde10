import itertools
import math

import numpy as np
import pytest

from amma.train.model.alignment import debiased_cka, effective_rank, recall_at, spread


def gaussians(*shapes: tuple[int, int], seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape) for shape in shapes]


def hsic_by_quadruples(x: np.ndarray, y: np.ndarray) -> float:
    """The U-statistic of order four that defines the unbiased HSIC (Song et al. 2012, eq. 3), over all quadruples."""
    k, m = x @ x.T, y @ y.T
    terms = [k[i, j] * (m[i, j] + m[q, r] - 2 * m[i, q]) for i, j, q, r in itertools.permutations(range(len(x)), 4)]
    return sum(terms) / len(terms)


def test_debiased_cka_is_the_u_statistic_over_all_quadruples() -> None:
    x, noise = gaussians((9, 3), (9, 5), seed=1)
    y = x @ np.random.default_rng(2).normal(size=(3, 5)) + noise + 3
    expected = hsic_by_quadruples(x, y) / math.sqrt(hsic_by_quadruples(x, x) * hsic_by_quadruples(y, y))
    assert debiased_cka(x, y) == pytest.approx(expected, rel=1e-10)
    order = np.array([3, 1, 4, 0, 5, 8, 2, 6, 7])
    assert debiased_cka(x, y, order) == pytest.approx(debiased_cka(x, y[order]), rel=1e-10)


@pytest.mark.parametrize("width", [4, 400])
def test_independent_vectors_have_no_alignment_also_where_they_are_wider_than_many(width: int) -> None:
    # Over pairs of independent Gaussians its standard deviation is measured at 1.1/N (width 4) and 1.5/N (400).
    values = [debiased_cka(*gaussians((100, width), (100, width), seed=seed)) for seed in range(10)]
    assert max(abs(value) for value in values if value is not None) < 0.04
    assert abs(np.mean([value for value in values if value is not None])) < 0.015


def test_alignment_is_blind_to_place_turn_and_scale_of_a_modality() -> None:
    x, y, square = gaussians((30, 6), (30, 6), (6, 6), seed=3)
    turn = np.linalg.qr(square)[0]
    y = x + y
    value = debiased_cka(x, y)
    assert value is not None
    assert 0.3 < value < 0.95
    assert debiased_cka(x, 100 + 7 * y @ turn) == pytest.approx(value, rel=1e-9)
    assert debiased_cka(x, 5 - 2 * x @ turn) == pytest.approx(1.0, rel=1e-9)
    assert debiased_cka(y, x) == pytest.approx(value, rel=1e-12)


def test_alignment_of_too_few_or_of_equal_vectors_is_undefined() -> None:
    (x,) = gaussians((3, 4))
    assert debiased_cka(x, x) is None
    (y,) = gaussians((8, 4))
    assert debiased_cka(np.zeros((8, 4)), y) is None


def test_recall_counts_proteins_whose_own_target_is_near_enough() -> None:
    query, target = gaussians((25, 4), (25, 4), seed=4)
    target += query
    a, b = query - query.mean(0), target - target.mean(0)
    for k in (1, 5, 10, 25):
        found = 0
        for i in range(25):
            cosine = [float(a[i] @ b[j] / math.sqrt(a[i] @ a[i]) / math.sqrt(b[j] @ b[j])) for j in range(25)]
            found += i in sorted(range(25), key=lambda j: -cosine[j])[:k]
        assert recall_at([k], query, target)[k] == pytest.approx(found / 25)
    assert 0.04 < recall_at([1], query, target)[1] < 1
    assert recall_at([1], query, 3 + 2 * query) == {1: 1.0}


def test_recall_of_vectors_that_say_nothing_is_chance() -> None:
    (query,) = gaussians((20, 4))
    collapsed = np.full((20, 4), 0.3, dtype=np.float32)
    expected = {1: 1 / 20, 5: 5 / 20, 10: 10 / 20}
    assert recall_at([1, 5, 10], query, collapsed) == pytest.approx(expected)
    assert recall_at([1, 5, 10], collapsed, query) == pytest.approx(expected)
    rng = np.random.default_rng(5)
    shuffled = [recall_at([5], query, query[rng.permutation(20)])[5] for _ in range(400)]
    assert np.mean(shuffled) == pytest.approx(5 / 20, abs=0.02)  # sd of a mean of 400: 0.005


def test_effective_rank_counts_directions_that_are_equally_strong() -> None:
    values = np.array([3.0, 2.0, 1.0])
    share = values / 6
    expected = math.prod(p**-p for p in share.tolist())
    frame = np.linalg.qr(np.column_stack([np.ones(12), gaussians((12, 3), seed=6)[0]]))[0][:, 1:]  # columns of mean 0
    assert effective_rank(frame * values) == pytest.approx(expected, rel=1e-10)
    assert effective_rank(100 + frame * values @ np.linalg.qr(values[:, None] + np.eye(3))[0]) == pytest.approx(
        expected
    )
    assert effective_rank(frame) == pytest.approx(3, rel=1e-10)


def test_collapse_is_seen() -> None:
    (direction, sizes) = gaussians((1, 8), (40, 1), seed=7)
    assert effective_rank(sizes @ direction) == pytest.approx(1)
    noise = 1 + 1e-8 * np.random.default_rng(8).normal(size=(40, 8))
    equal = np.repeat(direction, 40, axis=0) * noise  # what float32 leaves of vectors that are equal
    assert effective_rank(equal.astype(np.float32)) == 0
    assert spread(equal.astype(np.float32)) < 1e-12
    near = np.repeat(direction, 40, axis=0) + 1e-2 * gaussians((40, 8), seed=9)[0]
    assert effective_rank(near) > 6
    assert spread(near) == pytest.approx(1e-4 * 8 / (direction @ direction.T).item(), rel=0.4)
    assert spread(gaussians((400, 8))[0]) > 0.99
