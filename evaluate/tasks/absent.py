"""Proteins that a task names and a store has no features of: which they are, and why."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from amma.evaluate.tasks.task import INPUTS
from amma.featurize.store.reader import FeatureStore
from amma.manifests.errors import InputError
from amma.manifests.quarantine import Rejection, read_quarantine
from amma.manifests.textfile import require_regular


@dataclass(frozen=True, slots=True)
class Absent:
    """A protein without features; `code` is one of docs/errors.md, `reason` says what happened in its words."""

    id: str
    code: str
    reason: str


def absent(store: FeatureStore, ids: Iterable[str], *, quarantines: Sequence[Path] = ()) -> tuple[Absent, ...]:
    """Those of `ids` that have neither sequence nor structure features in `store`, in their order, each once.

    The reason is that of the store's quarantine; else that of the manifest the store was made from, if its
    `quarantine.jsonl` is among `quarantines` or lies where `amma-featurize run` leaves it beside the store; else that
    the store was never given this protein (`E_OUTSIDE`), or was given nothing that a model looks at (`E_ABSENT`).
    Several failures of one protein are told together, under the code of the first.

    Raises `InputError` if a file of `quarantines` is missing or no quarantine, `CorruptStoreError` if the store's is
    not what was sealed.
    """
    featurised = np.any([store.length(modality) > 0 for modality in INPUTS], axis=0)
    row_of = {id: _row_of(store, id) for id in ids}
    missing = {id: row is not None for id, row in row_of.items() if row is None or not featurised[row]}
    if not missing:
        return ()
    told = _by_id(missing, store.rejections())
    earlier = [rejection for path in (*quarantines, *_beside(store)) for rejection in _read(path)]
    told = {**_by_id(missing, earlier), **told}
    return tuple(_absent(id, told.get(id, ()), in_store) for id, in_store in missing.items())


def _absent(id: str, lines: Sequence[Rejection], in_store: bool) -> Absent:
    if lines:
        return Absent(id, lines[0].code, "; ".join(dict.fromkeys(line.reason for line in lines)))
    if in_store:
        return Absent(id, "E_ABSENT", "has neither sequence nor structure features in the store")
    return Absent(id, "E_OUTSIDE", "not in the store's inputs")


def _by_id(wanted: Iterable[str], lines: Iterable[Rejection]) -> dict[str, list[Rejection]]:
    found: dict[str, list[Rejection]] = {}
    wanted = set(wanted)
    for line in lines:
        if line.id in wanted:
            found.setdefault(line.id, []).append(line)
    return found


def _beside(store: FeatureStore) -> list[Path]:
    """The quarantine of the manifest that `amma-featurize run` built of FASTA or structures, if it is still there."""
    if not isinstance(store.path, Path):
        return []
    path = store.path.with_name(f"{store.path.stem}.manifest.quarantine.jsonl")
    return [path] if path.is_file() else []


def _read(path: Path) -> list[Rejection]:
    require_regular(path, "a quarantine.jsonl")
    try:
        return read_quarantine(path)
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{path}: not a quarantine ({str(error)[:200]}). Expected lines as amma-manifest build writes them."
        ) from error


def _row_of(store: FeatureStore, id: str) -> int | None:
    try:
        return store.row_of(id)
    except KeyError:
        return None
