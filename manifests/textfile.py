"""Open text tables and FASTA files, plain or gzip, so that a damaged file is refused before its first record.

A truncated `.gz` gives good records until it ends too soon, and a reader that streams keeps a silent half. So the
whole file is decompressed once, to its checksum, before it is opened for reading.
"""

import gzip
import io
import stat
from pathlib import Path
from typing import TextIO

from amma.manifests.compression import GZIP_MAGIC, GzipError, expanded
from amma.manifests.errors import InputError

MAX_LINE = 16 << 20
"""Characters in one line; the longest protein known has 45,000 residues."""


def open_text(path: Path) -> TextIO:
    """A text stream over `path`: gzip or plain, without byte-order mark, every kind of line end as a line feed.

    Bytes that are not UTF-8 come as lone surrogates, so that the record that holds them can be named and refused
    (`is_clean`) while the others are read. Raises `InputError`: `E_INPUT` if this is no regular file, `E_GZIP` if it
    is a gzip file that is truncated or fails its checksum, `E_BOMB` if it expands beyond reason; and while iterating
    `E_LINE` at a line of more than `MAX_LINE` characters.
    """
    require_regular(path, "a text file, plain or .gz")
    with path.open("rb") as handle:
        compressed = handle.read(2) == GZIP_MAGIC
    if compressed:
        _verify_gzip(path)
    return _BoundedLines(path, compressed=compressed)


def require_regular(path: Path, expected: str) -> None:
    """Raise `InputError` unless `path` is a regular file, or a link to one; `expected` says what it should be.

    A pipe (also one made by the shell's `<(…)`) would block or be empty the second time it is read.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file (expected {expected}).") from error
    except OSError as error:
        raise InputError(f"{path}: {error.strerror} (expected {expected}).") from error
    if (other := irregular(mode)) is None:
        return
    advice = "" if stat.S_ISDIR(mode) else " It is read more than once: save its content in a regular file, give that."
    raise InputError(f"{path}: {other}; expected {expected}.{advice}")


def irregular(mode: int) -> str | None:
    """What a file of this mode is if it is no regular file, else None."""
    if stat.S_ISREG(mode):
        return None
    kinds = {stat.S_ISDIR: "a folder", stat.S_ISFIFO: "a pipe", stat.S_ISLNK: "a link", stat.S_ISSOCK: "a socket"}
    return next((name for test, name in kinds.items() if test(mode)), "a device")


def is_utf8(text: str) -> bool:
    """True if `text` was valid UTF-8 in its file."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_clean(text: str) -> bool:
    """True if `text` was valid UTF-8 in its file and holds no control characters."""
    # isprintable is False for controls, lone surrogates and line separators; plain spaces are printable.
    return text.isprintable()


class _BoundedLines(io.TextIOWrapper):
    """A text stream whose lines have at most `MAX_LINE` characters, so that no file of one line fills the memory."""

    def __init__(self, path: Path, *, compressed: bool) -> None:
        stream = gzip.open(path, "rb") if compressed else path.open("rb")  # noqa: SIM115
        super().__init__(stream, encoding="utf-8-sig", errors="surrogateescape")
        self._path = path

    def __next__(self) -> str:  # type: ignore[override]  # as TextIOBase does in typeshed
        line = self.readline(MAX_LINE + 1)
        if len(line) > MAX_LINE:
            raise InputError(
                f"{self._path}: a line of more than {MAX_LINE:,} characters. Is this a text file?", code="E_LINE"
            )
        if not line:
            raise StopIteration
        return line


def _verify_gzip(path: Path) -> None:
    try:
        with path.open("rb") as handle:
            for _ in expanded(handle, path.stat().st_size):
                pass
    except GzipError as error:
        raise InputError(f"{path}: {error}; none of it was used. Fetch the file again.", code=error.code) from error
