"""How many residues sequences have in common with the nearest of other sequences.

The identity of two sequences is the number of equal residues in their local alignment over the length of the shorter
one (as CD-HIT has it): 1 for a sequence and a part of it, about 0.1 for unrelated ones. Equal sequences are found by
themselves; others by MMseqs2 or DIAMOND where one is installed, else among those that share most 3-mers, which finds
relatives from about 40 % identity up and few below.

Legend: N queries, M targets.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from amma.evaluate.config import SearchTool
from amma.evaluate.controls.kmers import KmerIndex
from amma.manifests.errors import InputError
from amma.train.data.diamond import Diamond, find_diamond
from amma.train.data.mmseqs import Mmseqs, find_mmseqs
from amma.train.data.search_program import Hits, SearchProgram

CANDIDATES = 8
"""Without a program, so many targets are aligned with each query: those that share most 3-mers."""
LONGEST = 2000
"""Without a program, only so many residues of a sequence are aligned: time and memory grow with their square."""
GAP = (-11, -1)
UNKNOWN = "X"
STANDARD = str.maketrans({"U": "C", "O": "K"})
"""What BLOSUM62 knows in place of what it does not."""


@dataclass(frozen=True)
class Search:
    """A way to find the pairs of queries and targets that are alike; `method` says in a few words which."""

    program: SearchProgram | None

    @staticmethod
    def installed() -> "Search":
        """By MMseqs2 if it is installed, else by DIAMOND if that is; raises `InputError` if one does not work."""
        return Search(find_mmseqs() or find_diamond())

    @staticmethod
    def by(tool: SearchTool) -> "Search":
        """As asked for; raises `InputError` (`E_MMSEQS`, `E_DIAMOND`) if that program is not there or does not work."""
        if tool is SearchTool.AUTO:
            return Search.installed()
        if tool is SearchTool.KMERS:
            return Search(None)
        found: SearchProgram | None
        kind: type[SearchProgram]
        if tool is SearchTool.MMSEQS:
            found, kind, install = find_mmseqs(), Mmseqs, "bioconda's mmseqs2, or apt-get install mmseqs2"
        else:
            found, kind, install = find_diamond(), Diamond, "bioconda's diamond, or apt-get install diamond-aligner"
        if found is None:
            raise InputError(
                f"--search {tool}: {kind.name} is not on the PATH. Install it ({install}), or give --search auto to "
                "take what is there.",
                code=kind.code,
            )
        return Search(found)

    @property
    def method(self) -> str:
        """In a few words."""
        if self.program is not None:
            return self.program.method
        return f"local alignments with the {CANDIDATES} sequences that share most 3-mers"

    def pairs(
        self,
        queries: Sequence[str],
        targets: Sequence[str],
        *,
        threads: int | None = None,
        advance: Callable[[int], None] = lambda _: None,
    ) -> Hits:
        """Pairs that are alike, with their identity; nearest ones surely, distant ones as far as the method finds them.

        Raises `InputError` (`E_MMSEQS`, `E_DIAMOND`) if the program fails.
        """
        equal = _equal(queries, targets)
        if self.program is None:
            return _join(equal, _aligned(queries, targets, advance))
        found = self.program.search(queries, targets, threads=threads)
        advance(len(queries))
        return _join(equal, found)


def identity_of(one: str, other: str) -> float:
    """Equal residues in the best local alignment (BLOSUM62, gaps 11 and 1) over the shorter length.

    An `X` is equal to nothing. Of sequences beyond `LONGEST` residues, only so many are looked at.
    """
    from biotite.sequence.align import align_optimal

    one, other = one[:LONGEST], other[:LONGEST]
    if not one or not other:
        return 0.0
    alignments = align_optimal(_standard(one), _standard(other), _blosum62(), gap_penalty=GAP, local=True, max_number=1)
    trace = alignments[0].trace if alignments else np.empty((0, 2), dtype=np.int64)
    trace = trace[(trace >= 0).all(axis=1)]
    equal = sum(one[a] == other[b] != UNKNOWN for a, b in trace)
    return float(equal / min(len(one), len(other)))


def largest(number: int, hits: Hits) -> tuple[Float64[np.ndarray, " N"], Int64[np.ndarray, " N"]]:
    """Of each of so many queries the largest identity and its target, of equals the first; 0 and -1 where none is."""
    order = np.lexsort((hits.target, -hits.identity, hits.query))
    asked, first = np.unique(hits.query[order], return_index=True)
    largest_N, target_N = np.zeros(number), np.full(number, -1, dtype=np.int64)
    largest_N[asked], target_N[asked] = hits.identity[order][first], hits.target[order][first]
    return largest_N, target_N


@cache
def _blosum62() -> Any:
    from biotite.sequence.align import SubstitutionMatrix

    return SubstitutionMatrix.std_protein_matrix()


def _standard(sequence: str) -> Any:
    from biotite.sequence import ProteinSequence

    known = set(ProteinSequence.alphabet.get_symbols())
    letters = sequence.translate(STANDARD)
    return ProteinSequence("".join(letter if letter in known else UNKNOWN for letter in letters))


def _equal(queries: Sequence[str], targets: Sequence[str]) -> Hits:
    rows: dict[str, list[int]] = {}
    for row, target in enumerate(targets):
        rows.setdefault(target, []).append(row)
    return _hits([(place, row, 1.0) for place, query in enumerate(queries) for row in rows.get(query, ())])


def _aligned(queries: Sequence[str], targets: Sequence[str], advance: Callable[[int], None]) -> Hits:
    index = KmerIndex(targets)
    found = []
    for place, query in enumerate(queries):
        found += [(place, int(row), identity_of(query, targets[row])) for row in index.likeliest(query, CANDIDATES)]
        advance(1)
    return _hits(found)


def _hits(found: Sequence[tuple[int, int, float]]) -> Hits:
    query, target, identity = zip(*found, strict=True) if found else ((), (), ())
    return Hits(np.array(query, dtype=np.int64), np.array(target, dtype=np.int64), np.array(identity, dtype=np.float64))


def _join(one: Hits, other: Hits) -> Hits:
    return Hits(
        np.concatenate([one.query, other.query]),
        np.concatenate([one.target, other.target]),
        np.concatenate([one.identity, other.identity]),
    )
