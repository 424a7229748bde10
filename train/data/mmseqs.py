"""MMseqs2 as a program beside this one: clusters of sequences, and the nearest of other sequences.

Nothing here is needed: without the program (`mmseqs` on the PATH) callers have ways of their own, and say which was
used. Its temporary files are gone whatever happens. Checked with release 14-7e284.

Legend: N sequences, H hits.
"""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64

from amma.manifests.errors import InputError

PROGRAM = "mmseqs"
COVERAGE = 0.8
"""Of the residues of each member of a cluster, how many its representative is aligned with at least."""
SENSITIVITY = 7.5
EVALUE = 1e-3
MOST_HITS = 1000
"""Of one sequence: enough for the nearest in the largest families, bounded for repeats."""
LINES_SHOWN = 3


@dataclass(frozen=True)
class Hits:
    """Pairs of a query and a target (their numbers) that were aligned, in no order; several of a pair are possible.

    `identity` is the number of equal residues in the alignment over the length of the shorter sequence.
    """

    query: Int64[np.ndarray, " H"]
    target: Int64[np.ndarray, " H"]
    identity: Float64[np.ndarray, " H"]


@dataclass(frozen=True)
class Mmseqs:
    """The program that was found. Its methods raise `InputError` (`E_MMSEQS`) with its last words if it fails."""

    path: str
    version: str

    def cluster(
        self, sequences: Sequence[str], *, identity: float, threads: int | None = None
    ) -> Int64[np.ndarray, " N"]:
        """A cluster number for each sequence (`easy-cluster`): equal residues ≥ `identity`, `COVERAGE` of a member.

        The same whatever the order of the sequences, and equal ones are always together. Numbers begin with the
        longest sequence's cluster. A sequence that the program leaves out (it drops very short ones) is a cluster of
        its own.
        """
        distinct = sorted(set(sequences), key=lambda sequence: (-len(sequence), sequence))
        with self._workplace() as folder:
            _write_fasta(folder / "in.fasta", distinct)
            options = ["--min-seq-id", str(identity), "-c", str(COVERAGE), "--cov-mode", "1"]
            self._run(folder, ["easy-cluster", "in.fasta", "out", "tmp", *options], threads)
            representative = {member: first for first, member in _read_columns(folder / "out_cluster.tsv", 2)}
        number_of: dict[int, int] = {}
        number_of_sequence = {
            sequence: number_of.setdefault(representative.get(row, row), len(number_of))
            for row, sequence in enumerate(distinct)
        }
        return np.array([number_of_sequence[sequence] for sequence in sequences], dtype=np.int64)

    def search(self, queries: Sequence[str], targets: Sequence[str], *, threads: int | None = None) -> Hits:
        """What `easy-search` finds for each query among the targets, at its most sensitive."""
        if not queries or not targets:
            return Hits(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64), np.empty(0))
        with self._workplace() as folder:
            _write_fasta(folder / "queries.fasta", queries)
            _write_fasta(folder / "targets.fasta", targets)
            # -a keeps alignments: without them the program counts no identical residue.
            options = ["-a", "-s", str(SENSITIVITY), "-e", str(EVALUE), "--max-seqs", str(MOST_HITS)]
            columns = ["--format-output", "query,target,nident,qlen,tlen"]
            self._run(
                folder, ["easy-search", "queries.fasta", "targets.fasta", "out.tsv", "tmp", *options, *columns], threads
            )
            table = np.array(list(_read_columns(folder / "out.tsv", 5)), dtype=np.int64).reshape(-1, 5)
        query_H, target_H, equal_H, *length_H = table.T
        return Hits(query_H, target_H, equal_H / np.minimum(*length_H))

    @contextmanager
    def _workplace(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="amma-mmseqs-") as folder:
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
        return InputError(
            f"{self.path} {verb} {how}; it said: {last}. Repair the program, or take it off the PATH to go without "
            "it; where clusters are wanted, --clusters takes yours.",
            code="E_MMSEQS",
        )


def find_mmseqs() -> Mmseqs | None:
    """The program on the PATH, if it is there and can say its version; raises `InputError` if it cannot."""
    path = shutil.which(PROGRAM)
    if path is None:
        return None
    try:
        done = subprocess.run([path, "version"], capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        raise InputError(
            f"{path} does not say its version ({error}). Repair it, or take it off the PATH to go without it.",
            code="E_MMSEQS",
        ) from error
    return Mmseqs(path, done.stdout.strip())


def _write_fasta(path: Path, sequences: Sequence[str]) -> None:
    """Numbers for names: whatever an id looks like, the program does not get to see it."""
    with path.open("w", encoding="ascii") as handle:
        for number, sequence in enumerate(sequences):
            if sequence:
                handle.write(f">{number}\n{sequence}\n")


def _read_columns(path: Path, number: int) -> Iterator[list[int]]:
    try:
        with path.open(encoding="ascii") as handle:
            for line in handle:
                columns = [int(column) for column in line.split()]
                if len(columns) != number:
                    raise ValueError(f"expected {number} columns: {line!r}")
                yield columns
    except (OSError, ValueError) as error:
        raise InputError(
            f"{PROGRAM} ended well and did not write the table that was asked for ({error}). Repair it, or take it "
            "off the PATH to go without it.",
            code="E_MMSEQS",
        ) from error
