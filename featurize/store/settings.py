"""What a person may choose about a feature store before it is planned."""

import os
from typing import Annotated, Literal

from pydantic import Field, model_validator

from amma.manifests.errors import StoreError
from amma.manifests.settings import Settings

ROWS_PER_CHUNK = 256
"""Rows of an inner chunk where shards are larger: what other Zarr readers fetch at least."""


class StoreSettings(Settings):
    """Everything but the proteins and the encoders that decides the bytes of a store.

    A store keeps the values it was begun with: a later run takes over what it is not told, and refuses what differs.
    """

    shard_rows: Annotated[int, Field(ge=1)] = 16384
    """Rows of one shard, which is the rows a unit may have in any modality."""
    chunk_rows: Annotated[int, Field(ge=1)] | None = None
    """Rows of an inner chunk; must divide `shard_rows`. None: 256, or `shard_rows` where that is fewer."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the permutation in which proteins are stored."""
    dtype: Literal["float16", "float32", "int8"] = "float16"
    """What features are stored as; int8 is what `recode` makes of another store (`affine.py`)."""
    token_budget: Annotated[int, Field(ge=1)] = 8192
    """The most one encode batch may cost (`Encoder.cost` summed); a protein that costs more goes alone."""
    threads: Annotated[int, Field(ge=1)] | None = None
    """CPU threads of the encoders, since sums depend on how they are split. None: the processors this run may use."""

    @model_validator(mode="after")
    def _chunks_fill_a_shard(self) -> "StoreSettings":
        if self.shard_rows % self.inner_rows:
            raise ValueError(f"chunk_rows ({self.inner_rows}) must divide shard_rows ({self.shard_rows})")
        return self

    @property
    def inner_rows(self) -> int:
        """Rows of an inner chunk."""
        return min(ROWS_PER_CHUNK, self.shard_rows) if self.chunk_rows is None else self.chunk_rows

    def resolved(self, recorded: "StoreSettings | None") -> "StoreSettings":
        """These settings with nothing left open, taking over what a begun store recorded.

        Raises `StoreError` if a value that was asked for differs from the recorded one. (`dtype` is left to the
        fingerprint, of which it is a field.)
        """
        if recorded is None:
            threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
            return self.model_copy(update={"chunk_rows": self.inner_rows, "threads": self.threads or threads})
        asked = {name: getattr(self, name) for name in self.model_fields_set if getattr(self, name) is not None}
        differing = [
            f"{name} {getattr(recorded, name)} -> {value}"
            for name, value in sorted(asked.items())
            if name != "dtype" and value != getattr(recorded, name)
        ]
        if differing:
            raise StoreError(
                f"the store was begun with other settings ({', '.join(differing)}). "
                "Leave these options out to go on with it, or write to a new path."
            )
        return recorded.model_copy(update={"dtype": asked.get("dtype", recorded.dtype)})
