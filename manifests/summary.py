"""What is in a manifest, in numbers."""

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from amma.manifests.table import TEXT_FIELDS, Manifest


@dataclass(frozen=True)
class ManifestSummary:
    """Counts of a manifest; lengths are in residues."""

    path: str
    proteins: int
    kinds: dict[str, int]
    residues: int
    length: dict[str, float]
    """`shortest`, `mean`, `median`, `longest`."""
    unresolved: dict[str, int]
    """Proteins whose structure lacks residues, and how many residues those are."""
    text: dict[str, int]
    """Proteins that have each text field."""

    def to_json(self) -> dict[str, Any]:
        """The summary as plain JSON values."""
        return asdict(self)


def summarise(path: Path) -> ManifestSummary:
    """Count what is in the manifest `path`, row group by row group. Raises `InputError` as `Manifest` does."""
    lengths: list[int] = []
    kinds: Counter[str] = Counter()
    text = dict.fromkeys(TEXT_FIELDS, 0)
    unresolved = {"proteins": 0, "residues": 0}
    for protein in Manifest(path):
        lengths.append(len(protein.sequence))
        kinds[protein.kind] += 1
        unresolved["proteins"] += bool(protein.unresolved)
        unresolved["residues"] += len(protein.unresolved)
        for field, value in zip(TEXT_FIELDS, protein.text, strict=True):
            text[field] += bool(value)
    length: dict[str, float] = {}
    if lengths:
        length = {
            "shortest": min(lengths),
            "mean": round(sum(lengths) / len(lengths), 1),
            "median": median(lengths),
            "longest": max(lengths),
        }
    return ManifestSummary(str(path), len(lengths), dict(sorted(kinds.items())), sum(lengths), length, unresolved, text)
