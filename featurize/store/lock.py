"""One writer a store: a lock on a file that names its owner and vanishes when the owner is done.

The kernel frees the lock when its owner dies, so a killed run never has to be unlocked by hand.
"""

import fcntl
import json
import os
import socket
from pathlib import Path
from types import TracebackType

from amma.featurize.store.layout import LOCK_FILE
from amma.manifests.errors import StoreError


class StoreLock:
    """Hold it with `with`; raises `StoreError` `E_LOCKED`, naming the owner, if another process does."""

    def __init__(self, store: Path) -> None:
        self._path = store / LOCK_FILE
        self._descriptor = -1

    def __enter__(self) -> "StoreLock":
        while True:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = _owner(os.pread(descriptor, 4096, 0))
                os.close(descriptor)
                raise StoreError(
                    f"{self._path.parent}: in use by {owner}. Wait for it, or stop it.", code="E_LOCKED"
                ) from None
            if self._is_current(descriptor):
                break
            os.close(descriptor)  # the owner before us removed the file between our open and our lock
        self._descriptor = descriptor
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0)
        return self

    def _is_current(self, descriptor: int) -> bool:
        try:
            named = self._path.stat()
        except FileNotFoundError:
            return False
        held = os.fstat(descriptor)
        return (named.st_dev, named.st_ino) == (held.st_dev, held.st_ino)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._path.unlink(missing_ok=True)  # while it is still ours
        os.close(self._descriptor)


def _owner(data: bytes) -> str:
    try:
        owner = json.loads(data)
        return f"process {owner['pid']} on {owner['host']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
