"""DeepFRI's annotation tables and test lists, exactly as published (Gligorijević et al. 2021, BSD-3-Clause).

An annotation table begins with blocks of two lines, `### what` and a tab-separated list, then has a header line
`### PDB-chain …` and a row a protein: id, then a cell a branch with comma-separated terms. `nrPDB-EC_…_annot.tsv` has
one block (EC numbers), `nrPDB-GO_…_annot.tsv` six (terms and names of three branches). Cells at the end of a row may be
missing.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from amma.manifests.errors import InputError
from amma.manifests.textfile import open_text

MARK = "### "
HEADER = "### PDB-chain"
BRANCHES = {
    "ec": "EC-numbers",
    "go-mf": "GO-terms (molecular_function)",
    "go-bp": "GO-terms (biological_process)",
    "go-cc": "GO-terms (cellular_component)",
}
"""What each branch is called in the files."""

NAMES = {branch: title.replace("-terms", "-names") for branch, title in BRANCHES.items() if branch != "ec"}
"""What the block with the names of a branch is called; EC numbers have none."""


@dataclass(frozen=True)
class Annotation:
    """One branch of an annotation table: the terms its header lists, and those of each row as (line, id, terms)."""

    terms: tuple[str, ...]
    rows: tuple[tuple[int, str, tuple[str, ...]], ...]


def is_annotation(path: Path) -> bool:
    """True if `path` begins as DeepFRI's annotation tables do."""
    with open_text(path) as handle:
        return next(handle, "").startswith(MARK)


def read_annotation(path: Path, branch: str) -> Annotation:
    """Read one branch (a key of `BRANCHES`) of an annotation table, plain or gzip.

    Raises `InputError` (`E_COLUMNS`) if the table has no such branch, or no header line.
    """
    title = BRANCHES[branch]
    with open_text(path) as handle:
        lines = ((number, line.rstrip("\n")) for number, line in enumerate(handle, start=1))
        lists, columns = _read_head(lines, path)
        if title not in lists or title not in columns:
            shown = ", ".join(columns[1:]) or "nothing"
            raise InputError(
                f"{path}: no branch {title!r} (found: {shown}). Give the table of this task.", code="E_COLUMNS"
            )
        place = columns.index(title)
        rows = tuple((number, *_row(line.split("\t"), place)) for number, line in lines if line.strip())
    return Annotation(lists[title], rows)


def read_names(path: Path, branch: str) -> dict[str, str]:
    """The names that the head of an annotation table gives the terms of one branch, where it gives any.

    A name that only repeats its term is none: in the published `nrPDB-GO_…_annot.tsv` all do. Raises `InputError`
    (`E_COLUMNS`) if there are not as many names as terms, or no header line.
    """
    with open_text(path) as handle:
        lists, _ = _read_head(((number, line.rstrip("\n")) for number, line in enumerate(handle, start=1)), path)
    terms, names = lists.get(BRANCHES[branch], ()), lists.get(NAMES.get(branch, ""), ())
    if names and len(names) != len(terms):
        raise InputError(
            f"{path}: {len(terms)} terms and {len(names)} names in the head of branch {BRANCHES[branch]!r}; expected "
            "as many.",
            code="E_COLUMNS",
        )
    return {term: name for term, name in zip(terms, names, strict=False) if name.strip() not in ("", term)}


def _read_head(lines: Iterator[tuple[int, str]], path: Path) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """The lists of a table's head, and the columns of the rows that follow; `lines` are left at the first row."""
    lists: dict[str, tuple[str, ...]] = {}
    for _, line in lines:
        if line.startswith(HEADER):
            return lists, line.split("\t")
        if line.startswith(MARK):
            lists[line.removeprefix(MARK).strip()] = tuple(next(lines, (0, ""))[1].split("\t"))
    raise InputError(f"{path}: no line that begins with {HEADER!r}; is it cut short?", code="E_COLUMNS")


def _row(cells: list[str], place: int) -> tuple[str, tuple[str, ...]]:
    cell = cells[place] if place < len(cells) else ""
    return cells[0].strip(), tuple(term.strip() for term in cell.split(",") if term.strip())


def read_identity_cutoffs(path: Path) -> dict[str, frozenset[str]]:
    """Which test proteins are left at each identity to the training set: `{"<30%": ids, …, "<95%": ids}`.

    Reads the published `…_test.csv`: a column `PDB-chain` and one of 0 or 1 a cut-off. Raises `InputError`
    (`E_COLUMNS`) for a table of another form, naming the line.
    """
    with open_text(path) as handle:
        rows = csv.reader(handle)
        header = [name.strip() for name in next(rows, [])]
        if len(header) < 2 or header[0] != "PDB-chain":
            found = ", ".join(header[:6]) or "nothing"
            expected = "PDB-chain, <30%, <40%, …, separated by commas"
            raise InputError(
                f"{path}: not a list of identity cut-offs (found: {found}; expected {expected}).", code="E_COLUMNS"
            )
        left: dict[str, set[str]] = {cutoff: set() for cutoff in header[1:]}
        for number, protein, flags in _flags(rows):
            if len(flags) != len(left) or not set(flags) <= {"0", "1"}:
                raise InputError(
                    f"{path}:{number}: expected {len(left)} cells of 0 or 1 after the id {protein!r}.", code="E_COLUMNS"
                )
            for cutoff, flag in zip(left, flags, strict=True):
                if flag == "1":
                    left[cutoff].add(protein)
    return {cutoff: frozenset(ids) for cutoff, ids in left.items()}


def _flags(rows: Iterator[list[str]]) -> Iterator[tuple[int, str, list[str]]]:
    for number, cells in enumerate(rows, start=2):
        if any(cells):
            yield number, cells[0].strip(), [cell.strip() for cell in cells[1:]]
