"""The ledger: one JSON entry a unit, whose appearance commits the unit.

Writing shards and committing them are apart: whoever computed a unit returns its entry as a receipt, and only the
one process that holds the store's lock puts entries into the ledger.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amma.featurize.store.documents import read_document, read_regular
from amma.featurize.store.layout import LEDGER_FOLDER, UNITS_FOLDER, Layout, ledger_file
from amma.featurize.store.shard import FileRecord
from amma.featurize.store.unit import Past, Split
from amma.manifests.errors import CorruptStoreError
from amma.manifests.files import TEMPORARY_SUFFIX, write_json_atomically
from amma.manifests.quarantine import Rejection
from amma.manifests.settings import sha256_of_json
from amma.manifests.table import MODALITIES

REPAIR_FOLDER = f"repair{TEMPORARY_SUFFIX}"
"""Where `repair` builds what it has not proven yet; never a part of a store."""


@dataclass(frozen=True)
class LedgerEntry:
    """What one unit is: its proteins (`first` is the plan position of the first), its files, its late rejects, and
    the encode batches that had to be cut for want of memory, since features may round otherwise then.
    """

    unit: int
    first: int
    proteins: int
    ids_sha256: str
    plan_sha256: str
    files: dict[str, FileRecord]
    past: Past

    @property
    def rejections(self) -> tuple[Rejection, ...]:
        """The late rejects of the unit."""
        return self.past.rejections

    @property
    def splits(self) -> tuple[Split, ...]:
        """The encode batches that were cut."""
        return self.past.splits

    @property
    def size(self) -> int:
        """Bytes of the unit's files."""
        return sum(record.size for record in self.files.values())

    def as_json(self) -> dict[str, Any]:
        """As it stands in the ledger."""
        return {
            "unit": self.unit,
            "first": self.first,
            "proteins": self.proteins,
            "ids_sha256": self.ids_sha256,
            "plan_sha256": self.plan_sha256,
            "files": {path: record.as_json() for path, record in self.files.items()},
            **self.past.as_json(),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "LedgerEntry":
        """Read what `as_json` gave."""
        files = {path: FileRecord(**record) for path, record in value["files"].items()}
        plain = {name: part for name, part in value.items() if name not in ("files", "rejections", "splits")}
        return cls(**plain, files=files, past=Past.from_json(value))


def hash_of_ids(ids: Iterable[str]) -> str:
    """Hash of the ids of a unit, in plan order."""
    return sha256_of_json(list(ids))


def commit(store: Path, entry: LedgerEntry) -> None:
    """Check that the unit's files are there at their sizes, then write its entry."""
    check_sizes(store, entry)
    write_json_atomically(store / ledger_file(entry.unit), entry.as_json())


def check_sizes(store: Path, entry: LedgerEntry) -> None:
    """Raise `CorruptStoreError` if a file of a unit is missing or of another size."""
    for name, record in entry.files.items():
        path = store / name
        size = path.lstat().st_size if path.exists() else None
        if size != record.size:
            found = "is missing" if size is None else f"has {size} bytes"
            raise CorruptStoreError(
                f"{path} {found}, the ledger says {record.size} (unit {entry.unit}). "
                f"Remove {store / ledger_file(entry.unit)} to have the unit computed again."
            )


def read_entry(store: Path, unit: int, plan_sha256: str) -> LedgerEntry:
    """The entry of `unit`; raises `CorruptStoreError` if it is damaged or of another plan."""
    path = store / ledger_file(unit)
    document = read_document(path)
    try:
        entry = LedgerEntry.from_json(document)
    except (TypeError, KeyError, AttributeError) as error:
        raise CorruptStoreError(f"{path}: not a ledger entry. Run amma-featurize verify.") from error
    if entry.unit != unit or entry.plan_sha256 != plan_sha256:
        raise CorruptStoreError(f"{path}: entry of unit {entry.unit} of another plan. Run amma-featurize verify.")
    return entry


def committed_units(store: Path) -> list[int]:
    """The units that have an entry, in order."""
    folder = store / LEDGER_FOLDER
    return sorted(int(path.stem) for path in folder.glob("*.json") if path.stem.isdigit()) if folder.is_dir() else []


def checked_side_file(store: Path, entry: LedgerEntry, name: str) -> bytes:
    """The bytes of a small file of a unit, checked against its ledger entry."""
    record = entry.files.get(name)
    data = read_regular(store / name, size=None if record is None else record.size)
    if FileRecord.of(data) != record:
        raise CorruptStoreError(
            f"{store / name}: not what the ledger says (unit {entry.unit}, {entry.proteins} proteins from position "
            f"{entry.first}). Run amma-featurize verify."
        )
    return data


def sweep(store: Path, layout: Layout, committed: Iterable[int]) -> int:
    """Remove what a killed run left: temporary files, and files of units without an entry.

    Gives how many units were found half made. Raises `CorruptStoreError` for a symbolic link anywhere in the store:
    what is written through one lands elsewhere.
    """
    for entry in entries_below(store):
        if entry.is_symlink():
            raise CorruptStoreError(
                f"{entry.path}: is a symbolic link; a store holds plain files and folders only. Remove it, and run "
                "the same command again."
            )
    remove_temporaries(store)
    kept = set(committed)
    partial: set[int] = set()
    folders = [store / spec.path / "c" for modality in MODALITIES for spec in layout.row_arrays(modality)]
    for folder in [*folders, store / UNITS_FOLDER]:
        for path in sorted(folder.iterdir()) if folder.is_dir() else []:
            if not path.stem.isdigit() or int(path.stem) in kept:
                continue
            partial.add(int(path.stem))
            remove_folder(path) if path.is_dir() else path.unlink()
    return len(partial)


def remove_temporaries(store: Path) -> None:
    """Remove what was being written aside by a process that was killed."""
    for entry in list(entries_below(store)):
        if entry.name.endswith(TEMPORARY_SUFFIX) and entry.is_file(follow_symlinks=False):
            Path(entry.path).unlink(missing_ok=True)
    remove_folder(store / REPAIR_FOLDER)


def entries_below(folder: Path | str) -> Iterator[os.DirEntry[str]]:
    """Everything below a folder, at any depth; symbolic links are given and not followed."""
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            yield entry
            if entry.is_dir(follow_symlinks=False):
                yield from entries_below(entry.path)


def remove_folder(folder: Path) -> None:
    """Remove a folder of plain files, if it is there."""
    if folder.is_dir():
        for entry in reversed(list(entries_below(folder))):
            Path(entry.path).rmdir() if entry.is_dir(follow_symlinks=False) else Path(entry.path).unlink()
        folder.rmdir()
