"""Several processes that fill one store, each a share of its units, and none of them the whole.

Part i of n owns a contiguous share of the units while it holds the lock in `parts.tmp/i-of-n`. A process that works
on the whole store (a run, a seal) holds the store's own lock, and begins by making sure that no part is at work; a
part holds that lock too while it begins. So a whole run and parts exclude each other, and parts do not.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from amma.featurize.store.layout import Layout
from amma.featurize.store.ledger import remove_folder
from amma.featurize.store.lock import StoreLock
from amma.manifests.errors import CorruptStoreError, StoreError, UsageError
from amma.manifests.files import TEMPORARY_SUFFIX

PARTS_FOLDER = f"parts{TEMPORARY_SUFFIX}"
"""Locks of parts, and what workers have not proven yet; gone when the store is sealed."""
WHOLE = "whole"
"""Where, in there, the workers of a run over the whole store write."""
_BEGIN = "begin"
BEGIN_SECONDS = 1800.0
"""How long a part waits for another to begin the store, which takes one pass over the manifest."""
_LOOK_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Part:
    """Share `number` (from 0) of `count`."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "Part":
        """Read `3/16`; raises `UsageError` unless it is a number from 0, a slash, and how many parts there are."""
        number, slash, count = text.partition("/")
        if not (slash and number.isdecimal() and count.isdecimal() and int(number) < int(count)):
            raise UsageError(f"--part {text}: expected I/N with I from 0 to N-1, such as 0/16.")
        return cls(int(number), int(count))

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @property
    def folder(self) -> str:
        """Where in a store its lock is."""
        return f"{PARTS_FOLDER}/{self.number}-of-{self.count}"

    def units(self, num_units: int) -> range:
        """Its share: consecutive, so that it reads only its share of the manifest."""
        return range(self.number * num_units // self.count, (self.number + 1) * num_units // self.count)


@contextmanager
def beginning(store: Path) -> Iterator[None]:
    """Begin a part: one at a time, and not while a process works on the whole store (`StoreError` `E_LOCKED`)."""
    folder = store / PARTS_FOLDER / _BEGIN
    with ExitStack() as held:
        until = time.monotonic() + BEGIN_SECONDS
        while True:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                held.enter_context(StoreLock(folder))
                break
            except FileNotFoundError:
                pass  # a run over the whole store removes the folder: its lock is met below
            except StoreError as error:
                if error.code != "E_LOCKED" or time.monotonic() > until:
                    raise
            time.sleep(_LOOK_SECONDS)
        held.enter_context(StoreLock(store))
        yield


def claim(store: Path, part: Part) -> StoreLock:
    """The lock of a part, to be entered while `beginning`; raises `E_LOCKED` if the store is cut in another number."""
    for folder in _folders(store):
        if folder.name != _BEGIN and not folder.name.endswith(f"-of-{part.count}"):
            _end(folder)
    (store / part.folder).mkdir(exist_ok=True)
    return StoreLock(store / part.folder)


def end_parts(store: Path) -> None:
    """Remove what dead parts and workers left; raises `StoreError` `E_LOCKED` if a part is at work."""
    for folder in _folders(store):
        _end(folder)
    remove_folder(store / PARTS_FOLDER)


def _end(folder: Path) -> None:
    with StoreLock(folder):
        pass
    remove_folder(folder)


def _folders(store: Path) -> list[Path]:
    parts = store / PARTS_FOLDER
    if parts.is_symlink():
        raise CorruptStoreError(f"{parts}: is a symbolic link; a store holds plain files and folders only. Remove it.")
    return sorted(path for path in parts.iterdir() if path.is_dir()) if parts.is_dir() else []


def sweep_units(store: Path, layout: Layout, units: list[int]) -> None:
    """Remove what a part that was killed left of units that it had not committed."""
    for unit in units:
        for name in layout.unit_files(unit):
            for path in (store / name, store / (name + TEMPORARY_SUFFIX)):
                path.unlink(missing_ok=True)
