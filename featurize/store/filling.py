"""Fill a store: plan, write what is missing unit by unit, seal.

Where the numbers come from is an `Origin`: frozen encoders (`encoding.py`) or arrays that are there (`writer.py`).
"""

import logging
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, nullcontext, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64

from amma.featurize.store.disk import check_room, disk_full_is_said, estimate, free_bytes
from amma.featurize.store.documents import is_sealed
from amma.featurize.store.fingerprint import check_fingerprint, plain
from amma.featurize.store.header import Header, read_header
from amma.featurize.store.ids import ROWS_PER_GROUP, planned_kinds, write_ids
from amma.featurize.store.layout import IDS_FILE, LEDGER_FOLDER, PLAN_FILE, UNITS_FOLDER, ArraySpec, side_file
from amma.featurize.store.ledger import (
    LedgerEntry,
    check_sizes,
    commit,
    committed_units,
    hash_of_ids,
    read_entry,
    sweep,
)
from amma.featurize.store.lock import StoreLock, is_lock_file
from amma.featurize.store.parts import PARTS_FOLDER, WHOLE, end_parts
from amma.featurize.store.plan import Plan, Survey, make_plan
from amma.featurize.store.seal import read_seal, seal_store, write_documents
from amma.featurize.store.settings import StoreSettings
from amma.featurize.store.shard import Aside, FileRecord, StockReader, make_folder, shard_record
from amma.featurize.store.stopping import StopSignals
from amma.featurize.store.unit import UnitContents
from amma.manifests.errors import StoreError
from amma.manifests.files import TEMPORARY_SUFFIX, aside_of, fsync_directory, write_durably, write_json_atomically
from amma.manifests.table import MODALITIES, Modality

log = logging.getLogger(__name__)

SYNCED = 5
"""Files of a unit that the disk is waited for at a time: as many as there are arrays of rows."""

Advance = Callable[[int], None]
Progress = Callable[[int], AbstractContextManager[Advance]]
"""Shows how far the writing is: given the rows to come, a function to call with the rows done."""


@runtime_checkable
class Origin(Protocol):
    """Where the numbers of a store come from."""

    widths: dict[Modality, int]
    random_weights: bool

    def fingerprint(self) -> dict[str, Any]:
        """What decides the numbers, as plain JSON values."""

    def survey(self) -> Survey:
        """The lengths of all proteins and the hash of their content."""

    def identities(self, rows: Int64[np.ndarray, " n"]) -> tuple[list[str], list[str]]:
        """The ids and sequences of some rows of the survey."""

    def fill(self, contents: UnitContents, advance: Advance) -> None:
        """Put or reject every planned protein and modality of one unit."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended: all units are there, and the store is sealed under `root`."""

    header: Header
    root: str
    num_rejected: int
    num_written: int
    was_sealed: bool


@dataclass(frozen=True, slots=True)
class Preview:
    """What a run would do: `needed` and `free` are bytes."""

    header: Header
    committed: int
    sealed: bool
    needed: int
    free: int


@dataclass(frozen=True)
class Work:
    """Units to write, and what their writer needs.

    `scratch` is a folder on the store's file system for what is not proven yet; it is removed with what is in it.
    """

    store: Path
    header: Header
    plan: Plan
    units: Sequence[int]
    documents: Mapping[str, bytes]
    scratch: Path
    advance: Advance
    stop: StopSignals
    check_owner: Callable[[], None]


Receipts = Generator[LedgerEntry, None, None]
WriteUnits = Callable[[Work, Origin], Receipts]
"""Writes units in any order, and gives the receipt of each as its files are in place; ends early when asked to stop."""


def write_here(work: Work, origin: Origin) -> Receipts:
    """Fill and write one unit after the other in this process."""

    def filled() -> Iterator[UnitContents]:
        for unit in work.units:
            if work.stop.requested:
                return
            contents = UnitContents(work.plan, work.header.layout, unit)
            origin.fill(contents, work.advance)
            work.check_owner()
            yield contents

    return write_while_filling(work.store, filled(), StockReader(work.documents))


def write_while_filling(path: Path, filled: Iterator[UnitContents], stock: StockReader) -> Receipts:
    """Write each unit while the next one is being filled, so that encoders and disk do not wait for each other.

    Receipts come in order. Where filling ends with an exception, the unit before it is still written and given.
    """
    writing: Future[LedgerEntry] | None = None
    with ThreadPoolExecutor(1) as writer:
        while True:
            try:
                contents = next(filled, None)
            except BaseException:
                if writing is not None:
                    yield writing.result()
                raise
            if writing is not None:
                yield writing.result()
            if contents is None:
                return
            writing = writer.submit(write_unit, path, contents, stock)


def fill_store(
    path: Path,
    origin: Origin,
    settings: StoreSettings,
    *,
    progress: Progress = lambda total: nullcontext(lambda rows: None),
    write_units: WriteUnits = write_here,
    prepare: Callable[[Path, Header], None] = lambda path, header: None,
) -> Outcome:
    """Begin, or go on with, the store at `path`, and seal it; `prepare` writes what else it has, before any unit.

    Raises `StoreError` (`E_LOCKED`, `E_DISK`, `E_FP16`, other proteins or settings than it was begun with),
    `FingerprintError`, `CorruptStoreError`, `InterruptedRunError`. Whatever ends it, the committed units are safe.
    """
    if path.exists() and not path.is_dir():
        raise StoreError(f"{path}: is a file; a store is a folder. Give another path.")
    with disk_full_is_said(path, lambda: num_safe(path)):
        path.mkdir(parents=True, exist_ok=True)
        try:
            with StoreLock(path) as lock:
                end_parts(path)
                return _fill_locked(path, origin, settings, progress, write_units, prepare, lock)
        finally:
            with suppress(OSError):  # of a folder that is not empty: another run begins in it
                path.rmdir()


def num_safe(path: Path) -> str:
    """`3 of 7` units; without the 7 before there is a plan."""
    done = len(committed_units(path))
    with suppress(StoreError):
        if (header := read_header(path)) is not None:
            return f"{done} of {header.num_units}"
    return str(done)


def preview(path: Path, origin: Origin, settings: StoreSettings) -> Preview:
    """Plan as `fill_store` would, and write nothing."""
    header, plan = plan_here(path, origin, settings)
    committed = set(committed_units(path))
    pending = [unit for unit in range(plan.num_units) if unit not in committed]
    needed = estimate(plan, header.layout, pending) if pending else 0
    return Preview(header, len(committed), is_sealed(path), needed, free_bytes(path))


def plan_here(path: Path, origin: Origin, asked: StoreSettings) -> tuple[Header, Plan]:
    """The plan of this run; raises unless it is the one the store was begun with."""
    recorded = read_header(path)
    if recorded is None and path.exists():
        strangers = {entry.name for entry in path.iterdir() if not is_lock_file(entry.name)}
        strangers -= {PLAN_FILE + TEMPORARY_SUFFIX, PARTS_FOLDER}
        if strangers:
            raise StoreError(f"{path}: holds other things ({min(strangers)}) and no store. Give a new path.")
    return plan_store(path, origin, asked, recorded)


def plan_store(path: Path, origin: Origin, asked: StoreSettings, recorded: Header | None) -> tuple[Header, Plan]:
    """The plan of these proteins and settings, for the store at `path`.

    Raises `FingerprintError` or `StoreError` unless it is the one that was `recorded`.
    """
    settings = asked.resolved(None if recorded is None else recorded.settings)
    fingerprint = {**plain(origin.fingerprint()), "dtype": settings.dtype}
    if recorded is not None:
        check_fingerprint(recorded.fingerprint, fingerprint, where=str(path))
    surveyed = origin.survey()
    if recorded is not None and surveyed.content_sha256 != recorded.content_sha256:
        raise StoreError(
            f"{path}: was begun from other proteins ({recorded.num_proteins}, now {len(surveyed)}; content "
            f"{recorded.content_sha256[:12]} -> {surveyed.content_sha256[:12]}). "
            "Give the manifest it was begun with, or write to a new path."
        )
    plan = make_plan(surveyed, settings, lambda row: origin.identities(np.array([row]))[0][0])
    header = Header(
        settings=settings,
        widths=dict(origin.widths),
        fingerprint=fingerprint,
        random_weights=origin.random_weights,
        content_sha256=surveyed.content_sha256,
        plan_sha256=plan.sha256,
        num_proteins=plan.num_proteins,
        num_units=plan.num_units,
        rows={modality: plan.total_rows(modality) for modality in MODALITIES},
        kinds=_count_kinds(plan),
    )
    if recorded is not None and header.as_json() != recorded.as_json():
        raise StoreError(
            f"{path}: the same proteins now plan differently (plan {recorded.plan_sha256[:12]} -> "
            f"{header.plan_sha256[:12]}): this version of amma or of an encoder counts rows in another way. "
            "Finish it with the version it was begun with, or write to a new path."
        )
    return header, plan


def _count_kinds(plan: Plan) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for begin in range(0, plan.num_proteins, ROWS_PER_GROUP):
        counts.update(planned_kinds(plan, begin, min(begin + ROWS_PER_GROUP, plan.num_proteins)))
    return dict(counts)


def _fill_locked(
    path: Path,
    origin: Origin,
    asked: StoreSettings,
    progress: Progress,
    write_units: WriteUnits,
    prepare: Callable[[Path, Header], None],
    lock: StoreLock,
) -> Outcome:
    header, plan = plan_here(path, origin, asked)
    if is_sealed(path):
        found = (read_entry(path, unit, header.plan_sha256) for unit in range(header.num_units))
        return Outcome(header, read_seal(path).root, num_rejected(found), 0, was_sealed=True)
    layout = header.layout
    done = committed_units(path)
    rejected: set[str] = set()  # not the entries: those of a large store would take more memory than its plan
    for unit in done:
        entry = read_entry(path, unit, header.plan_sha256)
        check_sizes(path, entry)
        rejected.update(rejection.id for rejection in entry.rejections)
    num_safe = len(done)
    partial = sweep(path, layout, done)
    if done or partial:
        log.info("resuming: %d/%d units committed, %d partial discarded", len(done), plan.num_units, partial)
    pending = sorted(set(range(plan.num_units)) - set(done))
    check_room(path, estimate(plan, layout, pending), safe=len(done), total=plan.num_units)
    documents = layout.zarr_documents(sealed=False)
    begin(path, header, plan, origin, documents)
    prepare(path, header)
    with StopSignals() as stop, progress(planned_rows(plan, pending)) as advance:
        scratch = path / PARTS_FOLDER / WHOLE
        work = Work(path, header, plan, pending, documents, scratch, advance, stop, lock.check)
        for entry in committed(work, origin, write_units):
            rejected.update(rejection.id for rejection in entry.rejections)
            num_safe += 1
        stop.check(num_safe, plan.num_units)
    lock.check()
    end_parts(path)
    root = seal_store(path, header).root
    return Outcome(header, root, len(rejected), len(pending), was_sealed=False)


def committed(work: Work, origin: Origin, write_units: WriteUnits) -> Iterator[LedgerEntry]:
    """Have units written and commit each; ends early when asked to stop, and raises what `write_units` does."""
    with closing(write_units(work, origin)) as receipts:
        for entry in receipts:
            work.check_owner()
            commit(work.store, entry)
            yield entry


def num_rejected(entries: Iterable[LedgerEntry]) -> int:
    """Proteins with a late reject."""
    return len({rejection.id for entry in entries for rejection in entry.rejections})


def planned_rows(plan: Plan, units: Sequence[int]) -> int:
    """Rows of some units in all modalities."""
    return sum(plan.rows(unit, modality) for unit in units for modality in MODALITIES)


def begin(path: Path, header: Header, plan: Plan, origin: Origin, documents: dict[str, bytes]) -> None:
    """Write what comes before the first unit, where it is not there yet; `plan.json` first: it makes it a store."""
    if not (path / PLAN_FILE).exists():
        write_json_atomically(path / PLAN_FILE, header.as_json())
    for folder in (LEDGER_FOLDER, UNITS_FOLDER):
        make_folder(path / folder)
    write_documents(path, documents)
    if not (path / IDS_FILE).exists():
        write_ids(path / IDS_FILE, plan, origin.identities)


def write_unit(path: Path, contents: UnitContents, stock: StockReader) -> LedgerEntry:
    """Write the files of one unit and give their receipt; nothing counts until that is in the ledger."""
    layout, unit = contents.layout, contents.unit
    side = path / side_file(unit)
    # The smallest first: the disk, which takes longest, has something to do from early on. Another thread measures
    # meanwhile, or more where they do not take this one's processor.
    shards = sorted(unit_shards(contents), key=lambda shard: shard[1].nbytes)
    beside = min(len(MODALITIES), max(1, (contents.plan.settings.threads or 1) - 1))
    asides, proving = [], []
    with ThreadPoolExecutor(SYNCED) as disk, ThreadPoolExecutor(beside) as pool:
        measuring = {modality: pool.submit(contents.measured, modality) for modality in MODALITIES}
        for spec, rows in shards:
            aside = Aside(path, layout, spec, unit, rows)
            asides.append(aside)
            proving.append(disk.submit(aside.prove, stock))
        records = {spec.chunk_file(unit): shard_record(layout, spec, rows) for spec, rows in shards}
        facts = contents.facts_from({modality: each.result() for modality, each in measuring.items()}).to_bytes()
        write_durably(aside_of(side), facts)
        for each in proving:
            each.result()
        aside_of(side).replace(side)
        folders = [side.parent, *chain.from_iterable(aside.place() for aside in asides)]
        list(disk.map(fsync_directory, dict.fromkeys(folders)))  # side by side: journals make one commit of it
    return receipt(contents, records, facts)


def unit_shards(contents: UnitContents) -> Iterator[tuple[ArraySpec, np.ndarray]]:
    """The arrays in which a unit has rows, with these."""
    for modality in MODALITIES:
        for spec in contents.layout.row_arrays(modality):
            rows = contents.rows[spec.path]
            if len(rows):
                yield spec, rows


def receipt(contents: UnitContents, shards: Mapping[str, FileRecord], facts: bytes) -> LedgerEntry:
    """The ledger entry of a unit whose files are these."""
    return LedgerEntry(
        unit=contents.unit,
        first=contents.positions.start,
        proteins=len(contents.positions),
        ids_sha256=hash_of_ids(contents.ids),
        plan_sha256=contents.plan.sha256,
        files={**shards, side_file(contents.unit): FileRecord.of(facts)},
        past=contents.past,
    )
