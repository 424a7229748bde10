"""The identifiers and sequences of a store, in plan order, as one Parquet file."""

import os
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Int64

from amma.featurize.store.layout import IDS_FILE
from amma.featurize.store.plan import Plan
from amma.manifests.errors import CorruptStoreError
from amma.manifests.files import TEMPORARY_SUFFIX, fsync_directory
from amma.manifests.table import MODALITIES, kind_of

ROWS_PER_GROUP = 65536
"""Proteins in memory while writing."""
SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("sequence", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
    ]
)
"""`row` is the protein's row in its manifest (0-based), `kind` what was planned for it (late rejects change that)."""

Identities = Callable[[Int64[np.ndarray, " n"]], tuple[list[str], list[str]]]
"""Gives the ids and the sequences of manifest rows."""


def planned_kinds(plan: Plan, begin: int, end: int) -> list[str]:
    """The kind of each protein at plan positions `begin` to `end`, as planned."""
    has = np.stack([plan.length[modality][begin:end] > 0 for modality in MODALITIES], axis=1)
    return kinds_of(has)


def kinds_of(has: np.ndarray) -> list[str]:
    """`triplet`, `seq-str`, … for rows of three booleans; `absent` where a protein has nothing."""
    names = [
        kind_of([modality for bit, modality in zip(bits, MODALITIES, strict=True) if bit]) or "absent"
        for bits in np.ndindex(2, 2, 2)
    ]
    codes = has[:, 0] * 4 + has[:, 1] * 2 + has[:, 2] * 1
    return [names[code] for code in codes.tolist()]


def write_ids(path: Path, plan: Plan, identities: Identities) -> None:
    """Write `ids.parquet`, a window of proteins in memory at a time."""
    aside = path.with_name(path.name + TEMPORARY_SUFFIX)
    with pq.ParquetWriter(aside, SCHEMA, compression="zstd") as writer:
        for begin in range(0, plan.num_proteins, ROWS_PER_GROUP):
            rows = plan.order[begin : begin + ROWS_PER_GROUP]
            ids, sequences = identities(rows)
            kinds = planned_kinds(plan, begin, begin + len(rows))
            writer.write_table(pa.table([ids, sequences, rows, kinds], schema=SCHEMA))
    descriptor = os.open(aside, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    aside.replace(path)
    fsync_directory(path.parent)


class StoredIds(Sequence[str]):
    """The ids of a store, kept as Arrow does (no Python object a protein), with a way back from id to position."""

    def __init__(self, load: Callable[[], pa.BufferReader], length: int) -> None:
        self._load = load
        self._length = length
        self._lock = threading.Lock()
        self._ids: Any = None
        self._order: np.ndarray | None = None

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, position: int) -> str: ...

    @overload
    def __getitem__(self, position: slice) -> list[str]: ...

    def __getitem__(self, position: int | slice) -> str | list[str]:
        ids = self._column()
        if isinstance(position, slice):
            return [ids[i].as_py() for i in range(*position.indices(self._length))]
        if not -self._length <= position < self._length:
            raise IndexError(position)
        found: str = ids[int(position) % self._length].as_py()
        return found

    def __iter__(self) -> Iterator[str]:
        for begin in range(0, self._length, ROWS_PER_GROUP):
            yield from self._column().slice(begin, ROWS_PER_GROUP).to_pylist()

    def position(self, wanted: str) -> int:
        """Where `wanted` is; raises `KeyError` if it is not in the store."""
        ids = self._column()
        with self._lock:
            if self._order is None:
                self._order = pc.sort_indices(ids).to_numpy()
        order = self._order
        # Arrow sorts by bytes, Python by code points: in UTF-8 the two agree.
        place = bisect_left(order, wanted, key=lambda position: ids[int(position)].as_py())
        if place < self._length and ids[int(order[place])].as_py() == wanted:
            return int(order[place])
        raise KeyError(wanted)

    def _column(self) -> Any:
        with self._lock:
            if self._ids is None:
                parts = [part.cast(pa.large_string()) for part in _column(self._load(), "id").chunks]
                self._ids = pa.concat_arrays(parts)
                if len(self._ids) != self._length:
                    raise CorruptStoreError(f"{IDS_FILE}: holds {len(self._ids)} ids, the plan says {self._length}")
            return self._ids


def read_sequences(source: pa.BufferReader) -> list[str]:
    """All sequences, in plan order."""
    sequences: list[str] = _column(source, "sequence").to_pylist()
    return sequences


def _column(source: Any, name: str) -> Any:
    try:
        return pq.read_table(source, columns=[name]).column(name)
    except (pa.ArrowException, OSError) as error:
        raise CorruptStoreError(f"{IDS_FILE}: cannot be read ({error}). Run amma-featurize verify.") from error


def stream_ids(path: Path) -> Iterator[str]:
    """The ids in plan order, a batch in memory at a time."""
    try:
        for batch in pq.ParquetFile(path).iter_batches(columns=["id"]):
            yield from batch.column(0).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise CorruptStoreError(f"{path}: cannot be read ({error}). Remove it to have it written again.") from error
