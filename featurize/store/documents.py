"""Read the JSON files of a store, and refuse any that is not byte for byte as this program writes it."""

import json
import os
from pathlib import Path
from typing import Any

from amma.featurize.store.layout import FORMAT, SEAL_FILE, VERSION
from amma.manifests.errors import CorruptStoreError, StoreError


def read_regular(path: Path) -> bytes:
    """The bytes of a file that is not a symbolic link.

    Raises `CorruptStoreError` if it is missing, a link or unreadable.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as handle:
            return handle.read()
    except OSError as error:
        raise CorruptStoreError(
            f"{path}: cannot be read ({error.strerror}); a store's files are plain files. Run amma-featurize verify."
        ) from error


def render(value: Any) -> bytes:
    """The bytes of a JSON file of a store: what `write_json_atomically` writes."""
    return (json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def parse_document(data: bytes, path: Path) -> dict[str, Any]:
    """The object in `data`.

    Raises `CorruptStoreError` if writing it again would give other bytes: damage that is still JSON is damage.
    """
    try:
        value = json.loads(data)
        intact = isinstance(value, dict) and render(value) == data
    except (ValueError, RecursionError):
        intact = False
    if not intact:
        raise CorruptStoreError(f"{path}: damaged; it is not as this program wrote it. Run amma-featurize verify.")
    document: dict[str, Any] = value
    return document


def read_document(path: Path) -> dict[str, Any]:
    """Read and parse one JSON file of a store."""
    return parse_document(read_regular(path), path)


def check_version(document: dict[str, Any], path: Path) -> None:
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
