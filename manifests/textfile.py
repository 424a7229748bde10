"""Open text tables and FASTA files, plain or gzip, so that a damaged file is refused before its first record.

A truncated `.gz` gives good records until it ends too soon, and a reader that streams keeps a silent half. So the
whole file is decompressed once, to its checksum, before it is opened for reading.
"""

import gzip
import io
import zlib
from pathlib import Path
from typing import TextIO

from amma.manifests.errors import InputError

GZIP_MAGIC = b"\x1f\x8b"
_BLOCK = 1 << 20


def open_text(path: Path) -> TextIO:
    """A text stream over `path`: gzip or plain, without byte-order mark, every kind of line end as a line feed.

    Bytes that are not UTF-8 come as lone surrogates, so that the record that holds them can be named and refused
    (`is_clean`) while the others are read. Raises `InputError`: `E_INPUT` if this is no regular file, `E_GZIP` if it
    is a gzip file that is truncated or fails its checksum.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file (expected a text file, plain or .gz).")
    with path.open("rb") as handle:
        compressed = handle.read(2) == GZIP_MAGIC
    if not compressed:
        return path.open(encoding="utf-8-sig", errors="surrogateescape")
    _verify_gzip(path)
    return io.TextIOWrapper(gzip.open(path, "rb"), encoding="utf-8-sig", errors="surrogateescape")


def is_clean(text: str) -> bool:
    """True if `text` was valid UTF-8 in its file and holds no control characters."""
    # isprintable is False for controls, lone surrogates and line separators; plain spaces are printable.
    return text.isprintable()


def _verify_gzip(path: Path) -> None:
    read = 0
    try:
        with gzip.open(path, "rb") as handle:
            while block := handle.read(_BLOCK):
                read += len(block)
    except (EOFError, zlib.error, OSError) as error:
        raise InputError(
            f"{path}: damaged gzip file ({error}) after {read} bytes; none of it was used. Fetch the file again.",
            code="E_GZIP",
        ) from error
