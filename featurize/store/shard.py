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
from amma.manifests.files import TEMPORARY_SUFFIX, fsync_directory

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
        self.decoded: set[tuple[str, int]] = set()
        """Paths and numbers of rows of the shards that were decoded and found right."""

    def rows(self, spec: ArraySpec, unit: int, data: bytes, shard_rows: int) -> np.ndarray:
        """All rows of a unit in the array `spec`, if its shard file had these bytes."""
        key = spec.chunk_file(unit)
        self._files[key] = self._buffer.from_bytes(data)
        if spec.path not in self._arrays:
            self._arrays[spec.path] = self._group[spec.path]
        try:
            return np.asarray(self._arrays[spec.path][unit * shard_rows : (unit + 1) * shard_rows])
        finally:
            del self._files[key]


def shard_record(layout: Layout, spec: ArraySpec, rows_R: np.ndarray) -> FileRecord:
    """What the ledger will say of the shard with these rows, told from memory alone."""
    index = _index_of(layout, spec, rows_R)
    digest = blake3(as_bytes(rows_R).data)
    digest.update(index)
    return FileRecord(rows_R.nbytes + len(index), digest.hexdigest())


def write_shard(
    store: Path, layout: Layout, spec: ArraySpec, unit: int, rows_R: np.ndarray, stock: StockReader
) -> None:
    """Write the shard of `unit` in array `spec`: aside, fsync, read back and compared, renamed into place.

    That zarr finds the rows where they are depends on their number alone, so zarr decodes the first shard of each
    number (of inner chunks). Raises `CorruptStoreError` if what is read back is not what was meant; nothing is in
    place then.
    """
    path = store / spec.chunk_file(unit)
    make_folder(path.parent)
    index = _index_of(layout, spec, rows_R)
    aside = path.with_name(path.name + TEMPORARY_SUFFIX)
    with aside.open("wb") as handle:
        handle.write(as_bytes(rows_R).data)
        handle.write(index)
        handle.flush()
        os.fsync(handle.fileno())
    intact = _reads_back(aside, as_bytes(rows_R), index)
    shape = (spec.path, len(rows_R))
    if intact and shape not in stock.decoded:
        decoded = stock.rows(spec, unit, aside.read_bytes(), layout.shard_rows)
        intact = np.array_equal(as_bytes(decoded[: len(rows_R)]), as_bytes(rows_R))
        stock.decoded.add(shape)
    if not intact:
        raise CorruptStoreError(
            f"{aside}: reads back other than it was written (unit {unit}). Check the disk and its memory; "
            "nothing of this unit was stored, the same command goes on."
        )
    aside.replace(path)
    fsync_directory(path.parent)


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
    if not folder.exists():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        fsync_directory(folder.parent)
