"""Published weights on this machine: which are there, which are needed, and how those that are missing come here."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amma.featurize.encoders.acceptance import check_contents
from amma.featurize.encoders.download import PART, Patience, ShowProgress, download
from amma.featurize.encoders.pins import check_hashes, hashes_of, read_pins, write_pin
from amma.featurize.encoders.presets import PRESETS
from amma.featurize.encoders.registry import known_name
from amma.featurize.encoders.repository import FORMATS, download_repository, remove_files
from amma.featurize.encoders.weights import default_folder, look_for_weights, sha256_of_weights
from amma.featurize.store.disk import human
from amma.manifests.errors import UsageError, WeightsError
from amma.manifests.known_weights import KnownWeights, known_weights

OFFLINE = ("AMMA_OFFLINE", "HF_HUB_OFFLINE")


@dataclass(frozen=True, slots=True)
class WeightsStatus:
    """One set of published weights as it is on this machine."""

    known: KnownWeights
    path: Path | None
    """Where it is; None if it is missing."""
    place: Path
    """Where it is, or would be fetched to."""
    partial: int
    """Bytes of it that an interrupted download left."""
    size: int | None
    """Bytes it has, or that its publisher says it has."""
    pinned: dict[str, str]
    presets: list[str]

    @property
    def state(self) -> str:
        """`present`, `partial` or `missing`."""
        return "present" if self.path else "partial" if self.partial else "missing"

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "name": self.known.name,
            "state": self.state,
            "path": str(self.place),
            "size": self.size,
            "partial": self.partial,
            "licence": self.known.licence,
            "address": self.known.address,
            "revision": self.known.revision,
            "sha256": self.known.sha256,
            "pinned": self.pinned,
            "presets": self.presets,
        }


@dataclass(frozen=True, slots=True)
class WeightsReport:
    """What `amma-featurize weights` shows."""

    weights: list[WeightsStatus]

    def as_json(self) -> list[dict[str, Any]]:
        """For programs."""
        return [status.as_json() for status in self.weights]

    def lines(self) -> list[str]:
        """For people: a table."""
        if not self.weights:
            return ["none is needed"]
        rows = [("name", "state", "size", "preset", "licence", "pinned sha256", "where")]
        for status in self.weights:
            pinned = status.pinned.get(status.known.file) or (f"{len(status.pinned)} files" if status.pinned else "-")
            size = "not published" if status.size is None else human(status.size)
            state = f"partial ({human(status.partial)})" if status.state == "partial" else status.state
            where = str(status.path or status.known.address)
            presets = ", ".join(status.presets) or "-"
            rows.append((status.known.name, state, size, presets, status.known.licence, pinned, where))
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
        return ["  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[-1]]) for row in rows]


def offline() -> str | None:
    """The variable that forbids the network, if one does."""
    return next((name for name in OFFLINE if os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE")), None)


def select(names: Sequence[str], preset: str | None) -> list[KnownWeights]:
    """Known weights by name, those that `preset` needs, or (given neither) all; `UsageError` for an unknown name."""
    if names and preset is not None:
        raise UsageError("Give names of weights or --preset, not both.")
    table = known_weights()
    if preset is not None:
        specs = known_name(preset, PRESETS, what="preset").values()
        names = [spec.name for spec in specs if spec.name in table]
        return [table[name] for name in names]
    return [known_name(name, table, what="weights") for name in dict.fromkeys(names)] if names else list(table.values())


def report(weights: Iterable[KnownWeights], folder: Path | None) -> WeightsReport:
    """Look for each on this machine; nothing is hashed, nothing is asked of the network."""
    pins = read_pins()
    found = []
    for known in weights:
        path = _whole(known, folder)
        place = path or _place(known, folder)
        part = place.with_name(place.name + PART)
        needing = [name for name, specs in PRESETS.items() if known.name in {spec.name for spec in specs.values()}]
        found.append(
            WeightsStatus(
                known=known,
                path=path,
                place=place,
                partial=part.stat().st_size if path is None and part.exists() else 0,
                size=_size(path) if path else known.size,
                pinned=pins.get(known.name, {}),
                presets=needing,
            )
        )
    return WeightsReport(found)


def fetch(
    known: KnownWeights,
    folder: Path | None,
    *,
    accept: bool = False,
    show_progress: ShowProgress | None = None,
    patience: Patience | None = None,
) -> Path:
    """Download `known` unless it is there; the path it then has. Its hash is pinned, or compared with the pinned one.

    `accept` replaces the pinned hash. Raises `WeightsError` if it cannot be had (`E_DOWNLOAD`, `E_OFFLINE`, `E_DISK`),
    changed (`E_PINNED`) or is not what it should be (`E_WEIGHTS`); a file that is refused is removed.
    """
    there = _whole(known, folder)
    if there is not None:
        return there
    place = (folder or default_folder()) / known.file
    forbidden = offline()
    if forbidden is not None:
        raise WeightsError(
            f"{known.name}: not fetched from {known.address}, because {forbidden} is set. Unset it, or put "
            f"{known.file} into {place.parent}.",
            code="E_OFFLINE",
        )
    if known.huggingface is None:

        def check(part: Path) -> None:
            _check(known, part, {known.file: sha256_of_weights(part)}, accept=accept)

        download(known.address, place, size=known.size, accept=check, show_progress=show_progress, patience=patience)
        return place
    cached = download_repository(known)
    try:
        _check(known, cached, hashes_of(cached), accept=accept)
    except WeightsError as error:
        remove_files(cached)
        raise WeightsError(f"{error} What was downloaded was removed.", code=error.code) from error
    return cached


def verify(known: KnownWeights, folder: Path | None, *, accept: bool = False) -> bool:
    """Hash and check what is there of `known`, and pin its hash if none is (`accept`: in any case); False if missing.

    Raises `WeightsError` as `fetch` does; the files stay.
    """
    path = _whole(known, folder)
    if path is None:
        return False
    _check(known, path, hashes_of(path), accept=accept)
    return True


def _check(known: KnownWeights, path: Path, hashes: dict[str, str], *, accept: bool) -> None:
    check_hashes(known, hashes, source=str(path), accept=accept)
    check_contents(known, path)
    write_pin(known, hashes, source=str(path), accept=accept)


def _whole(known: KnownWeights, folder: Path | None) -> Path | None:
    """Where it is; a repository of which only a configuration is cached counts as missing."""
    path = look_for_weights(known, folder)
    if path is None or known.huggingface is None:
        return path
    return path if any(path.glob(f"{start}*{end}") for start, end in FORMATS) else None


def _place(known: KnownWeights, folder: Path | None) -> Path:
    """Where it would be fetched to: repositories go into the Hugging Face cache."""
    if known.huggingface is None:
        return (folder or default_folder()) / known.file
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"models--{known.huggingface.replace('/', '--')}"


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.iterdir()) if file.is_file())
