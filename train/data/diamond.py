"""DIAMOND: the nearest of other sequences. Checked with release 2.1.3."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from amma.train.data.search_program import SearchProgram, find_program

PROGRAM = "diamond"
SENSITIVITY = "--ultra-sensitive"
EVALUE = 1e-3
MOST_HITS = 1000
"""Of one sequence, as for MMseqs2."""


@dataclass(frozen=True)
class Diamond(SearchProgram):
    """The program that was found. `search` raises `InputError` (`E_DIAMOND`) with its last words if it fails."""

    name: ClassVar[str] = "DIAMOND"
    code: ClassVar[str] = "E_DIAMOND"
    repair: ClassVar[str] = (
        "Repair the program, or take it off the PATH to go without it; amma-eval function also takes --search kmers."
    )

    def _search(self, folder: Path, threads: int | None) -> None:
        """`blastp`, at its most sensitive."""
        files = ["--query", "queries.fasta", "--db", "targets.fasta", "--out", "out.tsv"]
        # Proteins of A, C, G and T alone are proteins all the same; without the last option it stops at them, and
        # making a database of the targets first, which knows no such option, would.
        options = [SENSITIVITY, "--evalue", str(EVALUE), "--max-target-seqs", str(MOST_HITS), "--ignore-warnings"]
        columns = ["--outfmt", "6", "qseqid", "sseqid", "nident", "qlen", "slen"]
        self._run(folder, ["blastp", *files, *options, *columns], threads)


def find_diamond() -> Diamond | None:
    """The program on the PATH, if it is there and can say its version; raises `InputError` if it cannot."""
    return find_program(Diamond, PROGRAM)
