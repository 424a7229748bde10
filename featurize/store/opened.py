"""The shard files of a store, opened for reading: few at a time, each checked as it is opened, safe for threads."""

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from amma.featurize.store.layout import ArraySpec, Layout
from amma.featurize.store.shard import as_bytes, index_bytes, index_size, is_sound_index
from amma.manifests.errors import CorruptStoreError

MAX_OPEN = 256
_AT_ONCE = 32
"""Files that one call holds at a time."""
_BLOCK = 1 << 19
"""Bytes that are read and then summed while they are still in the processor's cache."""
_AHEAD = 1 << 21
"""Bytes that the kernel is told of at a time. Whole batches told ahead queue before the rows that threads wait for now:
four threads then got 0.69 of what the disk gave eight that only read, and 0.90 of it when nothing was told."""

Sum = Callable[[np.ndarray, int], int]
"""The checksum of bytes, given that of what comes before them."""


class Place(NamedTuple):
    """Rows of one array, all of one unit; `start` counts in the whole array."""

    spec: ArraySpec
    start: int
    rows: int


Part = Sequence[tuple[Place, np.ndarray]]
"""What has one checksum: places, and the contiguous arrays of the stored dtype that their rows are to go to."""


@runtime_checkable
class RowReader(Protocol):
    """Fills buffers with rows, from whatever the arrays are stored in."""

    def read(self, parts: Sequence[Part], sum: Sum | None) -> list[int]:
        """Fill the targets of each part and give its checksum over all of them, 0 without a `sum`."""

    def will_need(self, places: Sequence[Place]) -> None:
        """Have these rows brought into memory, if that can be done without waiting."""

    def close(self) -> None:
        """Let go of what is open; a later read opens it again."""


class NotFlatError(Exception):
    """A shard that is sound but not laid out as a flat matrix: another program wrote it."""


class _Handle:
    """An open file and how many readers are at it; it is closed when evicted and let go by the last of them.

    `rows_end` is where its rows end, once its index was checked.
    """

    __slots__ = ("descriptor", "evicted", "readers", "rows_end")

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.rows_end: int | None = None
        self.readers = 0
        self.evicted = False

    def close(self) -> None:
        """Close the file; again does nothing."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __del__(self) -> None:
        """A store that is let go without `close` keeps no files open, as with Python's own files."""
        self.close()


class OpenShards:
    """Read rows of flat shard files with `preadv`, which needs no file position and so no lock.

    Symbolic links are refused. A file's size and index are checked whenever it was opened, before any row is read.
    `NotFlatError` is raised for a shard with a sound index that is not that of a flat matrix.
    """

    def __init__(self, store: Path, layout: Layout, *, max_open: int = MAX_OPEN) -> None:
        self._store = store
        self._layout = layout
        self._max_open = max_open
        self._lock = threading.Lock()
        self._open: OrderedDict[tuple[str, int], _Handle] = OrderedDict()

    def read(self, parts: Sequence[Part], sum: Sum | None) -> list[int]:
        """As `RowReader`. Raises `CorruptStoreError` for a file that is missing, a link, cut, or damaged."""
        sums = []
        shard_rows = self._layout.shard_rows
        for chosen in _groups(parts):
            with self._borrowed([place for part in chosen for place, _ in part]) as handles:
                for part in chosen:
                    value = 0
                    for place, target in part:
                        unit, row = divmod(place.start, shard_rows)
                        handle = handles[place.spec.path, unit]
                        rows_end = handle.rows_end
                        if rows_end is None:
                            rows_end = self._check(handle, place)
                        size = target.nbytes
                        offset = row * (size // place.rows)
                        if offset + size > rows_end:
                            raise self._corrupt(place, f"ends before row {row + place.rows} of its unit")
                        if size <= _BLOCK and os.preadv(handle.descriptor, [target.data], offset) == size:
                            value = value if sum is None else sum(target, value)
                        else:
                            value = self._fill(handle, place, as_bytes(target), offset, value, sum)
                    sums.append(value)
        return sums

    def will_need(self, places: Sequence[Place]) -> None:
        """As `RowReader`: the kernel is told of the first of them, unless their first byte is in memory already.

        Nothing where it cannot be. Nothing is waited for, so that one thread can tell it of many files: the index of a
        file is told of too, and checked when rows are read. What is wrong with a file is left for the read to say.
        """
        if not hasattr(os, "posix_fadvise"):
            return
        ends = accumulate(place.rows * place.spec.row_bytes for place in places)
        chosen = [place for place, end in zip(places[:_AT_ONCE], ends, strict=False) if end <= _AHEAD] or places[:1]
        with suppress(CorruptStoreError, OSError), self._borrowed(chosen) as handles:
            for place in chosen:
                handle = handles[self._key(place)]
                if handle.rows_end is None:
                    tail = index_size(self._layout.chunks_per_shard)
                    _tell(handle.descriptor, max(os.fstat(handle.descriptor).st_size - tail, 0), tail)
                row_bytes = place.spec.row_bytes
                offset = place.start % self._layout.shard_rows * row_bytes
                _tell(handle.descriptor, offset, place.rows * row_bytes)

    def close(self) -> None:
        """Close all files; those being read, when they have been."""
        with self._lock:
            for handle in self._open.values():
                self._evict(handle)
            self._open.clear()

    def _key(self, place: Place) -> tuple[str, int]:
        return place.spec.path, place.start // self._layout.shard_rows

    def _fill(self, handle: _Handle, place: Place, wanted: np.ndarray, offset: int, value: int, sum: Sum | None) -> int:
        got, size = 0, len(wanted)
        while got < size:
            piece = wanted[got : got + _BLOCK]
            more = os.preadv(handle.descriptor, [piece.data], offset + got)
            if not more:
                raise self._corrupt(place, "was cut while it was open")
            if sum is not None:
                value = sum(piece[:more], value)
            got += more
        return value

    def _corrupt(self, place: Place, what: str) -> CorruptStoreError:
        return CorruptStoreError(f"{self._store / self._name(place)}: {what}. Run amma-featurize verify {self._store}.")

    def _name(self, place: Place) -> str:
        return place.spec.chunk_file(place.start // self._layout.shard_rows)

    @contextmanager
    def _borrowed(self, places: Sequence[Place]) -> Iterator[dict[tuple[str, int], _Handle]]:
        wanted = {self._key(place): place for place in places}
        borrowed: dict[tuple[str, int], _Handle] = {}
        try:
            with self._lock:
                for key in wanted:
                    handle = self._open.get(key)
                    if handle is not None:
                        self._open.move_to_end(key)
                        handle.readers += 1
                        borrowed[key] = handle
            for key, place in wanted.items():
                if key not in borrowed:
                    borrowed[key] = self._keep(key, self._opened(place))  # without holding the lock
            yield borrowed
        finally:
            with self._lock:
                for handle in borrowed.values():
                    handle.readers -= 1
                    if handle.evicted and not handle.readers:
                        handle.close()

    def _keep(self, key: tuple[str, int], opened: _Handle) -> _Handle:
        with self._lock:
            handle = self._open.get(key)
            if handle is None:
                handle = self._open[key] = opened
                while len(self._open) > self._max_open:
                    self._evict(self._open.popitem(last=False)[1])
            else:  # another thread was first
                opened.close()
            handle.readers += 1
            return handle

    def _evict(self, handle: _Handle) -> None:
        handle.evicted = True
        if not handle.readers:
            handle.close()

    def _opened(self, place: Place) -> _Handle:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(self._store / self._name(place), flags)
        except OSError as error:
            raise self._corrupt(place, f"cannot be opened ({error.strerror})") from error
        # Else the second call for one protein passes for reading on: 1.4 bytes came from the disk for each one wanted.
        if hasattr(os, "posix_fadvise"):
            with suppress(OSError):
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        return _Handle(descriptor)

    def _check(self, handle: _Handle, place: Place) -> int:
        """Check the index of an open file, perhaps beside another thread; gives where its rows end.

        A file that is not as it should be is opened anew the next time.
        """
        try:
            rows_end = handle.rows_end = _rows_end(handle.descriptor, self._layout, place.spec)
        except (OSError, ValueError, NotFlatError) as error:
            with self._lock:
                if self._open.get(self._key(place)) is handle:
                    del self._open[self._key(place)]
                    handle.evicted = True  # whoever reads it lets go of it, and the last closes it
            if isinstance(error, NotFlatError):
                raise
            raise self._corrupt(place, f"is not a shard of this store: {error}") from error
        return rows_end


def _groups(parts: Sequence[Part]) -> Iterator[Sequence[Part]]:
    """Parts in order, as many at a time as together hold few enough files."""
    chosen: list[Part] = []
    held = 0
    for part in parts:
        if chosen and held + len(part) > _AT_ONCE:
            yield chosen
            chosen, held = [], 0
        chosen.append(part)
        held += len(part)
    if chosen:
        yield chosen


def _tell(descriptor: int, offset: int, size: int) -> None:
    """Have the kernel fetch bytes of a file, unless it seems to have them."""
    if not _is_cached(descriptor, offset):
        os.posix_fadvise(descriptor, offset, size, os.POSIX_FADV_WILLNEED)


def _is_cached(descriptor: int, offset: int) -> bool:
    """Whether the kernel has the byte at hand; False where it cannot tell. Asking costs a fiftieth of telling."""
    flag = getattr(os, "RWF_NOWAIT", None)
    if flag is None:
        return False
    try:
        return bool(os.preadv(descriptor, [bytearray(1)], offset, flag))
    except OSError:
        return False


def _rows_end(descriptor: int, layout: Layout, spec: ArraySpec) -> int:
    """Where the rows of an open shard file end.

    Raises `ValueError` if its index is damaged, `NotFlatError` if it is sound and that of another arrangement.
    """
    size = os.fstat(descriptor).st_size
    chunk_bytes, chunks = layout.chunk_rows * spec.row_bytes, layout.chunks_per_shard
    tail = index_size(chunks)
    index = os.pread(descriptor, tail, max(size - tail, 0))
    used, rest = divmod(size - tail, chunk_bytes)
    if not rest and 0 < used <= chunks and index == _flat_index(used, chunk_bytes, chunks):
        return size - tail
    if len(index) == tail and is_sound_index(index):
        raise NotFlatError
    if rest or not 0 < used <= chunks:
        raise ValueError(f"its size of {size} bytes is not that of whole inner chunks and an index")
    raise ValueError("its index is damaged")


@lru_cache(maxsize=1024)
def _flat_index(used: int, chunk_bytes: int, chunks: int) -> bytes:
    return index_bytes(used, chunk_bytes, chunks)
