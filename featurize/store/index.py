"""`index.bin`: one record of 96 bytes a protein: what reading it needs, in one small read.

The per-protein Zarr arrays say the same, an array a column. Records exist so that a store of ten million proteins
opens at once and a protein costs the same wherever it is, without any of it in memory. Each record closes with a
crc32c over the plan's hash, the protein's number, the record and the id: a record that was damaged, moved, or belongs
to another plan is refused when it is used.

Legend: B proteins asked for, M modalities (in the order of `MODALITIES`).
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from awscrt.checksums import crc32c
from jaxtyping import Int64, UInt32

from amma.featurize.store.documents import open_regular
from amma.featurize.store.files import Files, LocalFiles
from amma.featurize.store.layout import INDEX_FILE
from amma.manifests.errors import CorruptStoreError
from amma.manifests.files import TEMPORARY_SUFFIX, fsync_directory

RECORD = np.dtype(
    [
        ("start", "<i8", 3),
        ("length", "<u4", 3),
        ("crc32c", "<u4", 3),
        ("id_bytes", "<u4"),
        ("id", "V40"),
        ("check", "<u4"),
    ]
)
"""`length` is 0 where a modality is not present. An id of more than 40 bytes stands behind the records, and `id` begins
with the place in the file, a uint64, where it does."""
_SIZE, _CHECKED, _ID, _INLINE = RECORD.itemsize, RECORD.itemsize - 4, 52, 40
_MOST_ID_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Entries:
    """What is known of some proteins: ids, first rows, numbers of rows (0 where not present), checksums."""

    ids: tuple[str, ...]
    start_BM: Int64[np.ndarray, "B M"]
    length_BM: Int64[np.ndarray, "B M"]
    crc32c_BM: UInt32[np.ndarray, "B M"]

    def only(self, places: Sequence[int]) -> "Entries":
        """The entries at some places."""
        chosen = list(places)
        ids = tuple(self.ids[place] for place in chosen)
        return Entries(ids, self.start_BM[chosen], self.length_BM[chosen], self.crc32c_BM[chosen])


class IndexReader:
    """Look proteins up by number; every record is checked each time it is read."""

    def __init__(self, files: Files, num_proteins: int, plan_sha256: str) -> None:
        self._files = files
        self._num_proteins = num_proteins
        self._salt = _salt(plan_sha256)

    def entries(self, proteins: Sequence[int]) -> Entries:
        """The entries of `proteins`, in their order; raises `CorruptStoreError` for a damaged record."""
        records, ids = [], []
        for protein in proteins:
            if not 0 <= protein < self._num_proteins:
                raise IndexError(protein)
            record = self._files.read_range(INDEX_FILE, protein * _SIZE, _SIZE)
            size = int.from_bytes(record[_ID - 4 : _ID], "little")
            name = record[_ID : _ID + size] if size <= _INLINE else self._long_id(record, size)
            checked = protein.to_bytes(8, "little") + record[:_CHECKED] + (name if size > _INLINE else b"")
            if crc32c(checked, self._salt) != int.from_bytes(record[_CHECKED:], "little"):
                raise CorruptStoreError(
                    f"{self._files.where}/{INDEX_FILE}: the record of protein number {protein} is damaged. "
                    "Run amma-featurize verify."
                )
            records.append(record)
            ids.append(name.decode())
        table = np.frombuffer(b"".join(records), dtype=RECORD, count=len(records))
        return Entries(
            tuple(ids), table["start"].astype(np.int64), table["length"].astype(np.int64), table["crc32c"].copy()
        )

    def _long_id(self, record: bytes, size: int) -> bytes:
        begin = int.from_bytes(record[_ID : _ID + 8], "little")
        # A damaged place or size must not become a huge read.
        if size > _MOST_ID_BYTES or begin >= 1 << 62:
            return b""
        return self._files.read_range(INDEX_FILE, begin, size)


def damaged_records(store: Path, num_proteins: int, plan_sha256: str) -> Iterator[int]:
    """The numbers of the proteins whose records cannot be used; all of them where there is no file to read."""
    try:
        open_regular(store / INDEX_FILE).close()
    except CorruptStoreError:
        yield from range(num_proteins)
        return
    files = LocalFiles(store)
    index = IndexReader(files, num_proteins, plan_sha256)
    try:
        for position in range(num_proteins):
            try:
                index.entries([position])
            except (CorruptStoreError, OSError):
                yield position
    finally:
        files.close()


class IndexWriter:
    """Write the records of all proteins in order, some at a time, aside; `close` puts the file in its place."""

    def __init__(self, store: Path, num_proteins: int, plan_sha256: str) -> None:
        self._path = store / INDEX_FILE
        self._aside = self._path.with_name(INDEX_FILE + TEMPORARY_SUFFIX)
        self._records = self._aside.open("wb")
        self._long_ids = self._aside.open("r+b")
        self._long_begin = num_proteins * _SIZE
        self._long_ids.seek(self._long_begin)
        self._salt = _salt(plan_sha256)
        self._number = 0

    def append(
        self,
        ids: Sequence[str],
        start_BM: Int64[np.ndarray, "B M"],
        length_BM: Int64[np.ndarray, "B M"],
        crc32c_BM: UInt32[np.ndarray, "B M"],
    ) -> None:
        """The next proteins; `length_BM` is 0 where a modality is not present."""
        names = [name.encode() for name in ids]
        table = np.zeros(len(names), dtype=RECORD)
        table["start"], table["length"], table["crc32c"] = start_BM, length_BM, crc32c_BM
        table["id_bytes"] = [len(name) for name in names]
        table["id"] = np.frombuffer(b"".join(map(self._inline, names)), dtype=RECORD["id"])
        data = table.tobytes()
        checks = []
        for place, name in enumerate(names):
            number = (self._number + place).to_bytes(8, "little")
            record = data[place * _SIZE : place * _SIZE + _CHECKED]
            checks.append(crc32c(number + record + (name if len(name) > _INLINE else b""), self._salt))
        table["check"] = checks
        self._records.write(table.tobytes())
        self._number += len(names)

    def _inline(self, name: bytes) -> bytes:
        if len(name) > _INLINE:
            self._long_ids.write(name)
            self._long_begin += len(name)
            name = (self._long_begin - len(name)).to_bytes(8, "little")
        return name.ljust(_INLINE, b"\0")

    def close(self) -> None:
        """Make it durable under its name."""
        for handle in (self._long_ids, self._records):
            handle.flush()
            os.fsync(handle.fileno())
            handle.close()
        self._aside.replace(self._path)
        fsync_directory(self._path.parent)


def _salt(plan_sha256: str) -> int:
    crc: int = crc32c(bytes.fromhex(plan_sha256))
    return crc
