"""Function text in ProtDescribe's table, and which protein each row belongs to."""

from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

from amma.manifests.labels import read_tsv
from amma.manifests.quarantine import RecordError, Rejection
from amma.manifests.sequences import SequenceRecord, clean_id, clean_sequence
from amma.manifests.textfile import is_utf8

NAME_COLUMN = "EntryName"
TEXT_COLUMNS = ("ProteinName", "Function", "SubcellularLocation", "Similarity")
SEQUENCE_COLUMN = "Sequence"

Text = tuple[str, str, str, str]
"""The four fields, in the order of `amma.manifests.table.TEXT_FIELDS`; empty strings where absent."""

NO_TEXT: Text = ("", "", "", "")


@dataclass(frozen=True, slots=True)
class Description:
    """One row: `position` is its number (1-based, the header not counted), `name` its EntryName or empty."""

    position: int
    name: str
    sequence: str
    text: Text


def read_descriptions(path: Path) -> Iterator[Description | Rejection]:
    """Yield the rows of a ProtDescribe table (plain or gzip); one that is not UTF-8 comes as a `Rejection`.

    `EntryName` may be missing, other columns are ignored. Raises `InputError` naming the columns that are missing.
    Sequences come as they stand, unchecked: many rows belong to no protein of the input.
    """
    required = (*TEXT_COLUMNS, SEQUENCE_COLUMN)
    for position, (_, row) in enumerate(read_tsv(path, required=required), start=1):
        name = row.get(NAME_COLUMN, "").strip()
        name_field, function, location, similarity = (row[column].strip() for column in TEXT_COLUMNS)
        text = (name_field, function, location, similarity)
        if not is_utf8("".join((name, *text))):
            error = RecordError("E_UTF8", "text that is not UTF-8", "Save the table as UTF-8.")
            yield error.rejection(id=name, source=str(path), position=position)
            continue
        yield Description(position, name, row[SEQUENCE_COLUMN].strip(), text)


def read_described_sequences(path: Path) -> Iterator[SequenceRecord | Rejection]:
    """The rows of a ProtDescribe table as a roster of proteins: id `EntryName`, sequence `Sequence`."""
    for row in read_descriptions(path):
        if isinstance(row, Rejection):
            yield row
            continue
        try:
            yield SequenceRecord(clean_id(row.name), clean_sequence(row.sequence), None, row.position)
        except RecordError as error:
            yield error.rejection(id=row.name, source=str(path), position=row.position)


@dataclass(frozen=True, slots=True)
class TextConflict:
    """Two rows that describe one protein differently; the first was taken."""

    key: str
    taken: int
    ignored: int


@dataclass
class Texts:
    """All text of a table, by protein: a row belongs to the id it names, else to every protein of its sequence."""

    rejections: list[Rejection] = field(default_factory=list)
    conflicts: list[TextConflict] = field(default_factory=list)
    rows: int = 0
    empty: int = 0
    repeated: int = 0
    other_sequence: int = 0
    """Proteins that took the text of their id although the row's sequence is not theirs."""
    _rows: dict[str | bytes, tuple[int, Text, bytes]] = field(default_factory=dict)
    _taken: set[str | bytes] = field(default_factory=set)

    @classmethod
    def load(cls, path: Path, ids: Container[str]) -> "Texts":
        """Read the whole table; `ids` are the proteins of the input."""
        texts = cls()
        for row in read_descriptions(path):
            texts.rows += 1
            if isinstance(row, Rejection):
                texts.rejections.append(row)
            elif not any(row.text):
                texts.empty += 1
            else:
                texts._add(row, row.name if row.name in ids else _digest(row.sequence))
        return texts

    def _add(self, row: Description, key: str | bytes) -> None:
        first = self._rows.setdefault(key, (row.position, row.text, _digest(row.sequence)))
        if first[0] == row.position:
            return
        if first[1] == row.text:
            self.repeated += 1
        else:
            shown = row.name or f"the sequence of row {first[0]}"
            self.conflicts.append(TextConflict(key if isinstance(key, str) else shown, first[0], row.position))

    def take(self, protein_id: str, sequence: str) -> Text:
        """The text of a protein, `NO_TEXT` if there is none."""
        digest = _digest(sequence)
        key: str | bytes = protein_id if protein_id in self._rows else digest
        if key not in self._rows:
            return NO_TEXT
        _, text, row_digest = self._rows[key]
        self._taken.add(key)
        self.other_sequence += row_digest != digest
        return text

    def counts(self) -> dict[str, int]:
        """What became of the rows; those with text of which no protein took it are `unmatched`."""
        return {
            "rows": self.rows,
            "joined": len(self._taken),
            "repeated": self.repeated,
            "conflicting": len(self.conflicts),
            "empty": self.empty,
            "unmatched": sum(key not in self._taken for key in self._rows),
            "quarantined": len(self.rejections),
        }


def _digest(sequence: str) -> bytes:
    """16 bytes that stand for a sequence: the table's text is held in memory, its sequences are not."""
    return blake2b(sequence.upper().removesuffix("*").encode(errors="surrogateescape"), digest_size=16).digest()
