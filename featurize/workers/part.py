"""Fill a share of a store, for job arrays, and seal the store when all shares are there."""

from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from amma.featurize.store.disk import check_room, disk_full_is_said, estimate
from amma.featurize.store.documents import is_sealed
from amma.featurize.store.filling import (
    Origin,
    Outcome,
    Progress,
    Work,
    WriteUnits,
    begin,
    committed,
    num_rejected,
    num_safe,
    plan_here,
    planned_rows,
    write_here,
)
from amma.featurize.store.header import Header, read_header
from amma.featurize.store.ledger import LedgerEntry, check_sizes, committed_units, read_entry, remove_folder, sweep
from amma.featurize.store.lock import StoreLock
from amma.featurize.store.parts import Part, beginning, claim, end_parts, sweep_units
from amma.featurize.store.plan import Plan
from amma.featurize.store.seal import read_seal, seal_store
from amma.featurize.store.settings import StoreSettings
from amma.featurize.store.stopping import StopSignals
from amma.manifests.errors import StoreError

_NAMED = 12


@dataclass(frozen=True, slots=True)
class PartOutcome:
    """What a part did: `units` are its own, `num_written` of them now; `committed` units of the store are there."""

    header: Header
    part: Part
    units: int
    num_written: int
    num_rejected: int
    committed: int
    sealed: bool

    def lines(self, store: Path) -> list[str]:
        """For people."""
        total = self.header.num_units
        if self.sealed:
            last = f"{store} is sealed"
        elif self.committed < total:
            last = f"{self.committed} of {total} units are there; seal {store} when all are"
        else:
            last = f"all {total} units are there: amma-featurize seal {store}"
        return [
            f"part         {self.part}: {self.num_written} units written, {self.units} in all",
            f"quarantined  {self.num_rejected} while encoding",
            f"store        {last}",
        ]


def fill_part(
    path: Path,
    origin: Origin,
    settings: StoreSettings,
    part: Part,
    *,
    progress: Progress = lambda total: nullcontext(lambda rows: None),
    write_units: WriteUnits = write_here,
) -> PartOutcome:
    """Begin the store at `path` unless another part has, and fill the units of `part`; seals nothing.

    Raises as `fill_store`; `E_LOCKED` also if the same part, a part of another cut, or a whole run is at work.
    """
    if path.exists() and not path.is_dir():
        raise StoreError(f"{path}: is a file; a store is a folder. Give another path.")
    with disk_full_is_said(path, lambda: num_safe(path)):
        header, plan = plan_here(path, origin, settings)
        path.mkdir(parents=True, exist_ok=True)
        with ExitStack() as held:
            if not is_sealed(path):
                with beginning(path):
                    recorded = read_header(path)
                    if recorded is not None and recorded.as_json() != header.as_json():
                        # Begun by another part meanwhile: its settings hold, or it is said what differs.
                        header, plan = plan_here(path, origin, settings)
                    if not is_sealed(path):
                        begin(path, header, plan, origin, header.layout.zarr_documents(sealed=False))
                        lock = held.enter_context(claim(path, part))
            if is_sealed(path):  # nobody seals it while this part has its lock
                with suppress(StoreError):  # another part is finding out the same
                    end_parts(path)
                return PartOutcome(header, part, len(part.units(plan.num_units)), 0, 0, plan.num_units, sealed=True)
            return _fill(path, origin, header, plan, part, lock, progress, write_units)


def _fill(
    path: Path,
    origin: Origin,
    header: Header,
    plan: Plan,
    part: Part,
    lock: StoreLock,
    progress: Progress,
    write_units: WriteUnits,
) -> PartOutcome:
    own = part.units(plan.num_units)
    entries = _entries(path, header, [unit for unit in committed_units(path) if unit in own])
    done = {entry.unit for entry in entries}
    pending = [unit for unit in own if unit not in done]
    sweep_units(path, header.layout, pending)
    scratch = path / part.folder / "attempts"
    remove_folder(scratch)
    check_room(path, estimate(plan, header.layout, pending), safe=len(done), total=len(own))
    with StopSignals() as stop, progress(planned_rows(plan, pending)) as advance:
        documents = header.layout.zarr_documents(sealed=False)
        work = Work(path, header, plan, pending, documents, scratch, advance, stop, lock.check)
        for entry in committed(work, origin, write_units):
            entries.append(entry)
        stop.check(len(entries), len(own))
    remove_folder(scratch)
    there = len(committed_units(path))
    return PartOutcome(header, part, len(own), len(pending), num_rejected(entries), there, sealed=False)


def _entries(path: Path, header: Header, units: list[int]) -> list[LedgerEntry]:
    entries = [read_entry(path, unit, header.plan_sha256) for unit in units]
    for entry in entries:
        check_sizes(path, entry)
    return entries


def seal_parts(path: Path) -> Outcome:
    """Seal a store whose units are all there; needs no manifest and no encoder.

    Raises `StoreError`: `E_UNSEALED` naming the units that are missing, `E_LOCKED` while anybody works on it;
    `CorruptStoreError` if a committed unit is not what its ledger entry says.
    """
    if read_header(path) is None:
        raise StoreError(f"{path}: not a feature store (no plan.json). Make one with amma-featurize run.")
    with disk_full_is_said(path, lambda: num_safe(path)), StoreLock(path) as lock:
        end_parts(path)
        header = read_header(path)
        if header is None:
            raise StoreError(f"{path}: its plan.json went away. Run amma-featurize verify.")
        done = committed_units(path)
        missing = sorted(set(range(header.num_units)) - set(done))
        if missing:
            raise StoreError(
                f"{path}: {len(missing)} of {header.num_units} units are missing: {_ranges(missing)}. "
                "Run the parts that own them again, or one run without --part.",
                code="E_UNSEALED",
            )
        entries = _entries(path, header, done)
        if is_sealed(path):
            return Outcome(header, read_seal(path).root, num_rejected(entries), 0, was_sealed=True)
        sweep(path, header.layout, done)
        lock.check()
        root = seal_store(path, header).root
        return Outcome(header, root, num_rejected(entries), 0, was_sealed=False)


def _ranges(units: list[int]) -> str:
    """`0, 3–5, 9`."""
    spans: list[list[int]] = []
    for unit in units:
        if spans and spans[-1][1] == unit - 1:
            spans[-1][1] = unit
        else:
            spans.append([unit, unit])
    words = [str(first) if first == last else f"{first}–{last}" for first, last in spans]
    more = f" and {len(words) - _NAMED} more stretches" if len(words) > _NAMED else ""
    return ", ".join(words[:_NAMED]) + more
