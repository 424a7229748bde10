from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from amma.manifests.errors import InputError
from amma.manifests.table import Modality
from amma.train.data.training_set import prepare_training_set
from amma.train.run.config import RunConfig

Make = Callable[..., RunConfig]


def test_every_protein_of_the_store_is_accounted_for(config: Make, tmp_path: Path) -> None:
    (tmp_path / "held.txt").write_text("P0\nP30\nP41\n")
    counts = prepare_training_set(config(exclude=[tmp_path / "held.txt"], validation_fraction=0.2)).counts
    parts = counts["excluded"] + counts["not_in_a_stream"] + counts["validation"] + sum(counts["streams"].values())
    assert parts == counts["proteins"] == 42
    assert (counts["excluded"], counts["not_in_a_stream"]) == (3, 1)


def test_the_division_is_the_same_each_time_and_another_for_another_seed(config: Make) -> None:
    first, again, other = (prepare_training_set(config(seed=seed, validation_fraction=0.3)) for seed in (0, 0, 1))
    assert first.inputs == again.inputs
    assert np.array_equal(first.proteins_T, again.proteins_T)
    assert first.inputs["validation"] != other.inputs["validation"]


def test_clusters_of_a_file_stay_together(config: Make, tmp_path: Path) -> None:
    (tmp_path / "clusters.tsv").write_text("".join(f"P{n}\tc{n % 8}\n" for n in range(42)))
    division = prepare_training_set(config(clusters=tmp_path / "clusters.tsv", validation_fraction=0.3))

    def clusters_of(proteins: list[int]) -> set[int]:
        return {int(division.corpus.ids[protein][1:]) % 8 for protein in proteins}

    validation = [draw.protein for portion in division.validation for draw in portion.draws]
    assert len(validation) >= 5
    assert not clusters_of(validation) & clusters_of(division.proteins_T.tolist())
    assert division.counts["validation_clusters_from"] == "clusters.tsv, 0 proteins not in it"


def test_validation_batches_are_homogeneous_and_hold_each_protein_once(config: Make) -> None:
    division = prepare_training_set(config(validation_fraction=0.4))
    kinds = division.corpus.kinds()
    proteins = [draw.protein for portion in division.validation for draw in portion.draws]
    assert len(proteins) == len(set(proteins)) == division.counts["validation"]
    for portion in division.validation:
        assert {kinds[draw.protein] for draw in portion.draws} == {portion.stream}


def test_a_stream_without_weight_is_neither_trained_nor_validated_on(config: Make) -> None:
    weights = {"seq-str": 0, "seq-func": 0}
    division = prepare_training_set(config(mix={"weights": weights}, validation_fraction=0.4))
    kinds = division.corpus.kinds()
    everyone = {*division.proteins_T.tolist(), *(d.protein for portion in division.validation for d in portion.draws)}
    assert {kinds[protein] for protein in everyone} == {"triplet"}
    assert division.counts["not_in_a_stream"] == 18


def test_a_store_of_sequences_only_says_what_is_missing(
    config: Make, tmp_path: Path, make_store: Callable[..., Path]
) -> None:
    store = make_store(tmp_path / "alone.zarr", {"seq": 3})
    with pytest.raises(InputError, match="nothing to train on"):
        prepare_training_set(config(stores=[store]))


def test_blocks_of_units_are_drawn_one_after_the_other(config: Make) -> None:
    for blocks in (1, 2):
        division = prepare_training_set(config(mix={"shuffle_block": blocks, "batch_size": 1}, validation_fraction=0))
        (store,) = division.corpus.stores
        unit = store.start(Modality.SEQ) // store.layout.shard_rows
        assert store.layout.num_units > 3
        for stream in division.mix.streams:
            drawn = [unit[draw.protein] // blocks for draw in stream.draw(0, len(stream))]
            assert sum(a != b for a, b in pairwise(drawn)) == len(set(drawn)) - 1


def test_blocks_go_through_all_stores(config: Make, tmp_path: Path, make_store: Callable[..., Path]) -> None:
    paths = [
        make_store(tmp_path / "one.zarr", {"triplet": 20}),
        make_store(tmp_path / "two.zarr", {"triplet": 20}, seed=1, prefix="Q"),
    ]
    division = prepare_training_set(config(stores=paths, mix={"shuffle_block": 1}, validation_fraction=0))
    firsts = division.corpus.first_of_units().tolist()
    assert firsts[0] == 0
    assert 20 in firsts
    assert firsts == sorted(set(firsts))
    (stream,) = [stream for stream in division.mix.streams if stream.name == "triplet"]
    drawn = np.searchsorted(firsts, [draw.protein for draw in stream.draw(0, 40)], side="right")
    assert sum(a != b for a, b in pairwise(drawn.tolist())) == len(firsts) - 1
