"""Sizes and hashes of a group of files, in order: 40 bytes each, so that `seal.json` stays small whatever N is.

A record is the size as a little-endian uint64, then its BLAKE3. The table itself is a file that `seal.json` lists.
"""

import struct
from collections.abc import Iterable

from amma.featurize.store.shard import FileRecord

_RECORD = struct.Struct("<Q32s")


def render_digests(records: Iterable[FileRecord]) -> bytes:
    """The bytes of the table of these files."""
    return b"".join(_RECORD.pack(record.size, bytes.fromhex(record.blake3)) for record in records)


class Digests:
    """A table that has been checked against the seal; `table[i]` is what it says of the group's i-th file."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __len__(self) -> int:
        return len(self._data) // _RECORD.size

    def __getitem__(self, number: int) -> FileRecord:
        if not 0 <= number < len(self):
            raise IndexError(number)
        size, digest = _RECORD.unpack_from(self._data, number * _RECORD.size)
        return FileRecord(size, digest.hex())
