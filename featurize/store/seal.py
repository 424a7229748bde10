"""Finish a store: per-protein arrays, consolidated metadata, quarantine, and one hash over all of it.

Every step writes files that are a pure function of the committed units, so a seal that was interrupted is simply
done again; `seal.json` comes last.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from amma.featurize.store.affine import FINGERPRINT_KEY, read_affines
from amma.featurize.store.digests import Digests, render_digests
from amma.featurize.store.documents import check_version, parse_document, read_regular
from amma.featurize.store.header import Header
from amma.featurize.store.ids import stream_ids
from amma.featurize.store.index import IndexWriter
from amma.featurize.store.layout import (
    DIGESTS_FOLDER,
    FORMAT,
    IDS_BLOCK,
    IDS_FILE,
    IDS_GROUP,
    INDEX_FILE,
    LEDGER_GROUP,
    PLAN_FILE,
    QUARANTINE_FILE,
    SEAL_FILE,
    VERSION,
    ArraySpec,
    Layout,
    array_group,
    digest_file,
    ledger_file,
    side_file,
)
from amma.featurize.store.ledger import check_sizes, checked_side_file, hash_of_ids, read_entry
from amma.featurize.store.shard import FileRecord, make_folder
from amma.featurize.store.unit import UnitFacts
from amma.manifests.errors import CorruptStoreError
from amma.manifests.files import write_atomically, write_json_atomically
from amma.manifests.quarantine import Rejection, write_quarantine
from amma.manifests.settings import sha256_of_json
from amma.manifests.table import MODALITIES


@dataclass(frozen=True)
class Seal:
    """What `seal.json` says: a hash over every file that no ledger entry lists.

    `files` is what stands in it; the rest are groups of files, each described by a table that is listed.
    """

    files: dict[str, FileRecord]
    root: str

    def everything(self, store: Path, layout: Layout) -> dict[str, FileRecord]:
        """Every file that no ledger entry lists; of a group whose table is damaged, only the table."""
        files = dict(self.files)
        for group, names in layout.groups().items():
            table = digest_file(group)
            try:
                data = read_regular(store / table)
            except CorruptStoreError:
                continue
            if FileRecord.of(data) == self.files.get(table):
                digests = Digests(data)
                files.update((name, digests[number]) for number, name in enumerate(names[: len(digests)]))
        return files


def seal_store(store: Path, header: Header, *, into: Path | None = None) -> Seal:
    """Write what a finished store has and an unfinished one has not; `into` another folder, to compare it first.

    Raises `CorruptStoreError` if a committed unit is not what its ledger entry says.
    """
    out = into or store
    tables, rejections = _write_protein_files(store, header, out)
    return write_seal(store, header, tables, rejections, out)


def write_seal(
    store: Path, header: Header, tables: dict[str, list[FileRecord]], rejections: Iterable[Rejection], out: Path
) -> Seal:
    """The end of `seal_store`: `tables` has the records of the ledger's and of each per-protein array's files."""
    documents = header.layout.zarr_documents(sealed=True)
    if header.layout.is_coded:
        expected = header.fingerprint[FINGERPRINT_KEY]["maps"]
        read_affines(header.layout, lambda name: read_regular(store / name), expected, str(store))
    write_documents(out, documents)
    write_quarantine(out / QUARANTINE_FILE, rejections)
    tables = {**tables, IDS_GROUP: _block_records(store / IDS_FILE)}
    make_folder(out / DIGESTS_FOLDER)
    for group, records in tables.items():
        write_atomically(out / digest_file(group), render_digests(records))
    written = [QUARANTINE_FILE, INDEX_FILE, *documents, *map(digest_file, tables)]
    kept = (PLAN_FILE, IDS_FILE, *header.layout.channel_files())
    paths = {**{name: store / name for name in kept}, **{name: out / name for name in written}}
    files = {name: _record(path) for name, path in sorted(paths.items())}
    body = {"format": FORMAT, "version": VERSION, "files": {name: files[name].as_json() for name in files}}
    sealed = Seal(files, sha256_of_json(body))
    write_json_atomically(out / SEAL_FILE, {**body, "root": sealed.root})
    return sealed


def read_seal(store: Path) -> Seal:
    """Read `seal.json` and check its root hash; raises `StoreError` if it is of a newer version or damaged."""
    return parse_seal(read_regular(store / SEAL_FILE), store / SEAL_FILE)


def parse_seal(data: bytes, path: Path | str) -> Seal:
    """As `read_seal`, of the bytes of a `seal.json` that was read from `path`."""
    document = parse_document(data, path)
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
    with path.open("rb", buffering=0) as handle:
        return FileRecord.read(handle)


def _block_records(path: Path) -> list[FileRecord]:
    with path.open("rb") as handle:
        return [FileRecord.of(block) for block in iter(lambda: handle.read(IDS_BLOCK), b"")]


def _write_protein_files(store: Path, header: Header, out: Path) -> tuple[dict[str, list[FileRecord]], list[Rejection]]:
    """Write the per-protein arrays and the index from the units, one unit in memory at a time.

    Gives the records of the ledger's and of each array's files, and all late rejects.
    """
    layout = header.layout
    specs = [(modality, spec) for modality in MODALITIES for spec in layout.protein_arrays(modality)]
    columns = [(modality, spec.path.split("/")[1], ColumnWriter(out, layout, spec)) for modality, spec in specs]
    index = IndexWriter(out, header.num_proteins, header.plan_sha256)
    ids = stream_ids(store / IDS_FILE)
    ledger: list[FileRecord] = []
    rejections: list[Rejection] = []
    for unit in range(header.num_units):
        entry = read_entry(store, unit, header.plan_sha256)
        names = [next(ids, "") for _ in range(entry.proteins)]
        if hash_of_ids(names) != entry.ids_sha256:
            raise CorruptStoreError(
                f"{store / IDS_FILE}: the ids of unit {unit} are not those it was computed for. "
                f"Remove {IDS_FILE} to have it written again."
            )
        check_sizes(store, entry)
        facts = UnitFacts.from_bytes(checked_side_file(store, entry, side_file(unit)))
        for modality, name, writer in columns:
            writer.append(facts.column(modality, name))
        start, length, crc32c, present = (
            np.stack([facts.column(modality, name) for modality in MODALITIES], axis=1)
            for name in ("start", "length", "crc32c", "present")
        )
        index.append(names, start, np.where(present, length, 0).astype(np.int64), crc32c)
        ledger.append(_record(store / ledger_file(unit)))
        rejections.extend(entry.rejections)
    index.close()
    tables = {LEDGER_GROUP: ledger}
    for (_, spec), (_, _, writer) in zip(specs, columns, strict=True):
        tables[array_group(spec)] = writer.close()
    return tables, rejections


class ColumnWriter:
    """Write a per-protein array chunk by chunk: each file is one full chunk, the last padded with the fill value."""

    def __init__(self, store: Path, layout: Layout, spec: ArraySpec) -> None:
        self._store = store
        self._spec = spec
        self._chunk = np.full((layout.protein_chunk_rows(spec), *spec.row_shape), spec.fill, dtype=spec.dtype)
        self._filled = 0
        self._files = iter(layout.protein_files(spec))
        self._records: list[FileRecord] = []

    def append(self, rows: np.ndarray) -> None:
        """The next entries."""
        while len(rows):
            taken = min(len(rows), len(self._chunk) - self._filled)
            self._chunk[self._filled : self._filled + taken] = rows[:taken]
            self._filled += taken
            rows = rows[taken:]
            if self._filled == len(self._chunk):
                self._flush()

    def close(self) -> list[FileRecord]:
        """Write what is left; gives the records of all files."""
        if self._filled:
            self._flush()
        return self._records

    def _flush(self) -> None:
        self._chunk[self._filled :] = self._spec.fill
        path = self._store / next(self._files)
        make_folder(path.parent)
        data = self._chunk.tobytes()
        write_atomically(path, data)
        self._records.append(FileRecord.of(data))
        self._filled = 0
