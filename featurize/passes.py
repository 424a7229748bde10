"""Long passes over a store, and how they are shown while they go on."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from amma.featurize.store.filling import Advance
from amma.featurize.store.repair import Repair, ReplayableOrigin, repair_store
from amma.featurize.store.settings import StoreSettings

Shown = Callable[[str, int], AbstractContextManager[Advance]]
"""Shows a pass, by its name, over so many rows or bytes."""


def silent(label: str, total: int) -> AbstractContextManager[Advance]:
    """Show nothing."""
    return nullcontext(lambda rows: None)


def repair_shown(
    path: Path, origin: ReplayableOrigin, asked: StoreSettings, *, dry_run: bool = False, show: Shown = silent
) -> Repair:
    """`repair_store`, whose passes `show` shows as `verify` (bytes) and `repair` (rows)."""
    return repair_store(
        path,
        origin,
        asked,
        dry_run=dry_run,
        verifying=lambda total: show("verify", total),
        encoding=lambda rows: show("repair", rows),
    )
