"""The objects of a store in a bucket: list, compare, upload, remove; safe to use from many threads."""

import base64
import hashlib
from pathlib import Path
from typing import Any

from amma.featurize.store.documents import read_regular
from amma.featurize.store.remote import failures_said, filesystem_for
from amma.featurize.store.shard import FileRecord
from amma.manifests.errors import CorruptStoreError, UsageError
from amma.manifests.files import sha256_of_file

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

    def holds(self, name: str, record: FileRecord) -> bool:
        """Whether the object is what it should be: by the SHA-256 that the server keeps, or by reading it back."""
        with failures_said(self._at(name)):
            head = self._fs.call_s3("head_object", ChecksumMode="ENABLED", **self._key(name))
        if head["ContentLength"] != record.size:
            return False
        kept = head.get("ChecksumSHA256")
        if kept and head.get("ChecksumType", "FULL_OBJECT") == "FULL_OBJECT" and "-" not in kept:
            return base64.b64decode(kept) == bytes.fromhex(record.sha256)
        return self.sha256(name, record.size) == record.sha256

    def sha256(self, name: str, size: int) -> str:
        """Hash an object by reading it."""
        digest = hashlib.sha256()
        for begin in range(0, size, _BLOCK):
            with failures_said(self._at(name)):
                digest.update(self._fs.cat_file(self._path(name), start=begin, end=min(begin + _BLOCK, size)))
        return digest.hexdigest()

    def put(self, path: Path, name: str, record: FileRecord) -> None:
        """Upload a file.

        Raises `CorruptStoreError` if it is not what it should be, before anything is sent.
        """
        if record.size <= _MOST_AT_ONCE:
            data = read_regular(path, size=record.size)
            if FileRecord.of(data) != record:
                raise _damaged(path)
            self.put_bytes(data, name)
            return
        if sha256_of_file(path) != record.sha256:
            raise _damaged(path)
        with failures_said(self._at(name)):
            self._fs.put_file(str(path), self._path(name))

    def put_bytes(self, data: bytes, name: str) -> None:
        """Upload an object in one request."""
        checksum = base64.b64encode(hashlib.sha256(data).digest()).decode()
        with failures_said(self._at(name)):
            self._fs.call_s3(
                "put_object", Body=data, ChecksumAlgorithm="SHA256", ChecksumSHA256=checksum, **self._key(name)
            )

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


def _damaged(path: Path) -> CorruptStoreError:
    return CorruptStoreError(f"{path}: not what the seal says; nothing of it was sent. Run amma-featurize verify.")
