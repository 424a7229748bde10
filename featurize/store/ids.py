"""The identifiers and sequences of a store, in plan order, as one Parquet file."""

import operator
import os
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
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

KIND_NAMES = tuple(
    kind_of([modality for bit, modality in zip(bits, MODALITIES, strict=True) if bit]) or "absent"
    for bits in np.ndindex(2, 2, 2)
)
"""A protein's kind by what it has: 4 for its sequence, 2 for its structure, 1 for its text, added."""

Identities = Callable[[Int64[np.ndarray, " n"]], tuple[list[str], list[str]]]
"""Gives the ids and the sequences of manifest rows."""


def planned_kinds(plan: Plan, begin: int, end: int) -> list[str]:
    """The kind of each protein at plan positions `begin` to `end`, as planned."""
    has = np.stack([plan.length[modality][begin:end] > 0 for modality in MODALITIES], axis=1)
    return kinds_of(has)


def kinds_of(has: np.ndarray) -> list[str]:
    """`triplet`, `seq-str`, … for rows of three booleans; `absent` where a protein has nothing."""
    codes = has[:, 0] * 4 + has[:, 1] * 2 + has[:, 2] * 1
    return [KIND_NAMES[code] for code in codes.tolist()]


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


class StoredColumn(Sequence[Any]):
    """A text column of `ids.parquet`, one row group of it in memory at a time.

    `open` gives the file from its beginning; `CorruptStoreError` is raised where it is not what it should be.
    """

    def __init__(self, open: Callable[[], Any], name: str, length: int) -> None:
        self._open = open
        self._name = name
        self._length = length
        self._lock = threading.Lock()
        self._begins: np.ndarray | None = None
        self._latest: tuple[int, list[str]] = (-1, [])

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, position: int) -> str: ...

    @overload
    def __getitem__(self, position: slice) -> list[str]: ...

    def __getitem__(self, position: int | slice) -> str | list[str]:
        if isinstance(position, slice):
            return self.take(range(*position.indices(self._length)))
        place = operator.index(position)
        if not -self._length <= place < self._length:
            raise IndexError(position)
        return self.take([place % self._length])[0]

    def __iter__(self) -> Iterator[str]:
        for table in self.batches():
            yield from table.to_pylist()

    def batches(self) -> Iterator[Any]:
        """The column as Arrow arrays, one a row group."""
        with self._file() as file:
            for group in range(file.num_row_groups):
                yield self._read(file, group)

    def take(self, positions: Iterable[int]) -> list[str]:
        """The values at `positions`, in their order; each row group is read once however they are mixed."""
        wanted = np.fromiter(positions, dtype=np.int64)
        found: list[str] = [""] * len(wanted)
        if not len(wanted):
            return found
        file: Any = None
        with self._lock:
            try:
                if self._begins is None:
                    file = self._file()
                    rows = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
                    self._begins = np.cumsum([0, *rows])
                group_of = np.searchsorted(self._begins, wanted, side="right") - 1
                for group in np.unique(group_of).tolist():
                    if self._latest[0] != group:
                        file = self._file() if file is None else file
                        self._latest = (group, self._read(file, group).to_pylist())
                    begin, values = int(self._begins[group]), self._latest[1]
                    for place in np.flatnonzero(group_of == group).tolist():
                        found[place] = values[int(wanted[place]) - begin]
            finally:
                if file is not None:
                    file.close()
        return found

    def _file(self) -> Any:
        with self._explained():
            file = pq.ParquetFile(self._open())
            if file.metadata.num_rows != self._length:
                raise CorruptStoreError(f"{IDS_FILE}: holds {file.metadata.num_rows} ids, the plan says {self._length}")
            return file

    def _read(self, file: Any, group: int) -> Any:
        with self._explained():
            return file.read_row_group(group, columns=[self._name]).column(0)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowException, OSError, EOFError) as error:
            raise CorruptStoreError(f"{IDS_FILE}: cannot be read ({error}). Run amma-featurize verify.") from error


class StoredIds(Sequence[str]):
    """The ids of a store by number, with a way back from an id to its number.

    `lookup` gives single ids where there is something faster than the column.
    """

    def __init__(self, stored: StoredColumn, lookup: Callable[[int], str] | None = None) -> None:
        self._column = stored
        self._lookup = lookup
        self._lock = threading.Lock()
        self._sorted: tuple[Any, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self._column)

    @overload
    def __getitem__(self, position: int) -> str: ...

    @overload
    def __getitem__(self, position: slice) -> list[str]: ...

    def __getitem__(self, position: int | slice) -> str | list[str]:
        if isinstance(position, slice) or self._lookup is None:
            return self._column[position]
        place = operator.index(position)
        if not -len(self) <= place < len(self):
            raise IndexError(position)
        return self._lookup(place % len(self))

    def __iter__(self) -> Iterator[str]:
        return iter(self._column)

    def position(self, wanted: str) -> int:
        """Where `wanted` is; raises `KeyError` if it is not in the store.

        The first call reads and sorts all ids and keeps them, as Arrow does: about 30 bytes each.
        """
        ids, order = self._in_order()
        # Arrow sorts by bytes, Python by code points: in UTF-8 the two agree.
        place = bisect_left(order, wanted, key=lambda position: ids[int(position)].as_py())
        if place < len(self) and ids[int(order[place])].as_py() == wanted:
            return int(order[place])
        raise KeyError(wanted)

    def _in_order(self) -> tuple[Any, np.ndarray]:
        with self._lock:
            if self._sorted is None:
                parts = [chunk.cast(pa.large_string()) for part in self._column.batches() for chunk in part.chunks]
                ids = pa.concat_arrays(parts)
                self._sorted = (ids, pc.sort_indices(ids).to_numpy())
            return self._sorted


def stream_ids(path: Path) -> Iterator[str]:
    """The ids in plan order, a batch in memory at a time."""
    try:
        for batch in pq.ParquetFile(path).iter_batches(columns=["id"]):
            yield from batch.column(0).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise CorruptStoreError(f"{path}: cannot be read ({error}). Remove it to have it written again.") from error
