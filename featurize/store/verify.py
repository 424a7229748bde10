"""Check every file of a store against what was written, and say which proteins a damaged file hits.

The chain of trust: `seal.json` carries its own root hash and lists every file that is not a unit's; among these are
tables of the ledger entries and of the per-protein arrays' files, and each entry lists the files of its unit. So
nothing is believed before its hash has been checked.
"""

import os
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np

from amma.featurize.store.documents import is_sealed, open_regular, read_bytes, read_regular
from amma.featurize.store.filling import Progress
from amma.featurize.store.finding import Finding, Verification
from amma.featurize.store.header import Header, parse_header
from amma.featurize.store.ids import StoredColumn
from amma.featurize.store.index import damaged_records
from amma.featurize.store.layout import (
    DIGESTS_FOLDER,
    IDS_FILE,
    IDS_GROUP,
    INDEX_FILE,
    LEDGER_FOLDER,
    PLAN_FILE,
    QUARANTINE_FILE,
    SEAL_FILE,
    UNITS_FOLDER,
    ArraySpec,
    Layout,
    digest_file,
    ledger_file,
    side_file,
)
from amma.featurize.store.ledger import REPAIR_FOLDER, LedgerEntry, committed_units, entries_below, read_entry
from amma.featurize.store.lock import is_lock_file
from amma.featurize.store.seal import Seal, read_seal
from amma.featurize.store.shard import FileRecord, index_size
from amma.featurize.store.unit import UnitFacts, checksum
from amma.manifests.errors import CorruptStoreError, StoreError
from amma.manifests.files import TEMPORARY_SUFFIX
from amma.manifests.table import MODALITIES, Modality

_LISTED = 1000
_OTHER_CONTENT = "its content is not what was written (BLAKE3)"
_NO_PLAIN_FILE = "is a symbolic link or a device; a store holds plain files and folders only"


def verify_store(
    store: Path, *, quick: bool = False, progress: Progress = lambda total: nullcontext(lambda done: None)
) -> Verification:
    """Check a store: every hash and every protein's crc32c, or with `quick` sizes, metadata and ledger only.

    Damage is a finding, never an exception. A store that is not sealed is a finding too; its committed units are
    checked. Raises `StoreError` if `store` is not a store or of a newer major version.
    """
    if not (store / PLAN_FILE).exists() and not is_sealed(store):
        raise StoreError(f"{store}: not a feature store (no {PLAN_FILE}). Make one with amma-featurize run.")
    return _Verifier(store, quick, progress).run()


class _Verifier:
    def __init__(self, store: Path, quick: bool, progress: Progress) -> None:
        self.store = store
        self.quick = quick
        self.progress = progress
        self.report = Verification(str(store), full=not quick)
        self.known: set[str] = set()
        """Files that belong to the store, found intact or not."""
        self.links: set[str] = set()
        """What is neither a plain file nor a folder."""
        self.blocking: set[str] = set()
        """Those of them that stand for a file of the store, or before one: reported with it."""
        self.names: StoredColumn | None = None
        self.num_proteins = 0
        self.listed: dict[str, FileRecord] = {}
        """What the seal says of every file that is not a unit's."""

    def run(self) -> Verification:
        inventory, folders = self._walk()
        self.report.bytes = sum(inventory.values())
        seal = self._seal()
        header = self._header(seal)
        if header is None:
            for name, record in ({} if seal is None else seal.files).items():
                self._check(name, record, None, ())
            self._find_links()
            return self.report
        self.num_proteins = header.num_proteins
        self._open_names(seal)
        if seal is None:
            self._check_unsealed(header)
        else:
            self._check_sealed(header, seal)
        entries = self._entries(header, seal)
        total = sum(entry.size for entry in entries)
        with self._shown(total) as advance:
            for entry in entries:
                self._unit(header.layout, entry)
                advance(entry.size)
        self._find_links()
        self._find_strangers(inventory, folders)
        return self.report

    def _shown(self, total: int) -> AbstractContextManager[Any]:
        return nullcontext(lambda done: None) if self.quick else self.progress(total)

    def _find(self, file: str, unit: int | None, positions: Iterable[int], reason: str) -> None:
        """Note a finding that hits the proteins at these plan positions."""
        hit = positions if isinstance(positions, range) else list(positions)
        everyone = len(hit) == self.num_proteins and unit is None
        names = () if everyone else tuple(map(self._name, hit[:_LISTED]))
        self.report.findings.append(Finding(file, unit, names, reason, len(hit)))

    def _name(self, position: int) -> str:
        return f"number {position}" if self.names is None else self.names[position]

    def _walk(self) -> tuple[dict[str, int], list[str]]:
        """The size of every plain file, and all folders."""
        inventory: dict[str, int] = {}
        folders = []
        for entry in entries_below(self.store):
            name = Path(entry.path).relative_to(self.store).as_posix()
            if entry.is_dir(follow_symlinks=False):
                folders.append(name)
            elif entry.is_file(follow_symlinks=False):
                inventory[name] = entry.stat(follow_symlinks=False).st_size
            else:
                self.links.add(name)
        return inventory, folders

    def _find_links(self) -> None:
        for name in sorted(self.links - self.blocking):
            self._find(name, None, (), _NO_PLAIN_FILE)

    def _find_strangers(self, inventory: Mapping[str, int], folders: Iterable[str]) -> None:
        parents = {parent.as_posix() for name in self.known for parent in PurePosixPath(name).parents}
        parents |= {LEDGER_FOLDER, UNITS_FOLDER}
        for name in sorted({*inventory, *folders} - self.known - parents):
            if is_lock_file(name):
                reason = "was left by a run that was killed as it ended; the same command again removes it"
            elif name == REPAIR_FOLDER or name.endswith(TEMPORARY_SUFFIX):
                reason = "was left by a run or a repair that was killed; the same command again removes it"
            elif name.startswith(f"{REPAIR_FOLDER}/"):
                continue
            else:
                reason = f"is not a {'folder' if name in folders else 'file'} of this store"
            self._find(name, None, (), reason)

    def _seal(self) -> Seal | None:
        self.known.add(SEAL_FILE)
        if not is_sealed(self.store):
            self._find(SEAL_FILE, None, (), "is not there: the store is not sealed. Run the same command to finish it")
            return None
        try:
            seal = read_seal(self.store)
        except CorruptStoreError:
            self._find(SEAL_FILE, None, (), "is damaged; without it metadata and per-protein arrays are not checked")
            self._blocked(SEAL_FILE)
            return None
        self.report.sealed, self.report.root = True, seal.root
        self.report.files += 1
        return seal

    def _header(self, seal: Seal | None) -> Header | None:
        self.known.add(PLAN_FILE)
        try:
            data = read_regular(self.store / PLAN_FILE)
            if seal is not None and FileRecord.of(data) != seal.files.get(PLAN_FILE):
                raise CorruptStoreError("not what the seal says")
            return parse_header(data, self.store / PLAN_FILE)
        except CorruptStoreError:
            if seal is None:
                self._find(PLAN_FILE, None, (), "is damaged; nothing else can be checked without it")
                self._blocked(PLAN_FILE)
            return None  # with a seal, the loop over its files reports it

    def _open_names(self, seal: Seal | None) -> None:
        """Use `ids.parquet` for names only if it is intact."""
        path = self.store / IDS_FILE
        record = None if seal is None else seal.files.get(IDS_FILE)
        try:
            with open_regular(path) as handle:
                if record is not None and self._hash(handle, record) is not None:
                    return
            names = StoredColumn(lambda: open_regular(path), "id", self.num_proteins)
            names[0]
        except CorruptStoreError as error:
            if record is None and (self.store / IDS_FILE).exists():
                self._find(IDS_FILE, None, range(self.num_proteins), self._blocked(IDS_FILE) or str(error))
            return
        self.names = names

    def _check_sealed(self, header: Header, seal: Seal) -> None:
        layout = header.layout
        self.listed = seal.everything(self.store, layout)
        for names in layout.groups().values():
            self.known.update(names)  # also where the table that lists them is damaged
        for name, record in self.listed.items():
            if not name.startswith(f"{LEDGER_FOLDER}/"):
                self._check(name, record, None, self._hit_by(header, name))

    def _hit_by(self, header: Header, name: str) -> Iterable[int]:
        """The proteins that need this file of the whole store; worked out when it is damaged."""
        layout = header.layout
        if name == INDEX_FILE:
            return damaged_records(self.store, header.num_proteins, header.plan_sha256)
        if name in (PLAN_FILE, IDS_FILE, *layout.channel_files()) or name.endswith("zarr.json"):
            return range(self.num_proteins)
        for modality in MODALITIES:
            for spec in layout.protein_arrays(modality):
                if name.startswith(f"{spec.path}/c/"):
                    rows = layout.protein_chunk_rows(spec)
                    begin = int(name.split("/")[3]) * rows
                    return range(begin, min(begin + rows, layout.num_proteins))
        return ()

    def _check_unsealed(self, header: Header) -> None:
        """What an unfinished store may hold beside its committed units, the beginnings of a seal among it."""
        layout = header.layout
        begun, finished = layout.zarr_documents(sealed=False), layout.zarr_documents(sealed=True)
        self.known |= {IDS_FILE, QUARANTINE_FILE, INDEX_FILE, *finished, *layout.channel_files()}
        self.known |= {digest_file(group) for group in (IDS_GROUP, *layout.groups())}
        self.known |= {path.name for path in self.store.iterdir() if is_lock_file(path.name)}
        for modality in MODALITIES:
            for spec in layout.protein_arrays(modality):
                self.known.update(layout.protein_files(spec))
        for unit in set(range(header.num_units)) - set(committed_units(self.store)):
            self.known.update(layout.unit_files(unit))
        if not (self.store / IDS_FILE).exists():
            self._find(IDS_FILE, None, range(self.num_proteins), "is missing")
        for name, data in begun.items():
            wrong = self._blocked(name)
            try:
                found = read_regular(self.store / name)
            except CorruptStoreError:
                wrong = wrong or "is missing"
            else:
                wrong = wrong or (None if found in (data, finished[name]) else "is not the metadata of this plan")
            if wrong is not None:
                self._find(name, None, range(self.num_proteins), wrong)

    def _blocked(self, name: str) -> str | None:
        """Whether a file is a link or device, or lies behind a link; that is not reported by itself then."""
        self.known.add(name)
        for path in (name, *(parent.as_posix() for parent in PurePosixPath(name).parents)):
            if path in self.links:
                self.blocking.add(path)
                return _NO_PLAIN_FILE if path == name else f"lies behind the symbolic link {path}"
        return None

    def _check(self, name: str, record: FileRecord, unit: int | None, positions: Iterable[int]) -> bool:
        """Size, and hash where asked for; gives whether the file is as it should be."""
        self.known.add(name)
        self.report.files += 1
        wrong = self._wrong(name, record)
        if wrong is not None:
            self._find(name, unit, positions, wrong)
        return wrong is None

    def _wrong(self, name: str, record: FileRecord) -> str | None:
        wrong = self._blocked(name)
        if wrong is not None:
            return wrong
        try:
            handle = open_regular(self.store / name)
        except CorruptStoreError:
            return self._unreadable(name)
        with handle:
            if self.quick and not name.endswith((".json", ".jsonl")) and not name.startswith(f"{DIGESTS_FOLDER}/"):
                return _wrong_size(handle, record)
            return self._hash(handle, record)

    def _unreadable(self, name: str) -> str:
        there = os.path.lexists(self.store / name)
        return "cannot be read: it is no plain file, or closed to you" if there else "is missing"

    def _hash(self, handle: BinaryIO, record: FileRecord) -> str | None:
        """What is wrong with an open file; its size is looked at before its content."""
        wrong = _wrong_size(handle, record)
        if wrong is None:
            wrong = None if FileRecord.read(handle) == record else _OTHER_CONTENT
        return wrong

    def _entries(self, header: Header, seal: Seal | None) -> list[LedgerEntry]:
        """The ledger entries that can be believed; files of a unit without one are known but not checked."""
        units = range(header.num_units) if seal is not None else committed_units(self.store)
        believed: dict[int, LedgerEntry] = {}
        damaged: dict[int, str] = {}
        for unit in units:
            name = ledger_file(unit)
            record = self.listed.get(name)
            self.known.add(name)
            self.report.files += 1
            wrong = self._blocked(name) if record is None else self._wrong(name, record)
            try:
                if wrong is None:
                    believed[unit] = read_entry(self.store, unit, header.plan_sha256)
                    continue
            except CorruptStoreError:
                wrong = "is damaged"
            damaged[unit] = f"{wrong}: the files of this unit cannot be checked"
            self.known.update(header.layout.unit_files(unit))
        for unit, reason in damaged.items():
            # A unit begins where the one before it ends; only where neighbours are damaged too, these are too many.
            before, after = believed.get(unit - 1), believed.get(unit + 1)
            begin = 0 if unit == 0 or before is None else before.first + before.proteins
            end = header.num_proteins if after is None else after.first
            self._find(ledger_file(unit), unit, range(begin, end), reason)
        return list(believed.values())

    def _unit(self, layout: Layout, entry: LedgerEntry) -> None:
        members = range(entry.first, entry.first + entry.proteins)
        side = side_file(entry.unit)
        facts = None
        if self._check(side, entry.files[side], entry.unit, members):
            facts = UnitFacts.from_bytes(read_regular(self.store / side))
        for modality in MODALITIES:
            specs = [spec for spec in layout.row_arrays(modality) if spec.chunk_file(entry.unit) in entry.files]
            if self.quick or facts is None:
                for spec in specs:
                    name = spec.chunk_file(entry.unit)
                    self._check(name, entry.files[name], entry.unit, members)
            elif specs:
                self._shards(layout, entry, modality, specs, facts)

    def _shards(
        self, layout: Layout, entry: LedgerEntry, modality: Modality, specs: list[ArraySpec], facts: UnitFacts
    ) -> None:
        """Hash the shards of one modality, and check every protein's crc32c in them."""
        wrong: dict[str, str] = {}
        arrays = []
        for spec in specs:
            name = spec.chunk_file(entry.unit)
            self.known.add(name)
            self.report.files += 1
            rows, reason = self._rows(layout, spec, name, entry.files[name])
            arrays.append(rows)
            if reason is not None:
                wrong[name] = reason
        hit = []
        begins = facts.start[modality] - entry.unit * layout.shard_rows
        for slot, (begin, length) in enumerate(zip(begins.tolist(), facts.length[modality].tolist(), strict=True)):
            if not length:
                continue
            whole = [rows[begin : begin + length] for rows in arrays if len(rows) >= begin + length]
            if len(whole) < len(arrays) or checksum(whole[0], whole[1] if len(whole) > 1 else None) != int(
                facts.crc32c[modality][slot]
            ):
                hit.append(entry.first + slot)
        for name, reason in wrong.items():
            self._find(name, entry.unit, hit, reason + ("" if hit else "; no protein's rows are hit"))
        if hit and not wrong:
            self._find(specs[0].chunk_file(entry.unit), entry.unit, hit, "crc32c of these rows is not what was stored")

    def _rows(self, layout: Layout, spec: ArraySpec, name: str, record: FileRecord) -> tuple[np.ndarray, str | None]:
        """The rows that a shard file holds, as many as are there, and what is wrong with it."""
        none = np.empty((0, *spec.row_shape), dtype=spec.dtype)
        wrong = self._blocked(name)
        if wrong is not None:
            return none, wrong
        try:
            handle = open_regular(self.store / name)
        except CorruptStoreError:
            return none, self._unreadable(name)
        with handle:
            wrong = _wrong_size(handle, record)
            full = layout.shard_rows * spec.row_bytes + index_size(layout.chunks_per_shard)
            data = read_bytes(handle, min(record.size, full))
        if wrong is None and FileRecord.of(data) != record:
            wrong = _OTHER_CONTENT
        rows = min(len(data) // spec.row_bytes, layout.shard_rows)
        return np.frombuffer(data[: rows * spec.row_bytes], dtype=spec.dtype).reshape(rows, *spec.row_shape), wrong


def _wrong_size(handle: BinaryIO, record: FileRecord) -> str | None:
    size = os.fstat(handle.fileno()).st_size
    return None if size == record.size else f"has {size} bytes, should have {record.size}"
