"""Have the workers of a dask cluster write a store's units.

The run hands out units, a few more than are worked on, and gets receipts back. A unit that ends its workers is put
off until all others are done, and then tried alone: if it still does, the proteins that do it are found by halving,
and the unit is computed without them.
"""

import logging
import os
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import amma
from amma.featurize.encoding import FAILURES_OF_AN_ENCODER, EncoderOrigin
from amma.featurize.store.filling import Origin, Receipts, Work, planned_rows
from amma.featurize.store.ledger import LedgerEntry, hash_of_ids
from amma.featurize.workers.bisect import find_fatal
from amma.featurize.workers.crew import Crew, Team
from amma.featurize.workers.recipe import Recipe
from amma.featurize.workers.task import Job, Receipt, UnitTask, place
from amma.featurize.workers.worker import compute, prepare, survives
from amma.manifests.errors import StoreError

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.02
_ROUNDS = 3
"""How often a unit, or the building of encoders, may end its workers without a protein that does so alone."""


class _StoppedError(Exception):
    """The run was asked to stop while it waited for one task."""


class ClusterWriter:
    """A `WriteUnits` that leaves the work to a crew; `recipe` builds the encoders of the origin it is given."""

    def __init__(self, crew: Crew, manifest: Path, recipe: Recipe) -> None:
        self._crew = crew
        self._manifest = manifest
        self._recipe = recipe

    def __call__(self, work: Work, origin: Origin) -> Receipts:
        """Give the receipts of units in the order in which they are done."""
        if not isinstance(origin, EncoderOrigin):
            raise TypeError("workers build encoders; other origins are written by the process that has them")
        if not work.units:
            return
        work.scratch.mkdir(parents=True, exist_ok=True)
        job = Job(
            store=work.store.absolute(),
            scratch=work.scratch.absolute(),
            manifest=self._manifest.absolute(),
            recipe=self._recipe,
            plan_sha256=work.header.plan_sha256,
            version=amma.__version__,
        )
        self._say_if_crowded(work.header.settings.threads or 1)
        own_gpus = self._recipe.arguments.get("device") in ("auto", "cuda")
        with self._crew.connected(own_gpus=own_gpus) as team:
            yield from _Dispatch(team, job, work, origin).receipts()

    def _say_if_crowded(self, threads: int) -> None:
        processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        if self._crew.local and self._crew.local * threads > 2 * processors:
            log.warning(
                "%d workers of %d threads each share %d processors; a new store begun with --threads %d would be "
                "written faster",
                *(self._crew.local, threads, processors, max(processors // self._crew.local, 1)),
            )


class _Dispatch:
    def __init__(self, team: Team, job: Job, work: Work, origin: EncoderOrigin) -> None:
        self._team = team
        self._job = job
        self._work = work
        self._origin = origin
        self._device = ""

    def receipts(self) -> Receipts:
        suspects: list[int] = []
        try:
            self._prepare()
            yield from self._flow(suspects)
            for unit in suspects:
                yield self._alone(unit)
        except _StoppedError:
            return

    def _prepare(self) -> None:
        """Have one worker build the encoders, so that what is wrong with all of them is said once."""
        for _ in range(_ROUNDS):
            device = self._one(prepare, self._job)
            if device is not None:
                self._device = device
                return
        raise StoreError(
            f"workers of {self._team.where} end while they build the encoders. See their messages; they may need more "
            "memory.",
            code="E_CLUSTER",
        )

    def _flow(self, suspects: list[int]) -> Iterator[LedgerEntry]:
        """All units, as many at once as there are workers; those that end their workers become `suspects`."""
        waiting = deque(self._work.units)
        running: dict[str, tuple[UnitTask, Any]] = {}
        finished: Any = _as_completed(self._team)
        try:
            while running or (waiting and not self._work.stop.requested):
                while waiting and len(running) <= self._team.threads and not self._work.stop.requested:
                    task = self._task(waiting.popleft(), self._origin.set_aside)
                    future = self._submit(compute, self._job, task)
                    running[future.key] = (task, future)
                    finished.add(future)
                for future, result in self._ready(finished):
                    task, _ = running.pop(future.key)
                    receipt = self._checked(result)
                    if receipt is None:
                        log.warning("unit %d ended its workers; it is put off and then tried alone", task.unit)
                        suspects.append(task.unit)
                    else:
                        yield self._accept(task, receipt)
                if self._work.stop.requested and not self._team.threads:
                    return  # nobody will finish them
        finally:
            self._team.client.cancel([future for _, future in running.values()])

    def _alone(self, unit: int) -> LedgerEntry:
        """One unit with no other under way, so that it is known who ends a worker."""
        aside = self._origin.set_aside
        for _ in range(_ROUNDS):
            task = self._task(unit, aside)
            receipt = self._one(compute, self._job, task)
            if receipt is not None:
                return self._accept(task, receipt)
            aside = aside | self._fatal(task)
        raise StoreError(
            f"unit {unit} ends its workers, though none of its proteins does so alone: they may need more memory, or a "
            "smaller --token-budget (of a new store). The other units are safe.",
            code="E_CLUSTER",
        )

    def _fatal(self, task: UnitTask) -> frozenset[str]:
        """The ids of the proteins that end a worker."""
        candidates = [slot for slot, protein in enumerate(task.proteins) if protein.id not in task.set_aside]
        log.warning("unit %d ends its workers alone too: looking for the proteins that do it", task.unit)

        def outlived(slots: Sequence[int]) -> bool:
            return self._one(survives, self._job, task.only(list(slots))) is not None

        fatal = [task.proteins[slot].id for slot in find_fatal(candidates, outlived)]
        if len(fatal) == len(candidates) >= FAILURES_OF_AN_ENCODER:
            raise StoreError(
                f"each of the {len(fatal)} proteins of unit {task.unit} ends its worker; that is not the proteins' "
                "fault. See the workers' messages.",
                code="E_ENCODER",
            )
        for protein in fatal:
            log.warning("%r left out: it ends the process that encodes it", protein)
        return frozenset(fatal)

    def _task(self, unit: int, set_aside: frozenset[str]) -> UnitTask:
        plan = self._work.plan
        proteins = self._origin.proteins(plan, plan.positions(unit))
        return UnitTask.of(plan, unit, proteins, set_aside.intersection(protein.id for protein in proteins))

    def _accept(self, task: UnitTask, receipt: Receipt) -> LedgerEntry:
        """Check a receipt and move its files into place."""
        entry = receipt.entry
        expected = (task.unit, task.first, len(task.proteins), self._job.plan_sha256)
        ids = hash_of_ids(protein.id for protein in task.proteins)
        allowed = set(self._work.header.layout.unit_files(task.unit))
        if (
            (entry.unit, entry.first, entry.proteins, entry.plan_sha256) != expected
            or entry.ids_sha256 != ids
            or not allowed.issuperset(entry.files)
            or Path(receipt.attempt).name != receipt.attempt
        ):
            raise StoreError(f"a worker gave the receipt of something else for unit {task.unit}.", code="E_CLUSTER")
        if receipt.device != self._device:
            raise StoreError(
                f"workers compute on different devices ({self._device} and {receipt.device}), which round differently. "
                "Give --device, or --worker-resource for workers of one kind.",
                code="E_CLUSTER",
            )
        self._work.check_owner()
        place(self._work.store, self._work.scratch, receipt)
        self._work.advance(planned_rows(self._work.plan, [task.unit]))
        return entry

    def _submit(self, function: Callable[..., Any], *arguments: Any) -> Any:
        key = f"{function.__name__}-{secrets.token_hex(8)}"
        resources = self._team.resources or None
        return self._team.client.submit(function, *arguments, key=key, pure=False, resources=resources)

    def _one(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """The result of one task, None if it ended its workers; raises `_StoppedError` when asked to stop."""
        future = self._submit(function, *arguments)
        finished = _as_completed(self._team)
        finished.add(future)
        while not (ready := self._ready(finished)):
            if self._work.stop.requested:
                self._team.client.cancel([future])
                raise _StoppedError
        return self._checked(ready[0][1])

    def _ready(self, finished: Any) -> list[tuple[Any, Any]]:
        """Futures that are done and what they gave; none after a moment."""
        self._team.tend()
        if not finished.has_ready():
            time.sleep(_POLL_SECONDS)
            return []
        ready: list[tuple[Any, Any]] = finished.next_batch(block=False)
        return ready

    def _checked(self, result: Any) -> Any:
        """What a task gave, None if it ended its workers; raises what it raised."""
        from distributed import KilledWorker

        if isinstance(result, CancelledError):
            raise StoreError(
                f"the dask scheduler at {self._team.where} dropped a unit. What is committed is safe; run the same "
                "command again.",
                code="E_CLUSTER",
            )
        error = result[1] if isinstance(result, tuple) else None
        if isinstance(error, KilledWorker):
            return None
        if isinstance(error, ImportError):
            raise StoreError(
                f"a worker of {self._team.where} lacks a module ({error}). Install the same everywhere.",
                code="E_CLUSTER",
            ) from error
        if error is not None:
            raise error
        return result


def _as_completed(team: Team) -> Any:
    """Gives futures with their results, fetched as they come: one whose worker died before that is computed again."""
    from distributed import as_completed

    completed: Any = as_completed
    return completed(loop=team.client.loop, with_results=True)
