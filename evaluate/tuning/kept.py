"""Tunings on disk: what is finished is not tuned again, what is not goes on where it was.

    REPORT_DIR/tunings/facts.json                         what decides the numbers of all of them
                       trained-0-…/state.json             one tuning: how far it is, and the hashes of its tensors
                                   00000003.safetensors   tensors; those that state.json names, and no others

Tensors are written under a new name, then `state.json` aside and renamed over the old one: that is the commit. Whatever
moment a run dies at, a tuning is what its `state.json` says, or not begun. What is damaged is tuned again, and that is
said: also what was not made durable yet when a machine lost its power.
"""

import json
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from amma.evaluate.config import Rates
from amma.featurize.store.fingerprint import differences
from amma.featurize.store.lock import StoreLock, is_lock_file
from amma.featurize.store.stopping import InterruptedRunError
from amma.manifests.console import say
from amma.manifests.errors import InputError, UsageError
from amma.manifests.files import (
    TEMPORARY_SUFFIX,
    aside_of,
    fsync,
    fsync_directory,
    sha256_of_file,
    write_json_atomically,
)
from amma.manifests.settings import sha256_of_json
from amma.train.run.interruption import Interruption

FOLDER = "tunings"
FACTS, STATE = "facts.json", "state.json"
FORMAT_VERSION = "1.0"

KEEP_SECONDS = 60.0
"""An unfinished tuning is kept at most so often, …"""
KEEP_SHARE = 0.01
"""… and so seldom that writing takes at most this share of the time."""
WORTH_WAITING_SECONDS = 10.0
"""Work of less is not made durable: should the power fail, its hash tells, and it is done again."""


@dataclass(frozen=True)
class Kept:
    """A tuning as it was last kept: plain values, and sets of tensors by name."""

    values: dict[str, Any]
    tensors: dict[str, dict[str, Tensor]]


class KeptTuning:
    """The place of one tuning. `key` stands for all that decides its numbers: what has another one is not there."""

    def __init__(self, folder: Path, key: str) -> None:
        self.folder = folder
        self._key = key
        self._next = 0
        self._files: list[dict[str, Any]] = []
        self._last = time.monotonic()
        self._cost = 0.0

    def read(self) -> Kept | None:
        """What is there; None if there is nothing, or what is there is damaged (which is said)."""
        if not (self.folder / STATE).is_file():
            return None
        try:
            state = json.loads((self.folder / STATE).read_text(encoding="utf-8"))
            content = {name: value for name, value in state.items() if name != "sha256"}
            if state["sha256"] != sha256_of_json(content) or state["key"] != self._key:
                raise ValueError("state.json is not as it was written")
            tensors: dict[str, dict[str, Tensor]] = {}
            for record in state["files"]:
                tensors |= self._tensors(**record)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
            say(f"{self.folder}: what was kept of this tuning is damaged ({error}); it is tuned again")
            return None
        self._files = state["files"]
        self._next = 1 + max((int(Path(record["file"]).stem) for record in self._files), default=-1)
        return Kept(state["values"], tensors)

    def _tensors(self, file: str, sha256: str, sets: list[str]) -> dict[str, dict[str, Tensor]]:
        path = self.folder / Path(file).name
        if sha256_of_file(path) != sha256:
            raise ValueError(f"{path.name} is not as it was written")
        tensors: dict[str, dict[str, Tensor]] = {name: {} for name in sets}
        for key, tensor in load_file(path).items():
            name, _, rest = key.partition("/")
            tensors[name][rest] = tensor
        return tensors

    @property
    def is_due(self) -> bool:
        """Whether it is time to keep an unfinished tuning again."""
        return time.monotonic() - self._last >= max(KEEP_SECONDS, self._cost / KEEP_SHARE)

    def write(
        self, values: dict[str, Any], tensors: Mapping[str, Mapping[str, Tensor]], *, leave: bool = False
    ) -> None:
        """Keep this, and nothing of what was kept before; with `leave` other sets of tensors stay.

        Raises `InputError` (`E_DISK`) if it cannot be written; what was there before is safe then.
        """
        begun = time.monotonic()
        path = self.folder / f"{self._next:08d}.safetensors"
        self._next += 1
        try:
            self.folder.mkdir(exist_ok=True)
            flat = {f"{name}/{key}": tensor for name, group in tensors.items() for key, tensor in group.items()}
            save_file({key: tensor.detach().contiguous() for key, tensor in flat.items()}, path)
            durable = begun - self._last >= WORTH_WAITING_SECONDS
            if durable:
                fsync(path)
            written = {"file": path.name, "sha256": sha256_of_file(path), "sets": list(tensors)}
            files = [*(self._files if leave else ()), written]
            content = {
                "format": "amma-tuning",
                "version": FORMAT_VERSION,
                "key": self._key,
                "files": files,
                "values": values,
            }
            state = {**content, "sha256": sha256_of_json(content)}
            if durable:
                write_json_atomically(self.folder / STATE, state)
            else:
                aside_of(self.folder / STATE).write_text(json.dumps(state), encoding="utf-8")
                aside_of(self.folder / STATE).replace(self.folder / STATE)
            self._files = files
            named = {STATE, *(record["file"] for record in files)}
            for left_over in self.folder.iterdir():
                if left_over.name not in named:
                    left_over.unlink()
        except (OSError, SafetensorError) as error:
            raise _unwritable(self.folder, error) from error
        self._last = time.monotonic()
        self._cost = self._last - begun


class Tunings:
    """All tunings of an evaluation, below the folder of its report; locked while the `with` block lasts.

    `facts` are what decides their numbers, as plain values. Tunings of other facts are removed with `anew`; without it
    they are refused by a `UsageError` naming each fact that differs. Raises `StoreError` (`E_LOCKED`) if another
    process is at work there. Within the block SIGINT and SIGTERM are noted, and acted on where `pause` is called.
    """

    def __init__(self, report_dir: Path, facts: dict[str, Any], *, anew: bool = False) -> None:
        self.folder = report_dir / FOLDER
        self._facts = facts
        self._anew = anew
        self._lock = StoreLock(self.folder)
        self._interruption = Interruption()

    def __enter__(self) -> "Tunings":
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(self.folder, error) from error
        self._lock.__enter__()
        try:
            self._claim()
        except OSError as error:
            self._lock.__exit__(type(error), error, None)
            raise _unwritable(self.folder, error) from error
        except BaseException as error:
            self._lock.__exit__(type(error), error, None)
            raise
        self._interruption.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._interruption.__exit__(kind, error, trace)
        self._lock.__exit__(kind, error, trace)

    def _claim(self) -> None:
        path = self.folder / FACTS
        facts = {"format": "amma-tunings", "version": FORMAT_VERSION, **self._facts}
        if not path.is_file():
            write_json_atomically(path, facts)
            return
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            before = {"damaged": str(path)}
        different = differences(before, facts)
        if different and self._anew:
            _remove_kept(self.folder)
            write_json_atomically(path, facts)
        elif different:
            raise UsageError(
                f"{self.folder} holds tunings of another evaluation (then -> now): {'; '.join(different)}. Give the "
                "same settings and inputs to go on with them, another REPORT_DIR, or --overwrite to begin anew."
            )
        begun = len(list(self.folder.glob(f"*/{STATE}")))
        if begun:
            say(f"{self.folder}: going on from {begun} tunings that were kept")

    def of(self, kind: str, seed: int, rates: Rates) -> KeptTuning:
        """The place of the tuning of a kind of model with a seed and learning rates."""
        name = f"{kind.replace(' ', '-')}-{seed}-{rates.fusion or 0:g}-{rates.head:g}"
        exact = [None if rate is None else rate.hex() for rate in rates]
        return KeptTuning(self.folder / name, sha256_of_json([self._facts, kind, seed, exact]))

    def pause(self) -> None:
        """Raise `InterruptedRunError` if a signal came."""
        if self._interruption:
            stopped = InterruptedRunError(
                f"stopped; tunings are kept in {self.folder}, and the same command goes on from there."
            )
            stopped.exit_code = self._interruption.exit_code
            raise stopped


def remove_tunings(report_dir: Path) -> None:
    """Remove the tunings below the folder of a report; raises `UsageError` if something else is in their place."""
    folder = report_dir / FOLDER
    if not folder.exists():
        return
    # A run that was killed at once left its lock, and no facts yet.
    held = {path.name for path in folder.iterdir() if not is_lock_file(path.name) and path.suffix != TEMPORARY_SUFFIX}
    if folder.is_symlink() or (held and not (folder / FACTS).is_file()):
        raise UsageError(f"{folder} does not hold tunings of amma-eval; move it away, or give another REPORT_DIR.")
    # The facts last: what a killed run leaves of the folder can still be told.
    _remove_kept(folder)
    (folder / FACTS).unlink(missing_ok=True)
    with suppress(OSError):
        shutil.rmtree(folder)  # of what dead processes left of their lock
    fsync_directory(report_dir)


def _remove_kept(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)


def _unwritable(folder: Path, error: Exception) -> InputError:
    return InputError(
        f"{folder}: cannot be written ({error}). What was kept before is safe: make room, then run the same command "
        "again.",
        code="E_DISK",
    )
