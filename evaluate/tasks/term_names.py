"""What a term is called, and who says so.

Where several sources know a term, the first of these is taken: the user's own table, the ontology, the head of the
label table, the built-in names of the seven EC classes. An EC number that none of them names gets its class's, in
brackets, so that it is not taken for its own. Without a name a term has "".
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from amma.evaluate.tasks.ontology import EC_CLASSES, Ontology, printable
from amma.manifests.deepfri import is_annotation, read_names
from amma.manifests.errors import InputError
from amma.manifests.labels import read_tsv

COLUMNS = ("term", "name")
"""The columns of a table of names; others are ignored."""


class Origin(StrEnum):
    """Who named a term; `EC_CLASS` is the name of its class, not its own."""

    TABLE = "table of names"
    ONTOLOGY = "ontology"
    LABELS = "label table"
    EC = "EC"
    EC_CLASS = "class of the EC number"
    NONE = ""


@dataclass(frozen=True)
class TermNames:
    """A name ("" where there is none) and its origin for each term, in the order of the task's terms.

    Names are text as their source has it, on one printable line; pages escape them.
    """

    terms: tuple[str, ...]
    names: tuple[str, ...]
    origins: tuple[Origin, ...]

    def as_dict(self) -> dict[str, str]:
        """The name of each term that has one."""
        return {term: name for term, name in zip(self.terms, self.names, strict=True) if name}

    @property
    def num_named(self) -> int:
        """How many terms have a name of their own."""
        return sum(origin not in (Origin.NONE, Origin.EC_CLASS) for origin in self.origins)


def term_names(
    task: str,
    terms: Sequence[str],
    *,
    ontology: Ontology | None = None,
    table: Path | None = None,
    labels_path: Path | None = None,
) -> TermNames:
    """Name the terms of `task` (a key of `manifests.labels.TASK_COLUMNS`).

    `table` is a TSV with columns `term` and `name`; `labels_path` is read for names if it is an annotation table as
    DeepFRI publishes them. Raises `InputError` if `table` lacks a column (`E_COLUMNS`) or gives a term two names
    (`E_DUP`).
    """
    own = {} if table is None else read_term_table(table)
    head = _names_of_labels(task, labels_path)
    found = [next(_candidates(task, term, own, ontology, head)) for term in terms]
    return TermNames(tuple(terms), tuple(name for name, _ in found), tuple(origin for _, origin in found))


def read_term_table(path: Path) -> dict[str, str]:
    """The names of a TSV with columns `term` and `name`; rows without a name are left out.

    Raises `InputError` as `term_names`.
    """
    names: dict[str, str] = {}
    for line, row in read_tsv(path, required=COLUMNS):
        term, name = row["term"].strip(), printable(row["name"])
        if term and name and names.setdefault(term, name) != name:
            raise InputError(f"{path}:{line}: another name for {term!r}; each term has one.", code="E_DUP")
    return names


def ec_class(term: str) -> str:
    """The name of an EC number's class, "" if its first digit is none of the seven."""
    return EC_CLASSES.get(term.partition(".")[0], "")


def _names_of_labels(task: str, path: Path | None) -> dict[str, str]:
    if path is None or not is_annotation(path):
        return {}
    return {} if task == "ec-class" else {term: printable(name) for term, name in read_names(path, task).items()}


def _candidates(
    task: str, term: str, own: Mapping[str, str], ontology: Ontology | None, head: Mapping[str, str]
) -> Iterator[tuple[str, Origin]]:
    """What each source that knows the term calls it, the first to be taken; the last is always there."""
    if name := own.get(term):
        yield name, Origin.TABLE
    if ontology is not None and (name := ontology.name_of(term)):
        yield name, Origin.ONTOLOGY
    if name := head.get(term):
        yield name, Origin.LABELS
    if task in ("ec", "ec-class") and (name := ec_class(term)):
        if set(term.split(".")[1:]) <= {"-"}:
            yield name, Origin.EC
        yield f"(class: {name})", Origin.EC_CLASS
    yield "", Origin.NONE
