"""Make a store of features that are already there, through the same plan, writer and seal as a run."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from amma.featurize.encoders.protocol import Encoded
from amma.featurize.store.filling import Advance, fill_store
from amma.featurize.store.plan import Survey, survey
from amma.featurize.store.settings import StoreSettings
from amma.featurize.store.unit import UnitContents
from amma.manifests.errors import InputError
from amma.manifests.quarantine import RecordError
from amma.manifests.table import MODALITIES, Modality, Protein


@dataclass(frozen=True, slots=True)
class ProteinArrays:
    """One protein and its features; a modality it lacks is not in `features`."""

    id: str
    sequence: str
    features: Mapping[Modality, Encoded]


class _ArrayOrigin:
    def __init__(
        self,
        proteins: list[ProteinArrays],
        widths: Mapping[Modality, int],
        fingerprint: Mapping[str, Any],
        random_weights: bool,
    ) -> None:
        self.widths = dict(widths)
        self.random_weights = random_weights
        self._fingerprint = dict(fingerprint)
        self._proteins = proteins

    def fingerprint(self) -> dict[str, Any]:
        return self._fingerprint

    def survey(self) -> Survey:
        for protein in self._proteins:
            if not any(len(encoded.features) for encoded in protein.features.values()):
                raise InputError(f"protein {protein.id!r} has no features; leave it out")
        by_id = {protein.id: protein for protein in self._proteins}
        rows = (Protein(protein.id, protein.sequence) for protein in self._proteins)
        surveyed = survey(
            rows,
            lambda batch: {
                modality: [
                    len(features[modality].features) if modality in (features := by_id[row.id].features) else 0
                    for row in batch
                ]
                for modality in MODALITIES
            },
            source="write_store",
        )
        # There is no encoder whose fingerprint would stand for the numbers, so the numbers count as content.
        digest = hashlib.sha256(surveyed.content_sha256.encode())
        for protein in self._proteins:
            for modality, encoded in sorted(protein.features.items()):
                digest.update(modality.encode())
                for array in (encoded.features, encoded.index, encoded.cls):
                    digest.update(b"" if array is None else np.ascontiguousarray(array).tobytes())
        return replace(surveyed, content_sha256=digest.hexdigest())

    def identities(self, rows: Int64[np.ndarray, " n"]) -> tuple[list[str], list[str]]:
        chosen = [self._proteins[row] for row in rows.tolist()]
        return [protein.id for protein in chosen], [protein.sequence for protein in chosen]

    def fill(self, contents: UnitContents, advance: Advance) -> None:
        for modality in MODALITIES:
            for slot in contents.planned(modality):
                protein = self._proteins[int(contents.plan.order[contents.positions.start + slot])]
                try:
                    contents.put(modality, slot, protein.id, protein.features[modality])
                except RecordError as error:
                    raise InputError(f"protein {protein.id!r}, {modality}: {error.reason}", code=error.code) from error


def write_store(
    path: Path,
    proteins: Iterable[ProteinArrays],
    *,
    widths: Mapping[Modality, int],
    settings: StoreSettings | None = None,
    fingerprint: Mapping[str, Any],
    random_weights: bool,
) -> None:
    """Write and seal a store of these arrays (held in memory). Its order is a permutation: find them by `row_of`."""
    origin = _ArrayOrigin(list(proteins), widths, fingerprint, random_weights)
    fill_store(path, origin, settings or StoreSettings())
