"""Stores at an address, through zarr's fsspec store, with what goes wrong there said in one line.

Credentials and endpoints are what the libraries take from the environment: AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID,
AWS_PROFILE and so on for `s3://`.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import FsspecStore

from amma.manifests.errors import StoreError, UsageError

_LIBRARIES = ("botocore.", "aiobotocore.", "aiohttp.", "gcsfs.", "adlfs.")


class RemoteStore(FsspecStore):
    """A store of zarr's that is read at an address; failures are `StoreError` `E_REMOTE` that name it."""

    address = ""

    def __str__(self) -> str:
        return self.address

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """As `Store`."""
        with failures_said(f"{self.address}/{key}"):
            return await super().get(key, prototype, byte_range)

    async def exists(self, key: str) -> bool:
        """As `Store`; a bucket that is not there is a failure."""
        with failures_said(self.address):
            if await super().exists(key):
                return True
            if self.address.startswith("s3://"):
                await self.fs._call_s3("head_bucket", Bucket=self.address.split("/")[2])
            return False


def open_remote(address: str) -> RemoteStore:
    """The store object for an address; nothing is read yet.

    Raises `UsageError` if the address is of no known kind, or the library for it is not installed.
    """
    filesystem_for(address)  # says what is missing
    store = RemoteStore.from_url(address, read_only=True, storage_options={"use_listings_cache": False})
    assert isinstance(store, RemoteStore)
    store.address = address
    return store


def filesystem_for(address: str) -> Any:
    """The file system of fsspec for an address, to be used from any thread; raises as `open_remote`."""
    import fsspec  # type: ignore[import-untyped]

    for library in ("aiobotocore", "botocore"):
        logging.getLogger(library).setLevel(logging.WARNING)  # they say where credentials were found, each time
    kind = address.partition("://")[0]
    try:
        return fsspec.filesystem(kind, use_listings_cache=False)
    except ImportError as error:
        install = "pip install 'amma[s3]'" if kind == "s3" else str(error)
        raise UsageError(f"{address}: the library for {kind}:// is not installed: {install}") from error
    except ValueError as error:
        raise UsageError(f"{address}: {kind}:// is no address that can be read. Give s3://BUCKET/PREFIX.") from error


@contextmanager
def failures_said(where: str) -> Iterator[None]:
    """Turn what the libraries raise into `StoreError` `E_REMOTE` with one line; all else passes."""
    try:
        yield
    except Exception as error:
        name = type(error).__name__
        if not isinstance(error, OSError) and not type(error).__module__.startswith(_LIBRARIES):
            raise
        reason = " ".join(str(error).split()) or name
        raise StoreError(f"{where}: {reason} ({name}). {_advice(error, name)}", code="E_REMOTE") from error


def _advice(error: Exception, name: str) -> str:
    if "Credentials" in name or "Token" in name:
        return "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE."
    if isinstance(error, FileNotFoundError):
        return "Is the name of the bucket right? Make it first."
    if isinstance(error, PermissionError):
        return "The credentials that were found may not do this."
    return "Is the server up, and AWS_ENDPOINT_URL (where set) its address? The same command again goes on."
