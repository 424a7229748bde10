"""Halving finds the proteins that end their process, and blames no other."""

import random
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from amma.featurize.workers.bisect import find_fatal


@given(st.integers(1, 70), st.data())
def test_exactly_those_that_end_a_worker_are_found(count: int, data: st.DataObject) -> None:
    fatal = data.draw(st.sets(st.integers(0, count - 1), max_size=6))
    assert find_fatal(range(count), lambda slots: fatal.isdisjoint(slots)) == sorted(fatal)


def test_one_protein_of_many_is_found_with_a_few_attempts() -> None:
    attempts: list[Sequence[int]] = []

    def survives(slots: Sequence[int]) -> bool:
        attempts.append(slots)
        return 37 not in slots

    assert find_fatal(range(64), survives) == [37]
    assert len(attempts) <= 2 * 6 + 2
    assert sum(37 in slots for slots in attempts) <= 6 + 2


def test_proteins_that_do_harm_in_company_only_are_not_blamed() -> None:
    assert find_fatal(range(8), lambda slots: not {2, 6} <= set(slots)) == []
    assert find_fatal(range(8), lambda slots: len(slots) < 2) == []


def test_a_worker_that_ends_for_a_reason_of_its_own_blames_nobody() -> None:
    rng = random.Random(3)
    last_died = False

    def survives(slots: Sequence[int]) -> bool:
        # Never twice in a row, as when somebody kills workers now and then.
        nonlocal last_died
        last_died = 5 in slots or (not last_died and rng.random() < 0.3)
        return not last_died

    for _ in range(100):
        assert find_fatal(range(16), survives) == [5]
        last_died = False
