"""Check every file of a store against what was written, and say which proteins a damaged file hits.

The chain of trust: `seal.json` carries its own root hash and lists every file that is not a unit's; among these are
tables of the ledger entries and of the per-protein arrays' files, and each entry lists the files of its unit. So
nothing is believed before its hash has been checked.
"""

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from amma.featurize.store.disk import human
from amma.featurize.store.documents import is_sealed, read_regular
from amma.featurize.store.filling import Progress
from amma.featurize.store.header import Header, parse_header
from amma.featurize.store.ids import StoredColumn
from amma.featurize.store.layout import (
    IDS_FILE,
    IDS_GROUP,
    INDEX_FILE,
    LOCK_FILE,
    PLAN_FILE,
    QUARANTINE_FILE,
    SEAL_FILE,
    ArraySpec,
    Layout,
    digest_file,
    ledger_file,
    side_file,
)
from amma.featurize.store.ledger import LedgerEntry, committed_units, read_entry
from amma.featurize.store.seal import Seal, read_seal
from amma.featurize.store.shard import FileRecord
from amma.featurize.store.unit import UnitFacts, checksum
from amma.manifests.errors import CorruptStoreError, StoreError
from amma.manifests.table import MODALITIES, Modality

_BLOCK = 1 << 22
_NAMED = 5


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: in which file, of which unit (None: of the whole store), and which proteins it hits."""

    file: str
    unit: int | None
    proteins: tuple[str, ...]
    reason: str

    def line(self) -> str:
        """For people: at most a few proteins by name."""
        where = "" if self.unit is None else f" (unit {self.unit})"
        named = ", ".join(map(repr, self.proteins[:_NAMED]))
        more = f" and {len(self.proteins) - _NAMED} more" if len(self.proteins) > _NAMED else ""
        hit = f"; hits {len(self.proteins)} proteins: {named}{more}" if self.proteins else ""
        return f"{self.file}{where}: {self.reason}{hit}"


@dataclass(slots=True)
class Verification:
    """What was checked, and what was found."""

    store: str
    full: bool
    sealed: bool = False
    root: str | None = None
    files: int = 0
    bytes: int = 0
    findings: list[Finding] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {**asdict(self), "ok": not self.findings}

    def lines(self) -> list[str]:
        """For people."""
        how = "sizes, hashes and checksums" if self.full else "sizes, metadata and ledger"
        checked = f"{self.files} files, {human(self.bytes)}: {how} checked"
        if not self.findings:
            return [f"{self.store}: intact. {checked}; root {self.root}"]
        count = f"{len(self.findings)} finding{'s' if len(self.findings) > 1 else ''}"
        return [f"{self.store}: {count}. {checked}", *(finding.line() for finding in self.findings)]


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
        self.names: StoredColumn | None = None
        self.listed: dict[str, FileRecord] = {}
        """What the seal says of every file that is not a unit's."""

    def run(self) -> Verification:
        inventory = self._walk()
        seal = self._seal()
        header = self._header(seal)
        if header is None:
            listed = {} if seal is None else seal.files
            for name, record in listed.items():
                self._check(name, record, None, ())
            self.report.bytes = sum(inventory.values())
            return self.report
        self._open_names(header, seal)
        if seal is None:
            self._allow_unsealed(header)
        else:
            self.listed = seal.everything(self.store, header.layout)
            for names in header.layout.groups().values():
                self.known.update(names)  # also where the table that lists them is damaged
            for name, record in self.listed.items():
                if not name.startswith("ledger/"):
                    self._check(name, record, None, self._hit_by_column(header.layout, name))
        entries = list(self._entries(header, seal))
        total = sum(entry.size for entry in entries)
        with self._shown(total) as advance:
            for entry in entries:
                self._unit(header.layout, entry)
                advance(entry.size)
        for name in sorted(set(inventory) - self.known):
            stale = "was left by a run that was killed as it ended; the same command again removes it"
            self._find(name, None, (), stale if name == LOCK_FILE else "is not a file of this store")
        self.report.bytes = sum(inventory.values())
        return self.report

    def _shown(self, total: int) -> AbstractContextManager[Any]:
        return nullcontext(lambda done: None) if self.quick else self.progress(total)

    def _find(self, file: str, unit: int | None, proteins: Iterable[str], reason: str) -> None:
        self.report.findings.append(Finding(file, unit, tuple(proteins), reason))

    def _walk(self) -> dict[str, int]:
        """The size of every plain file; whatever is neither that nor a folder is a finding."""
        inventory: dict[str, int] = {}
        for folder, subfolders, files in os.walk(self.store):
            for name in sorted([*files, *subfolders]):
                path = Path(folder) / name
                entry = path.lstat()
                relative = path.relative_to(self.store).as_posix()
                if stat.S_ISREG(entry.st_mode):
                    inventory[relative] = entry.st_size
                elif not stat.S_ISDIR(entry.st_mode):
                    self._find(relative, None, (), "is a symbolic link or a device; a store holds plain files only")
                    self.known.add(relative)
        return inventory

    def _seal(self) -> Seal | None:
        self.known.add(SEAL_FILE)
        if not is_sealed(self.store):
            self._find(SEAL_FILE, None, (), "is not there: the store is not sealed. Run the same command to finish it")
            return None
        try:
            seal = read_seal(self.store)
        except CorruptStoreError:
            self._find(SEAL_FILE, None, (), "is damaged; without it metadata and per-protein arrays are not checked")
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
            return None  # with a seal, the loop over its files reports it

    def _open_names(self, header: Header, seal: Seal | None) -> None:
        """Use `ids.parquet` for names only if it is intact."""
        path = self.store / IDS_FILE
        try:
            data = read_regular(path)
        except CorruptStoreError:
            return
        if seal is None or FileRecord.of(data) == seal.files.get(IDS_FILE):
            names = StoredColumn(lambda: pa.BufferReader(data), "id", header.num_proteins)
            try:
                names[0]
            except CorruptStoreError as error:
                self._find(IDS_FILE, None, (), str(error))
                return
            self.names = names

    def _name(self, position: int) -> str:
        return f"number {position}" if self.names is None else self.names[position]

    def _allow_unsealed(self, header: Header) -> None:
        """What an unfinished store may hold beside its committed units, the beginnings of a seal among it."""
        layout = header.layout
        self.known |= {IDS_FILE, LOCK_FILE, QUARANTINE_FILE, INDEX_FILE, *layout.zarr_documents(sealed=True)}
        self.known |= {digest_file(group) for group in (IDS_GROUP, *layout.groups())}
        for modality in MODALITIES:
            for spec in layout.protein_arrays(modality):
                self.known.update(layout.protein_files(spec))
        for unit in set(range(header.num_units)) - set(committed_units(self.store)):
            self.known.update(layout.unit_files(unit))
        for name in (IDS_FILE, *layout.zarr_documents(sealed=False)):
            if not (self.store / name).is_file():
                self._find(name, None, (), "is missing")

    def _hit_by_column(self, layout: Layout, name: str) -> Iterator[str]:
        """The proteins whose entries are in this file of a per-protein array; nothing for other files."""
        for modality in MODALITIES:
            for spec in layout.protein_arrays(modality):
                if name.startswith(f"{spec.path}/c/"):
                    rows = layout.protein_chunk_rows(spec)
                    begin = int(name.split("/")[3]) * rows
                    yield from map(self._name, range(begin, min(begin + rows, layout.num_proteins)))

    def _check(self, name: str, record: FileRecord, unit: int | None, proteins: Iterable[str]) -> bool:
        """Size, and hash where asked for; gives whether the file is as it should be."""
        self.known.add(name)
        self.report.files += 1
        path = self.store / name
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            self._find(name, unit, proteins, f"cannot be read ({error.strerror})")
            return False
        with os.fdopen(descriptor, "rb") as handle:
            size = os.fstat(descriptor).st_size
            if size != record.size:
                self._find(name, unit, proteins, f"has {size} bytes, should have {record.size}")
                return False
            if self.quick and not name.endswith((".json", ".jsonl")):
                return True
            digest = hashlib.sha256()
            while block := handle.read(_BLOCK):
                digest.update(block)
        if digest.hexdigest() != record.sha256:
            self._find(name, unit, proteins, "its content is not what was written (sha256)")
            return False
        return True

    def _entries(self, header: Header, seal: Seal | None) -> Iterator[LedgerEntry]:
        """The ledger entries that can be believed; files of a unit without one are known but not checked."""
        units = range(header.num_units) if seal is not None else committed_units(self.store)
        for unit in units:
            name = ledger_file(unit)
            record = self.listed.get(name)
            self.known.add(name)
            try:
                if record is not None and not self._check(name, record, unit, ()):
                    raise CorruptStoreError("reported")
                yield read_entry(self.store, unit, header.plan_sha256)
            except CorruptStoreError:
                if record is None:
                    self._find(name, unit, (), "is damaged: the files of this unit cannot be checked")
                self.known.update(header.layout.unit_files(unit))

    def _unit(self, layout: Layout, entry: LedgerEntry) -> None:
        members = range(entry.first, entry.first + entry.proteins)
        side = side_file(entry.unit)
        facts = None
        if self._check(side, entry.files[side], entry.unit, (self._name(position) for position in members)):
            facts = UnitFacts.from_bytes(read_regular(self.store / side))
        for modality in MODALITIES:
            specs = [spec for spec in layout.row_arrays(modality) if spec.chunk_file(entry.unit) in entry.files]
            if self.quick or facts is None:
                for spec in specs:
                    name = spec.chunk_file(entry.unit)
                    self._check(name, entry.files[name], entry.unit, (self._name(position) for position in members))
            elif specs:
                self._shards(layout, entry, modality, specs, facts)

    def _shards(
        self, layout: Layout, entry: LedgerEntry, modality: Modality, specs: list[ArraySpec], facts: UnitFacts
    ) -> None:
        """Hash the shards of one modality, and check every protein's crc32c in them."""
        before = len(self.report.findings)
        for spec in specs:
            name = spec.chunk_file(entry.unit)
            self._check(name, entry.files[name], entry.unit, ())
        found = self.report.findings[before:]
        arrays = [self._rows(layout, spec, entry.unit) for spec in specs]
        hit = []
        begins = facts.start[modality] - entry.unit * layout.shard_rows
        for slot, (begin, length) in enumerate(zip(begins.tolist(), facts.length[modality].tolist(), strict=True)):
            if not length:
                continue
            parts = [None if rows is None else rows[begin : begin + length] for rows in arrays]
            whole = [part for part in parts if part is not None and len(part) == length]
            if len(whole) < len(parts) or checksum(whole[0], whole[1] if len(whole) > 1 else None) != int(
                facts.crc32c[modality][slot]
            ):
                hit.append(self._name(entry.first + slot))
        if found:
            reasons = [
                Finding(f.file, f.unit, tuple(hit), f.reason + ("" if hit else "; no protein's rows are hit"))
                for f in found
            ]
            self.report.findings[before:] = reasons
        elif hit:
            self._find(specs[0].chunk_file(entry.unit), entry.unit, hit, "crc32c of these rows is not what was stored")

    def _rows(self, layout: Layout, spec: ArraySpec, unit: int) -> np.ndarray | None:
        """The rows that a shard file holds, as many as are there; None if it cannot be read."""
        try:
            data = read_regular(self.store / spec.chunk_file(unit))
        except CorruptStoreError:
            return None
        rows = min(len(data) // spec.row_bytes, layout.shard_rows)
        return np.frombuffer(data[: rows * spec.row_bytes], dtype=spec.dtype).reshape(rows, *spec.row_shape)
