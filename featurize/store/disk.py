"""Is there room for the store, and what to say when there is none."""

import errno
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from amma.featurize.store.layout import CLS_MODALITIES, Layout
from amma.featurize.store.plan import Plan
from amma.featurize.store.shard import index_size
from amma.manifests.errors import StoreError
from amma.manifests.table import MODALITIES

_BYTES_A_PROTEIN = 256
"""Beside rows and special tokens: per-protein entries, twice, and identifiers."""


def estimate(plan: Plan, layout: Layout, units: Iterable[int]) -> int:
    """Bytes that `units` will take, and the seal after them."""
    total = 0
    for unit in units:
        for modality in MODALITIES:
            chunks = layout.used_chunks(plan.rows(unit, modality))
            for spec in layout.row_arrays(modality):
                if chunks:
                    total += chunks * layout.chunk_rows * spec.row_bytes + index_size(layout.chunks_per_shard)
    cls_bytes = sum(layout.cls(modality).row_bytes for modality in CLS_MODALITIES)
    return total + plan.num_proteins * (2 * cls_bytes + _BYTES_A_PROTEIN)


def free_bytes(store: Path) -> int:
    """Bytes free where `store` is or will be."""
    folder = store.absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def human(size: int | float) -> str:
    """`1.4 GB`."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def check_room(store: Path, needed: int, *, safe: int, total: int) -> None:
    """Raise `StoreError` `E_DISK` if fewer than `needed` bytes are free."""
    free = free_bytes(store)
    if needed > free:
        raise StoreError(
            f"{store}: needs {human(needed)}, {human(free)} are free; {safe} of {total} units are safe. "
            "Make room, then run the same command again.",
            code="E_DISK",
        )


@contextmanager
def disk_full_is_said(store: Path, safe: Callable[[], str]) -> Iterator[None]:
    """Turn "no space left" into `StoreError` `E_DISK`; `safe` says how many units are when that happens."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise StoreError(
            f"{store}: the disk is full ({human(free_bytes(store))} free); {safe()} units are safe. Make room, then "
            "run the same command again: it goes on from there.",
            code="E_DISK",
        ) from error
