"""Structure files inside a tar archive, read member by member and never extracted.

The headers are read once a process (a `.tar` of 200,000 members takes seconds), and members are then read in place, in
any order and from any thread, for 24 bytes a member in memory. A `.tar.gz` has no places to go to: each process expands
it once into an unnamed temporary file, so large ones are better unpacked to a `.tar` beforehand.
"""

import errno
import os
import posixpath
import re
import tarfile
import tempfile
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO

import numpy as np

from amma.manifests.chains import MAX_STRUCTURE_BYTES, structure_stem
from amma.manifests.compression import GZIP_MAGIC, GzipError, expanded
from amma.manifests.errors import InputError
from amma.manifests.quarantine import RecordError, Rejection
from amma.manifests.textfile import is_clean, require_regular

SUFFIXES = (".tar", ".tar.gz", ".tgz")
SEPARATOR = "::"
"""Between an archive and its member, as in `models.tar::P00720.pdb.gz`."""
MAX_ARCHIVE_BYTES = 1 << 40
"""Of an expanded `.tar.gz`."""

_LOCATION = re.compile(rf"(.+?(?:{'|'.join(map(re.escape, SUFFIXES))})){SEPARATOR}(.+)", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Member:
    """A structure file of an archive: its name, where its bytes begin and how many they are."""

    name: str
    offset: int
    size: int


def is_archive(name: str) -> bool:
    """True if a file of this name is read as a tar archive."""
    return name.lower().endswith(SUFFIXES)


def split_location(location: Path) -> tuple[Path, str | None]:
    """`models.tar::P00720.pdb.gz` as archive and member; a plain file's second part is None."""
    match = _LOCATION.fullmatch(str(location))
    return (Path(match[1]), match[2]) if match else (location, None)


def opened_archive(path: Path) -> "StructureArchive":
    """The archive at `path`; opened once a process, and again after it changed."""
    require_regular(path, "a tar archive of structures")
    status = path.stat()
    return _opened(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=64)
def _opened(path: Path, _changed: int, _size: int) -> "StructureArchive":
    return StructureArchive(path)


class StructureArchive:
    """A tar of PDB, mmCIF and BinaryCIF files; members of other names are ignored.

    Raises `InputError`: `E_TAR` if a header is damaged or the archive's end is missing, `E_GZIP` and `E_BOMB` for a
    damaged or implausible `.tar.gz`. Such an archive is refused whole.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle = _plain(path)
        digests, offsets, sizes = array("Q"), array("q"), array("q")
        for member in self.members():
            if isinstance(member, Member):
                digests.append(_digest(member.name))
                offsets.append(member.offset)
                sizes.append(member.size)
        order = np.argsort(np.asarray(digests, dtype=np.uint64), kind="stable")
        self._digests = np.asarray(digests, dtype=np.uint64)[order]
        self._offsets = np.asarray(offsets, dtype=np.int64)[order]
        self._sizes = np.asarray(sizes, dtype=np.int64)[order]

    def members(self) -> Iterator[Member | Rejection]:
        """The structure files in archive order; what cannot be one (a link, a name with `..`) as a `Rejection`."""
        for header in _headers(self._handle, self._path):
            name = posixpath.normpath(header.name)
            stem = structure_stem(posixpath.basename(name))
            if stem is None or header.isdir():
                continue
            fault = _fault(header, name)
            if fault is None:
                yield Member(name, header.offset_data, header.size)
            else:
                error = RecordError("E_MEMBER", fault, "Leave it out of the archive, or pack it anew.")
                yield error.rejection(id=stem, source=f"{self._path}{SEPARATOR}{header.name!a}", position=None)

    def read(self, name: str) -> bytes:
        """The bytes of the first member of that name. Raises `RecordError` `E_FILE` if there is none."""
        digest = np.uint64(_digest(name))
        at = int(np.searchsorted(self._digests, digest))
        if at == len(self._digests) or self._digests[at] != digest:
            raise RecordError("E_FILE", f"{self._path}: no member {name!r}", "Put the archive back as it was.")
        size = int(self._sizes[at])
        data = os.pread(self._handle.fileno(), size, int(self._offsets[at]))
        if len(data) != size:
            raise RecordError("E_FILE", f"{self._path}: member {name!r} is cut short", "Put the archive back.")
        return data


def _fault(header: tarfile.TarInfo, name: str) -> str | None:
    """Why a member cannot be a structure file; None if it can."""
    if not header.isreg() or header.issparse():
        return "a link, device or sparse file, not a regular one"
    if not is_clean(header.name):
        return "a name with control characters or not in UTF-8"
    if name.startswith("/") or name.split("/")[0] == "..":
        return "a name that leads out of the archive"
    if header.size > MAX_STRUCTURE_BYTES:
        return f"{header.size:,} bytes, more than the {MAX_STRUCTURE_BYTES:,} of any structure"
    return None


def _digest(name: str) -> int:
    return int.from_bytes(blake2b(name.encode(errors="surrogateescape"), digest_size=8).digest(), "big")


def _headers(handle: BinaryIO, path: Path) -> Iterator[tarfile.TarInfo]:
    """All headers of an archive to its end mark; tarfile itself ends silently at a damaged one."""
    handle.seek(0)
    end = os.fstat(handle.fileno()).st_size
    previous = -1
    try:
        with tarfile.open(fileobj=handle, mode="r:") as archive:
            while (header := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # tarfile keeps them all, a kilobyte each
                inside = header.issparse() or 0 <= header.size <= end - header.offset_data
                if header.offset_data <= previous or not inside:
                    raise tarfile.ReadError(f"{header.name!a} does not lie inside the archive")
                previous = header.offset_data
                yield header
            handle.seek(archive.offset)
            mark = handle.read(tarfile.BLOCKSIZE)
            if len(mark) < tarfile.BLOCKSIZE or mark.strip(b"\0"):
                raise tarfile.ReadError(f"no header and no end at byte {archive.offset:,}")
    except (tarfile.TarError, ValueError, OverflowError, RecursionError) as error:
        raise InputError(
            f"{path}: a damaged tar archive ({error}); none of it was used. Fetch it again.", code="E_TAR"
        ) from error


def _plain(path: Path) -> BinaryIO:
    """A handle on the archive's bytes, expanded if it is compressed."""
    handle = path.open("rb")
    if handle.read(len(GZIP_MAGIC)) != GZIP_MAGIC:
        return handle
    with handle:
        handle.seek(0)
        spool: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115
        try:
            for block in expanded(handle, os.fstat(handle.fileno()).st_size, limit=MAX_ARCHIVE_BYTES):
                spool.write(block)
            spool.flush()
        except GzipError as error:
            raise InputError(f"{path}: {error}; none of it was used. Fetch it again.", code=error.code) from error
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise InputError(
                f"{path}: no room in {tempfile.gettempdir()} to expand it. Unpack it to a .tar, or set TMPDIR.",
                code="E_DISK",
            ) from error
    return spool
