"""Where everything is inside a store: array names, shapes, file names and Zarr metadata.

    zarr.json, seq/…, str/…, func/…   the Zarr group
    plan.json                         settings, fingerprint, widths, counts, hash of the plan
    ids.parquet                       one row a protein in plan order
    units/U.safetensors               what a unit knows of its proteins: start, length, crc32c, present, cls, moments
    ledger/U.json                     the commit of unit U: its files with their sizes and hashes
    index.bin                         one record a protein: where its rows are, their checksums, its id
    digests/G                         sizes and hashes of the files of group G, too many for seal.json
    quarantine.jsonl, seal.json       written when all units are committed, as are index.bin and digests
    lock                              while a writer is at work

Unit U owns rows `[U·S, (U+1)·S)` of every row array, S = `shard_rows`: exactly one shard file each.
"""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from amma.manifests.table import MODALITIES, Modality

FORMAT = "feature-store"
VERSION = "2.0"

PLAN_FILE = "plan.json"
IDS_FILE = "ids.parquet"
SEAL_FILE = "seal.json"
QUARANTINE_FILE = "quarantine.jsonl"
INDEX_FILE = "index.bin"
LOCK_FILE = "lock"
LEDGER_FOLDER = "ledger"
UNITS_FOLDER = "units"
DIGESTS_FOLDER = "digests"

LEDGER_GROUP = "ledger"
IDS_GROUP = "ids"
"""The group whose members are not files but the blocks of `ids.parquet`."""
IDS_BLOCK = 1 << 20
"""Bytes of one such block."""

COLUMN_ROWS = 1 << 20
"""Entries of one chunk of a per-protein array."""
CLS_ROWS = 1024
"""Rows of one chunk of a `cls` array."""


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """One array of the group: a matrix of `width` columns, or a vector where `width` is None."""

    path: str
    dtype: np.dtype[Any]
    fill: float | int | bool
    width: int | None = None

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of one row."""
        return () if self.width is None else (self.width,)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.dtype.itemsize * (1 if self.width is None else self.width)

    def chunk_file(self, chunk: int) -> str:
        """The file of chunk (or shard) number `chunk`, as the Zarr v3 default key encoding names it."""
        return f"{self.path}/c/{chunk}" + ("" if self.width is None else "/0")


INDEX_ARRAYS: Mapping[Modality, ArraySpec] = {
    Modality.STR: ArraySpec("str/residue", np.dtype("<i4"), -1),
    Modality.FUNC: ArraySpec("func/field", np.dtype("u1"), 255),
}
"""What says where a row comes from; sequence rows are the residues in order and need none."""

CLS_MODALITIES = (Modality.SEQ, Modality.FUNC)
"""The modalities whose encoder has a special token."""

COLUMNS = ("start", "length", "crc32c", "present")
_COLUMN_DTYPES: Mapping[str, np.dtype[Any]] = {
    "start": np.dtype("<i8"),
    "length": np.dtype("<i4"),
    "crc32c": np.dtype("<u4"),
    "present": np.dtype("?"),
}


def column(modality: Modality, name: str) -> ArraySpec:
    """The per-protein array `name` (one of `COLUMNS`) of a modality."""
    return ArraySpec(f"{modality}/{name}", _COLUMN_DTYPES[name], False if name == "present" else 0)


def unit_name(unit: int) -> str:
    """A unit's number in file names; sorting names sorts units."""
    return f"{unit:08d}"


def ledger_file(unit: int) -> str:
    """Where the ledger entry of `unit` is."""
    return f"{LEDGER_FOLDER}/{unit_name(unit)}.json"


def side_file(unit: int) -> str:
    """Where `unit` keeps what it knows of its proteins."""
    return f"{UNITS_FOLDER}/{unit_name(unit)}.safetensors"


def digest_file(group: str) -> str:
    """Where the sizes and hashes of a group of files are."""
    return f"{DIGESTS_FOLDER}/{group}"


def array_group(spec: ArraySpec) -> str:
    """The group of a per-protein array's files."""
    return spec.path.replace("/", ".")


@dataclass(frozen=True)
class Layout:
    """The arrays of one store and how they are cut into files."""

    shard_rows: int
    chunk_rows: int
    dtype: np.dtype[Any]
    widths: dict[Modality, int]
    num_proteins: int
    num_units: int

    @property
    def chunks_per_shard(self) -> int:
        """Inner chunks of a full shard."""
        return self.shard_rows // self.chunk_rows

    def used_chunks(self, rows: int) -> int:
        """Inner chunks that a unit with `rows` rows fills, the last perhaps in part."""
        return -(-rows // self.chunk_rows)

    @property
    def is_coded(self) -> bool:
        """Whether features are int8 codes, each channel with its scale."""
        return self.dtype == np.int8

    def features(self, modality: Modality) -> ArraySpec:
        """The feature rows of a modality."""
        fill = -128 if self.is_coded else float("nan")
        return ArraySpec(f"{modality}/features", self.dtype.newbyteorder("<"), fill, self.widths[modality])

    def row_arrays(self, modality: Modality) -> list[ArraySpec]:
        """The sharded arrays of a modality: its features, and its index array where it has one."""
        index = INDEX_ARRAYS.get(modality)
        return [self.features(modality)] if index is None else [self.features(modality), index]

    def cls(self, modality: Modality) -> ArraySpec:
        """The special-token rows of a modality, one row a protein; never codes, they are few."""
        dtype = np.dtype(np.float32) if self.is_coded else self.dtype
        return ArraySpec(f"{modality}/cls", dtype.newbyteorder("<"), float("nan"), self.widths[modality])

    def channel_arrays(self, modality: Modality) -> list[ArraySpec]:
        """What codes mean, one entry a channel: `scale`, `offset`, and the error that was measured."""
        names = ("scale", "offset", "error") if self.is_coded else ()
        return [ArraySpec(f"{modality}/{name}", np.dtype("<f4"), float("nan")) for name in names]

    def channel_files(self) -> list[str]:
        """The files of these arrays."""
        return [spec.chunk_file(0) for modality in MODALITIES for spec in self.channel_arrays(modality)]

    def protein_arrays(self, modality: Modality) -> list[ArraySpec]:
        """The per-protein arrays of a modality, which exist once the store is sealed."""
        columns = [column(modality, name) for name in COLUMNS]
        return [*columns, self.cls(modality)] if modality in CLS_MODALITIES else columns

    def protein_chunk_rows(self, spec: ArraySpec) -> int:
        """Rows of one chunk of a per-protein array."""
        return min(self.num_proteins, COLUMN_ROWS if spec.width is None else CLS_ROWS)

    def protein_files(self, spec: ArraySpec) -> list[str]:
        """The files of a per-protein array, in order."""
        return [spec.chunk_file(chunk) for chunk in range(-(-self.num_proteins // self.protein_chunk_rows(spec)))]

    def groups(self) -> dict[str, list[str]]:
        """The files of every group that `digests` describes, in order; the blocks of `ids.parquet` are not files."""
        arrays = [spec for modality in MODALITIES for spec in self.protein_arrays(modality)]
        ledger = [ledger_file(unit) for unit in range(self.num_units)]
        return {LEDGER_GROUP: ledger, **{array_group(spec): self.protein_files(spec) for spec in arrays}}

    def unit_files(self, unit: int) -> Iterator[str]:
        """Every file that unit may own: its shards and its side file."""
        for modality in MODALITIES:
            for spec in self.row_arrays(modality):
                yield spec.chunk_file(unit)
        yield side_file(unit)

    def zarr_documents(self, *, sealed: bool) -> dict[str, bytes]:
        """The bytes of every `zarr.json`, as zarr writes them; consolidated in the root once the store is sealed."""
        import zarr
        from zarr.storage import MemoryStore

        documents: dict[str, Any] = {}
        memory = MemoryStore(documents)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # zarr warns that consolidated metadata of v3 is not in the core spec
            group = zarr.create_group(memory, attributes={"amma": {"format": FORMAT, "version": VERSION}})
            for modality in MODALITIES:
                for spec in self.row_arrays(modality):
                    self._create(
                        group, spec, rows=self.num_units * self.shard_rows, chunk=self.chunk_rows, sharded=True
                    )
                for spec in self.channel_arrays(modality):
                    width = self.widths[modality]
                    self._create(group, spec, rows=width, chunk=width, sharded=False)
                if sealed:
                    for spec in self.protein_arrays(modality):
                        rows = self.protein_chunk_rows(spec)
                        self._create(group, spec, rows=self.num_proteins, chunk=rows, sharded=False)
            if sealed:
                zarr.consolidate_metadata(memory)
        return {key: buffer.to_bytes() for key, buffer in sorted(documents.items())}

    def _create(self, group: Any, spec: ArraySpec, *, rows: int, chunk: int, sharded: bool) -> None:
        group.create_array(
            spec.path,
            shape=(rows, *spec.row_shape),
            dtype=spec.dtype,
            chunks=(chunk, *spec.row_shape),
            shards=(self.shard_rows, *spec.row_shape) if sharded else None,
            filters=None,
            compressors=None,
            fill_value=spec.fill,
            config={"write_empty_chunks": False},
        )
