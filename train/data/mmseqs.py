"""MMseqs2: clusters of sequences, and the nearest of other sequences. Checked with release 14-7e284.

Legend: N sequences.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Int64

from amma.train.data.search_program import SearchProgram, find_program, write_fasta

PROGRAM = "mmseqs"
COVERAGE = 0.8
"""Of the residues of each member of a cluster, how many its representative is aligned with at least."""
SENSITIVITY = 7.5
EVALUE = 1e-3
MOST_HITS = 1000
"""Of one sequence: enough for the nearest in the largest families, bounded for repeats."""


@dataclass(frozen=True)
class Mmseqs(SearchProgram):
    """The program that was found. Its methods raise `InputError` (`E_MMSEQS`) with its last words if it fails."""

    name: ClassVar[str] = "MMseqs2"
    code: ClassVar[str] = "E_MMSEQS"
    repair: ClassVar[str] = (
        "Repair the program, or take it off the PATH to go without it; where clusters are wanted, --clusters takes "
        "yours, and amma-eval function takes --search kmers."
    )

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
            write_fasta(folder / "in.fasta", distinct)
            options = ["--min-seq-id", str(identity), "-c", str(COVERAGE), "--cov-mode", "1"]
            self._run(folder, ["easy-cluster", "in.fasta", "out", "tmp", *options], threads)
            representative = {member: first for first, member in self._columns(folder / "out_cluster.tsv", 2)}
        number_of: dict[int, int] = {}
        number_of_sequence = {
            sequence: number_of.setdefault(representative.get(row, row), len(number_of))
            for row, sequence in enumerate(distinct)
        }
        return np.array([number_of_sequence[sequence] for sequence in sequences], dtype=np.int64)

    def _search(self, folder: Path, threads: int | None) -> None:
        """`easy-search`, at its most sensitive."""
        # -a keeps alignments: without them the program counts no identical residue.
        options = ["-a", "-s", str(SENSITIVITY), "-e", str(EVALUE), "--max-seqs", str(MOST_HITS)]
        columns = ["--format-output", "query,target,nident,qlen,tlen"]
        files = ["queries.fasta", "targets.fasta", "out.tsv", "tmp"]
        self._run(folder, ["easy-search", *files, *options, *columns], threads)


def find_mmseqs() -> Mmseqs | None:
    """The program on the PATH, if it is there and can say its version; raises `InputError` if it cannot."""
    return find_program(Mmseqs, PROGRAM)
