"""A run that was killed, stopped or crowded goes on, and ends in the bytes of a run that was left alone."""

import itertools
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from amma.featurize.run import featurize
from amma.featurize.store.layout import ledger_file
from amma.featurize.store.ledger import committed_units
from amma.featurize.store.lock import StoreLock
from amma.featurize.store.reader import FeatureStore
from amma.featurize.store.settings import StoreSettings
from amma.featurize.store.stopping import InterruptedRunError
from amma.manifests.errors import CorruptStoreError, StoreError
from amma.manifests.table import MODALITIES, Manifest, Modality

SMALL = StoreSettings(shard_rows=64, chunk_rows=8, token_budget=60, threads=1)
WriteProteins = Callable[..., Manifest]
Encoders = Callable[[], Any]
Tree = Callable[[Path], dict[str, str]]


def in_child(action: Callable[[], object]) -> int:
    """Run `action` in a fork of this process; gives its id. Exits 0, or 1 after an exception."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        action()
        code = 0
    finally:
        os._exit(code)


def wait_for(child: int) -> int:
    """The exit code of a child; minus the number of the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def cut_temporary_files(store: Path) -> int:
    """What a crash may leave of a file that was being written is any part of it."""
    aside = list(store.rglob("*.tmp"))
    for path in aside:
        os.truncate(path, path.stat().st_size // 2)
    return len(aside)


def test_killed_at_random_moments_and_resumed_the_store_is_the_same_to_the_byte(
    memory_folder: Path, write_proteins: WriteProteins, fake_encoders: Encoders, tree: Tree
) -> None:
    manifest = write_proteins(memory_folder, 32)
    store = memory_folder / "s.zarr"
    seconds = []
    for name in ("first.zarr", "whole.zarr"):
        began = time.monotonic()
        assert (
            wait_for(in_child(lambda name=name: featurize(manifest, memory_folder / name, fake_encoders(), SMALL))) == 0
        )
        seconds.append(time.monotonic() - began)
    whole = tree(memory_folder / "whole.zarr")
    assert tree(memory_folder / "first.zarr") == whole
    assert FeatureStore(memory_folder / "whole.zarr").header.num_units > 5

    rng = random.Random(20)
    midway = 0
    for trial in range(10):  # 20 kills
        store = memory_folder / f"{trial}.zarr"
        for _ in range(2):  # the run that resumes is killed too
            child = in_child(lambda store=store: featurize(manifest, store, fake_encoders(), SMALL))
            time.sleep(rng.uniform(0, max(seconds)))
            os.kill(child, signal.SIGKILL)
            wait_for(child)
            midway += store.exists() and not (store / "seal.json").exists()
        featurize(manifest, store, fake_encoders(), SMALL)
        assert tree(store) == whole
    assert midway >= 5


@pytest.mark.parametrize("stride", [13, pytest.param(1, marks=pytest.mark.slow)])
def test_dead_at_any_file_operation_and_resumed_the_store_is_the_same_to_the_byte(
    memory_folder: Path, write_proteins: WriteProteins, fake_encoders: Encoders, tree: Tree, stride: int
) -> None:
    manifest = write_proteins(memory_folder, 6)
    featurize(manifest, memory_folder / "whole.zarr", fake_encoders(), SMALL)
    assert FeatureStore(memory_folder / "whole.zarr").header.num_units == 2
    whole = tree(memory_folder / "whole.zarr")

    def run_and_die(store: Path, last: int) -> None:
        done = 0

        def count() -> None:
            nonlocal done
            done += 1
            if done == last:
                os.kill(os.getpid(), signal.SIGKILL)

        def audit(event: str, args: tuple[Any, ...]) -> None:
            writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
            if (writes or event in ("os.rename", "os.mkdir", "os.remove", "os.rmdir")) and str(store) in str(args[0]):
                count()

        fsync = os.fsync

        def counted_fsync(descriptor: int) -> None:
            count()
            fsync(descriptor)

        os.fsync = counted_fsync
        sys.addaudithook(audit)
        featurize(manifest, store, fake_encoders(), SMALL)

    torn = 0
    for last in itertools.count(1, stride):
        store = memory_folder / f"{last}.zarr"
        ended = wait_for(in_child(lambda store=store, last=last: run_and_die(store, last)))
        if ended == 0:
            break
        assert ended == -signal.SIGKILL
        torn += cut_temporary_files(store) if store.exists() else 0
        featurize(manifest, store, fake_encoders(), SMALL)
        assert tree(store) == whole
    assert last > 150
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
    with pytest.raises(InterruptedRunError, match=rf"{number.name}; resuming: 2/\d+ units safe") as caught:
        featurize(manifest, memory_folder / "s.zarr", encoders, SMALL)
    assert caught.value.exit_code == code
    assert signal.getsignal(number) is before
    assert committed_units(memory_folder / "s.zarr") == [0, 1]
    assert not (memory_folder / "s.zarr" / "lock").exists()
    featurize(manifest, memory_folder / "s.zarr", fake_encoders(), SMALL)
    assert tree(memory_folder / "s.zarr") == tree(memory_folder / "whole.zarr")


def test_a_second_signal_ends_the_run_at_once(
    memory_folder: Path, write_proteins: WriteProteins, fake_encoders: Encoders
) -> None:
    manifest = write_proteins(memory_folder)
    encoders = fake_encoders()

    def signalled(batch: Any) -> Any:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("should have ended")

    encoders[Modality.SEQ].encode = signalled
    ended = wait_for(in_child(lambda: featurize(manifest, memory_folder / "s.zarr", encoders, SMALL)))
    assert ended == -signal.SIGTERM


def test_a_store_has_one_writer_and_the_error_names_it(
    memory_folder: Path, write_proteins: WriteProteins, fake_encoders: Encoders
) -> None:
    manifest = write_proteins(memory_folder, 6)
    store = memory_folder / "s.zarr"
    store.mkdir()
    ready, tell = os.pipe()

    def hold() -> None:
        with StoreLock(store):
            os.write(tell, b"x")
            time.sleep(60)

    owner = in_child(hold)
    os.read(ready, 1)
    with pytest.raises(StoreError, match=f"in use by process {owner} on {os.uname().nodename}") as caught:
        featurize(manifest, store, fake_encoders(), SMALL)
    assert caught.value.code == "E_LOCKED"
    os.kill(owner, signal.SIGKILL)
    wait_for(owner)
    assert (store / "lock").exists()
    featurize(manifest, store, fake_encoders(), SMALL)  # a dead owner holds nothing
    assert not (store / "lock").exists()


def test_runs_that_start_together_make_one_store(
    memory_folder: Path, write_proteins: WriteProteins, fake_encoders: Encoders, tree: Tree
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

        assert [wait_for(child) for child in [in_child(run_until_sealed) for _ in range(3)]] == [0, 0, 0]
        assert tree(store) == whole


def test_an_unfinished_store_is_refused_but_its_committed_units_can_be_read(
    memory_folder: Path, write_proteins: WriteProteins, fake_encoders: Encoders
) -> None:
    manifest = write_proteins(memory_folder)
    featurize(manifest, memory_folder / "whole.zarr", fake_encoders(), SMALL)
    encoders = fake_encoders()
    encode = encoders[Modality.SEQ].encode

    def killed(batch: Any) -> Any:
        if len(committed_units(memory_folder / "s.zarr")) == 3:
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
