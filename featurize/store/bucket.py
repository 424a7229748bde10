"""The objects of a store in a bucket: list, compare, upload, remove; safe to use from many threads.

Servers keep the SHA-256 of an object if they are told to, but know nothing of BLAKE3, which the store's own records
are: what a server keeps is compared with the SHA-256 of bytes that were found to have the right BLAKE3 here.
"""

import base64
import hashlib
from pathlib import Path
from typing import Any

from blake3 import blake3

from amma.featurize.store.documents import open_regular, read_regular
from amma.featurize.store.remote import failures_said, filesystem_for
from amma.featurize.store.shard import FileRecord
from amma.manifests.errors import CorruptStoreError, UsageError

_BLOCK = 1 << 24
_MOST_AT_ONCE = 1 << 28
"""Bytes of a file that is sent in one request; the server checks its SHA-256 then. Larger ones go in parts."""


class Bucket:
    """The objects below `s3://BUCKET/PREFIX`, by their names in the store."""

    def __init__(self, address: str) -> None:
        scheme, _, rest = address.partition("://")
        self._bucket, _, self._prefix = rest.strip("/").partition("/")
        if scheme != "s3" or not self._bucket or not self._prefix:
            raise UsageError(f"{address}: expected s3://BUCKET/PREFIX.")
        self.address = f"s3://{self._bucket}/{self._prefix}"
        self._fs: Any = filesystem_for(self.address)

    def sizes(self) -> dict[str, int]:
        """The size of every object. Raises `StoreError` `E_REMOTE` for a bucket that is not there."""
        with failures_said(self.address):
            self._fs.call_s3("head_bucket", Bucket=self._bucket)
            self._fs.invalidate_cache()
            found = self._fs.find(f"{self._bucket}/{self._prefix}", detail=True)
        begin = len(self._bucket) + len(self._prefix) + 2
        return {path[begin:]: entry["size"] for path, entry in found.items()}

    def holds(self, name: str, record: FileRecord, sha256: str | None) -> bool:
        """Whether the object is what it should be.

        `sha256` is that of the same bytes here: it is compared with what the server keeps. Without either, the object
        is read back.
        """
        with failures_said(self._at(name)):
            head = self._fs.call_s3("head_object", ChecksumMode="ENABLED", **self._key(name))
        if head["ContentLength"] != record.size:
            return False
        kept = head.get("ChecksumSHA256")
        if kept and sha256 and head.get("ChecksumType", "FULL_OBJECT") == "FULL_OBJECT" and "-" not in kept:
            return base64.b64decode(kept) == bytes.fromhex(sha256)
        return self.blake3(name, record.size) == record.blake3

    def blake3(self, name: str, size: int) -> str:
        """Hash an object by reading it."""
        digest = blake3()
        for begin in range(0, size, _BLOCK):
            with failures_said(self._at(name)):
                digest.update(self._fs.cat_file(self._path(name), start=begin, end=min(begin + _BLOCK, size)))
        return digest.hexdigest()

    def put(self, path: Path, name: str, record: FileRecord) -> str | None:
        """Upload a file; gives its SHA-256, if it went in one request, for `holds`.

        Raises `CorruptStoreError` if it is not what it should be, before anything is sent.
        """
        if record.size <= _MOST_AT_ONCE:
            data = read_regular(path, size=record.size)
            if FileRecord.of(data) != record:
                raise _damaged(path)
            return self.put_bytes(data, name)
        with open_regular(path) as handle:
            if FileRecord.read(handle) != record:
                raise _damaged(path)
        with failures_said(self._at(name)):
            self._fs.put_file(str(path), self._path(name))
        return None

    def put_bytes(self, data: bytes, name: str) -> str:
        """Upload an object in one request; gives its SHA-256."""
        digest = hashlib.sha256(data)
        checksum = base64.b64encode(digest.digest()).decode()
        with failures_said(self._at(name)):
            self._fs.call_s3(
                "put_object", Body=data, ChecksumAlgorithm="SHA256", ChecksumSHA256=checksum, **self._key(name)
            )
        return digest.hexdigest()

    def read(self, name: str) -> bytes:
        """All of an object."""
        with failures_said(self._at(name)):
            data: bytes = self._fs.cat_file(self._path(name))
            return data

    def remove(self, name: str) -> None:
        """Remove an object."""
        with failures_said(self._at(name)):
            self._fs.call_s3("delete_object", **self._key(name))

    def _key(self, name: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": f"{self._prefix}/{name}"}

    def _path(self, name: str) -> str:
        return f"{self._bucket}/{self._prefix}/{name}"

    def _at(self, name: str) -> str:
        return f"{self.address}/{name}"


def sha256_if_intact(path: Path, record: FileRecord) -> str | None:
    """The SHA-256 of a file of a store; None if it is not what its record says, or large enough to go in parts."""
    if record.size > _MOST_AT_ONCE:
        return None
    try:
        data = read_regular(path, size=record.size)
    except CorruptStoreError:
        return None
    return hashlib.sha256(data).hexdigest() if FileRecord.of(data) == record else None


def _damaged(path: Path) -> CorruptStoreError:
    return CorruptStoreError(f"{path}: not what the seal says; nothing of it was sent. Run amma-featurize verify.")
