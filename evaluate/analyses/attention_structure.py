"""A protein's attention in its own structure: the Cα trace for a picture, and a CIF whose B-factors hold the attention.

Legend: L residues of one protein that have a token, R residues with a Cα.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import gemmi
import numpy as np
from jaxtyping import Float32, Float64, Int32

from amma.featurize.export.names import safe_name
from amma.manifests.chains import read_model
from amma.manifests.quarantine import RecordError, Rejection
from amma.manifests.structures import Chain, load_chain, read_chains, read_structure, select_chain
from amma.manifests.table import Manifest, Protein

FOLDER = "structures"
HIGHEST = 100.0
"""The B-factor of the residue that is attended to most."""


@dataclass(frozen=True)
class Trace:
    """The Cα of a protein, in the order of its sequence: `residue` is the index (0-based) of each, `ca` in Å."""

    residue: Int32[np.ndarray, " R"]
    ca: Float32[np.ndarray, "R 3"]


@dataclass(frozen=True)
class Painted:
    """What became of one protein: its trace, the name of its CIF in the analysis, and the CIF."""

    trace: Trace
    file: str
    text: str


def find_proteins(manifest: Manifest, ids: Iterable[str]) -> dict[str, Protein]:
    """The rows of these ids; one that is not there has no entry."""
    wanted = set(ids)
    found = {}
    for protein in manifest:
        if protein.id in wanted:
            found[protein.id] = protein
            if len(found) == len(wanted):
                break
    return found


def paint(
    manifest: Manifest, protein: Protein | None, id: str, sequence: str, residue_L: Float64[np.ndarray, " L"]
) -> Painted | Rejection:
    """The structure of a protein with its attention as B-factors, or why it cannot be had.

    `protein` is its row of the manifest (None: it has none) and `sequence` that of the store, to which `residue_L`
    belongs from its first residue on.
    """
    try:
        if protein is None:
            raise RecordError(
                "E_OUTSIDE", "the manifest has no such protein", "Give the manifest the store was made of."
            )
        if protein.sequence != sequence:
            raise RecordError(
                "E_MISMATCH",
                f"its sequence has {len(protein.sequence)} residues in the manifest and {len(sequence)} in the store, "
                "and they are not the same",
                "Give the manifest the store was made of.",
            )
        if protein.structure is None:
            raise RecordError("E_ABSENT", "the manifest has no structure of it", "Build it with --structures.")
        chain = load_chain(manifest, protein)
        text = _cif(manifest, protein, chain, residue_L)
    except RecordError as error:
        return error.rejection(id=id, source=str(manifest.path), position=None)
    return Painted(Trace(chain.residue, chain.ca), file_name(id), text)


def file_name(id: str) -> str:
    """Where the CIF of a protein is in the analysis; safe whatever the id."""
    return f"{FOLDER}/{safe_name(id)}.cif"


def _cif(manifest: Manifest, protein: Protein, chain: Chain, residue_L: Float64[np.ndarray, " L"]) -> str:
    """Model 1 of the user's file: attention on a scale to 100 for all atoms of a residue, 0 for all other atoms."""
    path = manifest.structure_path(protein)
    data = read_structure(path)
    name = select_chain(read_chains(data, path.name), protein.chain, protein.id).name
    structure = read_model(data, path.name)
    del structure[1:]
    structure.name = safe_name(protein.id)
    scaled_L = HIGHEST * residue_L / max(float(residue_L.max()), np.finfo(np.float64).tiny)
    # The Cα tells which residue of the file is which of the sequence: `place` moves no atom.
    value_at = {
        tuple(ca.tolist()): float(scaled_L[residue])
        for residue, ca in zip(chain.residue.tolist(), chain.ca, strict=True)
        if residue < len(scaled_L)
    }
    for part in structure[0]:
        for residue in part:
            value = _value(residue, value_at) if part.name == name else 0.0
            for atom in residue:
                atom.b_iso = value
                atom.aniso = gemmi.SMat33f(0, 0, 0, 0, 0, 0)
    return structure.make_mmcif_document().as_string()


def _value(residue: gemmi.Residue, value_at: dict[tuple[float, ...], float]) -> float:
    for atom in residue:
        if atom.name == "CA":
            place = tuple(np.array([atom.pos.x, atom.pos.y, atom.pos.z], dtype=np.float32).tolist())
            if place in value_at:
                return value_at[place]
    return 0.0


def write_text(path: Path, text: str) -> None:
    """Write a finished CIF."""
    path.write_text(text, encoding="utf-8")
