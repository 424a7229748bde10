from collections import Counter
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amma.manifests.errors import InputError
from amma.train.data.streams import STREAMS, Draw, Mix, Stream
from amma.train.run.config import MixConfig


def streams_of(*sizes: int, seed: int = 0) -> list[Stream]:
    starts = np.cumsum([0, *sizes])
    return [
        Stream(name, np.arange(start, start + size), seed=seed)
        for name, start, size in zip(STREAMS, starts, sizes, strict=False)
    ]


def drawn(mix: Mix, steps: int) -> Counter[str]:
    return Counter(str(portion.stream) for step in range(steps) for portion in mix.plan(step))


def test_each_protein_is_drawn_once_in_each_epoch_of_its_stream() -> None:
    stream = streams_of(23)[0]
    draws = stream.draw(0, 3 * 23)
    for epoch in range(3):
        of_epoch = [draw for draw in draws if draw.epoch == epoch]
        assert [draw.position for draw in of_epoch] == list(range(23))
        assert sorted(draw.protein for draw in of_epoch) == list(range(23))
    orders = [[draw.protein for draw in draws if draw.epoch == epoch] for epoch in range(3)]
    assert orders[0] != orders[1] != orders[2]


@given(size=st.integers(1, 40), cuts=st.lists(st.integers(1, 30), min_size=1, max_size=8))
@settings(max_examples=50, deadline=None)
def test_what_is_drawn_does_not_depend_on_how_it_is_cut_into_batches(size: int, cuts: list[int]) -> None:
    stream = streams_of(size)[0]
    whole = stream.draw(0, sum(cuts))
    start, pieces = 0, []
    for cut in cuts:
        pieces += stream.draw(start, cut)
        start += cut
    assert tuple(pieces) == whole


def test_a_batch_goes_on_with_the_next_epoch_where_a_stream_runs_dry() -> None:
    draws = streams_of(6)[0].draw(4, 4)
    assert [(draw.epoch, draw.position) for draw in draws] == [(0, 4), (0, 5), (1, 0), (1, 1)]


def test_seeds_and_streams_have_orders_of_their_own() -> None:
    def order(name: str, seed: int) -> list[int]:
        return [draw.protein for draw in Stream(name, np.arange(50), seed=seed).draw(0, 50)]  # type: ignore[arg-type]

    orders = [order(name, seed) for name in STREAMS for seed in range(3)]
    assert len({tuple(each) for each in orders}) == len(orders)


def test_interleaving_sees_each_protein_about_once_an_epoch_and_never_strays_from_its_shares() -> None:
    sizes = {"triplet": 917, "seq-str": 141, "seq-func": 25}
    mix = Mix(streams_of(*sizes.values()), MixConfig(batch_size=4))
    assert mix.steps_per_epoch == -(-sum(sizes.values()) // 4)
    for step in range(3 * mix.steps_per_epoch):
        for stream, batches in zip(mix.streams, mix.batches_before(step), strict=True):
            assert abs(batches - Fraction(step * len(stream), sum(sizes.values()))) <= Fraction(3, 2)
    for name, size in sizes.items():
        assert abs(drawn(mix, mix.steps_per_epoch)[name] * 4 - size) <= 6


@given(
    sizes=st.lists(st.integers(0, 1000), min_size=3, max_size=3).filter(any),
    weights=st.lists(st.sampled_from([0.0, 0.1, 1.0, 2.5]), min_size=3, max_size=3),
    start=st.integers(0, 10**9),
)
@settings(max_examples=100, deadline=None)
def test_every_interleaved_step_draws_one_batch_from_one_stream(
    sizes: list[int], weights: list[float], start: int
) -> None:
    config = MixConfig(weights=dict(zip(STREAMS, weights, strict=True)))
    if not any(size and weight for size, weight in zip(sizes, weights, strict=True)):
        with pytest.raises(InputError, match="nothing to train on"):
            Mix(streams_of(*sizes), config)
        return
    mix = Mix(streams_of(*sizes), config)
    for before, after in pairwise(mix.batches_before(step) for step in range(start, start + 40)):
        assert sorted(b - a for a, b in zip(before, after, strict=True)) == [0] * (len(before) - 1) + [1]


def test_a_weight_says_how_often_the_proteins_of_a_stream_are_seen() -> None:
    mix = Mix(streams_of(100, 100, 100), MixConfig(weights={"seq-str": 2, "seq-func": 0}))
    counts = drawn(mix, 300)
    assert counts == {"triplet": 100, "seq-str": 200}


def test_summing_takes_a_batch_of_every_stream_each_step_with_its_weight() -> None:
    mix = Mix(streams_of(10, 3, 5), MixConfig(mixing="sum", batch_size=2, weights={"seq-str": 0.5}))
    assert mix.steps_per_epoch == 5
    for step in range(12):
        portions = mix.plan(step)
        assert [(str(p.stream), p.weight, len(p.draws)) for p in portions] == [
            ("triplet", 1.0, 2),
            ("seq-str", 0.5, 2),
            ("seq-func", 1.0, 2),
        ]


def test_a_stream_that_runs_dry_does_not_disturb_the_others() -> None:
    config = MixConfig(mixing="sum", batch_size=2)
    short, long = Mix(streams_of(10, 3), config), Mix(streams_of(10, 7), config)
    assert [short.plan(step)[0] for step in range(20)] == [long.plan(step)[0] for step in range(20)]
    assert short.state(5) == {"triplet": {"epoch": 1, "position": 0}, "seq-str": {"epoch": 3, "position": 1}}


@pytest.mark.parametrize("mixing", ["interleave", "sum"])
def test_a_large_stream_keeps_its_order_over_several_epochs_of_a_tiny_one_beside_it(mixing: str) -> None:
    """Also over epochs of its own; and each of the tiny one's epochs is whole, and in an order of its own."""
    alone = Mix(streams_of(101), MixConfig(batch_size=4))
    config = MixConfig(mixing=mixing, batch_size=4, weights={"seq-str": 7.0})  # type: ignore[arg-type]
    beside = Mix(streams_of(101, 5), config)
    drawn: dict[str, list[Draw]] = {"triplet": [], "seq-str": []}
    for step in range(100):
        for portion in beside.plan(step):
            drawn[str(portion.stream)] += portion.draws
    large, tiny = drawn["triplet"], drawn["seq-str"]
    assert large[-1].epoch >= 2
    assert tiny[-1].epoch >= 12
    assert large == [draw for step in range(len(large) // 4) for draw in alone.plan(step)[0].draws]
    orders = [[draw.protein for draw in tiny if draw.epoch == epoch] for epoch in range(tiny[-1].epoch)]
    assert all(sorted(order) == [101, 102, 103, 104, 105] for order in orders)
    assert len(set(map(tuple, orders))) > 5


@pytest.mark.parametrize("mixing", ["interleave", "sum"])
def test_the_state_of_a_step_is_where_its_next_draw_comes_from(mixing: str) -> None:
    mix = Mix(streams_of(11, 7, 5), MixConfig(mixing=mixing, batch_size=3))  # type: ignore[arg-type]
    for step in range(40):
        state = mix.state(step)
        for portion in mix.plan(step):
            first = portion.draws[0]
            assert state[str(portion.stream)] == {"epoch": first.epoch, "position": first.position}


def test_a_step_of_a_long_run_costs_no_more_than_an_early_one() -> None:
    mix = Mix(streams_of(10**6, 10**5, 10**4), MixConfig())
    assert len(mix.plan(10**12)) == 1


def test_a_stream_of_blocks_draws_each_block_whole_and_each_protein_once_an_epoch() -> None:
    proteins = np.array([0, 1, 2, 5, 6, 11, 12, 13, 14])
    stream = Stream("triplet", proteins, seed=1, blocks=np.array([0, 4, 8, 10]))
    orders = []
    for epoch in range(4):
        draws = stream.draw(epoch * 9, 9)
        assert sorted(draw.protein for draw in draws) == proteins.tolist()
        assert [(draw.epoch, draw.position) for draw in draws] == [(epoch, place) for place in range(9)]
        blocks = [int(np.searchsorted([0, 4, 8, 10], draw.protein, side="right")) for draw in draws]
        assert sum(a != b for a, b in pairwise(blocks)) == 2
        orders.append([draw.protein for draw in draws])
        # Entered anywhere, in batches of any size, it is the same.
        assert [d.protein for start in range(0, 9, 2) for d in stream.draw(epoch * 9 + start, 2)][:9] == orders[-1]
    assert len(set(map(tuple, orders))) > 1
