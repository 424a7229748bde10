"""Fetch a file over HTTP so that a network may fail at any byte: resumed, checked, and named only when it is whole.

What has come so far is `FILE.part`; beside it `FILE.part.json` says of which version of the file, and how much of it is
safely on the disk. Nothing here knows what is in the file: `accept` does, before the file gets its name.
"""

import errno
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import requests
import urllib3
from filelock import FileLock, Timeout

from amma.manifests.console import say
from amma.manifests.errors import AmmaError, WeightsError
from amma.manifests.files import fsync_directory, write_json_atomically

BLOCK = 1 << 20
PART = ".part"

GONE = frozenset({400, 401, 403, 404, 405, 410, 451})
"""Answers that asking again does not change."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for a server (seconds), how often to ask, how often to make sure of what came (bytes)."""

    connect: float = 15.0
    silence: float = 60.0
    tries: int = 6
    """Attempts that bring nothing new, after which it is given up."""
    pause: float = 1.0
    """Before the second attempt; twice as long before each further one, up to `longest_pause`."""
    longest_pause: float = 30.0
    slowest: float = 1000.0
    """Bytes a second, over `silence`: what is slower counts as hanging."""
    sync: int = 64 << 20


class _DroppedError(Exception):
    """The connection, or the answer, is not what a further attempt may give."""


@dataclass(frozen=True, slots=True)
class _Part:
    """What is known of a file that is partly here: of which version it is, its size, and how much is on the disk."""

    address: str
    total: int
    etag: str | None
    modified: str | None
    received: int

    @property
    def validator(self) -> str | None:
        """What asks a server to go on only with this version; a weak tag may not be used so."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.modified


ShowProgress = Callable[[int], AbstractContextManager[Callable[[int], None]]]
"""Given the total, a context that gives a function to advance by bytes, as `console.progress`."""


def download(
    address: str,
    path: Path,
    *,
    size: int | None = None,
    accept: Callable[[Path], None],
    show_progress: ShowProgress | None = None,
    patience: Patience | None = None,
) -> bool:
    """Fetch `address` into `path`, going on with what an earlier attempt left; False if it was there already.

    `accept` is called with the whole file before it gets its name, and raises `WeightsError` to refuse it; a refused
    file is removed. Only one process fetches a file at a time, others wait for it. From https only https is followed.

    Raises `WeightsError`: `E_DOWNLOAD` when it cannot be had (what has come is kept), `E_DISK` when there is no room.
    """
    with _file_errors(path), _alone(path):
        if path.exists():
            return False
        fetch = _Fetch(address, path, size, show_progress or _no_progress, patience or Patience())
        fetch.fetch()
        try:
            accept(fetch.part)
        except AmmaError as error:
            fetch.discard()
            raise WeightsError(f"{error} What was downloaded from {address} was removed.", code=error.code) from error
        fetch.finish()
    return True


@contextmanager
def _file_errors(path: Path) -> Iterator[None]:
    """Turn what the disk refuses into one line."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _no_room(path, "the disk is full") from error
        raise WeightsError(
            f"{path}: cannot be written ({error.strerror or type(error).__name__}). Give a folder of yours with "
            "--weights, or set AMMA_CACHE."
        ) from error


def _no_room(path: Path, what: str) -> WeightsError:
    return WeightsError(
        f"{path}: {what}. Make room, then run the same command again: it goes on from there.", code="E_DISK"
    )


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"{path.name}: another process is fetching it; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _no_progress(_: int) -> Iterator[Callable[[int], None]]:
    yield lambda _: None


class _Fetch:
    """One file on its way."""

    def __init__(
        self, address: str, path: Path, size: int | None, show_progress: ShowProgress, patience: Patience
    ) -> None:
        self.address = address
        self.path = path
        self.part = path.with_name(path.name + PART)
        self.notes = path.with_name(path.name + PART + ".json")
        self.size = size
        self.show_progress = show_progress
        self.patience = patience
        self.session = requests.Session()
        if address.startswith("https://"):
            # A redirection to http then finds no way to go, and nothing is asked of anybody in the clear.
            del self.session.adapters["http://"]

    def fetch(self) -> None:
        """Get the whole file into `self.part`."""
        most, in_vain, pause = 0, 0, self.patience.pause
        with self.session:
            while True:
                try:
                    self._attempt()
                    return
                except _DroppedError as dropped:
                    part = self._read_notes()
                    received = part.received if part else 0
                    if received > most:
                        most, in_vain, pause = received, 0, self.patience.pause
                    in_vain += 1
                    if in_vain >= self.patience.tries:
                        kept = f"{received:,} bytes are kept" if received else "nothing came"
                        raise WeightsError(
                            f"{self.address}: {dropped}; given up after {in_vain} attempts that brought nothing new "
                            f"({kept}). Run the same command again to go on.",
                            code="E_DOWNLOAD",
                        ) from dropped
                    say(f"{self.path.name}: {dropped}; trying again in {pause:.0f} s")
                    time.sleep(pause)
                    pause = min(2 * pause, self.patience.longest_pause)

    def finish(self) -> None:
        """Give the file its name."""
        self.part.replace(self.path)
        fsync_directory(self.path.parent)
        self.notes.unlink(missing_ok=True)

    def discard(self) -> None:
        """Leave nothing behind."""
        self.part.unlink(missing_ok=True)
        self.notes.unlink(missing_ok=True)

    def _attempt(self) -> None:
        part = self._read_notes()
        if part is not None and part.received == part.total:
            return
        headers = {"Accept-Encoding": "identity"}
        if part is not None and part.received and part.validator:
            headers |= {"Range": f"bytes={part.received}-", "If-Range": part.validator}
        try:
            answer = self.session.get(
                self.address, headers=headers, stream=True, timeout=(self.patience.connect, self.patience.silence)
            )
        except requests.exceptions.InvalidSchema as error:
            raise self._refused("it redirects to an address that is not safe to follow") from error
        except requests.exceptions.TooManyRedirects as error:
            raise self._refused("it redirects without end") from error
        except requests.exceptions.SSLError as error:
            raise self._refused("the server's certificate is not valid") from error
        except requests.RequestException as error:
            raise _DroppedError(_cause(error)) from error
        with answer:
            part = self._agree(answer, part if "Range" in headers else None)
            self._receive(answer, part)

    def _agree(self, answer: requests.Response, asked: _Part | None) -> _Part:
        """What this answer will make whole; raises unless it is the file, or the rest of it that was `asked` for."""
        status = answer.status_code
        if status in GONE:
            raise self._refused(f"the server answers {status} {answer.reason}")
        if status == 416:
            self.discard()
            raise _DroppedError(
                "the server has no more of the file than is here already, or another one; beginning again"
            )
        if status not in (200, 206):
            raise _DroppedError(f"the server answers {status} {answer.reason}")
        etag, modified = answer.headers.get("ETag"), answer.headers.get("Last-Modified")
        length = _number(answer.headers.get("Content-Length"))
        if status == 206:
            span = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", answer.headers.get("Content-Range", ""))
            start, end, total = map(int, span.groups()) if span else (-1, -1, -1)
            if (
                asked is None
                or (start, end, total) != (asked.received, asked.total - 1, asked.total)
                or (length is not None and length != total - start)
                or (etag, modified) != (asked.etag, asked.modified)
            ):
                self.discard()
                raise _DroppedError("the server gave another part, or of another file; beginning again")
            return asked
        if asked is not None:
            say(f"{self.path.name}: the server does not go on with this file, or has another; beginning again")
        if answer.headers.get("Content-Encoding", "identity") != "identity":
            raise self._refused("the server packs the file, although it was asked not to")
        whole = length if length is not None else self.size
        if whole is None:
            raise self._refused("the server does not say how long the file is")
        if self.size is not None and whole != self.size:
            self.discard()
            raise self._refused(f"the server offers {whole:,} bytes, its publisher states {self.size:,}")
        part = _Part(self.address, whole, etag, modified, 0)
        self.part.write_bytes(b"")
        self._write_notes(part)
        return part

    def _receive(self, answer: requests.Response, part: _Part) -> None:
        """Append the body to the file; `_DroppedError` if it ends early, hangs, or is longer than was said."""
        self._check_room(part.total - part.received)
        received = synced = part.received
        with self.part.open("r+b") as file, self.show_progress(part.total) as advance:
            file.truncate(received)
            file.seek(received)
            advance(received)
            try:
                for block in _blocks(answer, self.patience):
                    received += len(block)
                    if received > part.total:
                        received = 0
                        raise _DroppedError(f"the server sends more than the {part.total:,} bytes that it said")
                    file.write(block)
                    advance(len(block))
                    if received - synced >= self.patience.sync:
                        self._make_sure(file, part, received)
                        synced = received
            finally:
                self._make_sure(file, part, received)
        if received != part.total:
            raise _DroppedError(f"the connection ended after {received:,} of {part.total:,} bytes")

    def _make_sure(self, file: IO[bytes], part: _Part, received: int) -> None:
        """Put what came on the disk, then write down how much that is: after a power cut no more than it counts."""
        file.flush()
        os.fsync(file.fileno())
        self._write_notes(_Part(part.address, part.total, part.etag, part.modified, received))

    def _check_room(self, needed: int) -> None:
        free = shutil.disk_usage(self.path.parent).free
        if needed > free:
            raise _no_room(self.path, f"{needed:,} bytes are still to come, {free:,} are free")

    def _refused(self, what: str) -> WeightsError:
        return WeightsError(
            f"{self.address}: {what}. Get the file in another way and put it into {self.path.parent}, "
            "or try again later.",
            code="E_DOWNLOAD",
        )

    def _read_notes(self) -> _Part | None:
        """What is here of this address's file, or None."""
        try:
            part = _Part(**json.loads(self.notes.read_text(encoding="utf-8")))
            whole = self.part.stat().st_size >= part.received >= 0
        except (FileNotFoundError, ValueError, TypeError):
            return None
        wanted = part.address == self.address and self.size in (None, part.total)
        return part if whole and wanted else None

    def _write_notes(self, part: _Part) -> None:
        write_json_atomically(self.notes, asdict(part))


def _blocks(answer: requests.Response, patience: Patience) -> Iterator[bytes]:
    """The body as it comes; `_DroppedError` if the connection breaks or brings next to nothing."""
    raw: Any = answer.raw
    since, came = time.monotonic(), 0
    while True:
        try:
            block: bytes = raw.read1(BLOCK, decode_content=False)
        # Both libraries' errors, and the socket's own.
        except (urllib3.exceptions.HTTPError, requests.RequestException, OSError) as error:
            raise _DroppedError(_cause(error)) from error
        if not block:
            return
        yield block
        came += len(block)
        elapsed = time.monotonic() - since
        if elapsed >= patience.silence:
            if came < patience.slowest * elapsed:
                raise _DroppedError(f"the server sent {came:,} bytes in {elapsed:.0f} s")
            since, came = time.monotonic(), 0


def _cause(error: BaseException) -> str:
    text = repr(error)
    if isinstance(error, (requests.Timeout, urllib3.exceptions.TimeoutError)) or "timed out" in text:
        return "the server is silent"
    if "IncompleteRead" in text or "RemoteDisconnected" in text or "reset by peer" in text:
        return "the connection broke"
    return f"no connection ({type(error).__name__})"


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None
