"""Rows of flat shards that are not in a folder: one range of bytes a protein, all of a call asked for at once.

zarr's own reader would ask for a shard's index and then for chunks of it, protein after protein. Here an index is
asked for once, checked, and remembered to be sound; rows then lie where they lie in a file.
"""

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from amma.featurize.store.layout import Layout
from amma.featurize.store.opened import NotFlatError, Part, Place, Sum
from amma.featurize.store.shard import as_bytes, index_bytes, index_size, is_sound_index
from amma.manifests.errors import CorruptStoreError

_AT_ONCE = 64
"""Requests that one call has under way."""


class RangedShards:
    """A `RowReader` over any zarr store object; `NotFlatError` for a shard that another program arranged."""

    def __init__(self, store: Any, where: str, layout: Layout) -> None:
        self._store = store
        self._where = where
        self._layout = layout
        self._lock = threading.Lock()
        self._rows_end: dict[tuple[str, int], int] = {}
        """Where the rows of a shard end, for those whose index was found sound."""

    def read(self, parts: Sequence[Part], sum: Sum | None) -> list[int]:
        """As `RowReader`. Raises `CorruptStoreError` for an object that is missing, cut, or damaged."""
        from zarr.core.sync import sync

        places = [place for part in parts for place, _ in part]
        found = iter(sync(self._fetched(places)))
        sums = []
        for part in parts:
            value = 0
            for place, target in part:
                data, wanted = next(found), as_bytes(target)
                if len(data) != len(wanted):
                    raise self._corrupt(place, f"ends before row {self._row(place) + place.rows} of its unit")
                wanted[:] = np.frombuffer(data, dtype=np.uint8)
                if sum is not None:
                    value = sum(wanted, value)
            sums.append(value)
        return sums

    def will_need(self, places: Sequence[Place]) -> None:
        """As `RowReader`: nothing; threads that read ahead hide the way."""

    def close(self) -> None:
        """As `RowReader`; indices are checked anew afterwards."""
        with self._lock:
            self._rows_end.clear()

    async def _fetched(self, places: Sequence[Place]) -> list[bytes]:
        turns = asyncio.Semaphore(_AT_ONCE)

        async def one(place: Place, begin: int, size: int) -> bytes:
            async with turns:
                return await self._range(place, begin, size)

        async def index(key: tuple[str, int], place: Place) -> None:
            async with turns:
                end = await self._checked_end(place)
            with self._lock:
                self._rows_end[key] = end

        new = {key: place for place in places if (key := self._key(place)) not in self._rows_end}
        await asyncio.gather(*(index(key, place) for key, place in new.items()))
        ranges = []
        for place in places:
            begin = self._row(place) * place.spec.row_bytes
            size = place.rows * place.spec.row_bytes
            end = self._rows_end.get(self._key(place), begin + size)
            ranges.append(one(place, begin, max(min(size, end - begin), 0)))
        return list(await asyncio.gather(*ranges))

    async def _range(self, place: Place, begin: int, size: int) -> bytes:
        from zarr.abc.store import RangeByteRequest

        return await self._bytes(place, RangeByteRequest(begin, begin + size)) if size else b""

    async def _checked_end(self, place: Place) -> int:
        """Where the rows of a shard end, by its index; raises unless that is of a flat shard."""
        from zarr.abc.store import SuffixByteRequest

        chunks, chunk_bytes = self._layout.chunks_per_shard, self._layout.chunk_rows * place.spec.row_bytes
        index = await self._bytes(place, SuffixByteRequest(index_size(chunks)))
        if len(index) != index_size(chunks) or not is_sound_index(index):
            raise self._corrupt(place, "is not a shard of this store: its index is damaged")
        used = int((np.frombuffer(index, dtype="<u8", count=2 * chunks)[1::2] == chunk_bytes).sum())
        if index != index_bytes(used, chunk_bytes, chunks):
            raise NotFlatError
        return used * chunk_bytes

    async def _bytes(self, place: Place, part: Any) -> bytes:
        from zarr.core.buffer import default_buffer_prototype

        found = await self._store.get(self._name(place), default_buffer_prototype(), part)
        if found is None:
            raise self._corrupt(place, "is missing")
        data: bytes = found.to_bytes()
        return data

    def _key(self, place: Place) -> tuple[str, int]:
        return place.spec.path, place.start // self._layout.shard_rows

    def _row(self, place: Place) -> int:
        return place.start % self._layout.shard_rows

    def _name(self, place: Place) -> str:
        return place.spec.chunk_file(place.start // self._layout.shard_rows)

    def _corrupt(self, place: Place, what: str) -> CorruptStoreError:
        return CorruptStoreError(f"{self._where}/{self._name(place)}: {what}. Copy the store there again.")
