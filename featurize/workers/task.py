"""What goes to a worker and what comes back: a unit's proteins and their places there, a small receipt here.

Features never travel: a worker writes its unit into a folder of its own beside the store's files, and whoever
coordinates moves the files of the receipt that it accepts into place. So two workers that were given the same unit,
as schedulers do when one is silent, cannot mix their files.

Legend: n proteins of the unit.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Int32, Int64

from amma.featurize.store.header import Header
from amma.featurize.store.ledger import LedgerEntry, remove_folder
from amma.featurize.store.plan import Plan
from amma.featurize.store.shard import make_folder
from amma.featurize.workers.recipe import Recipe
from amma.manifests.errors import StoreError
from amma.manifests.files import fsync_directory
from amma.manifests.table import MODALITIES, Modality, Protein


@dataclass(frozen=True)
class Job:
    """What all units of a run have in common; its paths must mean the same to every worker."""

    store: Path
    scratch: Path
    manifest: Path
    recipe: Recipe
    plan_sha256: str
    version: str


@dataclass(frozen=True)
class UnitTask:
    """One unit: its proteins in slot order, their manifest rows, and where their rows go."""

    unit: int
    first: int
    proteins: tuple[Protein, ...]
    order: Int64[np.ndarray, " n"]
    length: dict[Modality, Int32[np.ndarray, " n"]]
    offset: dict[Modality, Int32[np.ndarray, " n"]]
    set_aside: frozenset[str]

    @classmethod
    def of(cls, plan: Plan, unit: int, proteins: list[Protein], set_aside: frozenset[str]) -> "UnitTask":
        """The part of a plan that is about one unit."""
        positions = plan.positions(unit)
        span = slice(positions.start, positions.stop)
        return cls(
            unit=unit,
            first=positions.start,
            proteins=tuple(proteins),
            order=plan.order[span],
            length={modality: plan.length[modality][span] for modality in MODALITIES},
            offset={modality: plan.offset[modality][span] for modality in MODALITIES},
            set_aside=set_aside,
        )

    def only(self, slots: list[int]) -> "UnitTask":
        """The same unit, with all but these proteins set aside."""
        wanted = set(slots)
        others = (protein.id for slot, protein in enumerate(self.proteins) if slot not in wanted)
        return replace(self, set_aside=self.set_aside.union(others))

    def plan(self, header: Header) -> Plan:
        """A plan that is right about this unit, and zeros elsewhere: untouched zeros take no memory."""
        span = slice(self.first, self.first + len(self.proteins))

        def placed(values: np.ndarray, size: int, at: slice) -> np.ndarray:
            array = np.zeros(size, dtype=values.dtype)
            array[at] = values
            return array

        total = header.num_proteins
        bounds = np.array([span.start, span.stop], dtype=np.int64)
        plan = Plan(
            settings=header.settings,
            content_sha256=header.content_sha256,
            order=placed(self.order, total, span),
            length={modality: placed(self.length[modality], total, span) for modality in MODALITIES},
            offset={modality: placed(self.offset[modality], total, span) for modality in MODALITIES},
            first=placed(bounds, header.num_units + 1, slice(self.unit, self.unit + 2)),
        )
        vars(plan)["sha256"] = header.plan_sha256  # of the whole plan, which is not here
        return plan


@dataclass(frozen=True)
class Receipt:
    """A unit that is written: its ledger entry, the folder in the job's scratch where its files are, on what device."""

    entry: LedgerEntry
    attempt: str
    device: str


def place(store: Path, scratch: Path, receipt: Receipt) -> None:
    """Move the files of a unit to where they belong in the store, durably.

    Raises `StoreError` `E_CLUSTER` if they are not here, as when the worker's disk has a store at the same path.
    """
    for name in receipt.entry.files:
        target, written = store / name, scratch / receipt.attempt / name
        make_folder(target.parent)
        try:
            written.replace(target)
        except FileNotFoundError as error:
            raise StoreError(
                f"{written}: a worker wrote it, and it is not here. Give a path on a file system that all workers "
                "share.",
                code="E_CLUSTER",
            ) from error
        fsync_directory(target.parent)
    remove_folder(scratch / receipt.attempt)
