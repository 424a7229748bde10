"""A manifest of all protein chains of structure files, each a protein of its own with the residues that it shows."""

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from amma.manifests.chains import RawChain, read_chains, select_chain
from amma.manifests.console import progress
from amma.manifests.errors import InputError
from amma.manifests.placement import place
from amma.manifests.quarantine import RecordError, Rejection
from amma.manifests.report import BuildReport
from amma.manifests.sequences import clean_id, clean_sequence
from amma.manifests.structure_files import StructureFiles, alphafold_accession
from amma.manifests.structures import read_structure
from amma.manifests.table import ManifestWriter, Protein


def build_of_chains(structures: Path, out: Path, *, chain: str | None = None) -> BuildReport:
    """Write the manifest `out` of a folder, archive or file of structures; give what was read, stored and left out.

    A file with one chain is a protein by the file's name without suffixes, as is one whose name ends in one of its
    chains (`1ABC-B`): that one. Of any other file every chain is a protein, `1ABC-A`, `1ABC-B` and so on, or only the
    `chain` that is given. Raises `InputError` if there is no structure, or none that can be used.
    """
    files = StructureFiles(structures)
    rejections: list[Rejection] = list(files.rejections)
    without_structure: list[Rejection] = []
    seen: set[str] = set()
    kinds: Counter[str] = Counter()
    unresolved: Counter[str] = Counter()
    residues = 0
    used: set[str] = set()
    with ManifestWriter(out) as writer, progress("reading structures", len(files), unit="files") as advance:
        for stem in files:
            advance(1)
            path, accession = files.path(stem), alphafold_accession(stem)
            try:
                data = read_structure(path)
                sha256 = hashlib.sha256(data).hexdigest()
                chains = _chosen(read_chains(data, path.name), chain, stem)
            except RecordError as error:
                rejections.append(error.rejection(id=stem, source=str(path), position=None))
                continue
            for protein_id, raw in chains:
                try:
                    if protein_id in seen:
                        raise RecordError("E_DUP", "another file gave a protein of this id", "Rename one of the files.")
                    sequence = clean_sequence(raw.letters)
                    protein = Protein(clean_id(protein_id), sequence, accession=accession, source=path.name)
                except RecordError as error:
                    rejections.append(error.rejection(id=protein_id, source=str(path), position=None))
                    continue
                try:
                    _, gaps = place(raw, sequence)
                    located = {"structure": _relative(path, out), "structure_sha256": sha256, "chain": raw.name}
                    protein = replace(protein, unresolved=gaps, **located)
                    used.add(stem)
                except RecordError as error:  # its sequence is what is left
                    without_structure.append(error.rejection(id=protein_id, source=str(path), position=None))
                seen.add(protein_id)
                writer.write(protein)
                kinds[protein.kind] += 1
                residues += len(protein.sequence)
                unresolved["proteins"] += bool(protein.unresolved)
                unresolved["residues"] += len(protein.unresolved)
        if not kinds:
            first = f": {rejections[0].code}: {rejections[0].reason}" if rejections else ""
            raise InputError(f"{structures}: none of its {len(files)} structures can be used{first}.")
    stored = sum(kinds.values())
    report = BuildReport(
        roster=str(structures),
        records={
            "read": stored + len(rejections),
            "stored": stored,
            "quarantined": len(rejections),
            "duplicates": 0,
        },
        structures={
            "found": len(files),
            "used": len(used),
            "quarantined": len(files) - len(used),
            "unmatched": 0,
        },
        descriptions={},
        kinds=dict(sorted(kinds.items())),
        residues=residues,
        unresolved={key: unresolved[key] for key in ("proteins", "residues")},
        tags={"proteins": 0, "residues": 0},
        other_sequence=0,
        rejections=(*rejections, *without_structure),
    )
    report.check()
    return report


def _chosen(chains: Sequence[RawChain], wanted: str | None, stem: str) -> list[tuple[str, RawChain]]:
    """The chains to take from a file, with their ids."""
    if wanted is not None:
        found = select_chain(chains, wanted, stem)
        alone = len(chains) == 1 or stem.endswith((f"-{wanted}", f"_{wanted}"))
        return [(stem if alone else f"{stem}-{wanted}", found)]
    if len(chains) == 1:
        return [(stem, chains[0])]
    for raw in chains:
        if raw.name and stem.endswith((f"-{raw.name}", f"_{raw.name}")):
            return [(stem, raw)]
    # Where a file repeats a name, the first chain of that name counts.
    by_name = {raw.name: raw for raw in reversed(chains)}
    return [(f"{stem}-{raw.name or '_'}", raw) for raw in chains if by_name[raw.name] is raw]


def _relative(path: Path, out: Path) -> str:
    """As in `build`: links stay as they were named, and the manifest's own folder is resolved."""
    return Path(os.path.relpath(os.path.abspath(path), out.resolve().parent)).as_posix()  # noqa: PTH100
