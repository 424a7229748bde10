"""Rows through zarr's own reader: for arrays that are not flat shards in a folder.

Another program may have rewritten a store's arrays with other chunks or a compressor, or the store may be remote. The
rows are the same then, and are held to the same checksums; reading them is about ten times slower.
"""

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from amma.featurize.store.layout import ArraySpec, Layout
from amma.featurize.store.opened import Part, Place, Sum
from amma.featurize.store.shard import as_bytes
from amma.manifests.errors import CorruptStoreError, StoreError

_MOST_CHUNK_BYTES = 1 << 30


class ZarrRows:
    """A `RowReader` over any zarr store object.

    Raises `CorruptStoreError` if an array's metadata cannot be read or is not of the shape and dtype the plan says.
    """

    def __init__(self, store: Any, where: str, layout: Layout) -> None:
        self._store = store
        self._where = where
        self._layout = layout
        self._lock = threading.Lock()
        self._arrays: dict[str, Any] = {}

    def read(self, parts: Sequence[Part], sum: Sum | None) -> list[int]:
        """As `RowReader`. Raises `CorruptStoreError` for what zarr cannot decode."""
        sums = []
        for part in parts:
            value = 0
            for place, target in part:
                target[...] = self._rows(place)
                if sum is not None:
                    value = sum(as_bytes(target), value)
            sums.append(value)
        return sums

    def will_need(self, places: Sequence[Place]) -> None:
        """As `RowReader`: nothing, since zarr has no way to say so."""

    def close(self) -> None:
        """As `RowReader`."""
        with self._lock:
            self._arrays.clear()

    def check(self, spec: ArraySpec) -> None:
        """Raise `CorruptStoreError` unless the array's metadata fit the plan."""
        self._array(spec)

    def _rows(self, place: Place) -> np.ndarray:
        array = self._array(place.spec)
        begin, end = place.start, place.start + place.rows
        try:
            return np.asarray(array[begin:end])
        except StoreError:
            raise  # what is remote cannot be reached
        except Exception as error:  # codecs raise whatever they like
            raise CorruptStoreError(
                f"{self._where}/{place.spec.path}: rows {begin} to {end - 1} (unit {begin // self._layout.shard_rows}) "
                f"cannot be decoded ({error or type(error).__name__}). Run amma-featurize verify."
            ) from error

    def _array(self, spec: ArraySpec) -> Any:
        with self._lock:
            array = self._arrays.get(spec.path)
        if array is None:
            array = self._opened(spec)
            with self._lock:
                self._arrays[spec.path] = array
        return array

    def _opened(self, spec: ArraySpec) -> Any:
        import zarr

        try:
            array = zarr.open_array(self._store, path=spec.path, mode="r")
            whole = array.shards or array.chunks
        except StoreError:
            raise
        except Exception as error:
            raise CorruptStoreError(f"{self._where}/{spec.path}: zarr cannot open it ({error}).") from error
        shape = (self._layout.num_units * self._layout.shard_rows, *spec.row_shape)
        if array.shape != shape or array.dtype != spec.dtype:
            raise CorruptStoreError(
                f"{self._where}/{spec.path}: is {array.shape} of {array.dtype}, planned was {shape} of {spec.dtype}."
            )
        if int(np.prod(whole, dtype=np.float64)) * spec.dtype.itemsize > _MOST_CHUNK_BYTES:
            raise CorruptStoreError(f"{self._where}/{spec.path}: one chunk of {whole} would not fit into memory.")
        return array
