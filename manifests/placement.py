"""Place the residues of a structure's chain on a protein's sequence.

A residue without a Cα stays in the sequence and is absent from the structure (a mask, never a shift).

Legend: N residues of a chain as in its file, R residues that have a Cα.
"""

import re
from dataclasses import dataclass

import gemmi
import numpy as np
from jaxtyping import Bool, Float32, Int32, Integer

from amma.manifests.chains import RawChain
from amma.manifests.quarantine import RecordError

MIN_IDENTITY = 0.95
"""Share of aligned residues that must be equal for a structure to be that of a sequence."""
MAX_UNRESOLVED = 0.5
"""Share of a sequence's residues that may lack a Cα."""
CHAIN_BREAK = 4.5
"""Two Cα of neighbouring residues are 3.8 Å apart (2.9 Å across a cis bond); farther means residues are missing."""
MAX_TAG = 30
"""Residues of both ends together that may be left out as expression tags …"""
MAX_TAG_SHARE = 0.25
"""… and their share of the chain. His tags with their linker have about 20 residues; whole fusion partners are more."""
MAX_ALIGNMENT_CELLS = 200_000_000
"""Alignment takes a byte a cell: 200 MB."""


@dataclass(frozen=True, slots=True)
class Chain:
    """The residues of a chain that have a Cα, in sequence order.

    `residue` is the index (0-based) of each in the protein's sequence, `letters` its one-letter code in the
    structure (`X` if unknown), `ca` the position of its Cα in Å.
    """

    residue: Int32[np.ndarray, " R"]
    letters: str
    ca: Float32[np.ndarray, "R 3"]


def place(chain: RawChain, sequence: str) -> tuple[Chain, tuple[int, ...]]:
    """Find where each residue of `chain` is in `sequence`; second: the indices (0-based) that have no Cα.

    A chain equal to the sequence is placed so; else where its residue numbers, gaps included, fit without a difference;
    else where it is a part of the sequence. Else the residues that have a Cα are aligned to the sequence, gaps going
    where the chain is broken. Of an aligned chain, an end that differs from the sequence more than it agrees with it is
    an expression tag and left out (`MAX_TAG`, `MAX_TAG_SHARE`); all others must find a place, and 95 % of them must be
    equal (`X` on either side is equal to anything).

    Raises `RecordError`: `E_MISMATCH` if that fails, `E_MISSING` if more than half of the sequence has no Cα, `E_LONG`
    if the two are too long to align.
    """
    has_ca_N = np.isfinite(chain.ca).all(axis=1)
    resolved = _part(chain, has_ca_N)
    residue_R = _fit_exactly(chain, sequence)
    if residue_R is not None:
        residue_R = residue_R[has_ca_N]
    elif (start := sequence.find(resolved.letters)) >= 0:
        residue_R = np.arange(len(resolved.letters)) + start
    else:
        residue_R = _align(chain.name, resolved.letters, resolved.ca, sequence)
        kept_R = _without_tags(resolved.letters, residue_R, sequence)
        resolved, residue_R = _part(resolved, kept_R), residue_R[kept_R]
        _check_identity(chain.name, resolved.letters, residue_R, sequence)
        if not kept_R.all():
            exact_R = _fit_exactly(resolved, sequence)
            residue_R = residue_R if exact_R is None else exact_R
    placed = Chain(residue=residue_R.astype(np.int32), letters=resolved.letters, ca=resolved.ca)
    unresolved = np.setdiff1d(np.arange(len(sequence)), placed.residue)
    if len(unresolved) > MAX_UNRESOLVED * len(sequence):
        raise RecordError(
            "E_MISSING",
            f"chain {chain.name}: {len(unresolved)} of {len(sequence)} residues have no Cα",
            "Give a structure of the whole protein, or the sequence of this part.",
        )
    return placed, tuple(int(index) for index in unresolved)


def num_left_out(chain: RawChain, placed: Chain) -> int:
    """How many residues of `chain` that have a Cα are not in `placed`: those of its expression tags."""
    return int(np.isfinite(chain.ca).all(axis=1).sum()) - len(placed.residue)


def _part(chain: RawChain, kept_N: Bool[np.ndarray, " N"]) -> RawChain:
    letters = "".join(letter for letter, kept in zip(chain.letters, kept_N, strict=True) if kept)
    return RawChain(chain.name, letters, chain.ca[kept_N], None if chain.number is None else chain.number[kept_N])


def _fit_exactly(chain: RawChain, sequence: str) -> Integer[np.ndarray, " N"] | None:
    """Where the residues are if they are the sequence, or a part of it, by their letters or their numbers."""
    if chain.letters == sequence:
        return np.arange(len(sequence))
    if (by_number_N := _place_by_number(chain, sequence)) is not None:
        return by_number_N
    start = sequence.find(chain.letters)
    return np.arange(len(chain.letters)) + start if start >= 0 else None


def _without_tags(letters: str, index_R: Integer[np.ndarray, " R"], sequence: str) -> Bool[np.ndarray, " R"]:
    """False for residues at the ends that are no part of the sequence; True throughout if these are too many."""
    # An end is cut where what was cut differs from the sequence most in excess of what agrees with it.
    agrees_R = np.array(
        [_agreement(letter, index, sequence) for letter, index in zip(letters, index_R.tolist(), strict=True)]
    )
    first = int(np.argmin(np.cumsum([0, *agrees_R])))
    last = len(letters) - int(np.argmin(np.cumsum([0, *agrees_R[::-1]])))
    kept_R = np.zeros(len(letters), dtype=np.bool_)
    kept_R[first:last] = True
    tagged = len(letters) - int(kept_R.sum())
    if tagged > min(MAX_TAG, MAX_TAG_SHARE * len(letters)):
        kept_R[:] = True
    return kept_R


def _agreement(letter: str, index: int, sequence: str) -> int:
    if index < 0:
        return -1
    if "X" in (letter, sequence[index]):
        return 0
    return 1 if letter == sequence[index] else -1


def _place_by_number(chain: RawChain, sequence: str) -> Int32[np.ndarray, " N"] | None:
    """Where residues are if one offset turns all their numbers into places of equal letters; None if none does.

    Letters alone cannot tell which of two equal neighbours is missing; numbers can, where they rise one by one.
    """
    if chain.number is None or not len(chain.number) or np.any(np.diff(chain.number) <= 0):
        return None
    step_N = chain.number - chain.number[0]
    letters_N = np.frombuffer(chain.letters.encode(), dtype=np.uint8)
    sequence_L = np.frombuffer(sequence.encode(), dtype=np.uint8)
    for offset in range(len(sequence) - int(step_N[-1])):
        index_N: Int32[np.ndarray, " N"] = (step_N + offset).astype(np.int32)
        if np.array_equal(sequence_L[index_N], letters_N):
            return index_N
    return None


def _align(name: str, letters: str, ca_R3: Float32[np.ndarray, "R 3"], sequence: str) -> Int32[np.ndarray, " R"]:
    """Where each structure residue is in `sequence`, by a global alignment with free gaps at ends and chain breaks."""
    if len(letters) * len(sequence) > MAX_ALIGNMENT_CELLS:
        raise RecordError(
            "E_LONG",
            f"chain {name}: {len(letters)} residues cannot be aligned to {len(sequence)}",
            "Give a structure whose residues are the sequence's, without gaps.",
        )
    steps = np.linalg.norm(np.diff(ca_R3, axis=0), axis=1)
    scoring = gemmi.AlignmentScoring()
    # The alignment is global, so extending gaps costs the same in sum however many sequence residues are left out,
    # and more only for structure residues without a place: these are dearer than differences.
    scoring.match, scoring.mismatch, scoring.gape, scoring.gapo = 1, -1, -2, -3
    # One entry before the first residue, one after each: what it costs to leave out sequence residues there.
    openings = [-1, *(-1 if step > CHAIN_BREAK else -5 for step in steps), -1]
    found = gemmi.align_string_sequences(list(sequence), list(letters), openings, scoring)
    index_R = np.full(len(letters), -1, dtype=np.int32)
    here = there = 0
    for count, kind in re.findall(r"(\d+)([MID])", found.cigar_str()):
        length = int(count)
        if kind == "M":
            index_R[there : there + length] = np.arange(here, here + length)
        here += length if kind in "MI" else 0
        there += length if kind in "MD" else 0
    return index_R


def _check_identity(name: str, letters: str, index_R: Integer[np.ndarray, " R"], sequence: str) -> None:
    homeless = [r for r, index in enumerate(index_R) if index < 0]
    pairs = [(int(index), sequence[index], letters[r]) for r, index in enumerate(index_R) if index >= 0]
    known = [pair for pair in pairs if "X" not in pair[1:]]
    different = [pair for pair in known if pair[1] != pair[2]]
    verified = bool(known) or len(letters) == len(sequence)
    if verified and not homeless and len(different) <= (1 - MIN_IDENTITY) * len(pairs):
        return
    faults: list[str] = []
    if different:
        index, expected, got = different[0]
        faults.append(f"{len(different)} of {len(letters)} residues differ, first at {index + 1} {expected}/{got}")
    if homeless:
        first = homeless[0]
        faults.append(
            f"{len(homeless)} have no place in the sequence, first {letters[first]} ({first + 1} of the chain)"
        )
    raise RecordError(
        "E_MISMATCH",
        f"chain {name}: {'; '.join(faults) or 'no residue is known'}",
        "Give the structure of this sequence, or the sequence of this structure.",
    )
