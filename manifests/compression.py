"""Expand gzip data block by block, to its checksum, and no further than is plausible.

Deflate packs at most 1032 to 1; sequences, tables and coordinates come to 3 to 20. A file that promises far more is a
bomb, made by accident or not, and is refused before it fills memory or a disk.
"""

import gzip
import zlib
from collections.abc import Iterator
from typing import BinaryIO

GZIP_MAGIC = b"\x1f\x8b"
MAX_RATIO = 200
"""How many bytes one packed byte may become, in the mean over a file."""
FREE_BYTES = 64 << 20
"""Below this size the ratio does not matter: small files of equal records pack well."""
_BLOCK = 1 << 20


class GzipError(Exception):
    """`code` is `E_GZIP` (truncated, or a wrong checksum) or `E_BOMB`; the text says what was found."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


def expanded(handle: BinaryIO, packed: int, *, limit: int | None = None) -> Iterator[bytes]:
    """The blocks of a gzip stream of `packed` bytes; the last comes only after the checksum held.

    Raises `GzipError`: `E_GZIP`; `E_BOMB` beyond `limit` bytes, or beyond `FREE_BYTES` and `MAX_RATIO` times `packed`.
    """
    size = 0
    held = b""
    try:
        with gzip.GzipFile(fileobj=handle) as stream:
            while block := stream.read(_BLOCK):
                size += len(block)
                if limit is not None and size > limit:
                    raise GzipError("E_BOMB", f"expands to more than {limit:,} bytes")
                if size > max(FREE_BYTES, MAX_RATIO * packed):
                    raise GzipError("E_BOMB", f"expands to more than {MAX_RATIO} times its {packed:,} bytes")
                if held:
                    yield held
                held = block
    except (EOFError, zlib.error, OSError) as error:
        raise GzipError("E_GZIP", f"damaged gzip file ({error}) after {size:,} bytes") from error
    yield held
