"""Read the protein chains of a PDB, mmCIF or BinaryCIF file.

Only Cα atoms are kept: that is what structure encoders read, and many files hold nothing else.

Legend: N residues of a chain as in its file.
"""

import codecs
import io
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import gemmi
import numpy as np
from jaxtyping import Float32, Int32

from amma.manifests.binarycif import read_binarycif
from amma.manifests.compression import GZIP_MAGIC, GzipError, expanded
from amma.manifests.quarantine import RecordError

SUFFIXES = (".pdb", ".ent", ".cif", ".mmcif", ".bcif")
"""Of structure files; each may have `.gz` behind it."""
MAX_STRUCTURE_BYTES = 1 << 30
"""Of a structure file, expanded; the largest entries of the PDB have about half of this as mmCIF."""


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
    """`1ABC-A` of `1ABC-A.pdb.gz`; None if the name is not that of a PDB, mmCIF or BinaryCIF file."""
    bare = file_name[:-3] if file_name.lower().endswith(".gz") else file_name
    stem, dot, suffix = bare.rpartition(".")
    return stem if stem and f"{dot}{suffix.lower()}" in SUFFIXES else None


def read_chains(data: bytes, file_name: str) -> list[RawChain]:
    """The protein chains of model 1, in file order, from the bytes of a file named as in `SUFFIXES`.

    Modified residues of the polymer count (MSE is M, SEC U, PYL O, others the parent in gemmi's table, else X);
    ligands and water do not. Of alternate locations the one with the highest occupancy is taken, the first letter if
    equal. Where a file repeats a chain under the same name (a symmetry copy), the first copy counts.

    Raises `RecordError`: `E_FORMAT` (name), `E_GZIP`, `E_EMPTY`, `E_PARSE`, `E_COORD` (a coordinate that is no finite
    number), `E_CHAINS` (no protein chain).
    """
    structure = read_model(data, file_name)
    try:
        chains = [chain for part in structure[0] if (chain := _raw_chain(part))] if len(structure) else []
    except (RuntimeError, ValueError, IndexError) as error:
        raise _unreadable(error) from error
    if not chains:
        raise RecordError("E_CHAINS", "no protein chain in it", "Expected residues with Cα atoms.")
    return chains


def read_model(data: bytes, file_name: str) -> gemmi.Structure:
    """All atoms of a structure file, entities set up; raises `RecordError` as `read_chains`, but for `E_CHAINS`."""
    stem = structure_stem(file_name)
    if stem is None:
        raise RecordError(
            "E_FORMAT", f"{file_name} is not named like a structure", f"Use one of {', '.join(SUFFIXES)}, or with .gz."
        )
    text = _inflate(data).removeprefix(codecs.BOM_UTF8)
    if not text.strip():
        raise RecordError("E_EMPTY", "an empty file", "Fetch the file again.")
    suffix = file_name[len(stem) :].lower().removesuffix(".gz")
    try:
        return _parse(text, suffix)
    except (RuntimeError, ValueError, IndexError) as error:
        raise _unreadable(error) from error


def _unreadable(error: Exception) -> RecordError:
    return RecordError("E_PARSE", f"it cannot be read: {error}", "Check the file; fetch it again.")


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


def _separators(protein_id: str) -> list[int]:
    """Where the chain name of an id may start: after its last hyphen or underscore, the later of the two first."""
    return sorted({cut for mark in "-_" if (cut := protein_id.rfind(mark)) > 0}, reverse=True)


def _inflate(data: bytes) -> bytes:
    if not data.startswith(GZIP_MAGIC):
        return data
    try:
        return b"".join(expanded(io.BytesIO(data), len(data), limit=MAX_STRUCTURE_BYTES))
    except GzipError as error:
        raise RecordError(error.code, str(error), "Fetch the file again.") from error


def _parse(text: bytes, suffix: str) -> gemmi.Structure:
    if suffix == ".bcif":
        structure = read_binarycif(text)
    elif suffix in (".cif", ".mmcif"):
        structure = gemmi.read_structure_string(text, format=gemmi.CoorFormat.Mmcif)
    else:
        _check_pdb_coordinates(text)
        # Old files repeat the entry's name in columns 73-80, where gemmi expects element and charge.
        structure = gemmi.read_pdb_string(text, max_line_length=72)
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
