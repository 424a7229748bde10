"""Many proteins a call: the same numbers and the same checks, whatever the arrays are stored in."""

import gc
import logging
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.storage import FsspecStore, MemoryStore

from amma.featurize.store.files import LocalFiles, ZarrFiles
from amma.featurize.store.opened import OpenShards
from amma.featurize.store.packed import RowBuffers
from amma.featurize.store.reader import FeatureStore
from amma.featurize.store.settings import StoreSettings
from amma.featurize.store.shard import index_size
from amma.featurize.store.verify import verify_store
from amma.featurize.store.writer import ProteinArrays, write_store
from amma.manifests.errors import CorruptStoreError, StoreError
from amma.manifests.table import MODALITIES, Modality

WIDTHS = {Modality.SEQ: 8, Modality.STR: 12, Modality.FUNC: 6}


@pytest.fixture
def store(memory_folder: Path, random_proteins: Callable[..., list[ProteinArrays]]) -> Path:
    path = memory_folder / "s.zarr"
    settings = StoreSettings(shard_rows=64, chunk_rows=8)
    write_store(path, random_proteins(40), widths=WIDTHS, settings=settings, fingerprint={}, random_weights=True)
    return path


def complete(store: FeatureStore) -> list[int]:
    return [row for row, kind in enumerate(store.kinds()) if kind == "triplet"]


def everything(store: FeatureStore) -> dict[tuple[str, str], bytes]:
    """All rows, one protein at a time, by modality and id."""
    values = {}
    for modality in MODALITIES:
        for row in np.flatnonzero(store.present(modality)).tolist():
            rows = store.read(modality, row)
            index = b"" if rows.index is None else rows.index.tobytes()
            values[modality, store.ids[row]] = rows.features.tobytes() + index
    return values


def num_open_files() -> int:
    """Of this process; 0 where the system does not tell."""
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.is_dir() else 0


def test_many_proteins_come_in_the_order_asked_for_one_after_the_other(store: Path) -> None:
    with FeatureStore(store) as opened:
        proteins = [*complete(opened)[::-1], complete(opened)[0]]  # one of them twice
        found = opened.read_many(proteins, [Modality.FUNC, Modality.SEQ, Modality.STR])
        assert found.ids == tuple(opened.ids[protein] for protein in proteins)
        assert list(found.rows) == [Modality.FUNC, Modality.SEQ, Modality.STR]
        for modality, packed in found.rows.items():
            for place, protein in enumerate(proteins):
                begin, end = packed.offsets[place : place + 2]
                alone = opened.read(modality, protein)
                np.testing.assert_array_equal(packed.features[begin:end], alone.features)
                if modality is Modality.SEQ:
                    assert packed.index is None
                else:
                    np.testing.assert_array_equal(packed.index[begin:end], alone.index)
        assert len(opened.read_many([], MODALITIES).rows[Modality.SEQ].features) == 0


def test_several_threads_for_one_call_change_nothing(store: Path) -> None:
    with FeatureStore(store) as one, FeatureStore(store, threads=3) as several:
        for count in (0, 1, 2, 7, 20):
            proteins = complete(one)[:count]
            alone, together = one.read_many(proteins, MODALITIES), several.read_many(proteins, MODALITIES)
            for modality in MODALITIES:
                assert alone.rows[modality].features.tobytes() == together.rows[modality].features.tobytes()
        hit = complete(one)[5]
        spec = one.layout.features(Modality.SEQ)
        unit, row = divmod(int(one.start(Modality.SEQ)[hit]), 64)
        data = bytearray((store / spec.chunk_file(unit)).read_bytes())
        data[row * spec.row_bytes] ^= 1
        (store / spec.chunk_file(unit)).write_bytes(data)
        with pytest.raises(CorruptStoreError, match=rf"protein '{one.ids[hit]}': crc32c is"):
            several.read_many(complete(one), MODALITIES)


def test_buffers_are_used_again_and_grow_only_when_they_must(store: Path) -> None:
    with FeatureStore(store) as opened:
        proteins = complete(opened)
        buffers = RowBuffers()
        big = opened.read_many(proteins, MODALITIES, buffers)
        addresses = {modality: packed.features.ctypes.data for modality, packed in big.rows.items()}
        for protein in proteins:
            small = opened.read_many([protein], MODALITIES, buffers)
            for modality, packed in small.rows.items():
                assert packed.features.ctypes.data == addresses[modality]
                np.testing.assert_array_equal(packed.features, opened.read(modality, protein).features)


def test_a_modality_that_is_absent_is_an_error_that_names_the_protein(store: Path) -> None:
    with FeatureStore(store) as opened:
        without = int(np.flatnonzero(~opened.present(Modality.STR))[0])
        with pytest.raises(StoreError, match=rf"protein '{opened.ids[without]}' has no str features"):
            opened.read_many([*complete(opened), without], MODALITIES)


def test_of_many_proteins_the_damaged_one_is_named(store: Path) -> None:
    with FeatureStore(store) as opened:
        proteins = complete(opened)
        hit = proteins[len(proteins) // 2]
        spec = opened.layout.features(Modality.STR)
        unit, row = divmod(int(opened.start(Modality.STR)[hit]), 64)
        path = store / spec.chunk_file(unit)
        data = bytearray(path.read_bytes())
        data[row * spec.row_bytes + 3] ^= 4
        path.write_bytes(data)
        with pytest.raises(CorruptStoreError, match=rf"str/.*protein '{opened.ids[hit]}': crc32c is"):
            opened.read_many(proteins, MODALITIES)
        path.unlink()
    with FeatureStore(store) as opened, pytest.raises(CorruptStoreError, match=rf"{unit}/0: .*Hit: protein '"):
        opened.read_many(proteins, MODALITIES)


def test_files_stay_few_with_many_threads_and_all_are_closed(store: Path) -> None:
    expected = everything(FeatureStore(store))
    with FeatureStore(store) as opened:
        opened._shards = OpenShards(store, opened.layout, max_open=3)
        proteins = complete(opened) * 4
        most = 0

        def read(begin: int) -> bool:
            nonlocal most
            chosen = proteins[begin : begin + 5]
            opened.will_need(chosen, MODALITIES)
            found = opened.read_many(chosen, MODALITIES)
            most = max(most, num_open_files())
            return all(
                found.rows[Modality.SEQ].features[begin:end].tobytes() == expected["seq", opened.ids[protein]]
                for protein, begin, end in zip(
                    chosen, found.rows[Modality.SEQ].offsets[:-1], found.rows[Modality.SEQ].offsets[1:], strict=True
                )
            )

        before = num_open_files()
        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(read, range(0, len(proteins), 5)))
        assert most <= before + 3 + 4 * 32 + 8
        opened.close()
        assert num_open_files() <= before


def test_reading_ahead_is_told_to_the_kernel_only_for_what_is_not_in_memory(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, int]] = []
    with FeatureStore(store) as opened:
        proteins = complete(opened)

        def advise(descriptor: int, offset: int, size: int, advice: int) -> None:
            if advice == os.POSIX_FADV_WILLNEED:
                told.append((offset, size))

        monkeypatch.setattr(os, "posix_fadvise", advise)
        monkeypatch.setattr("amma.featurize.store.opened._is_cached", lambda descriptor, offset: True)
        opened.will_need(proteins, MODALITIES)
        assert told == []
        monkeypatch.setattr("amma.featurize.store.opened._is_cached", lambda descriptor, offset: False)
        begin, rows = int(opened.start(Modality.SEQ)[proteins[0]]), int(opened.length(Modality.SEQ)[proteins[0]])
        index = index_size(opened.layout.chunks_per_shard)
        size = (store / opened.layout.features(Modality.SEQ).chunk_file(begin // 64)).stat().st_size
        opened.will_need(proteins[:1], [Modality.SEQ])
        assert told == [(size - index, index), (begin % 64 * 16, rows * 16)], "the index is not waited for"
        opened.read(Modality.SEQ, proteins[0])
        told.clear()
        opened.will_need(proteins[:1], [Modality.SEQ])
        assert told == [(begin % 64 * 16, rows * 16)], "the index was read and checked"


def test_everything_works_where_the_system_cannot_read_ahead(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "posix_fadvise")
    monkeypatch.delattr(os, "RWF_NOWAIT", raising=False)
    with FeatureStore(store) as opened:
        opened.will_need(complete(opened), MODALITIES)
        opened.read_many(complete(opened), MODALITIES)


def rewrite(path: Path, name: str, **how: Any) -> None:
    """Write one array anew, as another program would: the same rows, in another arrangement."""
    group = zarr.open_group(path, mode="r+", use_consolidated=False)
    old = group[name]
    values, attributes = old[:], {"dtype": old.dtype, "fill_value": old.fill_value}
    shutil.rmtree(path / name)
    group.create_array(name, shape=values.shape, **attributes, **how)[:] = values


@pytest.mark.parametrize(
    "how",
    [
        {"chunks": (16, 8), "shards": (64, 8), "compressors": zarr.codecs.ZstdCodec()},
        {"chunks": (32, 4), "compressors": None},
        {"chunks": (100, 8)},
    ],
    ids=["compressed", "no shards", "other chunks"],
)
def test_rows_that_another_program_wrote_anew_are_read_with_the_same_numbers_and_checks(
    store: Path, how: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    expected = everything(FeatureStore(store))
    rewrite(store, "seq/features", **how)
    with caplog.at_level(logging.WARNING), FeatureStore(store) as opened:
        assert everything(opened) == expected
        assert opened.read_many(complete(opened), MODALITIES).ids
    assert "seq/features/zarr.json is not what the seal says; rows are read through zarr" in caplog.text
    assert "seq/features/zarr.json" in {finding.file for finding in verify_store(store).findings}
    array = zarr.open_group(store, mode="r+", use_consolidated=False)["seq/features"]
    opened = FeatureStore(store)
    protein = complete(opened)[0]
    row = int(opened.start(Modality.SEQ)[protein])
    array[row, 0] = array[row, 0] + 1
    with pytest.raises(CorruptStoreError, match=rf"protein '{opened.ids[protein]}': crc32c is"):
        FeatureStore(store).read(Modality.SEQ, protein)


def test_rewritten_rows_of_another_shape_or_type_are_refused(store: Path) -> None:
    group = zarr.open_group(store, mode="r+", use_consolidated=False)
    shape = group["seq/features"].shape
    shutil.rmtree(store / "seq/features")
    group.create_array("seq/features", shape=shape, chunks=(64, 8), dtype="float32")
    with pytest.raises(CorruptStoreError, match=r"seq/features: is .* of float32, planned was .* of float16"):
        FeatureStore(store)


def test_changed_metadata_of_anything_but_rows_are_refused(store: Path) -> None:
    path = store / "seq/start/zarr.json"
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(CorruptStoreError, match=r"seq/start/zarr.json: not what the seal says"):
        FeatureStore(store)


def remote(kind: str, store: Path) -> Any:
    """A copy of the store in a store object of zarr's, under the same names."""
    data = {file.relative_to(store).as_posix(): file.read_bytes() for file in store.rglob("*") if file.is_file()}
    if kind == "memory":
        buffer = zarr.core.buffer.default_buffer_prototype().buffer
        return MemoryStore({name: buffer.from_bytes(value) for name, value in data.items()})
    fsspec = pytest.importorskip("fsspec")
    folder = f"memory://reader{id(store)}"
    filesystem = fsspec.filesystem("memory")
    for name, value in data.items():
        filesystem.pipe_file(f"{folder}/{name}", value)
    return FsspecStore.from_url(folder, read_only=True)


@pytest.mark.parametrize("kind", ["memory", "fsspec"])
def test_a_store_that_is_not_in_a_folder_gives_the_same(store: Path, kind: str) -> None:
    local = FeatureStore(store)
    expected = everything(local)
    with FeatureStore(remote(kind, store)) as opened:
        assert everything(opened) == expected
        assert list(opened.ids) == list(local.ids)
        assert list(opened.sequences()) == list(local.sequences())
        assert opened.root_hash == local.root_hash
        assert [opened.row_of(id) for id in opened.ids] == list(range(40))
        np.testing.assert_array_equal(opened.cls(Modality.SEQ, 3), local.cls(Modality.SEQ, 3))
        opened.will_need([0, 1], [Modality.SEQ])


def test_a_remote_store_is_held_to_the_same_checks(store: Path) -> None:
    path = store / "func/features/c/0/0"
    data = bytearray(path.read_bytes())
    data[1] ^= 1
    path.write_bytes(data)
    with FeatureStore(remote("memory", store)) as opened:
        hit = [row for row in range(40) if opened.present(Modality.FUNC)[row] and opened.start(Modality.FUNC)[row] == 0]
        with pytest.raises(CorruptStoreError, match=r"func/features/c/0/0.*crc32c is"):
            opened.read(Modality.FUNC, hit[0])
    (store / "seal.json").write_bytes(b"{}\n")
    with pytest.raises(CorruptStoreError, match=r"seal\.json"):
        FeatureStore(remote("memory", store))
    (store / "seal.json").unlink()
    for partial in (False, True):
        with pytest.raises(StoreError, match="not sealed"):
            FeatureStore(remote("memory", store), partial=partial)


def test_ranges_of_files_are_the_same_from_a_folder_and_from_blocks(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("amma.featurize.store.files._BLOCK", 100)
    local, other = LocalFiles(store), ZarrFiles(remote("memory", store))
    size = (store / "index.bin").stat().st_size
    for offset, length in [
        (0, 64),
        (64, 64),
        (90, 250),
        (0, size),
        (size - 10, 10),
        (size - 10, 50),
        (99, 1),
        (100, 1),
    ]:
        assert local.read_range("index.bin", offset, length) == other.read_range("index.bin", offset, length)
    for files in (local, other):
        assert files.exists("plan.json")
        assert not files.exists("nothing")
        with pytest.raises(CorruptStoreError, match="nothing"):
            files.read("nothing")
        files.close()
        assert files.read_range("index.bin", 0, 8)


def test_a_store_that_is_let_go_without_a_word_keeps_no_file_open(store: Path) -> None:
    before = num_open_files()
    for _ in range(20):
        everything(FeatureStore(store))
    gc.collect()
    assert num_open_files() < before + 10
