"""One shard file: a flat matrix of the inner chunks in use, then Zarr's index of them.

The bytes are those that zarr-python writes for codecs `sharding_indexed(bytes)` with the index at the end: inner
chunk i lies at i·chunk bytes, unused ones are missing (offset and size 2⁶⁴-1), and a crc32c closes the index. Being
flat is what lets our reader take rows with `preadv` (`opened.py`) while any Zarr library still opens the store.

Legend: R rows in use, padded to whole inner chunks.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from awscrt.checksums import crc32c
from blake3 import blake3

from amma.featurize.store.layout import ArraySpec, Layout
from amma.manifests.errors import CorruptStoreError
from amma.manifests.files import aside_of, fsync_directory

_ENTRY_BYTES = 16
_CRC_BYTES = 4
_MISSING = np.iinfo(np.uint64).max
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class FileRecord:
    """What the ledger or the seal says of a file."""

    size: int
    blake3: str

    @classmethod
    def of(cls, data: bytes) -> "FileRecord":
        """The record of a file with these bytes."""
        return cls(len(data), blake3(data).hexdigest())

    @classmethod
    def read(cls, handle: BinaryIO) -> "FileRecord":
        """The record of what an open file has from where it stands; held in memory a block at a time."""
        size, digest, block = 0, blake3(), memoryview(bytearray(_BLOCK_BYTES))
        while got := handle.readinto(block):  # type: ignore[attr-defined]
            digest.update(block[:got])
            size += got
        return cls(size, digest.hexdigest())

    def as_json(self) -> dict[str, Any]:
        """As it stands in a JSON file."""
        return {"size": self.size, "blake3": self.blake3}


def index_size(chunks: int) -> int:
    """Bytes of the index of a shard of `chunks` inner chunks."""
    return chunks * _ENTRY_BYTES + _CRC_BYTES


def index_bytes(used: int, chunk_bytes: int, chunks: int) -> bytes:
    """The index of a flat shard whose first `used` of `chunks` inner chunks are there."""
    entries = np.full((chunks, 2), _MISSING, dtype="<u8")
    entries[:used, 0] = np.arange(used, dtype=np.uint64) * np.uint64(chunk_bytes)
    entries[:used, 1] = chunk_bytes
    data: bytes = entries.tobytes()
    crc: bytes = crc32c(data).to_bytes(_CRC_BYTES, "little")
    return data + crc


def used_chunks_of(size: int, index: bytes, chunk_bytes: int, chunks: int) -> int:
    """How many inner chunks a shard file of `size` bytes with this index holds.

    Raises `ValueError` unless the index is exactly that of a flat shard of this size.
    """
    used, rest = divmod(size - index_size(chunks), chunk_bytes)
    if rest or not 0 < used <= chunks:
        raise ValueError(f"its size of {size} bytes is not that of whole inner chunks and an index")
    if index != index_bytes(used, chunk_bytes, chunks):
        raise ValueError("its index is damaged or not that of a flat shard")
    return used


def is_sound_index(index: bytes) -> bool:
    """Whether the checksum that closes a shard's index is right, however its chunks lie."""
    crc: int = crc32c(index[:-_CRC_BYTES])
    return crc == int.from_bytes(index[-_CRC_BYTES:], "little")


class StockReader:
    """Decode shard bytes with zarr itself, as any other program will."""

    def __init__(self, documents: Mapping[str, bytes]) -> None:
        import zarr
        from zarr.core.buffer import default_buffer_prototype
        from zarr.storage import MemoryStore

        self._buffer = default_buffer_prototype().buffer
        self._files: dict[str, Any] = {key: self._buffer.from_bytes(data) for key, data in documents.items()}
        self._group = zarr.open_group(MemoryStore(self._files), mode="r", use_consolidated=False)
        self._arrays: dict[str, Any] = {}
        self.found: set[tuple[str, int]] = set()
        """Paths and numbers of rows of the shards that were decoded and found right."""

    def finds(self, layout: Layout, spec: ArraySpec, unit: int, path: Path, rows_R: np.ndarray) -> bool:
        """Whether zarr finds these rows, and fill after them, if the file at `path` is the shard of `unit` in `spec`.

        It decodes the first inner chunk, one in the middle, the last, and the first of those that are not there.
        """
        key = spec.chunk_file(unit)
        if spec.path not in self._arrays:
            self._arrays[spec.path] = self._group[spec.path]
        begin, size = unit * layout.shard_rows, layout.chunk_rows
        fill = np.full((size, *spec.row_shape), spec.fill, dtype=spec.dtype)
        file: Any = np.memmap(path, np.uint8, "r")
        self._files[key] = self._buffer.from_array_like(file)
        try:
            for row in {0, len(rows_R) // size // 2 * size, len(rows_R) - size, len(rows_R)} - {layout.shard_rows}:
                expected = rows_R[row : row + size] if row < len(rows_R) else fill
                found = np.asarray(self._arrays[spec.path][begin + row : begin + row + size])
                if not np.array_equal(as_bytes(found), as_bytes(expected)):
                    return False
            return True
        finally:
            del self._files[key]


def shard_record(layout: Layout, spec: ArraySpec, rows_R: np.ndarray) -> FileRecord:
    """What the ledger will say of the shard with these rows, told from memory alone."""
    index = _index_of(layout, spec, rows_R)
    digest = blake3(as_bytes(rows_R).data)
    digest.update(index)
    return FileRecord(rows_R.nbytes + len(index), digest.hexdigest())


class Aside:
    """A shard that is written beside its place, and not proven yet; it is there only once it is `place`d."""

    def __init__(self, store: Path, layout: Layout, spec: ArraySpec, unit: int, rows_R: np.ndarray) -> None:
        self._layout, self._spec, self._unit, self._rows_R = layout, spec, unit, rows_R
        self._index = _index_of(layout, spec, rows_R)
        self.path = store / spec.chunk_file(unit)
        self._aside = aside_of(self.path)
        make_folder(store / spec.path / "c")  # at once: all writers of a store count on it
        self._changed = make_folders(self.path.parent)
        self._handle = self._aside.open("wb", buffering=0)
        try:
            for data in (as_bytes(rows_R), np.frombuffer(self._index, dtype=np.uint8)):
                written = 0
                while written < len(data):
                    written += self._handle.write(data[written:].data)
        except BaseException:
            self._handle.close()
            raise

    def prove(self, stock: StockReader) -> None:
        """Make it durable, read it back and compare; raises `CorruptStoreError` if it is not what was meant.

        That zarr finds the rows where they are depends on their number alone, so zarr is asked for the first shard of
        each number (of inner chunks).
        """
        with self._handle:
            os.fsync(self._handle.fileno())
        rows_R = self._rows_R
        intact = _reads_back(self._aside, as_bytes(rows_R), self._index)
        shape = (self._spec.path, len(rows_R))
        if intact and shape not in stock.found:
            intact = stock.finds(self._layout, self._spec, self._unit, self._aside, rows_R)
            stock.found.add(shape)
        if not intact:
            raise CorruptStoreError(
                f"{self._aside}: reads back other than it was written (unit {self._unit}). Check the disk and its "
                "memory; nothing of this unit was stored, the same command goes on."
            )

    def place(self) -> list[Path]:
        """Rename it to where it belongs; gives the folders whose fsync makes that durable."""
        self._aside.replace(self.path)
        return [*self._changed, self.path.parent]


def write_shard(
    store: Path, layout: Layout, spec: ArraySpec, unit: int, rows_R: np.ndarray, stock: StockReader
) -> None:
    """Write the shard of `unit` in array `spec`: aside, fsync, read back and compared, renamed into place.

    Raises `CorruptStoreError` if what is read back is not what was meant; nothing is in place then.
    """
    aside = Aside(store, layout, spec, unit, rows_R)
    aside.prove(stock)
    for folder in aside.place():
        fsync_directory(folder)


def _index_of(layout: Layout, spec: ArraySpec, rows_R: np.ndarray) -> bytes:
    if len(rows_R) % layout.chunk_rows or not 0 < len(rows_R) <= layout.shard_rows:
        raise ValueError(f"{len(rows_R)} rows are not whole inner chunks of {layout.chunk_rows}")
    chunk_bytes = layout.chunk_rows * spec.row_bytes
    return index_bytes(len(rows_R) // layout.chunk_rows, chunk_bytes, layout.chunks_per_shard)


def _reads_back(path: Path, rows: np.ndarray, index: bytes) -> bool:
    """Whether the file is these bytes and then the index; a block at a time, which stays in the processor's cache."""
    block = np.empty(_BLOCK_BYTES, dtype=np.uint8)
    with path.open("rb", buffering=0) as handle:
        for begin in range(0, len(rows), _BLOCK_BYTES):
            expected = rows[begin : begin + _BLOCK_BYTES]
            found = block[: len(expected)]
            if handle.readinto(found.data) != len(expected) or not _are_equal(found, expected):
                return False
        return handle.read(len(index) + 1) == index


def _are_equal(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether as many bytes are the same, most of them compared eight at a time."""
    whole = len(first) // 8 * 8
    words = np.array_equal(first[:whole].view(np.uint64), second[:whole].view(np.uint64))
    return words and np.array_equal(first[whole:], second[whole:])


def as_bytes(array: np.ndarray) -> np.ndarray:
    """A view of a contiguous array as bytes, without a copy."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def make_folder(folder: Path) -> None:
    """Make `folder` and what is missing above it, each durable in its parent."""
    for parent in make_folders(folder):
        fsync_directory(parent)


def make_folders(folder: Path) -> list[Path]:
    """Make `folder` and what is missing above it; gives the folders whose fsync makes that durable."""
    if folder.exists():
        return []
    changed = make_folders(folder.parent)
    folder.mkdir(exist_ok=True)
    return [*changed, folder.parent]
