"""Finish a store: per-protein arrays, consolidated metadata, quarantine, and one hash over all of it.

Every step writes files that are a pure function of the committed units, so a seal that was interrupted is simply
done again; `seal.json` comes last.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from amma.featurize.store.documents import check_version, read_document
from amma.featurize.store.header import Header
from amma.featurize.store.ids import stream_ids
from amma.featurize.store.layout import (
    FORMAT,
    IDS_FILE,
    PLAN_FILE,
    QUARANTINE_FILE,
    SEAL_FILE,
    VERSION,
    ArraySpec,
    Layout,
    ledger_file,
    side_file,
)
from amma.featurize.store.ledger import LedgerEntry, check_sizes, checked_side_file, hash_of_ids, read_entry
from amma.featurize.store.shard import FileRecord, make_folder
from amma.featurize.store.unit import UnitFacts
from amma.manifests.errors import CorruptStoreError
from amma.manifests.files import sha256_of_file, write_atomically, write_json_atomically
from amma.manifests.quarantine import write_quarantine
from amma.manifests.settings import sha256_of_json
from amma.manifests.table import MODALITIES


@dataclass(frozen=True)
class Seal:
    """What `seal.json` says: every file that no ledger entry lists, and a hash over them all."""

    files: dict[str, FileRecord]
    root: str


def seal_store(store: Path, header: Header) -> Seal:
    """Write what a finished store has and an unfinished one has not.

    Raises `CorruptStoreError` if a committed unit is not what its ledger entry says.
    """
    layout = header.layout
    entries = [read_entry(store, unit, header.plan_sha256) for unit in range(header.num_units)]
    _check_ids(store / IDS_FILE, entries)
    _write_protein_arrays(store, layout, entries)
    documents = layout.zarr_documents(sealed=True)
    write_documents(store, documents)
    write_quarantine(store / QUARANTINE_FILE, (rejection for entry in entries for rejection in entry.rejections))
    names = [PLAN_FILE, IDS_FILE, QUARANTINE_FILE, *documents, *(ledger_file(unit) for unit in range(header.num_units))]
    for modality in MODALITIES:
        for spec in layout.protein_arrays(modality):
            names += layout.protein_files(spec)
    files = {name: _record(store / name) for name in sorted(names)}
    body = {"format": FORMAT, "version": VERSION, "files": {name: files[name].as_json() for name in files}}
    sealed = Seal(files, sha256_of_json(body))
    write_json_atomically(store / SEAL_FILE, {**body, "root": sealed.root})
    return sealed


def read_seal(store: Path) -> Seal:
    """Read `seal.json` and check its root hash; raises `StoreError` if it is of a newer version or damaged."""
    path = store / SEAL_FILE
    document = read_document(path)
    body = {key: value for key, value in document.items() if key != "root"}
    damaged = CorruptStoreError(f"{path}: its root hash is not that of its content. Run amma-featurize verify.")
    if document.get("root") != sha256_of_json(body):
        raise damaged
    check_version(document, path)  # only now: damage must not pass for another version
    try:
        files = {name: FileRecord(**record) for name, record in document["files"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise damaged from error
    return Seal(files, document["root"])


def write_documents(store: Path, documents: dict[str, bytes]) -> None:
    """Write those `zarr.json` files that are not there as they should be."""
    for name, data in documents.items():
        path = store / name
        make_folder(path.parent)
        if not path.exists() or path.read_bytes() != data:
            write_atomically(path, data)


def _record(path: Path) -> FileRecord:
    return FileRecord(path.stat().st_size, sha256_of_file(path))


def _check_ids(path: Path, entries: Sequence[LedgerEntry]) -> None:
    """The ids of every unit, as its entry hashed them, are those of `ids.parquet`."""
    ids = stream_ids(path)
    for entry in entries:
        if hash_of_ids([next(ids, "") for _ in range(entry.proteins)]) != entry.ids_sha256:
            raise CorruptStoreError(
                f"{path}: the ids of unit {entry.unit} are not those it was computed for. "
                f"Remove {path.name} to have it written again."
            )


def _write_protein_arrays(store: Path, layout: Layout, entries: Sequence[LedgerEntry]) -> None:
    specs = [(modality, spec) for modality in MODALITIES for spec in layout.protein_arrays(modality)]
    columns = [(modality, spec.path.split("/")[1], _ColumnWriter(store, layout, spec)) for modality, spec in specs]
    for entry in entries:
        check_sizes(store, entry)
        facts = UnitFacts.from_bytes(checked_side_file(store, entry, side_file(entry.unit)))
        for modality, name, writer in columns:
            writer.append(facts.column(modality, name))
    for _, _, writer in columns:
        writer.close()


class _ColumnWriter:
    """Write a per-protein array chunk by chunk: each file is one full chunk, the last padded with the fill value."""

    def __init__(self, store: Path, layout: Layout, spec: ArraySpec) -> None:
        self._store = store
        self._spec = spec
        self._chunk = np.full((layout.protein_chunk_rows(spec), *spec.row_shape), spec.fill, dtype=spec.dtype)
        self._filled = 0
        self._files = iter(layout.protein_files(spec))

    def append(self, rows: np.ndarray) -> None:
        while len(rows):
            taken = min(len(rows), len(self._chunk) - self._filled)
            self._chunk[self._filled : self._filled + taken] = rows[:taken]
            self._filled += taken
            rows = rows[taken:]
            if self._filled == len(self._chunk):
                self._flush()

    def close(self) -> None:
        if self._filled:
            self._flush()

    def _flush(self) -> None:
        self._chunk[self._filled :] = self._spec.fill
        path = self._store / next(self._files)
        make_folder(path.parent)
        write_atomically(path, self._chunk.tobytes())
        self._filled = 0
