"""Read the chains of a PDB or mmCIF file and place their residues on a protein's sequence.

Only Cα atoms are kept: that is what structure encoders read, and many files hold nothing else. A residue without a
Cα stays in the sequence and is absent from the structure (a mask, never a shift).

Legend: N residues of a chain as in its file, R residues that have a Cα.
"""

import gzip
import hashlib
import math
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import gemmi
import numpy as np
from jaxtyping import Float32, Int32

from amma.manifests.quarantine import RecordError
from amma.manifests.table import Manifest, Protein
from amma.manifests.textfile import GZIP_MAGIC

FORMATS = {
    ".pdb": gemmi.CoorFormat.Pdb,
    ".ent": gemmi.CoorFormat.Pdb,
    ".cif": gemmi.CoorFormat.Mmcif,
    ".mmcif": gemmi.CoorFormat.Mmcif,
}
MIN_IDENTITY = 0.95
"""Share of aligned residues that must be equal for a structure to be that of a sequence."""
MAX_UNRESOLVED = 0.5
"""Share of a sequence's residues that may lack a Cα."""
CHAIN_BREAK = 4.5
"""Two Cα of neighbouring residues are 3.8 Å apart (2.9 Å across a cis bond); farther means residues are missing."""
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


@dataclass(frozen=True, slots=True)
class RawChain:
    """A chain as its file has it, not yet placed on a sequence.

    `name` is the author's chain name; `letters` one letter per residue in file order; `ca` the Cα positions in Å, a
    row of NaN where a residue has none. `number` are the residue numbers of the file, without insertion codes: they
    only help to see where residues are missing.
    """

    name: str
    letters: str
    ca: Float32[np.ndarray, "N 3"]
    number: Int32[np.ndarray, " N"] | None = None


def structure_stem(file_name: str) -> str | None:
    """`1ABC-A` of `1ABC-A.pdb.gz`; None if the name is not that of a PDB or mmCIF file."""
    bare = file_name[:-3] if file_name.lower().endswith(".gz") else file_name
    stem, dot, suffix = bare.rpartition(".")
    return stem if stem and f"{dot}{suffix.lower()}" in FORMATS else None


def read_chains(data: bytes, file_name: str) -> list[RawChain]:
    """The protein chains of model 1, in file order, from the bytes of a `.pdb`, `.ent`, `.cif` or `.mmcif` (`.gz`).

    Modified residues of the polymer count (MSE is M, SEC U, PYL O, others the parent in gemmi's table, else X);
    ligands and water do not. Of alternate locations the one with the highest occupancy is taken, the first letter if
    equal. Where a file repeats a chain under the same name (a symmetry copy), the first copy counts.

    Raises `RecordError`: `E_FORMAT` (name), `E_GZIP`, `E_EMPTY`, `E_PARSE`, `E_COORD` (a coordinate that is no finite
    number), `E_CHAINS` (no protein chain).
    """
    stem = structure_stem(file_name)
    if stem is None:
        raise RecordError(
            "E_FORMAT", f"{file_name} is not named like a structure", f"Use one of {', '.join(FORMATS)}, or with .gz."
        )
    text = _inflate(data)
    if not text.strip():
        raise RecordError("E_EMPTY", "an empty file", "Fetch the file again.")
    suffix = file_name[len(stem) :].lower().removesuffix(".gz")
    try:
        structure = _parse(text, FORMATS[suffix])
        chains = [chain for part in structure[0] if (chain := _raw_chain(part))] if len(structure) else []
    except (RuntimeError, ValueError, IndexError) as error:
        raise RecordError("E_PARSE", f"gemmi cannot read it: {error}", "Check the file; fetch it again.") from error
    if not chains:
        raise RecordError("E_CHAINS", "no protein chain in it", "Expected residues with Cα atoms.")
    return chains


def select_chain(chains: Sequence[RawChain], wanted: str | None, protein_id: str) -> RawChain:
    """The chain of a protein: the wanted one, the only one, the one its id ends in (`1ABC-B`, `1ABC_B`), in that order.

    Where all chains have the same residues (a homo-oligomer) the first stands for all. Raises `RecordError`
    `E_CHAINS` if none of these rules decides.
    """
    if wanted is None and len(chains) == 1:
        return chains[0]
    names = [wanted] if wanted is not None else [protein_id[cut + 1 :] for cut in _separators(protein_id)]
    for name in names:
        for chain in chains:
            if chain.name == name:
                return chain
    if wanted is None and len({chain.letters for chain in chains}) == 1:
        return chains[0]
    listed = ", ".join(chain.name or "(blank)" for chain in chains)
    what = f"no chain {wanted}" if wanted is not None else "several chains"
    raise RecordError(
        "E_CHAINS", f"{what}; the file has {listed}", "End the id in the chain's name (1ABC-B), or keep one chain."
    )


def place(chain: RawChain, sequence: str) -> tuple[Chain, tuple[int, ...]]:
    """Find where each residue of `chain` is in `sequence`; second: the indices (0-based) that have no Cα.

    A chain equal to the sequence is placed so; else where its residue numbers, gaps included, fit without a difference;
    else where it is a part of the sequence. Else the residues that have a Cα are aligned to the sequence, gaps going
    where the chain is broken: every one must find a place, and 95 % of them must be equal (`X` on either side is equal
    to anything). Raises `RecordError`: `E_MISMATCH` if that fails, `E_MISSING` if more than half of the
    sequence has no Cα, `E_LONG` if the two are too long to align.
    """
    has_ca_N = np.isfinite(chain.ca).all(axis=1)
    ca_R3 = chain.ca[has_ca_N]
    letters = "".join(letter for letter, kept in zip(chain.letters, has_ca_N, strict=True) if kept)
    if chain.letters == sequence:
        residue_R = np.flatnonzero(has_ca_N)
    elif (by_number_N := _place_by_number(chain, sequence)) is not None:
        residue_R = by_number_N[has_ca_N]
    elif (start := sequence.find(chain.letters)) >= 0:
        residue_R = np.flatnonzero(has_ca_N) + start
    elif (start := sequence.find(letters)) >= 0:
        residue_R = np.arange(len(letters)) + start
    else:
        residue_R = _align(chain.name, letters, ca_R3, sequence)
    placed = Chain(residue=residue_R.astype(np.int32), letters=letters, ca=ca_R3)
    unresolved = np.setdiff1d(np.arange(len(sequence)), placed.residue)
    if len(unresolved) > MAX_UNRESOLVED * len(sequence):
        raise RecordError(
            "E_MISSING",
            f"chain {chain.name}: {len(unresolved)} of {len(sequence)} residues have no Cα",
            "Give a structure of the whole protein, or the sequence of this part.",
        )
    return placed, tuple(int(index) for index in unresolved)


def load_chain(manifest: Manifest, protein: Protein) -> Chain:
    """Read the structure of a manifest's protein again, exactly as it was when the manifest was built.

    Raises `RecordError`: `E_FILE` if the file cannot be read, `E_CHANGED` if it, or what it gives, is not what the
    manifest says; otherwise as `read_chains`, `select_chain` and `place`.
    """
    path = manifest.structure_path(protein)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RecordError(
            "E_FILE", f"{path}: {error.strerror}", "Put the file back, or build the manifest again."
        ) from error
    rebuild = "Build the manifest again."
    if hashlib.sha256(data).hexdigest() != protein.structure_sha256:
        raise RecordError("E_CHANGED", f"{path} is not the file the manifest was built from", rebuild)
    chain, unresolved = place(select_chain(read_chains(data, path.name), protein.chain, protein.id), protein.sequence)
    if unresolved != protein.unresolved:
        raise RecordError("E_CHANGED", f"{path} gives other residues than the manifest says", rebuild)
    return chain


def _separators(protein_id: str) -> list[int]:
    """Where the chain name of an id may start: after its last hyphen or underscore, the later of the two first."""
    return sorted({cut for mark in "-_" if (cut := protein_id.rfind(mark)) > 0}, reverse=True)


def _inflate(data: bytes) -> bytes:
    if not data.startswith(GZIP_MAGIC):
        return data
    try:
        return gzip.decompress(data)
    except (EOFError, zlib.error, OSError) as error:
        raise RecordError("E_GZIP", f"damaged gzip file ({error})", "Fetch the file again.") from error


def _parse(text: bytes, file_format: gemmi.CoorFormat) -> gemmi.Structure:
    if file_format is gemmi.CoorFormat.Pdb:
        _check_pdb_coordinates(text)
        # Old files repeat the entry's name in columns 73-80, where gemmi expects element and charge.
        structure = gemmi.read_pdb_string(text, max_line_length=72)
    else:
        structure = gemmi.read_structure_string(text, format=file_format)
    structure.setup_entities()
    return structure


def _check_pdb_coordinates(text: bytes) -> None:
    """Refuse Cα lines of model 1 whose coordinates are no numbers: gemmi 0.7 reads `********` as 0."""
    for number, line in enumerate(text.splitlines(), start=1):
        if line.startswith(b"ENDMDL"):
            return
        if line[12:16].strip() == b"CA" and line.startswith((b"ATOM", b"HETATM")):
            try:
                finite = all(math.isfinite(float(line[at : at + 8])) for at in (30, 38, 46))
            except ValueError:
                finite = False
            if not finite:
                shown = line[12:54].decode("ascii", "replace")
                raise RecordError(
                    "E_COORD", f"line {number}: no finite coordinates in {shown!r}", "Repair or remove the atom."
                )


def _raw_chain(chain: gemmi.Chain) -> RawChain | None:
    """What we keep of a chain; None if it is not a protein's."""
    letters: list[str] = []
    rows: list[tuple[float, float, float]] = []
    numbers: list[int] = []
    for residue in _one_per_place(chain.get_polymer()):
        atom = _alpha_carbon(residue)
        letter = gemmi.find_tabulated_residue(residue.name).one_letter_code.upper()
        letters.append(letter if letter.strip() else "X")
        numbers.append(residue.seqid.num or 0)
        rows.append((atom.pos.x, atom.pos.y, atom.pos.z) if atom else (math.nan,) * 3)
        if atom and not all(map(math.isfinite, rows[-1])):
            raise RecordError(
                "E_COORD",
                f"chain {chain.name}, residue {residue.seqid} {residue.name}: the Cα has no finite coordinates",
                "Repair or remove the atom.",
            )
    ca_N3 = np.asarray(rows, dtype=np.float32).reshape(-1, 3)
    if not np.isfinite(ca_N3).any():
        return None
    return RawChain(chain.name, "".join(letters), ca_N3, np.asarray(numbers, dtype=np.int32))


def _one_per_place(residues: Iterable[gemmi.Residue]) -> Iterator[gemmi.Residue]:
    """Of residues that share one place as alternate locations (a point mutation in the crystal), the best occupied.

    Equal numbers alone say nothing: old files count 27, 27, 27 where insertion codes are meant.
    """
    for _, group in groupby(residues, key=lambda residue: (residue.seqid.num, residue.seqid.icode)):
        alternates: list[gemmi.Residue] = []
        for residue in group:
            if all(atom.has_altloc() for atom in residue):
                alternates.append(residue)
            else:
                yield residue
        if alternates:
            yield min(alternates, key=lambda residue: min(map(_preference, residue)))


def _alpha_carbon(residue: gemmi.Residue) -> gemmi.Atom | None:
    first: dict[str, gemmi.Atom] = {}
    for atom in residue:
        if atom.name == "CA":
            first.setdefault(atom.altloc, atom)
    return min(first.values(), key=_preference, default=None)


def _preference(atom: gemmi.Atom) -> tuple[float, str]:
    return (-atom.occ, atom.altloc)


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
    _check_identity(name, letters, index_R, sequence)
    return index_R


def _check_identity(name: str, letters: str, index_R: Int32[np.ndarray, " R"], sequence: str) -> None:
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
