"""Manifest rows in the order of a plan, without holding the manifest in memory.

Plan order is a permutation, so neighbours in a unit are far apart in the manifest. A window of plan positions is
therefore fetched with one pass over the file, and units are served from it.
"""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int64

from amma.featurize.store.plan import Plan
from amma.manifests.table import SCHEMA, Manifest, Protein

WINDOW = 32768
"""Proteins in memory, as Arrow holds them (about a kilobyte each)."""


class PlannedInputs:
    """Gives manifest rows by plan position; cheapest when asked for in rising order."""

    def __init__(self, manifest: Manifest, *, window: int = WINDOW) -> None:
        self._file = pq.ParquetFile(manifest.path)
        metadata = self._file.metadata
        sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self._begins = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self._size = window
        self._held = range(0)
        self._window: Any = None

    def proteins(self, plan: Plan, positions: range) -> list[Protein]:
        """The manifest rows of consecutive plan positions."""
        if positions.start not in self._held or positions.stop > self._held.stop:
            stop = min(max(positions.stop, positions.start + self._size), plan.num_proteins)
            self._window = self.table(plan.order[positions.start : stop], SCHEMA.names)
            self._held = range(positions.start, stop)
        part = self._window.slice(positions.start - self._held.start, len(positions))
        rows: list[dict[str, Any]] = part.to_pylist()
        return [Protein(**{**row, "unresolved": tuple(row["unresolved"])}) for row in rows]

    def table(self, rows: Int64[np.ndarray, " n"], columns: list[str]) -> Any:
        """The manifest's `rows`, in this order, as an Arrow table; reads each row group at most once."""
        order = np.argsort(rows, kind="stable")
        wanted = rows[order]
        parts = []
        for group in np.unique(np.searchsorted(self._begins, wanted, side="right") - 1).tolist():
            first, last = np.searchsorted(wanted, self._begins[group : group + 2])
            local = wanted[first:last] - self._begins[group]
            parts.append(self._file.read_row_group(group, columns=columns).take(pa.array(local)))
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return pa.concat_tables(parts).take(pa.array(back))
