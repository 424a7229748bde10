"""Write files so that a crash at any moment leaves the old file or the new one, never half of one."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

TEMPORARY_SUFFIX = ".tmp"
"""Names that end so are left-overs of a crash: any run may delete them in a folder it owns."""


def fsync_directory(folder: Path) -> None:
    """Make renames inside `folder` durable."""
    fsync(folder)


def fsync(path: Path) -> None:
    """Have what another program wrote to a file, or a folder's own entries, reach the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def aside_of(path: Path) -> Path:
    """Where the new file is made, before it is renamed over `path`."""
    return path.with_name(path.name + TEMPORARY_SUFFIX)


def write_durably(path: Path, data: bytes) -> None:
    """Write `data` to a file and fsync it."""
    with path.open("wb") as handle:
        handle.write(data)
        handle.flush()
        os.fsync(handle.fileno())


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` aside, fsync, rename over `path`, fsync the folder."""
    write_durably(aside_of(path), data)
    aside_of(path).replace(path)
    fsync_directory(path.parent)


def write_json_atomically(path: Path, value: Any) -> None:
    """As `write_atomically`, for a JSON document: keys sorted, indented, one final newline."""
    text = json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically(path, text.encode())


def sha256_of_file(path: Path) -> str:
    """Hex sha256 of a file, read in blocks."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
