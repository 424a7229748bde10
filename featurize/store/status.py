"""How far a store is, from its ledger alone."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from amma.featurize.store.disk import human
from amma.featurize.store.documents import is_sealed
from amma.featurize.store.header import read_header
from amma.featurize.store.ledger import committed_units, read_entry
from amma.featurize.store.seal import read_seal
from amma.manifests.errors import StoreError


@dataclass(frozen=True, slots=True)
class StoreStatus:
    """Counts of what is committed; `bytes` is of the committed units' files, `quarantined` the late rejects.

    `batches_split` are encode batches that did not fit into memory whole.
    """

    store: str
    sealed: bool
    root: str | None
    units: int
    units_done: int
    proteins: int
    proteins_done: int
    bytes: int
    quarantined: int
    batches_split: int

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For people."""
        state = f"sealed, root {self.root}" if self.sealed else "not sealed; run the same command again to finish it"
        return [
            f"{self.store}: {state}",
            f"units        {self.units_done} of {self.units}",
            f"proteins     {self.proteins_done} of {self.proteins}",
            f"stored       {human(self.bytes)}",
            f"quarantined  {self.quarantined}",
            *([f"split        {self.batches_split} batches, for want of memory"] if self.batches_split else []),
        ]


def status(store: Path) -> StoreStatus:
    """Read the ledger; raises `StoreError` if `store` is no store, `CorruptStoreError` if an entry is damaged."""
    header = read_header(store)
    if header is None:
        raise StoreError(f"{store}: not a feature store (no plan.json). Make one with amma-featurize run.")
    entries = [read_entry(store, unit, header.plan_sha256) for unit in committed_units(store)]
    sealed = is_sealed(store)
    return StoreStatus(
        store=str(store),
        sealed=sealed,
        root=read_seal(store).root if sealed else None,
        units=header.num_units,
        units_done=len(entries),
        proteins=header.num_proteins,
        proteins_done=sum(entry.proteins for entry in entries),
        bytes=sum(entry.size for entry in entries),
        quarantined=len({rejection.id for entry in entries for rejection in entry.rejections}),
        batches_split=sum(len(entry.splits) for entry in entries),
    )
