"""Label tables and splits: small tables, keyed by protein id, that say what is known and who is held out.

Legend: N proteins, K terms.
"""

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool

from amma.manifests.deepfri import is_annotation, read_annotation
from amma.manifests.errors import InputError, UsageError
from amma.manifests.textfile import MAX_LINE, open_text

TASK_COLUMNS = {"ec": "ec", "ec-class": "ec_class", "go-mf": "go_mf", "go-bp": "go_bp", "go-cc": "go_cc"}
"""Which column of a label table each task reads."""

Unlabelled = Literal["keep", "drop"]
"""What becomes of a protein that is in the table without a term of the task."""

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


def read_labels(path: Path, task: str, *, unlabelled: Unlabelled = "keep") -> LabelTable:
    """Read the labels of `task` from a TSV, or from an annotation table as DeepFRI publishes them.

    The TSV has a header: column `id`, and the task's column (`TASK_COLUMNS`), comma-separated. A DeepFRI table is known
    by its first line; its terms are all that its header lists, and `ec-class` takes the first digits of its EC
    numbers. Terms are taken as they stand: the partial EC number `2.6.1.-` is a term of its own. With `unlabelled`
    "drop", proteins without a term of the task are left out; "keep" gives them a row of False.

    Raises `UsageError` for an unknown task, `InputError` if a column is missing (`E_COLUMNS`), an id is repeated
    (`E_DUP`) or a term is not in the header's list (`E_TERM`).
    """
    if task not in TASK_COLUMNS:
        near = get_close_matches(task, TASK_COLUMNS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UsageError(f"no task called {task!r}.{hint} Known: {', '.join(sorted(TASK_COLUMNS))}.")
    listed, rows = _read_deepfri(path, task) if is_annotation(path) else (None, _read_columns(path, task))
    labels: dict[str, tuple[str, ...]] = {}
    seen: set[str] = set()
    for line, protein, row_terms in rows:
        if not protein:
            raise InputError(f"{path}:{line}: a row without an id.")
        if protein in seen:
            raise InputError(f"{path}:{line}: id {protein!r} again; each protein has one row.", code="E_DUP")
        seen.add(protein)
        if listed is not None and (strange := set(row_terms).difference(listed)):
            raise InputError(
                f"{path}:{line}: {min(strange)!r} is not among the terms that the table's head lists.", code="E_TERM"
            )
        if row_terms or unlabelled == "keep":
            labels[protein] = row_terms
    if not labels:
        raise InputError(f"{path}: a label table without {'rows' if not seen else f'a label for task {task!r}'}.")
    terms = tuple(sorted(listed or {term for row_terms in labels.values() for term in row_terms}))
    place = {term: k for k, term in enumerate(terms)}
    targets_NK = np.zeros((len(labels), len(terms)), dtype=np.bool_)
    for n, row_terms in enumerate(labels.values()):
        targets_NK[n, [place[term] for term in row_terms]] = True
    return LabelTable(ids=tuple(labels), terms=terms, targets=targets_NK, path=path)


_Rows = Iterable[tuple[int, str, tuple[str, ...]]]
"""Line, id and terms of each row."""


def _read_columns(path: Path, task: str) -> _Rows:
    column = TASK_COLUMNS[task]
    for line, row in read_tsv(path, required=("id", column)):
        yield line, row["id"].strip(), tuple(term.strip() for term in row[column].split(",") if term.strip())


def _read_deepfri(path: Path, task: str) -> tuple[frozenset[str], _Rows]:
    if task != "ec-class":
        annotation = read_annotation(path, task)
        return frozenset(annotation.terms), annotation.rows
    annotation = read_annotation(path, "ec")
    rows = [(line, protein, tuple(map(_ec_class, terms))) for line, protein, terms in annotation.rows]
    return frozenset(map(_ec_class, annotation.terms)), rows


def _ec_class(number: str) -> str:
    return number.partition(".")[0]


def read_ids(path: Path) -> tuple[str, ...]:
    """The ids of a list, one a line, in order; blank lines and repeats are left out.

    Byte-order marks are dropped from every line, as `cat a.txt b.txt` leaves one in the middle.
    """
    with open_text(path) as handle:
        ids = dict.fromkeys(line.strip().lstrip("\ufeff") for line in handle)
    ids.pop("", None)
    return tuple(ids)


def read_splits(folder: Path, *, prefix: str | None = None) -> dict[str, tuple[str, ...]]:
    """The ids of `train`, `valid` and `test` from the lists `train.txt`, `valid.txt` and `test.txt` of `folder`.

    Lists may have a common beginning, as DeepFRI's have (`nrPDB-EC_2020.04_train.txt`): the one that begins with
    `prefix`, or the only one there is. Without `prefix`, a plain `train.txt` comes first.

    Raises `InputError` if a list is missing or empty, or if two of them share an id (`E_SPLITS`); `UsageError` if
    several sets of lists are there to choose from.
    """
    splits: dict[str, tuple[str, ...]] = {}
    owner: dict[str, str] = {}
    paths = split_paths(folder, prefix=prefix)
    for split, path in paths.items():
        splits[split] = read_ids(path)
        if not splits[split]:
            raise InputError(f"{path}: an empty split; expected one id a line.")
        for protein in splits[split]:
            if owner.setdefault(protein, split) != split:
                raise InputError(
                    f"{path}: {protein!r} is also in {paths[owner[protein]].name}; a protein may be in one split only.",
                    code="E_SPLITS",
                )
    return splits


def split_paths(folder: Path, *, prefix: str | None = None) -> dict[str, Path]:
    """Where `read_splits` finds the list of each split; raises as it does if there is no choice or no `train` list."""
    beginning = _find_beginning(folder, prefix)
    return {split: folder / f"{beginning}{split}.txt" for split in SPLITS}


def _find_beginning(folder: Path, prefix: str | None) -> str:
    """What the names of the three lists begin with."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder (expected one with train.txt, valid.txt and test.txt).")
    last = f"{SPLITS[0]}.txt"
    if prefix is None and (folder / last).exists():
        return ""
    names = sorted(path.name for path in folder.glob(f"*{last}") if path.name.startswith(prefix or ""))
    if len(names) == 1:
        return names[0].removesuffix(last)
    if names:
        raise UsageError(f"{folder} has several splits: {', '.join(names)}. Name the beginning of one as its prefix.")
    raise InputError(f"{folder / f'{prefix or str()}{last}'}: no such file (expected one id a line).")


def read_tsv(path: Path, *, required: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (line number, row) of a tab-separated table with a header; cells that are missing are empty.

    Raises `InputError` naming the columns of `required` that the header lacks (`E_COLUMNS`).
    """
    with open_text(path) as handle:
        csv.field_size_limit(MAX_LINE)  # the stream bounds lines; csv's own bound is 128 KiB a cell
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
