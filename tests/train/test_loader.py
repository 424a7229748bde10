import threading
import time

import pytest

from amma.manifests.errors import CorruptStoreError
from amma.train.data.loader import Loader


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_items_come_in_order_however_long_each_takes(threads: int) -> None:
    def make(number: int) -> int:
        time.sleep(0.002 * (number % 3))
        return number * number

    with Loader(make, 5, 40, threads=threads, ahead=6) as items:
        assert list(items) == [number * number for number in range(5, 40)]


def test_no_more_than_ahead_items_are_made_before_they_are_asked_for() -> None:
    made: list[int] = []
    with Loader(lambda number: made.append(number), 0, 100, threads=3, ahead=4) as items:
        next(iter(items))
        time.sleep(0.05)
        assert len(made) <= 1 + 4


def test_an_error_comes_where_its_item_would_have_come() -> None:
    def make(number: int) -> int:
        if number == 7:
            raise CorruptStoreError("shard 3: protein 'P7' fails its checksum")
        return number

    with Loader(make, 0, 20, threads=3, ahead=5) as loader:
        items = iter(loader)
        assert [next(items) for _ in range(7)] == list(range(7))
        with pytest.raises(CorruptStoreError, match="P7"):
            next(items)


def test_leaving_early_ends_the_threads() -> None:
    before = threading.active_count()
    with Loader(lambda number: number, 0, 10**9, threads=4, ahead=8) as items:
        for item in items:
            if item == 3:
                break
    assert threading.active_count() == before


def test_waiting_is_measured() -> None:
    with Loader(lambda number: time.sleep(0.02), 0, 3, threads=1, ahead=1) as items:
        list(items)
        assert items.waited > 0.03


@pytest.mark.parametrize("threads", [1, 3])
def test_items_are_announced_before_they_are_made_and_none_beyond_the_last(threads: int) -> None:
    events: list[tuple[str, int]] = []
    with Loader(
        lambda number: events.append(("made", number)),
        2,
        20,
        threads=threads,
        ahead=5,
        announce=lambda number: events.append(("announced", number)),
    ) as items:
        list(items)
    announced = [number for event, number in events if event == "announced"]
    assert sorted(announced) == list(range(2 + threads, 20))
    if threads == 1:
        for number in announced:
            assert events.index(("announced", number)) < events.index(("made", number))
