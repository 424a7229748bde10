from itertools import product

import numpy as np
import pytest

from amma.evaluate.metrics.bootstrap import draw_resamples
from amma.evaluate.metrics.exact import aupr, fmax
from amma.evaluate.metrics.paired import compare, draw_swaps, swapped_differences

Case = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def make_case(seed: int, *, proteins: int = 40, lead: float = 0.0, ties: bool = False) -> Case:
    """Scores of two sides, labels and clusters of two; side a tells the labels better by `lead`."""
    rng = np.random.default_rng(seed)
    target = rng.random((proteins, 6)) < 0.3
    common = rng.normal(size=target.shape) + target
    a, b = (common + rng.normal(size=target.shape) + gain * target for gain in (lead, 0.0))
    if ties:
        a, b = a.round(), b.round()
    return a, b, target, np.arange(proteins) // 2


def figures(score: np.ndarray, target: np.ndarray) -> np.ndarray:
    return np.array([fmax(score, target).value, aupr(score, target)])


def ranks(score: np.ndarray) -> np.ndarray:
    return (score.ravel()[:, None] >= score.ravel()).mean(axis=1).reshape(score.shape)


@pytest.mark.parametrize("ties", [False, True])
def test_differences_after_swaps_are_those_of_the_swapped_scores(ties: bool) -> None:
    a, b, target, cluster = make_case(0, proteins=12, ties=ties)
    swaps = np.array(list(product([False, True], repeat=6)))[:, cluster]
    found = swapped_differences([a], [b], target, swaps)
    for swap, difference in zip(swaps, found.T, strict=True):
        rank_a, rank_b, change = ranks(a), ranks(b), swap[:, None]
        one, other = np.where(change, rank_b, rank_a), np.where(change, rank_a, rank_b)
        np.testing.assert_allclose(difference, figures(one, target) - figures(other, target), atol=1e-12)


def test_p_of_a_tiny_case_is_that_of_all_possible_swaps_and_resamples() -> None:
    a, b, target, cluster = make_case(3, proteins=8, lead=2.0)
    found = compare([a], [b], target, cluster, 4000)
    swaps = np.array(list(product([False, True], repeat=4)))[:, cluster]
    every_swap = swapped_differences([a], [b], target, swaps)
    resamples = [np.concatenate([[2 * c, 2 * c + 1] for c in drawn]) for drawn in product(range(4), repeat=4)]
    every_resample = np.array([figures(a[rows], target[rows]) - figures(b[rows], target[rows]) for rows in resamples]).T
    for metric, swapped, resampled in zip((found.fmax, found.aupr), every_swap, every_resample, strict=True):
        p_swap = (abs(swapped) >= abs(swapped[0]) - 1e-9).mean()
        p_bootstrap = min(1, 2 * min((resampled <= 1e-9).mean(), (resampled >= -1e-9).mean()))
        assert metric.p_swap == pytest.approx(p_swap, abs=0.03)  # four standard errors of 4,000 draws
        assert metric.p_bootstrap == pytest.approx(p_bootstrap, abs=0.06)
    assert found.fmax.difference == pytest.approx(fmax(a, target).value - fmax(b, target).value, abs=1e-12)
    assert found.aupr.difference == pytest.approx(aupr(a, target) - aupr(b, target), abs=1e-12)


def test_intervals_and_p_are_those_of_the_same_resamples_of_both_sides() -> None:
    a, b, target, cluster = make_case(1, lead=0.4)
    found = compare([a], [b], target, cluster, 150, seed=5)
    differences = []
    for weight in draw_resamples(cluster, 150, seed=5).astype(int):
        rows = np.arange(40).repeat(weight)
        differences.append(figures(a[rows], target[rows]) - figures(b[rows], target[rows]))
    for metric, difference in zip((found.fmax, found.aupr), np.array(differences).T, strict=True):
        assert (metric.low, metric.high) == pytest.approx(tuple(np.quantile(difference, [0.025, 0.975])), abs=1e-6)
        other_side = min((difference <= 0).sum(), (difference >= 0).sum())
        assert metric.p_bootstrap == pytest.approx(min(1, 2 * (1 + other_side) / 151))


def test_seeds_are_averaged_within_a_resample() -> None:
    cases = [make_case(seed, lead=0.5) for seed in range(3)]
    target, cluster = cases[0][2:]
    side_a, side_b = [case[0] for case in cases], [case[1] for case in cases]
    found = compare(side_a, side_b, target, cluster, 60)
    expected = np.mean([figures(a, target) - figures(b, target) for a, b in zip(side_a, side_b, strict=True)], axis=0)
    assert (found.fmax.difference, found.aupr.difference) == pytest.approx(tuple(expected), abs=1e-12)
    resampled = []
    for weight in draw_resamples(cluster, 60).astype(int):
        rows = np.arange(40).repeat(weight)
        resampled.append(
            np.mean([figures(a[rows], target[rows]) for a in side_a], axis=0)
            - np.mean([figures(b[rows], target[rows]) for b in side_b], axis=0)
        )
    low, high = np.quantile(resampled, [0.025, 0.975], axis=0)
    assert (found.fmax.low, found.aupr.low) == pytest.approx(tuple(low), abs=1e-6)
    assert (found.fmax.high, found.aupr.high) == pytest.approx(tuple(high), abs=1e-6)


def test_sides_with_different_numbers_of_seeds_swap_each_with_each() -> None:
    cases = [make_case(seed) for seed in range(3)]
    target, cluster = cases[0][2:]
    side_a, side_b = [case[0] for case in cases], [cases[0][1], cases[1][1]]
    swaps = draw_swaps(cluster, 10)
    found = swapped_differences(side_a, side_b, target, swaps)
    single = [swapped_differences([a], [b], target, swaps) for a in side_a for b in side_b]
    np.testing.assert_allclose(found, np.mean(single, axis=0), atol=1e-12)
    unswapped = np.mean([figures(a, target) for a in side_a], axis=0)
    unswapped -= np.mean([figures(b, target) for b in side_b], axis=0)
    np.testing.assert_allclose(found[:, 0], unswapped, atol=1e-12)


def test_a_side_against_itself_differs_by_nothing_with_a_p_of_one() -> None:
    a, _, target, cluster = make_case(0)
    found = compare([a, 2 * a], [a, a], target, cluster, 50)
    for metric in (found.fmax, found.aupr):
        assert (metric.difference, metric.low, metric.high, metric.p_bootstrap, metric.p_swap) == (0, 0, 0, 1, 1)


def test_a_clear_difference_has_a_small_p_in_both_directions() -> None:
    a, b, target, cluster = make_case(0, proteins=80, lead=2.0)
    ahead, behind = compare([a], [b], target, cluster, 199), compare([b], [a], target, cluster, 199)
    for up, down in ((ahead.fmax, behind.fmax), (ahead.aupr, behind.aupr)):
        assert up.low > 0.05
        assert down.high < -0.05
        assert (down.difference, down.low, down.high) == pytest.approx((-up.difference, -up.high, -up.low), abs=2e-6)
        for p in (up.p_bootstrap, down.p_bootstrap, up.p_swap, down.p_swap):
            assert 1 / 200 <= p <= 2 / 100


def test_scores_on_another_scale_make_no_difference() -> None:
    a, b, target, cluster = make_case(2, lead=0.5)
    assert compare([a], [b], target, cluster, 99) == compare([np.exp(5 * a)], [b / 100 - 7], target, cluster, 99)


def test_the_same_seed_gives_the_same_and_another_one_other_draws() -> None:
    a, b, target, cluster = make_case(4, lead=0.3)
    first = compare([a], [b], target, cluster, 99)
    assert first == compare([a], [b], target, cluster, 99)
    assert first == compare([a], [b], target, 7 - cluster, 99)  # what clusters are called says nothing
    assert first.aupr.low != compare([a], [b], target, cluster, 99, seed=1).aupr.low


def test_clusters_swap_as_one_with_probability_one_half() -> None:
    cluster = np.array([4, 4, 1, 9, 1, 4])
    swaps = draw_swaps(cluster, 2000)
    assert not swaps[0].any()
    assert (swaps[:, [0, 0, 2]] == swaps[:, [1, 5, 4]]).all()
    np.testing.assert_allclose(swaps[1:].mean(axis=0), 0.5, atol=0.05)
    assert len(np.unique(swaps, axis=0)) == 8


def test_sides_that_are_alike_are_told_apart_in_about_one_of_twenty_tests() -> None:
    # Both sides have the same noise, shared within clusters; 300 tests at 5 %: the standard error is 1.3 %.
    below = np.zeros(4)
    for seed in range(300):
        a, b, target, cluster = make_case(1000 + seed, proteins=60)
        found = compare([a], [b], target, cluster, 99, seed=seed)
        ps = (found.fmax.p_bootstrap, found.aupr.p_bootstrap, found.fmax.p_swap, found.aupr.p_swap)
        below += np.array(ps) <= 0.05
    assert (below / 300 > 0.01).all()
    assert (below / 300 < 0.10).all()


def test_a_side_without_scores_is_refused() -> None:
    a, _, target, cluster = make_case(0)
    with pytest.raises(ValueError, match="at least one seed on either side"):
        compare([a], [], target, cluster, 10)
