"""One writer a folder: an owner file that names its writer, and that holds nothing once the writer is dead.

It has to work on network file systems, where the kernel's locks may be kept by one machine alone or not at all. So
it uses nothing but a hard link, which either appears or does not, for whoever looks. Whether an owner is dead is a
fact where its processes can be seen (same kernel, same process namespace). Elsewhere its heartbeat decides: it
touches its file every few seconds, and has to be silent for much longer than that. Ages are differences of times
that the file system gave both files, so the clocks of the machines do not matter.

A dead owner's file is never removed to make room, since two who do that at once could each remove the other's.
Instead the file `lock.D` stands for "what succeeds the owner file with digest D", and again only one can link it.
Whoever is at the end of that chain, from `lock` on, is the owner; it removes the chain, its head first, when done.
"""

import contextlib
import errno
import hashlib
import json
import os
import secrets
import socket
import threading
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from amma.featurize.store.layout import LOCK_FILE
from amma.manifests.errors import StoreError
from amma.manifests.files import TEMPORARY_SUFFIX

HEARTBEAT_SECONDS = 15.0
LEASE_SECONDS = 600.0
"""An owner that cannot be looked at counts as dead when it was silent for so long."""
_MOST_BYTES = 4096
_NO_HARD_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK)


def is_lock_file(name: str) -> bool:
    """Whether a file of this name in the folder belongs to the lock, also one that a dead process left."""
    return name == LOCK_FILE or name.startswith(f"{LOCK_FILE}.")


@dataclass(frozen=True, slots=True)
class Owner:
    """Who holds a lock. `processes` names the kernel and namespace in which `pid` is a number of a process."""

    host: str
    processes: str
    pid: int
    started: str
    """When the process started, in the kernel's words: a number that was given anew is another process."""
    since: str
    token: str

    @classmethod
    def myself(cls) -> "Owner":
        """The process that asks, with a token that no other owner ever had."""
        since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        pid = os.getpid()
        return cls(socket.gethostname(), _process_space(), pid, _start_of(pid) or "", since, secrets.token_hex(8))

    def is_gone(self) -> bool:
        """Whether the process is known to have ended; False also where that cannot be seen from here."""
        if self.processes != _process_space():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False  # somebody else's, so there; its start may be hidden from us
        started = _start_of(self.pid)
        return started is not None and started != self.started


@dataclass(frozen=True, slots=True)
class _Link:
    """One file of the chain: what is in it, and when its owner last touched it."""

    path: Path
    data: bytes
    touched: float

    @property
    def owner(self) -> Owner | None:
        try:
            owner = Owner(**json.loads(self.data))
        except (ValueError, TypeError):
            return None
        return owner if isinstance(owner.pid, int) and owner.pid > 0 else None

    @property
    def successor(self) -> Path:
        return self.path.with_name(f"{LOCK_FILE}.{hashlib.sha256(self.data).hexdigest()[:32]}")


class StoreLock:
    """Hold it with `with`; raises `StoreError` `E_LOCKED`, naming the owner, if another process does."""

    def __init__(self, store: Path, *, heartbeat: float = HEARTBEAT_SECONDS, lease: float = LEASE_SECONDS) -> None:
        self._folder = store
        self._heartbeat = heartbeat
        self._lease = lease
        self._mine: _Link | None = None
        self._stop = threading.Event()

    def __enter__(self) -> "StoreLock":
        try:
            self._mine = self._claim()
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EROFS):
                raise StoreError(f"{self._folder}: cannot be written to ({error.strerror}).") from error
            raise
        self._remove_left_overs()
        self._stop.clear()
        threading.Thread(target=self._touch, args=(self._mine.path,), name="lock", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        chain = self._chain()
        if self._is_mine(chain):
            for link in chain:  # the head first: without it, the others mean nothing
                link.path.unlink(missing_ok=True)
        self._mine = None

    def check(self) -> None:
        """Raise `StoreError` `E_LOCKED` if the lock is no longer ours: we were silent for too long, or it was removed.

        To be asked before what only the owner may do.
        """
        chain = self._chain()
        if not self._is_mine(chain):
            now = _named(chain[-1].owner) if chain else "nobody"
            raise StoreError(
                f"{self._folder}: this process no longer holds its lock, {now} does; it was suspended for long, or "
                f"{LOCK_FILE} was removed. What is committed is safe; run the same command again when nobody works on "
                "it.",
                code="E_LOCKED",
            )

    def _is_mine(self, chain: list[_Link]) -> bool:
        return self._mine is not None and bool(chain) and chain[-1].data == self._mine.data

    def _chain(self) -> list[_Link]:
        """The owner files from `lock` on; the last is that of the owner. Empty: nobody's."""
        chain: list[_Link] = []
        path = self._folder / LOCK_FILE
        while True:
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            except FileNotFoundError:
                return chain
            except OSError as error:
                raise StoreError(
                    f"{path}: is no plain file ({error.strerror}). Remove it if nobody works on this folder."
                ) from error
            with os.fdopen(descriptor, "rb") as handle:
                data, touched = handle.read(_MOST_BYTES), os.fstat(descriptor).st_mtime
            chain.append(_Link(path, data, touched))
            path = chain[-1].successor

    def _claim(self) -> _Link:
        """Become the last of the chain, or raise."""
        owner = Owner.myself()
        data = json.dumps(asdict(owner)).encode()
        aside = self._folder / f"{LOCK_FILE}.{owner.token}{TEMPORARY_SUFFIX}"
        while True:
            try:
                with aside.open("wb") as handle:
                    handle.write(data)
                    handle.flush()
                    os.fsync(handle.fileno())  # after a crash an owner file is whole, or not there
                    now = os.fstat(handle.fileno()).st_mtime
                chain = self._chain()
                if chain and not self._is_dead(chain[-1], now):
                    raise self._locked(chain[-1], now)
                target = chain[-1].successor if chain else self._folder / LOCK_FILE
                if not _linked(aside, target, data):
                    continue  # another was faster: look again who it is
            finally:
                aside.unlink(missing_ok=True)
            # The head may have been removed, by its last owner, between our look and our link.
            chain = self._chain()
            if chain and chain[-1].data == data:
                return chain[-1]
            target.unlink(missing_ok=True)

    def _is_dead(self, link: _Link, now: float) -> bool:
        owner = link.owner
        return (owner is not None and owner.is_gone()) or now - link.touched > self._lease

    def _locked(self, link: _Link, now: float) -> StoreError:
        owner, silent = link.owner, max(now - link.touched, 0.0)
        elsewhere = ""
        if owner is None or owner.processes != _process_space():
            elsewhere = (
                f" If that is no more, the folder is free {self._lease / 60:.0f} minutes after it was last heard of, "
                f"or when you remove {link.path}."
            )
        since = "" if owner is None else f" since {owner.since}"
        return StoreError(
            f"{self._folder}: in use by {_named(owner)}{since}, last heard of {silent:.0f} s ago. Wait for it, or stop "
            f"it.{elsewhere}",
            code="E_LOCKED",
        )

    def _remove_left_overs(self) -> None:
        """What processes that died on their way to the lock left beside it."""
        ours = {link.path for link in self._chain()}
        for path in self._folder.glob(f"{LOCK_FILE}.*"):
            if path not in ours:
                path.unlink(missing_ok=True)

    def _touch(self, path: Path) -> None:
        while not self._stop.wait(self._heartbeat):
            with contextlib.suppress(OSError):  # gone or out of reach: `check` will say so
                os.utime(path)


def _linked(aside: Path, target: Path, data: bytes) -> bool:
    """Make `target` appear with `data` in it, unless it is there already; False if it is, or `aside` was swept."""
    try:
        os.link(aside, target)
    except FileExistsError:
        # A network file system may say so of the second try of our own request.
        with contextlib.suppress(OSError):
            return aside.samefile(target)
        return False
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        try:
            with target.open("xb") as handle:
                handle.write(data)
        except FileExistsError:
            return False
    return True


def _named(owner: Owner | None) -> str:
    return "another process" if owner is None else f"process {owner.pid} on {owner.host}"


def _process_space() -> str:
    """What two processes have in common that can see each other by number."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return socket.gethostname()


def _start_of(pid: int) -> str | None:
    """When a process started, `ended` if it only waits to be collected, None where that cannot be seen."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = status.rpartition(")")[2].split()  # the name before it may hold anything
    return "ended" if fields[0] in "ZX" else fields[19]
