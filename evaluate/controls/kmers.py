"""A control: the labels of the most similar training sequences, found by shared 3-mers.

The similarity of two sequences is the Jaccard index of their sets of 3-mers: those in both over those in either. It is
1 for equal sequences, about 0.02 for unrelated ones of 300 residues, and needs neither an alignment nor another
program; close relatives it finds as an alignment does, those below some 30 % identity hardly.

Shapes: N training proteins, M proteins asked about, K terms.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

LENGTH = 3
LETTERS = 26
RESIDUES = 20
NUM_KMERS = LETTERS**LENGTH


def kmers_of(sequence: str) -> Int64[np.ndarray, " _"]:
    """The distinct 3-mers of a sequence as sorted numbers; those with anything but a letter A-W, Y or Z are left out.

    (X stands for an unknown residue: two unknown ones are no likeness.) None for fewer than three residues.
    """
    letters = np.frombuffer(sequence.upper().encode("ascii", "replace"), dtype=np.uint8).astype(np.int64) - ord("A")
    known = (letters >= 0) & (letters < LETTERS) & (letters != ord("X") - ord("A"))
    count = max(len(letters) - LENGTH + 1, 0)
    code, usable = np.zeros(count, dtype=np.int64), np.ones(count, dtype=bool)
    for start in range(LENGTH if count else 0):
        code = code * LETTERS + letters[start : start + count]
        usable &= known[start : start + count]
    return np.unique(code[usable])


class KmerIndex:
    """Which training sequences hold each 3-mer; memory grows with their residues, nothing is of size N times M."""

    def __init__(self, sequences: Sequence[str]) -> None:
        sets = [kmers_of(sequence) for sequence in sequences]
        self._size_N = np.array([len(each) for each in sets], dtype=np.int64)
        owner = np.repeat(np.arange(len(sets)), self._size_N)
        kmer = np.concatenate([np.empty(0, dtype=np.int64), *sets])
        self._owner = owner[np.argsort(kmer, kind="stable")]
        self._start = np.concatenate([[0], np.bincount(kmer, minlength=NUM_KMERS).cumsum()])

    def similarity(self, sequence: str) -> Float64[np.ndarray, " N"]:
        """The Jaccard index of the 3-mers of `sequence` and of each training sequence; 0 where both have none."""
        own = kmers_of(sequence)
        shared_N = self._shared(own)
        jaccard_N: Float64[np.ndarray, " N"] = shared_N / np.maximum(self._size_N + len(own) - shared_N, 1)
        return jaccard_N

    def likeliest(self, sequence: str, number: int) -> Int64[np.ndarray, " _"]:
        """At most so many sequences that may be relatives, the likeliest first, of equals the earliest.

        By how far the 3-mers that they share exceed what chance gives sequences of their lengths, in units of its
        spread; none that shares no more than that.
        """
        own = kmers_of(sequence)
        by_chance_N = len(own) * self._size_N / RESIDUES**LENGTH
        excess_N = (self._shared(own) - by_chance_N) / np.sqrt(by_chance_N + 1)
        best = np.argsort(-excess_N, kind="stable")[:number]
        likeliest: Int64[np.ndarray, " _"] = best[excess_N[best] > 0]
        return likeliest

    def _shared(self, own: Int64[np.ndarray, " _"]) -> Int64[np.ndarray, " N"]:
        holders = [self._owner[self._start[kmer] : self._start[kmer + 1]] for kmer in own]
        owners = np.concatenate([np.empty(0, dtype=np.int64), *holders])
        shared_N: Int64[np.ndarray, " N"] = np.bincount(owners, minlength=len(self._size_N))
        return shared_N


def nearest_neighbour_scores(
    train: Sequence[str],
    target_NK: Bool[np.ndarray, "N K"],
    asked: Sequence[str],
    advance: Callable[[int], None] = lambda _: None,
) -> Float32[np.ndarray, "M K"]:
    """For each protein and term the similarity of the most similar training sequence that has the term, else 0."""
    index = KmerIndex(train)
    owner, term = np.nonzero(target_NK)
    score_MK = np.zeros((len(asked), target_NK.shape[1]), dtype=np.float32)
    for place, sequence in enumerate(asked):
        np.maximum.at(score_MK[place], term, index.similarity(sequence)[owner].astype(np.float32))
        advance(1)
    return score_MK
