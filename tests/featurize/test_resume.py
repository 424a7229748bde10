"""A run that was killed, stopped or crowded goes on, and ends in the bytes of a run that was left alone."""

import itertools
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from amma.featurize.run import featurize
from amma.featurize.store.layout import ledger_file
from amma.featurize.store.ledger import committed_units
from amma.featurize.store.reader import FeatureStore
from amma.featurize.store.settings import StoreSettings
from amma.featurize.store.stopping import InterruptedRunError
from amma.manifests.errors import CorruptStoreError, StoreError
from amma.manifests.table import MODALITIES, Manifest, Modality

SMALL = StoreSettings(shard_rows=64, chunk_rows=8, token_budget=60, threads=1)
WriteProteins = Callable[..., Manifest]
Encoders = Callable[[], Any]
Tree = Callable[[Path], dict[str, str]]


def cut_temporary_files(store: Path) -> int:
    """What a crash may leave of a file that was being written is any part of it (the lock's share theirs with it)."""
    aside = [path for path in store.rglob("*.tmp") if not path.name.startswith("lock.")]
    for path in aside:
        os.truncate(path, path.stat().st_size // 2)
    return len(aside)


@pytest.mark.parametrize("trials", [10, pytest.param(100, marks=pytest.mark.slow)])  # of two kills each
def test_killed_at_random_moments_and_resumed_the_store_is_the_same_to_the_byte(
    memory_folder: Path,
    write_proteins: WriteProteins,
    fake_encoders: Encoders,
    tree: Tree,
    children: Any,
    trials: int,
) -> None:
    manifest = write_proteins(memory_folder, 32)
    store = memory_folder / "s.zarr"
    # Here first: what is imported on the way is there in every child then, and does not count as time to be killed in.
    featurize(manifest, memory_folder / "whole.zarr", fake_encoders(), SMALL)
    began = time.monotonic()
    assert children.wait(children.start(lambda: featurize(manifest, store, fake_encoders(), SMALL))) == 0
    seconds = time.monotonic() - began
    whole = tree(memory_folder / "whole.zarr")
    assert tree(store) == whole
    shutil.rmtree(store)
    assert FeatureStore(memory_folder / "whole.zarr").header.num_units > 5

    rng = random.Random(20)
    midway = 0
    for _ in range(trials):
        for _ in range(2):  # the run that resumes is killed too
            child = children.start(lambda: featurize(manifest, store, fake_encoders(), SMALL))
            time.sleep(rng.uniform(0, seconds))
            os.kill(child, signal.SIGKILL)
            children.wait(child)
            midway += store.exists() and not (store / "seal.json").exists()
        featurize(manifest, store, fake_encoders(), SMALL)
        assert tree(store) == whole
        shutil.rmtree(store)
    assert midway >= trials / 2


@pytest.mark.parametrize("stride", [19, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("disk_full", [False, True])
def test_dead_or_out_of_disk_at_any_file_operation_and_resumed_the_store_is_the_same_to_the_byte(
    memory_folder: Path,
    write_proteins: WriteProteins,
    fake_encoders: Encoders,
    tree: Tree,
    children: Any,
    stride: int,
    disk_full: bool,
) -> None:
    manifest = write_proteins(memory_folder, 6)
    store = memory_folder / "s.zarr"
    featurize(manifest, memory_folder / "whole.zarr", fake_encoders(), SMALL)
    assert FeatureStore(memory_folder / "whole.zarr").header.num_units == 2
    whole = tree(memory_folder / "whole.zarr")
    torn = 0
    for number in itertools.count(1, stride):
        ended = children.run_to_operation(
            number,
            lambda: featurize(manifest, store, fake_encoders(), SMALL),
            below=store,
            disk_full=disk_full,
        )
        if ended == 0:
            break
        assert ended == (children.DISK_FULL if disk_full else children.KILLED), number
        torn += cut_temporary_files(store) if store.exists() else 0
        featurize(manifest, store, fake_encoders(), SMALL)
        assert tree(store) == whole, number
        shutil.rmtree(store)
    assert number > 150
    assert torn > 20 / stride


def test_units_that_are_committed_are_not_computed_again(
    memory_folder: Path, write_proteins: WriteProteins, fake_encoders: Encoders, tree: Tree
) -> None:
    manifest = write_proteins(memory_folder)
    featurize(manifest, memory_folder / "s.zarr", fake_encoders(), SMALL)
    whole = tree(memory_folder / "s.zarr")
    reader = FeatureStore(memory_folder / "s.zarr")
    lost = {reader.ids[int(row)] for row in range(len(reader)) if reader.start(Modality.SEQ)[row] // 64 == 2}
    # As if the run had died in unit 2 while unit 3 was there: shards without an entry, and one left aside.
    (memory_folder / "s.zarr" / "seal.json").unlink()
    (memory_folder / "s.zarr" / ledger_file(2)).unlink()
    (memory_folder / "s.zarr" / "seq/features/c/2/0").write_bytes(b"half")
    (memory_folder / "s.zarr" / "str/features/c/2/0.tmp").write_bytes(b"half")
    encoders = fake_encoders()
    outcome = featurize(manifest, memory_folder / "s.zarr", encoders, SMALL)
    assert outcome.num_written == 1
    assert {id for batch in encoders[Modality.SEQ].batches for id in batch} == lost
    assert tree(memory_folder / "s.zarr") == whole


def test_a_committed_file_that_is_gone_stops_the_run_and_is_named(
    memory_folder: Path, write_proteins: WriteProteins, fake_encoders: Encoders, tree: Tree
) -> None:
    manifest = write_proteins(memory_folder)
    store = memory_folder / "s.zarr"
    featurize(manifest, store, fake_encoders(), SMALL)
    whole = tree(store)
    (store / "seal.json").unlink()
    (store / "seq/features/c/1/0").unlink()
    with pytest.raises(CorruptStoreError, match=r"seq/features/c/1/0 is missing.*unit 1.*Remove .*00000001\.json"):
        featurize(manifest, store, fake_encoders(), SMALL)
    (store / ledger_file(1)).unlink()
    featurize(manifest, store, fake_encoders(), SMALL)
    assert tree(store) == whole


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_asked_to_stop_a_run_finishes_its_unit_and_says_how_many_are_safe(
    memory_folder: Path,
    write_proteins: WriteProteins,
    fake_encoders: Encoders,
    tree: Tree,
    number: signal.Signals,
    code: int,
) -> None:
    manifest = write_proteins(memory_folder)
    featurize(manifest, memory_folder / "whole.zarr", fake_encoders(), SMALL)
    before = signal.getsignal(number)
    encoders = fake_encoders()
    encode = encoders[Modality.SEQ].encode

    def signalled(batch: Any) -> Any:
        if len(committed_units(memory_folder / "s.zarr")) == 1:
            os.kill(os.getpid(), number)
            encoders[Modality.SEQ].encode = encode
        return encode(batch)

    encoders[Modality.SEQ].encode = signalled
    with pytest.raises(InterruptedRunError, match=rf"{number.name}; resuming: 3/\d+ units safe") as caught:
        featurize(manifest, memory_folder / "s.zarr", encoders, SMALL)
    assert caught.value.exit_code == code
    assert signal.getsignal(number) is before
    # One was committed, one was being written, and one encoded: all three are kept.
    assert committed_units(memory_folder / "s.zarr") == [0, 1, 2]
    assert not (memory_folder / "s.zarr" / "lock").exists()
    featurize(manifest, memory_folder / "s.zarr", fake_encoders(), SMALL)
    assert tree(memory_folder / "s.zarr") == tree(memory_folder / "whole.zarr")


def test_a_second_signal_ends_the_run_at_once(
    memory_folder: Path, write_proteins: WriteProteins, fake_encoders: Encoders, children: Any
) -> None:
    manifest = write_proteins(memory_folder)
    encoders = fake_encoders()

    def signalled(batch: Any) -> Any:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("should have ended")

    encoders[Modality.SEQ].encode = signalled
    child = children.start(lambda: featurize(manifest, memory_folder / "s.zarr", encoders, SMALL))
    ended = children.wait(child)
    assert ended == -signal.SIGTERM


def test_runs_that_start_together_make_one_store(
    memory_folder: Path, write_proteins: WriteProteins, fake_encoders: Encoders, tree: Tree, children: Any
) -> None:
    manifest = write_proteins(memory_folder, 12)
    featurize(manifest, memory_folder / "whole.zarr", fake_encoders(), SMALL)
    whole = tree(memory_folder / "whole.zarr")
    for trial in range(4):
        store = memory_folder / f"{trial}.zarr"

        def run_until_sealed(store: Path = store) -> None:
            while True:
                try:
                    featurize(manifest, store, fake_encoders(), SMALL)
                    return
                except StoreError as error:
                    if error.code != "E_LOCKED":
                        raise
                    time.sleep(0.01)

        assert [children.wait(child) for child in [children.start(run_until_sealed) for _ in range(3)]] == [0, 0, 0]
        assert tree(store) == whole


def test_an_unfinished_store_is_refused_but_its_committed_units_can_be_read(
    memory_folder: Path, write_proteins: WriteProteins, fake_encoders: Encoders
) -> None:
    manifest = write_proteins(memory_folder)
    featurize(manifest, memory_folder / "whole.zarr", fake_encoders(), SMALL)
    encoders = fake_encoders()
    encode = encoders[Modality.SEQ].encode

    def killed(batch: Any) -> Any:
        if len(committed_units(memory_folder / "s.zarr")) == 2:  # and the third is being written
            raise KeyboardInterrupt
        return encode(batch)

    encoders[Modality.SEQ].encode = killed
    with pytest.raises(KeyboardInterrupt):
        featurize(manifest, memory_folder / "s.zarr", encoders, SMALL)
    with pytest.raises(StoreError, match="not sealed") as caught:
        FeatureStore(memory_folder / "s.zarr")
    assert caught.value.code == "E_UNSEALED"
    whole, partial = FeatureStore(memory_folder / "whole.zarr"), FeatureStore(memory_folder / "s.zarr", partial=True)
    assert list(partial.ids) == list(whole.ids)
    read = 0
    for modality in MODALITIES:
        for row in range(len(whole)):
            there = bool(whole.present(modality)[row]) and whole.start(modality)[row] < 3 * 64
            assert partial.present(modality)[row] == there
            if there:
                read += 1
                assert (partial.read(modality, row).features == whole.read(modality, row).features).all()
                if modality is not Modality.STR:
                    assert (partial.cls(modality, row) == whole.cls(modality, row)).all()
    assert read > 20
    assert partial.kinds().count("absent") == len(whole) - int((whole.start(Modality.SEQ) < 3 * 64).sum())
