"""Give a damaged store back as it was, to the byte, from the proteins and encoders it was made of.

What is damaged is found by a full verify. Every file of a store is a function of others: a unit's files of the
proteins and encoders, plan and ids of the proteins, all else of the units. So whatever is damaged is made again,
compared with what intact files say it must be (`Witness`), and only then put in its place; what cannot be proven
stays as it is. A repair that was stopped is simply begun again.
"""

from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from amma.featurize.store.disk import disk_full_is_said
from amma.featurize.store.documents import is_sealed, render
from amma.featurize.store.filling import Advance, Origin, Progress, receipt, unit_shards
from amma.featurize.store.finding import Finding
from amma.featurize.store.header import Header
from amma.featurize.store.ids import write_ids
from amma.featurize.store.layout import (
    IDS_FILE,
    IDS_GROUP,
    INDEX_FILE,
    LEDGER_FOLDER,
    PLAN_FILE,
    QUARANTINE_FILE,
    SEAL_FILE,
    Layout,
    digest_file,
    ledger_file,
    side_file,
)
from amma.featurize.store.ledger import (
    LedgerEntry,
    committed_units,
    hash_of_ids,
    read_entry,
    remove_temporaries,
)
from amma.featurize.store.lock import StoreLock, is_lock_file
from amma.featurize.store.mending import Mending
from amma.featurize.store.plan import Plan
from amma.featurize.store.seal import seal_store
from amma.featurize.store.settings import StoreSettings
from amma.featurize.store.shard import FileRecord, StockReader, make_folder, shard_record, write_shard
from amma.featurize.store.stopping import StopSignals
from amma.featurize.store.unit import Past, UnitContents
from amma.featurize.store.verify import verify_store
from amma.featurize.store.witness import Witness, same_rows
from amma.manifests.errors import CorruptStoreError, StoreError
from amma.manifests.table import MODALITIES


@runtime_checkable
class ReplayableOrigin(Origin, Protocol):
    """An origin that can go again the way that a unit once took."""

    def refill(self, contents: UnitContents, past: Past, advance: Advance) -> None:
        """As `fill`, with the late rejects and cut batches of `past`."""


@dataclass(slots=True)
class Repair:
    """What was wrong, what was made again, and what remains: things in the store that are not its own."""

    store: str
    dry_run: bool
    root: str | None = None
    findings: list[Finding] = field(default_factory=list)
    units: list[int] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    left: list[Finding] = field(default_factory=list)

    @property
    def is_whole(self) -> bool:
        """Whether nothing is wrong any more (with `dry_run`: was)."""
        return not (self.findings if self.dry_run else self.left)

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {**asdict(self), "ok": self.is_whole}

    def lines(self) -> list[str]:
        """For people."""
        if not self.findings:
            return [f"{self.store}: intact, nothing to repair; root {self.root}"]
        if self.dry_run:
            units = ", ".join(map(str, self.units[:20])) + (" …" if len(self.units) > 20 else "")
            told = f"units to look at or encode again: {units or 'none'}; nothing was written"
            return [f"{self.store}: {len(self.findings)} findings; {told}", *(each.line() for each in self.findings)]
        done = f"{len(self.files)} files made again ({len(self.units)} units encoded)"
        if self.is_whole:
            return [f"{self.store}: {done}, as they were; root {self.root}"]
        return [f"{self.store}: {done}. What remains:", *(finding.line() for finding in self.left)]


def repair_store(
    path: Path,
    origin: ReplayableOrigin,
    asked: StoreSettings,
    *,
    dry_run: bool = False,
    verifying: Progress = lambda total: nullcontext(lambda done: None),
    encoding: Progress = lambda total: nullcontext(lambda rows: None),
) -> Repair:
    """Find what is damaged in the store at `path`, and make it again; with `dry_run` only say what it would be.

    `asked` is taken over where `plan.json` is lost. Raises `FingerprintError` or `StoreError` for other encoders,
    settings or proteins, `StoreError` `E_REPAIR` where what is made again cannot be shown to be what was there.
    """
    with disk_full_is_said(path, lambda: str(len(committed_units(path)))):
        if dry_run:
            return _Repairer(path, origin, asked, None).run(verifying, encoding)
        if not path.is_dir():
            raise StoreError(f"{path}: no such folder. Give the folder of a feature store.")
        with StoreLock(path) as lock:
            return _Repairer(path, origin, asked, lock).run(verifying, encoding)


class _Repairer:
    def __init__(self, path: Path, origin: ReplayableOrigin, asked: StoreSettings, lock: StoreLock | None) -> None:
        self.path = path
        self.origin = origin
        self.asked = asked
        self.lock = lock
        self.report = Repair(str(path), dry_run=lock is None)
        self.header: Header
        self.plan: Plan
        self.layout: Layout
        self.bad: set[str] = set()

    def run(self, verifying: Progress, encoding: Progress) -> Repair:
        if self.lock is not None:
            remove_temporaries(self.path)
        self._look(verifying)
        if not self.report.findings:
            return self.report
        witness = Witness(self.path, self.bad)
        self.header, self.plan = witness.plan(self.origin, self.asked)
        self.layout = self.header.layout
        if self.lock is None:
            witness.list(self.layout)
            self.report.units = self._units(witness)
            return self.report
        self.mending = Mending(self.path, self.lock)
        self.mending.unlink_links(self._all_names())
        if PLAN_FILE in self.bad:
            # Without a plan no unit was looked at; with it, all is.
            self.mending.put(PLAN_FILE, render(self.header.as_json()))
            self._look(verifying)
            witness = Witness(self.path, self.bad)
        witness.list(self.layout)
        units = self._units(witness)
        self._mend_ids(witness)
        rows = sum(self.plan.rows(unit, modality) for unit in units for modality in MODALITIES)
        with StopSignals() as stop, encoding(rows) as advance:
            stock = StockReader(self.layout.zarr_documents(sealed=False))
            for number, unit in enumerate(units):
                stop.check(number, len(units))
                self._mend_unit(unit, witness, stock, advance)
        self._mend_rest(witness)
        remove_temporaries(self.path)
        self.report.files = self.mending.replaced
        after = verify_store(self.path, quick=True)
        self.report.root = after.root
        self.report.left = [each for each in after.findings if not is_lock_file(each.file)]
        return self.report

    def _look(self, verifying: Progress) -> None:
        """Verify all, and add what is found to what was."""
        found = verify_store(self.path, progress=verifying)
        self.report.root = found.root
        known = {finding.file for finding in self.report.findings}
        new = [each for each in found.findings if each.file not in known and not is_lock_file(each.file)]
        self.report.findings += new
        self.bad = {finding.file for finding in found.findings}

    def _units(self, witness: Witness) -> list[int]:
        """The units of which the ledger entry or a file is not as it should be; all, where only encoding can tell."""
        if witness.is_contradicted:
            return list(range(self.header.num_units))
        committed = range(self.header.num_units) if self._was_sealed() else committed_units(self.path)
        return [
            unit for unit in committed if not self.bad.isdisjoint([ledger_file(unit), *self.layout.unit_files(unit)])
        ]

    def _was_sealed(self) -> bool:
        return is_sealed(self.path) or len(committed_units(self.path)) == self.header.num_units

    def _all_names(self) -> set[str]:
        names = {PLAN_FILE, IDS_FILE, SEAL_FILE, INDEX_FILE, QUARANTINE_FILE, *self.layout.zarr_documents(sealed=True)}
        names |= {digest_file(group) for group in (IDS_GROUP, *self.layout.groups())}
        for group in self.layout.groups().values():
            names.update(group)
        for unit in range(self.header.num_units):
            names.update(self.layout.unit_files(unit))
        return names

    def _mend_ids(self, witness: Witness) -> None:
        if IDS_FILE not in self.bad and witness.seal is not None:
            return
        made = self.mending.scratch / IDS_FILE
        make_folder(made.parent)
        write_ids(made, self.plan, self.origin.identities)
        record = FileRecord.of(made.read_bytes())
        if witness.seal is not None:
            witness.demand(IDS_FILE, record, witness.seal.files[IDS_FILE])
        elif IDS_FILE not in self.bad and same_rows(made, self.path / IDS_FILE):
            return
        self.mending.move(IDS_FILE)

    def _mend_unit(self, unit: int, witness: Witness, stock: StockReader, advance: Advance) -> None:
        name = ledger_file(unit)
        entry = None if name in self.bad else read_entry(self.path, unit, self.header.plan_sha256)
        if entry is None and self._mend_entry(unit, witness):
            return
        refused: StoreError | None = None
        for past in [entry.past] if entry is not None else witness.pasts(unit, self._ids(unit)):
            contents = UnitContents(self.plan, self.layout, unit)
            self.origin.refill(contents, past, advance)
            shards = {
                spec.chunk_file(unit): shard_record(self.layout, spec, rows) for spec, rows in unit_shards(contents)
            }
            facts = contents.facts().to_bytes()
            made = receipt(contents, shards, facts)
            try:
                witness.demand_unit(made, entry)
            except StoreError as error:
                refused = refused or error
                continue
            self._put_unit(contents, made, facts, stock)
            self.report.units.append(unit)
            return
        if refused is not None:
            raise refused

    def _put_unit(self, contents: UnitContents, made: LedgerEntry, facts: bytes, stock: StockReader) -> None:
        unit = contents.unit
        for spec, rows in unit_shards(contents):
            name = spec.chunk_file(unit)
            if self.mending.record(name) != made.files[name]:
                self.mending.clear(name)
                write_shard(self.path, self.layout, spec, unit, rows, stock)
                self.mending.replaced.append(name)
        if self.mending.record(side_file(unit)) != made.files[side_file(unit)]:
            self.mending.put(side_file(unit), facts)
        text = render(made.as_json())
        if self.mending.record(ledger_file(unit)) != FileRecord.of(text):
            self.mending.put(ledger_file(unit), text)

    def _mend_entry(self, unit: int, witness: Witness) -> bool:
        """Write a lost ledger entry again from the unit's files alone, where the seal shows that they are intact."""
        expected = witness.listed.get(ledger_file(unit))
        if expected is None:
            return False
        found = {name: self.mending.record(name) for name in self.layout.unit_files(unit)}
        files = {name: record for name, record in found.items() if record is not None}
        positions = self.plan.positions(unit)
        ids = self._ids(unit)
        for past in witness.pasts(unit, ids):
            entry = LedgerEntry(
                unit=unit,
                first=positions.start,
                proteins=len(positions),
                ids_sha256=hash_of_ids(ids),
                plan_sha256=self.plan.sha256,
                files=files,
                past=past,
            )
            text = render(entry.as_json())
            if FileRecord.of(text) == expected:
                self.mending.put(ledger_file(unit), text)
                return True
        return False

    def _ids(self, unit: int) -> list[str]:
        positions = self.plan.positions(unit)
        return self.origin.identities(self.plan.order[positions.start : positions.stop])[0]

    def _mend_rest(self, witness: Witness) -> None:
        """What the seal writes: metadata, per-protein arrays, index, tables, quarantine, and the seal itself."""
        units = {name for unit in range(self.header.num_units) for name in self.layout.unit_files(unit)}
        if all(
            name in units or name in (PLAN_FILE, IDS_FILE) or name.startswith(f"{LEDGER_FOLDER}/") for name in self.bad
        ):
            return
        if len(committed_units(self.path)) < self.header.num_units:
            for name, data in self.layout.zarr_documents(sealed=False).items():
                if name in self.bad:
                    self.mending.put(name, data)
            return
        make_folder(self.mending.scratch)
        try:
            made = seal_store(self.path, self.header, into=self.mending.scratch)
        except CorruptStoreError as error:
            raise StoreError(f"{self.path}: cannot be sealed again. {error}", code="E_REPAIR") from error
        witness.demand_seal(made)
        differing = []
        for name, record in made.everything(self.mending.scratch, self.layout).items():
            apart = name in (PLAN_FILE, IDS_FILE) or name.startswith(f"{LEDGER_FOLDER}/")
            if not apart and self.mending.record(name) != record:
                expected = witness.expected(name)
                # A file whose table is lost is vouched for by the table, which is among these files.
                witness.demand(name, record, record if expected is None else expected)
                differing.append(name)
        for name in differing:
            self.mending.move(name)
        # Where units that were encoded again are those of the ledger, a seal that speaks of others is not ours.
        if SEAL_FILE in self.bad or (witness.is_contradicted and not differing):
            self.mending.move(SEAL_FILE)
