from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amma.train.data.permutation import BlockPermutation, Permutation


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 9, 10, 16, 17, 1000, 1024, 99_999])
def test_everything_is_drawn_exactly_once(n: int) -> None:
    assert np.array_equal(np.sort(Permutation(n, seed=3, epoch=1)(np.arange(n))), np.arange(n))


@given(st.integers(1, 3000), st.integers(0, 2**63), st.integers(0, 10_000))
@settings(max_examples=50, deadline=None)
def test_any_size_seed_and_epoch_give_a_bijection(n: int, seed: int, epoch: int) -> None:
    assert len(set(Permutation(n, seed=seed, epoch=epoch)(np.arange(n)).tolist())) == n


def test_a_place_holds_the_same_whatever_else_is_asked() -> None:
    n = 10**12
    order = Permutation(n, seed=0, epoch=0)
    places = np.array([0, 7, 123_456_789, n - 1])
    together = order(places)
    assert together.tolist() == [int(order(places[i : i + 1])[0]) for i in range(4)]
    assert together.min() >= 0
    assert together.max() < n


def test_every_order_of_few_things_comes_up() -> None:
    orders = Counter(tuple(Permutation(4, seed=5, epoch=epoch)(np.arange(4)).tolist()) for epoch in range(4800))
    assert len(orders) == 24
    # 200 of each are expected; Pearson's χ² with 23 degrees of freedom exceeds 50 once in a thousand times.
    assert sum((count - 200) ** 2 / 200 for count in orders.values()) < 50


@pytest.mark.parametrize("n", [2, 3, 5, 11, 30])
def test_each_thing_is_equally_likely_at_each_place(n: int) -> None:
    num_epochs = 1500
    counts = np.zeros((n, n))
    for epoch in range(num_epochs):
        counts[np.arange(n), Permutation(n, seed=1, epoch=epoch)(np.arange(n))] += 1
    expected = num_epochs / n
    statistic = np.square(counts - expected).sum() / expected
    freedom = (n - 1) ** 2
    assert statistic < freedom + 4 * (2 * freedom) ** 0.5 + 4


def test_neighbours_do_not_stay_neighbours_and_epochs_differ() -> None:
    n = 20_000
    first, second = (Permutation(n, seed=1, epoch=epoch)(np.arange(n)) for epoch in (0, 1))
    assert (np.abs(np.diff(first)) == 1).mean() < 5 / n * 2
    assert (first == second).mean() < 10 / n
    assert abs(np.corrcoef(first, np.arange(n))[0, 1]) < 0.04
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.04


def test_order_is_a_constant_of_the_program() -> None:
    # A resumed run must go on in the order it began with, also after an update.
    assert Permutation(10, seed=0, epoch=0)(np.arange(10)).tolist() == [8, 9, 0, 1, 7, 5, 6, 4, 2, 3]


@pytest.mark.parametrize("place", [-1, 10])
def test_places_that_do_not_exist_are_refused(place: int) -> None:
    with pytest.raises(IndexError, match="places must lie in"):
        Permutation(10, seed=0, epoch=0)(np.array([place]))


def test_nothing_can_be_put_in_order() -> None:
    assert Permutation(0, seed=0, epoch=0)(np.arange(0)).tolist() == []
    with pytest.raises(ValueError, match="cannot order"):
        Permutation(-1, seed=0, epoch=0)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=12), st.integers(0, 2**63), st.integers(0, 100))
@settings(max_examples=50, deadline=None)
def test_blocks_are_drawn_whole_one_after_the_other(sizes: list[int], seed: int, epoch: int) -> None:
    n = sum(sizes)
    begins = np.cumsum([0, *sizes[:-1]])
    order = BlockPermutation(n, begins, seed=seed, epoch=epoch)(np.arange(n))
    assert sorted(order.tolist()) == list(range(n))
    block = np.searchsorted(begins, order, side="right") - 1
    changes = int((np.diff(block) != 0).sum())
    assert changes == max(0, sum(size > 0 for size in sizes) - 1)


def test_blocks_and_what_is_inside_them_are_in_another_order_each_epoch_and_can_be_entered_anywhere() -> None:
    begins = np.arange(0, 1000, 100)
    first, second = (BlockPermutation(1000, begins, seed=3, epoch=epoch) for epoch in (0, 1))
    whole = first(np.arange(1000))
    assert whole.tolist() != second(np.arange(1000)).tolist()
    assert (whole // 100)[::100].tolist() != list(range(10))
    inside = {tuple((whole[start : start + 100] % 100).tolist()) for start in range(0, 1000, 100)}
    assert len(inside) == 10
    places = np.array([999, 0, 512, 100])
    assert first(places).tolist() == whole[places].tolist()
    assert BlockPermutation(1000, begins, seed=3, epoch=0)(places).tolist() == whole[places].tolist()
    with pytest.raises(IndexError):
        first(np.array([1000]))
