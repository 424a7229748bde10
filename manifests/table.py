"""The manifest table: one Parquet row per protein, streamed by row group.

A row holds what the encoders need to find their inputs and what the store's plan needs to know the number of rows
before any encoder runs: the sequence, where the structure is and which residues it lacks, and the four text fields.
"""

import json
import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from amma.manifests.errors import InputError
from amma.manifests.files import TEMPORARY_SUFFIX, fsync_directory
from amma.manifests.textfile import require_regular

FORMAT_VERSION = "1.0"
ROWS_PER_GROUP = 1024
TEXT_FIELDS = ("name", "function", "location", "similarity")


class Modality(StrEnum):
    """The three views of a protein, in the order used everywhere."""

    SEQ = "seq"
    STR = "str"
    FUNC = "func"


MODALITIES = tuple(Modality)

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("sequence", pa.string(), nullable=False),
        pa.field("structure", pa.string()),
        pa.field("structure_sha256", pa.string()),
        pa.field("chain", pa.string()),
        pa.field("unresolved", pa.list_(pa.int32()), nullable=False),
        *(pa.field(field, pa.string(), nullable=False) for field in TEXT_FIELDS),
        pa.field("accession", pa.string()),
        pa.field("source", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True)
class Protein:
    """One row of a manifest.

    `structure` is a path relative to the manifest's folder (never absolute when the two share a drive);
    `structure_sha256` is the hash of that file's bytes when the manifest was built. `unresolved` lists the residue
    indices (0-based, in `sequence`) that have no Cα in the structure. Text fields are empty strings where absent.
    """

    id: str
    sequence: str
    structure: str | None = None
    structure_sha256: str | None = None
    chain: str | None = None
    unresolved: tuple[int, ...] = ()
    name: str = ""
    function: str = ""
    location: str = ""
    similarity: str = ""
    accession: str | None = None
    source: str = ""

    @property
    def text(self) -> tuple[str, str, str, str]:
        """The four fields of ProtDescribe, in `TEXT_FIELDS` order."""
        return (self.name, self.function, self.location, self.similarity)

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """What this protein has; a sequence always."""
        has = {
            Modality.SEQ: True,
            Modality.STR: self.structure is not None,
            Modality.FUNC: any(self.text),
        }
        return tuple(modality for modality in MODALITIES if has[modality])

    @property
    def kind(self) -> str:
        """`triplet`, `seq-str`, `seq-func` or `seq`."""
        return kind_of(self.modalities)


def kind_of(modalities: Sequence[Modality]) -> str:
    """Name a set of modalities as training streams do: `triplet`, or the parts joined by a hyphen."""
    return "triplet" if len(modalities) == len(MODALITIES) else "-".join(modalities)


class ManifestWriter:
    """Write a manifest row by row; the file appears, whole, when the `with` block ends without an error."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._aside = path.with_name(path.name + TEMPORARY_SUFFIX)
        self._rows: list[Protein] = []
        schema = SCHEMA.with_metadata({"amma": json.dumps({"format": "manifest", "version": FORMAT_VERSION})})
        self._writer = pq.ParquetWriter(self._aside, schema, compression="zstd")

    def __enter__(self) -> Self:
        return self

    def write(self, protein: Protein) -> None:
        """Add one row."""
        self._rows.append(protein)
        if len(self._rows) == ROWS_PER_GROUP:
            self._flush()

    def _flush(self) -> None:
        columns = {name: [getattr(row, name) for row in self._rows] for name in SCHEMA.names}
        self._writer.write_table(pa.table(columns, schema=self._writer.schema))
        self._rows.clear()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._rows:
            self._flush()
        self._writer.close()
        if kind is not None:
            self._aside.unlink(missing_ok=True)
            return
        descriptor = os.open(self._aside, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self._aside.replace(self._path)
        fsync_directory(self._path.parent)


def write_manifest(path: Path, proteins: Iterable[Protein]) -> None:
    """Write all of `proteins` to `path`."""
    with ManifestWriter(path) as writer:
        for protein in proteins:
            writer.write(protein)


class Manifest:
    """A manifest on disk: iterate over it, or take single rows; one row group is held at a time.

    Raises `InputError` if `path` is not a manifest or is of a newer major version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        require_regular(path, "a manifest; build one with amma-manifest build")
        try:
            self._file = pq.ParquetFile(path)
        except (OSError, pa.ArrowInvalid) as error:
            raise InputError(
                f"{path}: not a readable Parquet file ({error}). Build one with amma-manifest build."
            ) from error
        header = (self._file.schema_arrow.metadata or {}).get(b"amma")
        if header is None or json.loads(header).get("format") != "manifest":
            raise InputError(f"{path}: a Parquet file, but not a manifest. Build one with amma-manifest build.")
        version = json.loads(header)["version"]
        if version.split(".")[0] != FORMAT_VERSION.split(".")[0]:
            raise InputError(
                f"{path}: manifest of version {version}, this program reads {FORMAT_VERSION}. "
                "Update amma or rebuild it.",
                code="E_VERSION",
            )
        metadata = self._file.metadata
        sizes = (metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
        self._ends = list(accumulate(sizes))
        self._group = lru_cache(maxsize=8)(self._read_group)

    @property
    def folder(self) -> Path:
        """What the `structure` paths are relative to."""
        return self.path.resolve().parent

    def structure_path(self, protein: Protein) -> Path:
        """Where the structure file of `protein` is."""
        if protein.structure is None:
            raise InputError(f"{self.path}: {protein.id!r} has no structure")
        return self.folder / protein.structure

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __iter__(self) -> Iterator[Protein]:
        for group in range(len(self._ends)):
            yield from self._read_group(group)

    def __getitem__(self, row: int) -> Protein:
        group = bisect_right(self._ends, row)
        if row < 0 or group == len(self._ends):
            raise IndexError(row)
        return self._group(group)[row - (self._ends[group - 1] if group else 0)]

    def _read_group(self, group: int) -> list[Protein]:
        rows: list[dict[str, Any]] = self._file.read_row_group(group, columns=SCHEMA.names).to_pylist()
        return [Protein(**{**row, "unresolved": tuple(row["unresolved"])}) for row in rows]
