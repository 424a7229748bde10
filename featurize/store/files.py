"""The files of a store by name, wherever they are: a folder, or any store that zarr can read (memory, fsspec, S3)."""

import io
import os
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from amma.featurize.store.documents import read_regular
from amma.manifests.errors import CorruptStoreError

_BLOCK = 1 << 20
_BLOCKS_KEPT = 64


@runtime_checkable
class Files(Protocol):
    """Read files by their names in the store; a name that is not there raises `CorruptStoreError`."""

    where: str
    """For messages."""

    def exists(self, name: str) -> bool:
        """Whether there is such a file."""

    def read(self, name: str) -> bytes:
        """All of it."""

    def read_range(self, name: str, offset: int, size: int) -> bytes:
        """`size` bytes from `offset` on, fewer where the file ends before."""

    def close(self) -> None:
        """Let go of what is open; a later read opens it again."""


class LocalFiles:
    """A folder of plain files; symbolic links are refused."""

    def __init__(self, folder: Path) -> None:
        self.where = str(folder)
        self.folder = folder
        self._lock = threading.Lock()
        self._open: dict[str, io.FileIO] = {}

    def exists(self, name: str) -> bool:
        """As `Files`."""
        return (self.folder / name).exists()

    def read(self, name: str) -> bytes:
        """As `Files`."""
        return read_regular(self.folder / name)

    def read_range(self, name: str, offset: int, size: int) -> bytes:
        """As `Files`. The file stays open: this is for the few that are read in many small parts."""
        handle = self._open.get(name)
        if handle is None:
            with self._lock:
                handle = self._open.get(name)
                if handle is None:
                    handle = self._open[name] = self._opened(name)
        return os.pread(handle.fileno(), size, offset)

    def close(self) -> None:
        """As `Files`; a file that another thread reads is closed when it has been."""
        with self._lock:
            self._open.clear()

    def _opened(self, name: str) -> io.FileIO:
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe is not waited for
            return io.FileIO(os.open(self.folder / name, flags), "rb")
        except OSError as error:
            raise CorruptStoreError(
                f"{self.folder / name}: cannot be read ({error.strerror}); a store's files are plain files. "
                "Run amma-featurize verify."
            ) from error


class ZarrFiles:
    """The files of any zarr store object. Small ranges are taken from blocks of 1 MiB, the latest 64 of them kept."""

    def __init__(self, store: Any) -> None:
        self.store = store
        self.where = str(store)
        self._lock = threading.Lock()
        self._blocks: OrderedDict[tuple[str, int], bytes] = OrderedDict()

    def exists(self, name: str) -> bool:
        """As `Files`."""
        from zarr.core.sync import sync

        return bool(sync(self.store.exists(name)))

    def read(self, name: str) -> bytes:
        """As `Files`."""
        return self._get(name, None)

    def read_range(self, name: str, offset: int, size: int) -> bytes:
        """As `Files`."""
        first, last = offset // _BLOCK, max(offset + size - 1, offset) // _BLOCK
        data = b"".join(self._block(name, number) for number in range(first, last + 1))
        return data[offset - first * _BLOCK :][:size]

    def close(self) -> None:
        """As `Files`."""
        with self._lock:
            self._blocks.clear()

    def _block(self, name: str, number: int) -> bytes:
        with self._lock:
            block = self._blocks.get((name, number))
            if block is not None:
                self._blocks.move_to_end((name, number))
                return block
        from zarr.abc.store import RangeByteRequest

        begin = number * _BLOCK
        block = self._get(name, RangeByteRequest(begin, begin + _BLOCK))
        with self._lock:
            self._blocks[name, number] = block
            while len(self._blocks) > _BLOCKS_KEPT:
                self._blocks.popitem(last=False)
        return block

    def _get(self, name: str, part: Any) -> bytes:
        from zarr.core.buffer import default_buffer_prototype
        from zarr.core.sync import sync

        try:
            found = sync(self.store.get(name, default_buffer_prototype(), part))
        except OSError as error:
            raise CorruptStoreError(f"{self.where}/{name}: cannot be read ({error}).") from error
        if found is None:
            raise CorruptStoreError(f"{self.where}/{name}: is missing. Copy the store there again.")
        return bytes(found.to_bytes())
