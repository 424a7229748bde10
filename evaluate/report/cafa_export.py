"""Predictions in the format of CAFA's submissions.

    AUTHOR   AMMA
    MODEL    1
    KEYWORDS machine learning, sequence properties, protein structure.
    P1       GO:0003824   0.87
    END

Cells of the three columns are parted by a tab. Scores are those of the terms themselves: whoever reads such a file
propagates them to ancestors.

Shapes: N proteins, K terms.

Source: the rules of CAFA 2 to 5, and their format checker.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from amma.manifests.errors import InputError, UsageError
from amma.manifests.files import aside_of, fsync_directory
from amma.manifests.quarantine import RecordError, Rejection

KEYWORDS = ("machine learning", "sequence properties", "protein structure")
"""From the list that CAFA allows."""

MAX_TERMS = 1500
"""Terms a protein may have in one file."""

SMALLEST = 0.01
"""The smallest score that two decimals can show; 0 is not allowed."""

_WORDS = ("AUTHOR", "MODEL", "KEYWORDS", "ACCURACY", "END")


@dataclass(frozen=True, slots=True)
class CafaExport:
    """What was written: proteins with a line, lines, and lines left out because a protein had too many.

    `rejections` are proteins whose ids the format cannot hold; nothing of them is in the file.
    """

    num_proteins: int
    num_lines: int
    num_cut: int
    rejections: tuple[Rejection, ...]


def write_cafa(
    path: Path,
    ids: Sequence[str],
    terms: Sequence[str],
    score_NK: Float[np.ndarray, "N K"],
    *,
    model_name: str = "1",
    author: str = "AMMA",
    at_least: float = SMALLEST,
) -> CafaExport:
    """Write the file; it appears whole or not at all, in place of one that is there.

    Proteins are in the order of `ids`, their terms by score, then by name; those below `at_least` are left out. CAFA
    itself takes 1, 2 or 3 as `model_name`, one word as `author`. Raises `UsageError` for an author or model of more
    than one line or an `at_least` outside [0.01, 1], `InputError` for terms that are empty or have spaces in them,
    `ValueError` for scores that are no probabilities.
    """
    _check_header(author=author, model_name=model_name)
    if not SMALLEST <= at_least <= 1:
        raise UsageError(f"the smallest score to be written must lie between {SMALLEST} and 1, not at {at_least}.")
    for term in terms:
        if (fault := _fault(term)) is not None:
            raise InputError(f"term {term!r} {fault}: it cannot stand in a file of CAFA's format. Rename it.")
    if not ((score_NK >= 0) & (score_NK <= 1)).all():
        raise ValueError("scores must be probabilities, from 0 to 1")
    ascending_K = np.argsort(np.array(terms), kind="stable")
    rejections = tuple(_rejections(ids))
    refused = {rejection.id for rejection in rejections}
    num_proteins = num_lines = num_cut = 0
    aside = aside_of(path)
    with aside.open("w", encoding="utf-8", newline="\n") as handle:
        handle.write(f"AUTHOR\t{author}\nMODEL\t{model_name}\nKEYWORDS\t{', '.join(KEYWORDS)}.\n")
        for id, score_K in zip(ids, score_NK, strict=True):
            if id in refused:
                continue
            order_K = ascending_K[np.argsort(-score_K[ascending_K], kind="stable")]
            kept = order_K[score_K[order_K] >= at_least]
            handle.writelines(f"{id}\t{terms[k]}\t{score_K[k]:.2f}\n" for k in kept[:MAX_TERMS])
            num_proteins += len(kept) > 0
            num_lines += min(len(kept), MAX_TERMS)
            num_cut += max(len(kept) - MAX_TERMS, 0)
        handle.write("END\n")
        handle.flush()
        os.fsync(handle.fileno())
    aside.replace(path)
    fsync_directory(path.parent)
    return CafaExport(num_proteins, num_lines, num_cut, rejections)


def _check_header(**values: str) -> None:
    for name, value in values.items():
        if not value.strip() or not value.isprintable():
            raise UsageError(f"{name.replace('_', ' ')} {value!r}: expected one line of text.")


def _fault(cell: str) -> str | None:
    """Why a text cannot be a cell; readers part cells at any kind of space, and know records by their first word."""
    if not cell:
        return "is empty"
    if cell.split() != [cell] or not cell.isprintable():
        return "has a space or a control character"
    return f"is a word of the format ({', '.join(_WORDS)})" if cell in _WORDS else None


def _rejections(ids: Sequence[str]) -> Iterator[Rejection]:
    for position, id in enumerate(ids, start=1):
        if (fault := _fault(id)) is not None:
            error = RecordError("E_ID", f"the id {fault}: CAFA's format cannot hold it", "give it another id")
            yield error.rejection(id=id, source="predictions", position=position)
