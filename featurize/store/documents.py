"""Read the JSON files of a store, and refuse any that is not byte for byte as this program writes it."""

import json
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO, cast

from amma.featurize.store.layout import FORMAT, SEAL_FILE, VERSION
from amma.manifests.errors import CorruptStoreError, StoreError

MOST_BYTES = 1 << 30
"""No file that is read whole is larger; what is, was not written by this program."""
MOST_DOCUMENT_BYTES = 1 << 26
"""A JSON value takes many times the memory of its text, so text is refused much sooner."""


def open_regular(path: Path) -> BinaryIO:
    """Open a plain file for reading, in unbuffered form.

    Raises `CorruptStoreError` if it is missing, a symbolic link, a pipe (which is not waited for), or unreadable.
    """
    reason = "not a plain file"
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return cast(BinaryIO, os.fdopen(descriptor, "rb", buffering=0))
        os.close(descriptor)
    except OSError as error:
        reason = error.strerror or type(error).__name__
    raise CorruptStoreError(
        f"{path}: cannot be read ({reason}); a store's files are plain files. Run amma-featurize verify."
    )


def read_regular(path: Path, *, size: int | None = None) -> bytes:
    """The bytes of a plain file; `size` is what it should have.

    Raises `CorruptStoreError` if it is missing, a link, unreadable, or of another or an absurd size, before it is read.
    """
    with open_regular(path) as handle:
        found = os.fstat(handle.fileno()).st_size
        if found > MOST_BYTES or found != (found if size is None else size):
            expected = f"at most {MOST_BYTES}" if size is None else str(size)
            raise CorruptStoreError(f"{path}: has {found} bytes, should have {expected}. Run amma-featurize verify.")
        return read_bytes(handle, found)


def read_bytes(handle: BinaryIO, most: int) -> bytes:
    """Up to `most` bytes of what `open_regular` opened, also where one call gives fewer."""
    parts = []
    while most > 0 and (part := handle.read(most)):
        parts.append(part)
        most -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def render(value: Any) -> bytes:
    """The bytes of a JSON file of a store: what `write_json_atomically` writes."""
    return (json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def parse_document(data: bytes, path: Path | str) -> dict[str, Any]:
    """The object in `data`.

    Raises `CorruptStoreError` if writing it again would give other bytes: damage that is still JSON is damage.
    """
    try:
        value = json.loads(data) if len(data) <= MOST_DOCUMENT_BYTES else None
        intact = isinstance(value, dict) and render(value) == data
    except (ValueError, RecursionError):
        intact = False
    if not intact:
        raise CorruptStoreError(f"{path}: damaged; it is not as this program wrote it. Run amma-featurize verify.")
    return cast(dict[str, Any], value)


def read_document(path: Path) -> dict[str, Any]:
    """Read and parse one JSON file of a store."""
    return parse_document(read_regular(path), path)


def check_version(document: dict[str, Any], path: Path | str) -> None:
    """Raise `StoreError` if `document` is of something else, or of a newer major version."""
    kind, version = document.get("format"), str(document.get("version"))
    if kind != FORMAT:
        raise StoreError(f"{path}: says it is {kind!r}, expected {FORMAT!r}. Give the folder of a feature store.")
    if version.split(".")[0] != VERSION.split(".")[0]:
        raise StoreError(
            f"{path}: store of format {version}, this program reads {VERSION}. Update amma, or featurize again.",
            code="E_VERSION",
        )


def is_sealed(store: Path) -> bool:
    """Whether the store was finished."""
    return (store / SEAL_FILE).exists()
