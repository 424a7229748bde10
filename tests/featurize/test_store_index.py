"""What a store knows of its proteins: looked up one by one, checked each time, and never held in memory."""

import json
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from amma.featurize.store.files import LocalFiles
from amma.featurize.store.index import RECORD, IndexReader, IndexWriter
from amma.featurize.store.plan import Survey, make_plan
from amma.featurize.store.reader import FeatureStore
from amma.featurize.store.settings import StoreSettings
from amma.featurize.store.writer import ProteinArrays, write_store
from amma.manifests.errors import CorruptStoreError
from amma.manifests.table import MODALITIES, Modality

WIDTHS = {Modality.SEQ: 8, Modality.STR: 12, Modality.FUNC: 6}
PLAN = "ab" * 32
IDS = ["a", "ü" * 20, "x" * 40, "y" * 41, "é" * 300, "P6", "", "last"]


def write_index(folder: Path, plan: str = PLAN) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    start = rng.integers(0, 1 << 60, (len(IDS), 3))
    length = rng.integers(0, 1 << 20, (len(IDS), 3))
    crc32c = rng.integers(0, 1 << 32, (len(IDS), 3), dtype=np.uint32)
    writer = IndexWriter(folder, len(IDS), plan)
    for begin, end in ((0, 3), (3, 4), (4, 8)):
        writer.append(IDS[begin:end], start[begin:end], length[begin:end], crc32c[begin:end])
    writer.close()
    return start, length, crc32c


def test_entries_come_back_with_ids_of_any_length(tmp_path: Path) -> None:
    start, length, crc32c = write_index(tmp_path)
    reader = IndexReader(LocalFiles(tmp_path), len(IDS), PLAN)
    for order in (range(8), [7, 0, 4, 4, 3], []):
        entries = reader.entries(list(order))
        assert entries.ids == tuple(IDS[row] for row in order)
        assert np.array_equal(entries.start_BM, start[list(order)])
        assert np.array_equal(entries.length_BM, length[list(order)])
        assert np.array_equal(entries.crc32c_BM, crc32c[list(order)])
    for beyond in (-1, 8):
        with pytest.raises(IndexError):
            reader.entries([beyond])


def test_any_flipped_bit_of_a_record_is_noticed_when_it_is_used_and_only_then(tmp_path: Path) -> None:
    write_index(tmp_path)
    path = tmp_path / "index.bin"
    intact = path.read_bytes()
    rng = np.random.default_rng(1)
    for position in {*rng.integers(0, len(intact), 150).tolist(), *range(len(intact) - 8, len(intact))}:
        data = bytearray(intact)
        data[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
        hit = position // RECORD.itemsize
        owner = hit if hit < len(IDS) else (3 if position < len(IDS) * RECORD.itemsize + 41 else 4)
        reader = IndexReader(LocalFiles(tmp_path), len(IDS), PLAN)
        with pytest.raises(CorruptStoreError, match=rf"index\.bin: the record of protein number {owner} is damaged"):
            reader.entries([owner])
        assert reader.entries([row for row in range(8) if row != owner]).ids


def test_records_that_changed_places_or_are_of_another_plan_are_refused(tmp_path: Path) -> None:
    write_index(tmp_path)
    data = (tmp_path / "index.bin").read_bytes()
    first, second, rest = data[:96], data[96:192], data[192:]
    (tmp_path / "index.bin").write_bytes(second + first + rest)
    with pytest.raises(CorruptStoreError, match="number 0"):
        IndexReader(LocalFiles(tmp_path), len(IDS), PLAN).entries([0])
    (tmp_path / "index.bin").write_bytes(data)
    with pytest.raises(CorruptStoreError, match="number 5"):
        IndexReader(LocalFiles(tmp_path), len(IDS), "cd" * 32).entries([5])
    (tmp_path / "index.bin").write_bytes(data[:100])
    with pytest.raises(CorruptStoreError, match="number 1"):
        IndexReader(LocalFiles(tmp_path), len(IDS), PLAN).entries([1])


def test_opening_reads_nothing_that_grows_with_the_proteins(
    memory_folder: Path, random_proteins: Callable[..., list[ProteinArrays]], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {}
    for count in (10, 300):
        path = memory_folder / f"{count}.zarr"
        settings = StoreSettings(shard_rows=64, chunk_rows=8)
        write_store(path, random_proteins(count), widths=WIDTHS, settings=settings, fingerprint={}, random_weights=True)
        read: list[int] = []
        original = LocalFiles.read

        def counted(self: LocalFiles, name: str, read: list[int] = read, original: Callable = original) -> bytes:
            data: bytes = original(self, name)
            read.append(len(data))
            return data

        with monkeypatch.context() as patch:
            patch.setattr(LocalFiles, "read", counted)
            FeatureStore(path)
        sizes[count] = (len(read), sum(read))
    assert sizes[300][0] == sizes[10][0]
    assert sizes[300][1] < 1.02 * sizes[10][1]  # the same numbers, with more digits


def test_planning_takes_few_bytes_a_protein(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("amma.featurize.store.plan._WINDOW", 1 << 12)

    def peak(proteins: int) -> int:
        rng = np.random.default_rng(0)
        lengths = {modality: rng.integers(1, 400, proteins, dtype=np.int32) for modality in MODALITIES}
        tracemalloc.start()
        make_plan(Survey(lengths, "0" * 64), StoreSettings(), str)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    small, large = 300_000, 900_000
    assert (peak(large) - peak(small)) / (large - small) < 64 - 12 - 8  # beside the survey and half of the ids


def test_units_are_packed_the_same_whatever_window_their_rows_are_summed_in(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    lengths = {modality: rng.integers(0, 60, 5000, dtype=np.int32) for modality in MODALITIES}
    lengths[Modality.SEQ] += 1
    plans = []
    for window in (1, 7, 100, 1 << 18):
        monkeypatch.setattr("amma.featurize.store.plan._WINDOW", window)
        plans.append(make_plan(Survey(lengths, "0" * 64), StoreSettings(shard_rows=256), str))
    for plan in plans:
        assert plan.sha256 == plans[-1].sha256
        for modality in MODALITIES:
            assert np.array_equal(plan.offset[modality], plans[-1].offset[modality])


@pytest.mark.slow
def test_an_index_of_many_proteins_stays_out_of_memory(tmp_path: Path) -> None:
    program = Path(__file__).parents[2] / "benchmarks" / "index.py"
    done = subprocess.run(
        [sys.executable, program, "--proteins", "1200000", "--folder", tmp_path, "--json"],
        check=True,
        stdout=subprocess.PIPE,
    )
    found = json.loads(done.stdout)
    assert found["train"]["bytes"] <= 64
    assert found["featurize"]["bytes"] <= 64
    assert list(tmp_path.iterdir()) == []
