"""What is in a manifest, in numbers, and whether its structures are still what they were."""

from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from amma.manifests.archives import split_location
from amma.manifests.chains import structure_stem
from amma.manifests.errors import UsageError
from amma.manifests.quarantine import RecordError, Rejection, read_quarantine
from amma.manifests.structures import load_chain
from amma.manifests.table import TEXT_FIELDS, Manifest, Protein

ESM_RESIDUES = 1022
"""What ESM-1b reads of a protein: residues beyond have no features."""
RARE = "UOBZX"
"""Letters of the alphabet that are not one of the 20 amino acids."""


@dataclass(frozen=True)
class ManifestSummary:
    """Counts of a manifest; lengths are in residues."""

    path: str
    proteins: int
    kinds: dict[str, int]
    residues: int
    distinct_sequences: int
    """Fewer than proteins where several ids have one sequence."""
    length: dict[str, float]
    """`shortest`, `mean`, `median`, `longest`, and how many are longer than `ESM_RESIDUES`."""
    rare: dict[str, int]
    """How many residues are one of `RARE`."""
    structures: dict[str, int]
    """Proteins by the format of their structure (`pdb`, `cif`), and how many of them are in archives."""
    unresolved: dict[str, int]
    """Proteins whose structure lacks residues, and how many residues those are."""
    text: dict[str, int]
    """Proteins that have each text field."""
    accessions: int
    """Proteins with a UniProt accession."""
    quarantined: dict[str, int] | None
    """How often each code is in the `quarantine.jsonl` beside the manifest; None if there is none."""

    def to_json(self) -> dict[str, Any]:
        """The summary as plain JSON values."""
        return asdict(self)


def summarise(path: Path) -> ManifestSummary:
    """Count what is in the manifest `path`, row group by row group. Raises `InputError` as `Manifest` does."""
    lengths, digests = array("i"), array("Q")
    kinds: Counter[str] = Counter()
    structures: Counter[str] = Counter()
    text = dict.fromkeys(TEXT_FIELDS, 0)
    rare = dict.fromkeys(RARE, 0)
    unresolved = {"proteins": 0, "residues": 0}
    accessions = 0
    for protein in Manifest(path):
        lengths.append(len(protein.sequence))
        digests.append(int.from_bytes(blake2b(protein.sequence.encode(), digest_size=8).digest(), "big"))
        kinds[protein.kind] += 1
        unresolved["proteins"] += bool(protein.unresolved)
        unresolved["residues"] += len(protein.unresolved)
        accessions += protein.accession is not None
        structures.update(_structure_kinds(protein))
        for field, value in zip(TEXT_FIELDS, protein.text, strict=True):
            text[field] += bool(value)
        for letter in RARE:
            rare[letter] += protein.sequence.count(letter)
    return ManifestSummary(
        path=str(path),
        proteins=len(lengths),
        kinds=dict(sorted(kinds.items())),
        residues=sum(lengths),
        distinct_sequences=len(np.unique(np.asarray(digests, dtype=np.uint64))),
        length=_lengths(np.asarray(lengths, dtype=np.int64)) if lengths else {},
        rare=rare,
        structures=dict(sorted(structures.items())),
        unresolved=unresolved,
        text=text,
        accessions=accessions,
        quarantined=_quarantined(path),
    )


def find_protein(path: Path, protein_id: str) -> Protein:
    """The row of `protein_id`. Raises `UsageError` if the manifest has no such protein."""
    for protein in Manifest(path):
        if protein.id == protein_id:
            return protein
    raise UsageError(f"{path}: no protein {protein_id!r}. Ids are as in the input, to the letter.")


def failing_structures(manifest: Manifest) -> Iterator[Rejection | None]:
    """Load every structure again as featurize will; one that fails comes as a `Rejection`, others as None."""
    for row, protein in enumerate(manifest, start=1):
        if protein.structure is None:
            yield None
            continue
        try:
            load_chain(manifest, protein)
        except RecordError as error:
            yield error.rejection(id=protein.id, source=protein.structure, position=row)
        else:
            yield None


def _structure_kinds(protein: Protein) -> list[str]:
    if protein.structure is None:
        return []
    _, member = split_location(Path(protein.structure))
    name = PurePosixPath(protein.structure).name
    stem = structure_stem(name) or name
    suffix = name[len(stem) :].lower().removesuffix(".gz").removeprefix(".")
    return [suffix, "in archives"] if member is not None else [suffix]


def _lengths(lengths: "np.ndarray[Any, Any]") -> dict[str, float]:
    return {
        "shortest": int(lengths.min()),
        "mean": round(float(lengths.mean()), 1),
        "median": float(np.median(lengths)),
        "longest": int(lengths.max()),
        f"longer than {ESM_RESIDUES}": int((lengths > ESM_RESIDUES).sum()),
    }


def _quarantined(path: Path) -> dict[str, int] | None:
    beside = path.with_name(f"{path.stem}.quarantine.jsonl")
    if not beside.is_file():
        return None
    return dict(sorted(Counter(rejection.code for rejection in read_quarantine(beside)).items()))
