"""The shard files of a store, opened for reading: few at a time, each checked at first touch, safe for threads."""

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from amma.featurize.store.layout import ArraySpec, Layout
from amma.featurize.store.shard import as_bytes, index_size, used_chunks_of
from amma.manifests.errors import CorruptStoreError

MAX_OPEN = 256


class _Handle:
    """An open file and how many readers are at it; it is closed when evicted and let go by the last of them."""

    __slots__ = ("descriptor", "evicted", "readers")

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.readers = 0
        self.evicted = False


class OpenShards:
    """Read rows of flat shard files with `preadv`, which needs no file position and so no lock.

    Symbolic links are refused. A file's size and index are checked when it is first opened, its size again whenever
    it is opened anew.
    """

    def __init__(self, store: Path, layout: Layout, *, max_open: int = MAX_OPEN) -> None:
        self._store = store
        self._layout = layout
        self._max_open = max_open
        self._lock = threading.Lock()
        self._open: OrderedDict[str, _Handle] = OrderedDict()
        self._sizes: dict[str, int] = {}

    def read_into(self, spec: ArraySpec, start: int, target: np.ndarray) -> str:
        """Fill `target` with the rows from `start` on, all of one unit; gives the file they came from.

        Raises `CorruptStoreError` if the file is missing, a link, cut, or not the flat shard it should be.
        """
        unit, row = divmod(start, self._layout.shard_rows)
        name = spec.chunk_file(unit)
        if not len(target):
            return name
        with self._borrowed(name, spec) as descriptor:
            wanted = as_bytes(target)
            got, offset = 0, row * spec.row_bytes
            if offset + len(wanted) > self._sizes[name] - index_size(self._layout.chunks_per_shard):
                raise self._corrupt(name, f"ends before row {row + len(target)} of its unit")
            while got < len(wanted):
                more = os.preadv(descriptor, [wanted.data[got:]], offset + got)
                if not more:
                    raise self._corrupt(name, "was cut while it was open")
                got += more
        return name

    def close(self) -> None:
        """Close all files; those being read, when they have been."""
        with self._lock:
            for handle in self._open.values():
                self._evict(handle)
            self._open.clear()

    def _corrupt(self, name: str, what: str) -> CorruptStoreError:
        return CorruptStoreError(f"{self._store / name}: {what}. Run amma-featurize verify {self._store}.")

    @contextmanager
    def _borrowed(self, name: str, spec: ArraySpec) -> Iterator[int]:
        with self._lock:
            handle = self._open.pop(name, None)
            if handle is None:
                handle = _Handle(self._checked_open(name, spec))
                while len(self._open) >= self._max_open:
                    self._evict(self._open.popitem(last=False)[1])
            self._open[name] = handle
            handle.readers += 1
        try:
            yield handle.descriptor
        finally:
            with self._lock:
                handle.readers -= 1
                if handle.evicted and not handle.readers:
                    os.close(handle.descriptor)

    def _evict(self, handle: _Handle) -> None:
        handle.evicted = True
        if not handle.readers:
            os.close(handle.descriptor)

    def _checked_open(self, name: str, spec: ArraySpec) -> int:
        try:
            descriptor = os.open(self._store / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise self._corrupt(name, f"cannot be opened ({error.strerror})") from error
        try:
            size = os.fstat(descriptor).st_size
            if name not in self._sizes:
                chunks = self._layout.chunks_per_shard
                index = os.pread(descriptor, index_size(chunks), max(size - index_size(chunks), 0))
                used_chunks_of(size, index, self._layout.chunk_rows * spec.row_bytes, chunks)
                self._sizes[name] = size
            elif self._sizes[name] != size:
                raise ValueError(f"has {size} bytes, had {self._sizes[name]} before")
        except (OSError, ValueError) as error:
            os.close(descriptor)
            raise self._corrupt(name, f"is not a shard of this store: {error}") from error
        return descriptor
