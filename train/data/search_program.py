"""A program beside this one that finds alike sequences: how it is found, run and ended, and what it gives back.

Nothing here is needed: without such a program callers have ways of their own, and say which was used. Its temporary
files are gone whatever happens.

Legend: H hits.
"""

import os
import shutil
import signal
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TypeVar

import numpy as np
from jaxtyping import Float64, Int64

from amma.manifests.errors import InputError

LINES_SHOWN = 3


@dataclass(frozen=True)
class Hits:
    """Pairs of a query and a target (their numbers) that were aligned; several of a pair are possible.

    `identity` is the number of equal residues in the alignment over the length of the shorter sequence.
    """

    query: Int64[np.ndarray, " H"]
    target: Int64[np.ndarray, " H"]
    identity: Float64[np.ndarray, " H"]

    @staticmethod
    def of(table: Int64[np.ndarray, "H 5"]) -> "Hits":
        """From columns of query, target, equal residues and both lengths; the same whatever the order of the rows."""
        query_H, target_H, equal_H, *length_H = table[np.lexsort(table.T[::-1])].T
        return Hits(query_H, target_H, equal_H / np.minimum(*length_H))


@dataclass(frozen=True)
class SearchProgram(ABC):
    """A program that was found. What it does raises `InputError` (its own code) with its last words if it fails."""

    path: str
    version: str

    name: ClassVar[str]
    code: ClassVar[str]
    repair: ClassVar[str]
    """What to do when it fails."""

    @property
    def method(self) -> str:
        """In a few words."""
        return f"{self.name} {self.version}"

    def search(self, queries: Sequence[str], targets: Sequence[str], *, threads: int | None = None) -> Hits:
        """What the program finds for each query among the targets."""
        if not any(queries) or not any(targets):
            return Hits.of(np.empty((0, 5), dtype=np.int64))
        with self._workplace() as folder:
            write_fasta(folder / "queries.fasta", queries)
            write_fasta(folder / "targets.fasta", targets)
            self._search(folder, threads)
            table = np.array(list(self._columns(folder / "out.tsv", 5)), dtype=np.int64).reshape(-1, 5)
        return Hits.of(table)

    @abstractmethod
    def _search(self, folder: Path, threads: int | None) -> None:
        """Compare `queries.fasta` with `targets.fasta`; `out.tsv` gets query, target, equal residues, both lengths."""

    @contextmanager
    def _workplace(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix=f"amma-{self.name.lower()}-") as folder:
            yield Path(folder)

    def _run(self, folder: Path, arguments: Sequence[str], threads: int | None) -> None:
        command = [self.path, *arguments, "--threads", str(threads or os.cpu_count() or 1)]
        # A process group of its own: a signal is for us to heed, and what it starts can be ended with it.
        try:
            process = subprocess.Popen(
                command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
            )
        except OSError as error:
            raise self._failed(arguments[0], b"", f"cannot be started ({error})") from error
        try:
            said, _ = process.communicate()
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        if process.returncode:
            raise self._failed(arguments[0], said, f"ended with {process.returncode}")

    def _failed(self, verb: str, said: bytes, how: str) -> InputError:
        lines = [line.strip() for line in said.decode(errors="replace").splitlines() if line.strip()]
        last = " / ".join(lines[-LINES_SHOWN:]) or "nothing"
        return InputError(f"{self.path} {verb} {how}; it said: {last}. {self.repair}", code=self.code)

    def _columns(self, path: Path, number: int) -> Iterator[list[int]]:
        """The rows of a table that the program wrote."""
        try:
            with path.open(encoding="ascii") as handle:
                for line in handle:
                    columns = [int(column) for column in line.split()]
                    if len(columns) != number:
                        raise ValueError(f"expected {number} columns: {line!r}")
                    yield columns
        except (OSError, ValueError) as error:
            raise InputError(
                f"{self.path} ended well and did not write the table that was asked for ({error}). {self.repair}",
                code=self.code,
            ) from error


Program = TypeVar("Program", bound=SearchProgram)


def find_program(kind: type[Program], name: str) -> Program | None:
    """The program on the PATH, if it is there and can say its version; raises `InputError` if it cannot."""
    path = shutil.which(name)
    if path is None:
        return None
    try:
        done = subprocess.run([path, "version"], capture_output=True, text=True, check=True, timeout=60)
        return kind(path, done.stdout.split()[-1])
    except (OSError, subprocess.SubprocessError, IndexError) as error:
        raise InputError(
            f"{path} does not say its version ({error}). Repair it, or take it off the PATH to go without it.",
            code=kind.code,
        ) from error


def write_fasta(path: Path, sequences: Sequence[str]) -> None:
    """Numbers for names: whatever an id looks like, the program does not get to see it."""
    with path.open("w", encoding="ascii") as handle:
        for number, sequence in enumerate(sequences):
            if sequence:
                handle.write(f">{number}\n{sequence}\n")
