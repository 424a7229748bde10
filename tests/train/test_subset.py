"""A seeded subset of the triplets: the same whatever else there is."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from amma.manifests.errors import ConfigError, InputError
from amma.train.data.sequence_hash import sequence_hashes
from amma.train.data.subset import choose_subset
from amma.train.data.training_set import TrainingSet, prepare_training_set
from amma.train.run.config import RunConfig
from amma.train.run.loop import pretrain

Make = Callable[..., RunConfig]


def chosen(names: list[str], count: int, *, seed: int = 0, among: set[str] | None = None) -> set[str]:
    """Of proteins whose sequence is the first word of their name."""
    candidate_N = np.array([among is None or name in among for name in names])
    hashes_N = sequence_hashes(name.split()[0] for name in names)
    subset_N = choose_subset(candidate_N, hashes_N, names, count=count, seed=seed)
    return {name for name, inside in zip(names, subset_N, strict=True) if inside}


NAMES = [f"SEQ{number} id{number}" for number in range(1000)]


def test_a_subset_has_its_size_and_does_not_depend_on_the_order_of_proteins() -> None:
    subset = chosen(NAMES, 220)
    assert len(subset) == 220
    assert chosen(NAMES[::-1], 220) == chosen(NAMES[500:] + NAMES[:500], 220) == subset


def test_other_seeds_give_other_subsets_and_a_larger_one_keeps_the_smaller() -> None:
    subsets = [chosen(NAMES, 220, seed=seed) for seed in range(20)]
    # Two subsets of 22 % share 22 % of their members by chance: 48 of 220, with a σ of 6.
    shared = [len(a & b) for number, a in enumerate(subsets) for b in subsets[:number]]
    assert 44 < np.mean(shared) < 53
    assert max(shared) < 80
    assert subsets[3] < chosen(NAMES, 221, seed=3) < chosen(NAMES, 500, seed=3)
    # Each protein is in about as many of them as another.
    counts = np.array([sum(name in subset for subset in subsets) for name in NAMES])
    assert 0.7 < counts.var() / (20 * 0.22 * 0.78) < 1.3


def test_added_proteins_push_out_only_as_many_as_come_in() -> None:
    before = chosen(NAMES, 220)
    after = chosen([*(f"NEW{number} x{number}" for number in range(100)), *NAMES], 220)
    new = {name for name in after if name.startswith("NEW")}
    assert 5 <= len(new) <= 40
    assert after - new < before
    assert len(after) == 220


def test_only_candidates_are_taken_and_of_equal_sequences_the_ids_decide() -> None:
    among = set(NAMES[::3])
    assert chosen(NAMES, 100, among=among) < among
    twins = [f"SAME id{number}" for number in range(10)]
    assert chosen(twins, 4) == chosen(twins[::-1], 4) == {f"SAME id{number}" for number in range(4)}
    assert chosen(twins, 10) == set(twins)


def test_more_than_there_are_is_refused() -> None:
    with pytest.raises(InputError, match=r"--subset 1001: there are only 1000 training triplets"):
        chosen(NAMES, 1001)


def triplets_of(training_set: TrainingSet) -> set[str]:
    return {training_set.corpus.ids[int(protein)] for protein in training_set.mix.streams[0].proteins_N}


def test_a_run_trains_on_its_subset_after_exclusion_and_validation_and_pairs_stay(
    config: Make, store: Path, make_store: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "held.txt").write_text("P3\nP5\n")
    settings = {"exclude": [tmp_path / "held.txt"], "validation_fraction": 0.2}
    whole, part = (prepare_training_set(config(**settings, **more)) for more in ({}, {"subset": 9}))
    assert part.split.validation == whole.split.validation
    assert {**part.counts, "not_in_subset": 0, "streams": {}} == {**whole.counts, "streams": {}}
    streams = whole.counts["streams"]
    assert part.counts["streams"] == {**streams, "triplet": 9}
    assert part.counts["not_in_subset"] == streams["triplet"] - 9
    assert triplets_of(part) == set(part.split.subset or ())
    assert triplets_of(part) < triplets_of(whole)
    assert whole.split.subset is None
    # What was left out was not seen.
    assert len(part.seen.hashes) == sum(part.counts["streams"].values())
    # Stores in another order give the same triplets.
    more = make_store(tmp_path / "more.zarr", {"triplet": 20}, seed=5, prefix="M")
    orders = [[store, more], [more, store]]
    sets = [prepare_training_set(config(stores=order, subset=9, validation_fraction=0)) for order in orders]
    assert triplets_of(sets[0]) == triplets_of(sets[1])
    assert any(name.startswith("M") for name in triplets_of(sets[0]))


def test_a_subset_is_part_of_what_a_run_is(config: Make, tmp_path: Path) -> None:
    run = tmp_path / "run"
    pretrain(config(subset=12, max_steps=1), run)
    before = json.loads((run / "split.json").read_text())["subset"]
    assert len(before) == 12
    assert json.loads((run / "config.json").read_text())["inputs"]["subset"]
    pretrain(config(subset=12, max_steps=2), run)
    assert json.loads((run / "split.json").read_text())["subset"] == before
    for change, fault in (
        ({}, r"subset: 12 before, null now"),
        ({"subset": 13}, r"subset: 12 before, 13 now"),
        ({"subset": 12, "subset_seed": 1}, r"subset_seed: 0 before, 1 now"),
    ):
        with pytest.raises(ConfigError, match=fault):
            pretrain(config(max_steps=3, **change), run)


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"subset_seed": 3}, "subset_seed has no effect without subset"),
        ({"subset": 3, "mix": {"weights": {"triplet": 0}}}, "has no effect when their weight is 0"),
        ({"subset": 0}, "subset: Input should be greater than 0"),
    ],
)
def test_a_subset_without_effect_is_refused(settings: dict[str, object], fault: str, config: Make) -> None:
    with pytest.raises(ConfigError, match=fault):
        config(**settings)
