"""Annotated sites: which residues of a protein bind a ligand or catalyse its reaction.

The table is a TSV with a header and a row a site: `id`, `start`, `end` (1-based, both included, as UniProt counts) and
`kind`, the feature key of UniProt (`BINDING`, `ACT_SITE`). `end` may be empty for a single residue. Inside, residues
are counted from 0.

Legend: S annotated residues of one protein.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int32

from amma.manifests.errors import InputError
from amma.manifests.labels import read_tsv
from amma.manifests.quarantine import RecordError, Rejection

KINDS = ("ACT_SITE", "BINDING")
_POSITION = re.compile(r"[1-9][0-9]{0,5}")


@dataclass(frozen=True, slots=True)
class Site:
    """The residues `start` to `stop` (0-based, `stop` not included) of the protein `id`."""

    id: str
    start: int
    stop: int
    kind: str


@dataclass(frozen=True)
class SiteTable:
    """The sites of a table in its order, and the rows that could not be used."""

    sites: tuple[Site, ...]
    rejections: tuple[Rejection, ...]
    path: Path

    @property
    def ids(self) -> tuple[str, ...]:
        """The proteins that have a site, in the table's order."""
        return tuple(dict.fromkeys(site.id for site in self.sites))

    def residues(self, kinds: Collection[str] = KINDS) -> dict[str, Int32[np.ndarray, " S"]]:
        """The residues (0-based, rising, each once) in a site of one of `kinds`, of every protein that has one."""
        found: dict[str, set[int]] = {}
        for site in self.sites:
            if site.kind in kinds:
                found.setdefault(site.id, set()).update(range(site.start, site.stop))
        return {protein: np.array(sorted(indices), dtype=np.int32) for protein, indices in found.items()}


def read_sites(path: Path, lengths: Mapping[str, int] | None = None) -> SiteTable:
    """Read a table of sites (TSV, plain or gzip).

    With `lengths`, the number of residues of each protein, a site beyond the end of its sequence is rejected, and so is
    one of a protein that is not there. A row that cannot be used is a rejection: `E_SITE` for positions that are no
    residues (`?`, `<1`), end before start, an unknown kind or one of the above; `E_ID` without an id. Repeated rows are
    one site. Raises `InputError` if a column is missing (`E_COLUMNS`), or if no row can be used.
    """
    sites: dict[Site, None] = {}
    rejections: list[Rejection] = []
    rows = 0
    for rows, (_, row) in enumerate(read_tsv(path, required=("id", "start", "end", "kind")), start=1):
        protein = row["id"].strip()
        try:
            sites[_site(protein, row, lengths)] = None
        except RecordError as error:
            rejections.append(error.rejection(id=protein, source=str(path), position=rows))
    if not sites:
        first = f", the first because of: {rejections[0].reason}" if rejections else ""
        raise InputError(f"{path}: none of its {rows} rows is a site that can be used{first}.", code="E_SITE")
    return SiteTable(tuple(sites), tuple(rejections), path)


def _site(protein: str, row: Mapping[str, str], lengths: Mapping[str, int] | None) -> Site:
    if not protein:
        raise RecordError("E_ID", "a site without an id", "Name its protein.")
    kind, start, end = row["kind"].strip(), row["start"].strip(), row["end"].strip() or row["start"].strip()
    if kind not in KINDS:
        raise RecordError("E_SITE", f"{kind!r} is no kind of site", f"Use {' or '.join(KINDS)}.")
    if not (_POSITION.fullmatch(start) and _POSITION.fullmatch(end)):
        raise RecordError("E_SITE", f"{start!r} to {end!r} are no residue numbers", "Count from 1; leave out unknowns.")
    site = Site(protein, int(start) - 1, int(end), kind)
    if site.stop <= site.start:
        raise RecordError("E_SITE", f"it ends at {end}, before its start at {start}", "Correct the row.")
    if lengths is not None:
        length = lengths.get(protein)
        if length is None:
            raise RecordError("E_SITE", "no such protein among those given", "Use the ids of the manifest.")
        if site.stop > length:
            reason = f"residue {end} of a sequence of {length}"
            raise RecordError("E_SITE", reason, "Number residues as in this sequence, not as in another isoform.")
    return site
