"""A store is not begun where the disk lies, and not opened where there is none."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from amma.featurize.store import shard
from amma.featurize.store.reader import FeatureStore
from amma.featurize.store.settings import StoreSettings
from amma.featurize.store.verify import verify_store
from amma.featurize.store.writer import ProteinArrays, write_store
from amma.manifests.errors import CorruptStoreError, StoreError
from amma.manifests.table import Modality

WIDTHS = {Modality.SEQ: 8, Modality.STR: 12, Modality.FUNC: 6}
SMALL = StoreSettings(shard_rows=64, chunk_rows=8)


def test_something_else_is_not_a_store(memory_folder: Path) -> None:
    for use in (FeatureStore, verify_store):
        with pytest.raises(StoreError, match="not a feature store"):
            use(memory_folder)
        with pytest.raises(StoreError, match="not a feature store"):
            use(memory_folder / "nowhere")


@pytest.mark.parametrize("place", [0, 1001, -1, -70, None])
def test_a_disk_that_gives_back_other_bytes_stops_the_run_and_nothing_is_in_place(
    memory_folder: Path,
    random_proteins: Callable[..., list[ProteinArrays]],
    monkeypatch: pytest.MonkeyPatch,
    place: int | None,
) -> None:
    fsync = os.fsync

    def lying(descriptor: int) -> None:
        fsync(descriptor)
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.name == "0.tmp" and "str/features" in str(path):
            data = bytearray(path.read_bytes())
            if place is None:
                data += b"x"
            else:
                data[place] ^= 1
            path.write_bytes(data)

    monkeypatch.setattr(os, "fsync", lying)
    path = memory_folder / "s.zarr"
    with pytest.raises(CorruptStoreError, match=r"str/features/c/0/0\.tmp: reads back other than it was written"):
        write_store(path, random_proteins(9), widths=WIDTHS, settings=SMALL, fingerprint={}, random_weights=True)
    assert not (path / "str/features/c/0/0").exists()
    assert not list((path / "ledger").iterdir())


@pytest.mark.parametrize("swapped", [(0, 1), (0, -1), (1, -1)])
def test_rows_that_zarr_would_find_elsewhere_stop_the_run_and_nothing_is_in_place(
    memory_folder: Path,
    random_proteins: Callable[..., list[ProteinArrays]],
    monkeypatch: pytest.MonkeyPatch,
    swapped: tuple[int, int],
) -> None:
    index_bytes = shard.index_bytes

    def misleading(used: int, chunk_bytes: int, chunks: int) -> bytes:
        index = index_bytes(used, chunk_bytes, chunks)
        if chunk_bytes != SMALL.chunk_rows * WIDTHS[Modality.STR] * 2:
            return index
        entries = np.frombuffer(index[:-4], dtype="<u8").reshape(chunks, 2).copy()
        one, other = (place % used for place in swapped)
        entries[[one, other]] = entries[[other, one]]
        return entries.tobytes() + shard.crc32c(entries.tobytes()).to_bytes(4, "little")

    monkeypatch.setattr(shard, "index_bytes", misleading)
    path = memory_folder / "s.zarr"
    with pytest.raises(CorruptStoreError, match=r"str/features/c/0/0\.tmp: reads back other than it was written"):
        write_store(path, random_proteins(9), widths=WIDTHS, settings=SMALL, fingerprint={}, random_weights=True)
    for folder in ("str/features/c/0", "seq/features/c/0", "units", "ledger"):
        assert not [entry for entry in (path / folder).iterdir() if entry.suffix != ".tmp"], folder
