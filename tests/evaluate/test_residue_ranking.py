from itertools import pairwise, permutations

import numpy as np
import pytest

from amma.evaluate.analyses.residue_ranking import chance_of, precision_at, rank_residues


def naive(score: np.ndarray, annotated: np.ndarray, number: int) -> float:
    """Over all orders of the residues that are compatible with the scores."""
    found = [
        sum(bool(annotated[place]) for place in order[:number]) / number
        for order in permutations(range(len(score)))
        if all(score[a] >= score[b] for a, b in pairwise(order))
    ]
    return sum(found) / len(found)


def test_precision_equals_a_loop_over_all_orders_also_where_scores_are_equal() -> None:
    rng = np.random.default_rng(0)
    for levels in (2, 3, 100):
        for _ in range(15):
            score = rng.integers(levels, size=6).astype(np.float64)
            annotated = rng.random(6) < 0.4
            for number in (1, 2, 5):
                assert precision_at(score, annotated, number) == pytest.approx(naive(score, annotated, number))


def test_scores_that_know_the_sites_are_perfect_and_equal_ones_are_chance() -> None:
    annotated = np.array([False, True, False, False, True, False, False, False])
    perfect = rank_residues(annotated + 0.1 * np.arange(8) / 8, annotated)
    assert (perfect.precision, perfect.average_precision, perfect.auroc) == (1.0, 1.0, 1.0)
    flat = rank_residues(np.ones(8), annotated)
    assert (flat.precision, flat.average_precision, flat.auroc) == pytest.approx((0.25, 0.25, 0.5))
    worst = rank_residues(-annotated.astype(np.float64), annotated)
    assert (worst.precision, worst.auroc) == (0.0, 0.0)


@pytest.mark.parametrize(("length", "number"), [(5, 2), (6, 1), (6, 5)])
def test_chance_is_the_mean_over_all_orders(length: int, number: int) -> None:
    annotated = np.arange(length) < number
    found = [rank_residues(np.array(order, dtype=np.float64), annotated) for order in permutations(range(length))]
    chance = chance_of(annotated)
    assert chance.precision == pytest.approx(np.mean([of.precision for of in found]))
    assert chance.average_precision == pytest.approx(np.mean([of.average_precision for of in found]))
    assert chance.auroc == pytest.approx(np.mean([of.auroc for of in found]))


def test_a_protein_without_a_contrast_and_nan_scores_are_refused() -> None:
    for annotated in (np.zeros(4, dtype=bool), np.ones(4, dtype=bool)):
        with pytest.raises(ValueError, match="of 4 residues are annotated"):
            rank_residues(np.arange(4.0), annotated)
    with pytest.raises(ValueError, match="NaN"):
        rank_residues(np.array([0.1, np.nan, 0.2]), np.array([True, False, False]))
