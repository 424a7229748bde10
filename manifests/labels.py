"""Label tables and splits: small tables, keyed by protein id, that say what is known and who is held out.

Legend: N proteins, K terms.
"""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from amma.manifests.errors import InputError, UsageError
from amma.manifests.textfile import open_text

TASK_COLUMNS = {"ec": "ec", "ec-class": "ec_class"}
"""Which column of a label table each task reads."""

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class LabelTable:
    """The terms of every protein of a table, in the table's order.

    `targets[n, k]` is True if protein `ids[n]` has `terms[k]`. A protein that is in the table without a term is a row
    of False; one that is not in the table is unknown, not negative.
    """

    ids: tuple[str, ...]
    terms: tuple[str, ...]
    targets: Bool[np.ndarray, "N K"]
    path: Path


def read_labels(path: Path, task: str) -> LabelTable:
    """Read the labels of `task` from a TSV with a header: column `id`, and the task's column, comma-separated.

    Terms are taken as they stand: the partial EC number `2.6.1.-` is a term of its own. Raises `UsageError` for an
    unknown task, `InputError` if a column is missing (`E_COLUMNS`) or an id is repeated (`E_DUP`).
    """
    if task not in TASK_COLUMNS:
        near = get_close_matches(task, TASK_COLUMNS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UsageError(f"no task called {task!r}.{hint} Known: {', '.join(sorted(TASK_COLUMNS))}.")
    column = TASK_COLUMNS[task]
    labels: dict[str, list[str]] = {}
    for line, row in read_tsv(path, required=("id", column)):
        protein = row["id"].strip()
        if not protein:
            raise InputError(f"{path}:{line}: a row without an id.")
        if protein in labels:
            raise InputError(f"{path}:{line}: id {protein!r} again; each protein has one row.", code="E_DUP")
        labels[protein] = [term.strip() for term in row[column].split(",") if term.strip()]
    if not labels:
        raise InputError(f"{path}: a label table without rows.")
    terms = tuple(sorted({term for row_terms in labels.values() for term in row_terms}))
    place = {term: k for k, term in enumerate(terms)}
    targets_NK = np.zeros((len(labels), len(terms)), dtype=np.bool_)
    for n, row_terms in enumerate(labels.values()):
        for term in row_terms:
            targets_NK[n, place[term]] = True
    return LabelTable(ids=tuple(labels), terms=terms, targets=targets_NK, path=path)


def read_ids(path: Path) -> tuple[str, ...]:
    """The ids of a list, one a line, in order; blank lines and repeats are left out.

    Byte-order marks are dropped from every line, as `cat a.txt b.txt` leaves one in the middle.
    """
    with open_text(path) as handle:
        ids = dict.fromkeys(line.strip().lstrip("\ufeff") for line in handle)
    ids.pop("", None)
    return tuple(ids)


def read_splits(folder: Path) -> dict[str, tuple[str, ...]]:
    """The ids of `train`, `valid` and `test` from the lists `train.txt`, `valid.txt` and `test.txt` of `folder`.

    Raises `InputError` if a list is missing or empty, or if two of them share an id (`E_SPLITS`).
    """
    splits: dict[str, tuple[str, ...]] = {}
    owner: dict[str, str] = {}
    for split in SPLITS:
        path = folder / f"{split}.txt"
        splits[split] = read_ids(path)
        if not splits[split]:
            raise InputError(f"{path}: an empty split; expected one id a line.")
        for protein in splits[split]:
            if owner.setdefault(protein, split) != split:
                raise InputError(
                    f"{path}: {protein!r} is also in {owner[protein]}.txt; a protein may be in one split only.",
                    code="E_SPLITS",
                )
    return splits


def read_tsv(path: Path, *, required: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (line number, row) of a tab-separated table with a header; cells that are missing are empty.

    Raises `InputError` naming the columns of `required` that the header lacks (`E_COLUMNS`).
    """
    with open_text(path) as handle:
        # Quotes are ordinary characters in these tables (5"-nucleotidase): with csv's default quoting, one stray
        # quote at the start of a cell swallows every row up to the next.
        rows = csv.reader(handle, delimiter="\t", quoting=csv.QUOTE_NONE)
        try:
            header = [name.strip() for name in next(rows, [])]
            missing = [name for name in required if name not in header]
            if missing:
                raise InputError(
                    f"{path}: no column {', '.join(missing)} (found: {', '.join(header) or 'nothing'}). "
                    "Expected a tab-separated table with a header line.",
                    code="E_COLUMNS",
                )
            for cells in rows:
                if any(cells):
                    padded = cells + [""] * (len(header) - len(cells))
                    yield rows.line_num, dict(zip(header, padded, strict=False))
        except csv.Error as error:
            raise InputError(f"{path}:{rows.line_num}: not a readable table ({error}).") from error
