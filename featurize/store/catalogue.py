"""The per-protein entries of a store: from a sealed store's files when they are asked for, or from an unfinished one's
units.

Legend: N proteins in plan order, B proteins asked for, M modalities.
"""

import io
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from amma.featurize.store.digests import Digests
from amma.featurize.store.documents import parse_document
from amma.featurize.store.files import Files, LocalFiles
from amma.featurize.store.header import Header
from amma.featurize.store.ids import StoredColumn
from amma.featurize.store.index import Entries, IndexReader
from amma.featurize.store.layout import (
    COLUMNS,
    IDS_BLOCK,
    IDS_FILE,
    IDS_GROUP,
    LEDGER_GROUP,
    ArraySpec,
    array_group,
    column,
    digest_file,
    ledger_file,
    side_file,
)
from amma.featurize.store.ledger import LedgerEntry, checked_side_file, committed_units, read_entry
from amma.featurize.store.shard import FileRecord
from amma.featurize.store.unit import UnitFacts
from amma.manifests.errors import CorruptStoreError
from amma.manifests.table import MODALITIES, Modality


@runtime_checkable
class Catalogue(Protocol):
    """Where each protein's rows are, what their checksum is, and whether they are there."""

    def entries(self, proteins: Sequence[int]) -> Entries:
        """The entries of some proteins; length 0 where a modality is not present."""

    def column(self, modality: Modality, name: str) -> np.ndarray:
        """A whole per-protein array, one of `COLUMNS`; `length` is the planned one also where not present."""

    def cls(self, modality: Modality, protein: int) -> np.ndarray:
        """The special-token row of one protein."""

    def text(self, name: str) -> StoredColumn:
        """A column of `ids.parquet`."""

    def unit(self, unit: int) -> UnitFacts:
        """What a committed unit knows of its proteins."""


def checked_file(files: Files, name: str, record: FileRecord | None) -> bytes:
    """The bytes of a file; raises `CorruptStoreError` if they are not what the seal says."""
    data = files.read(name)
    if record is None or FileRecord.of(data) != record:
        raise CorruptStoreError(f"{files.where}/{name}: not what the seal says. Run amma-featurize verify.")
    return data


class SealedCatalogue:
    """Reads what is asked for and checks it first; opening it reads nothing and costs nothing.

    `listed` is what `seal.json` says of each file, the tables of the groups among them.
    """

    def __init__(self, files: Files, header: Header, listed: Mapping[str, FileRecord]) -> None:
        self._files = files
        self._layout = header.layout
        self._listed = listed
        self._index = IndexReader(files, header.num_proteins, header.plan_sha256)
        self._tables: dict[str, Digests] = {}
        self._lock = threading.Lock()
        self._latest_cls: dict[Modality, tuple[str, bytes]] = {}

    def entries(self, proteins: Sequence[int]) -> Entries:
        """As `Catalogue`."""
        return self._index.entries(proteins)

    def column(self, modality: Modality, name: str) -> np.ndarray:
        """As `Catalogue`; read anew each time, a file at a time, each checked."""
        spec, layout = column(modality, name), self._layout
        values = np.empty(layout.num_proteins, dtype=spec.dtype)
        for chunk, file in enumerate(layout.protein_files(spec)):
            part = np.frombuffer(checked_file(self._files, file, self._record(spec, chunk)), dtype=spec.dtype)
            begin = chunk * layout.protein_chunk_rows(spec)
            values[begin : begin + len(part)] = part[: layout.num_proteins - begin]
        return values

    def cls(self, modality: Modality, protein: int) -> np.ndarray:
        """As `Catalogue`; the file it is in is read and checked whole, and the latest of a modality kept."""
        spec = self._layout.cls(modality)
        chunk, row = divmod(protein, self._layout.protein_chunk_rows(spec))
        name = spec.chunk_file(chunk)
        with self._lock:
            latest = self._latest_cls.get(modality)
        if latest is None or latest[0] != name:
            latest = (name, checked_file(self._files, name, self._record(spec, chunk)))
            with self._lock:
                self._latest_cls[modality] = latest
        values: np.ndarray = np.frombuffer(latest[1], dtype=spec.dtype).reshape(-1, *spec.row_shape)[row].copy()
        return values

    def text(self, name: str) -> StoredColumn:
        """As `Catalogue`; each block of the file is checked when it is read."""
        num_proteins = self._layout.num_proteins
        return StoredColumn(lambda: CheckedBlocks(self._files, self._listed, self._table), name, num_proteins)

    def unit(self, unit: int) -> UnitFacts:
        """As `Catalogue`; by the hash of its ledger entry, and by what that says."""
        table = self._table(LEDGER_GROUP)
        data = checked_file(self._files, ledger_file(unit), table[unit] if unit < len(table) else None)
        entry = LedgerEntry.from_json(parse_document(data, f"{self._files.where}/{ledger_file(unit)}"))
        return UnitFacts.from_bytes(checked_file(self._files, side_file(unit), entry.files.get(side_file(unit))))

    def _record(self, spec: ArraySpec, chunk: int) -> FileRecord | None:
        table = self._table(array_group(spec))
        return table[chunk] if chunk < len(table) else None

    def _table(self, group: str) -> Digests:
        with self._lock:
            table = self._tables.get(group)
        if table is None:
            name = digest_file(group)
            table = Digests(checked_file(self._files, name, self._listed.get(name)))
            with self._lock:
                self._tables[group] = table
        return table


class CheckedBlocks(io.RawIOBase):
    """`ids.parquet` as a file to read from, each block of it checked against its hash before it is used."""

    def __init__(self, files: Files, listed: Mapping[str, FileRecord], table: Any) -> None:
        self._files = files
        self._size = listed[IDS_FILE].size
        self._digests: Digests = table(IDS_GROUP)
        self._position = 0
        self._latest: tuple[int, bytes] = (-1, b"")

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As any file."""
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        return self._position

    def tell(self) -> int:
        """As any file."""
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        """As any file."""
        end = self._size if size is None or size < 0 else min(self._position + size, self._size)
        parts = []
        while self._position < end:
            number, begin = divmod(self._position, IDS_BLOCK)
            part = self._block(number)[begin : begin + end - self._position]
            parts.append(part)
            self._position += len(part)
        return b"".join(parts)

    def _block(self, number: int) -> bytes:
        if self._latest[0] != number:
            data = self._files.read_range(IDS_FILE, number * IDS_BLOCK, IDS_BLOCK)
            if number >= len(self._digests) or FileRecord.of(data) != self._digests[number]:
                where = f"{self._files.where}/{IDS_FILE}"
                raise CorruptStoreError(f"{where}: not what the seal says. Run amma-featurize verify.")
            self._latest = (number, data)
        return self._latest[1]


class PartialCatalogue:
    """The entries of the units that are committed so far, in memory; the other proteins are not present."""

    def __init__(self, store: Path, header: Header) -> None:
        self._store = store
        self._header = header
        self._files = LocalFiles(store)
        shape = header.num_proteins
        self._columns = {
            name: {modality: np.zeros(shape, dtype=column(modality, name).dtype) for modality in MODALITIES}
            for name in COLUMNS
        }
        for unit in committed_units(store):
            entry, facts = self._unit(unit)
            for modality in MODALITIES:
                for name in COLUMNS:
                    part = facts.column(modality, name)
                    self._columns[name][modality][entry.first : entry.first + entry.proteins] = part
        self._ids = self.text("id")

    def entries(self, proteins: Sequence[int]) -> Entries:
        """As `Catalogue`."""
        chosen = np.array(proteins, dtype=np.int64)
        present, start, length, crc32c = (
            np.stack([self._columns[name][modality][chosen] for modality in MODALITIES], axis=1)
            for name in ("present", "start", "length", "crc32c")
        )
        ids = tuple(self._ids.take(chosen.tolist()))
        return Entries(ids, start, np.where(present, length, 0).astype(np.int64), crc32c)

    def column(self, modality: Modality, name: str) -> np.ndarray:
        """As `Catalogue`."""
        return self._columns[name][modality].copy()

    def cls(self, modality: Modality, protein: int) -> np.ndarray:
        """As `Catalogue`."""
        unit = int(self._columns["start"][modality][protein]) // self._header.layout.shard_rows
        entry, facts = self._unit(unit)
        row: np.ndarray = facts.cls[modality][protein - entry.first]
        return row

    def text(self, name: str) -> StoredColumn:
        """As `Catalogue`; nothing vouches for the file before the seal."""
        return StoredColumn(lambda: io.BytesIO(self._files.read(IDS_FILE)), name, self._header.num_proteins)

    def unit(self, unit: int) -> UnitFacts:
        """As `Catalogue`."""
        return self._unit(unit)[1]

    def _unit(self, unit: int) -> tuple[LedgerEntry, UnitFacts]:
        entry = read_entry(self._store, unit, self._header.plan_sha256)
        return entry, UnitFacts.from_bytes(checked_side_file(self._store, entry, side_file(unit)))
