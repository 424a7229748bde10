"""What `plan.json` says: how a store is cut, what its numbers depend on, and how much is in it."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from amma.featurize.store.documents import check_version, parse_document, read_regular
from amma.featurize.store.layout import FORMAT, PLAN_FILE, VERSION, Layout
from amma.featurize.store.settings import StoreSettings
from amma.manifests.errors import ConfigError, CorruptStoreError
from amma.manifests.table import MODALITIES, Modality


@dataclass(frozen=True)
class Header:
    """The content of `plan.json`.

    `rows` is the planned rows of each modality, `kinds` how many proteins of each kind were planned.
    """

    settings: StoreSettings
    widths: dict[Modality, int]
    fingerprint: dict[str, Any]
    random_weights: bool
    content_sha256: str
    plan_sha256: str
    num_proteins: int
    num_units: int
    rows: dict[Modality, int]
    kinds: dict[str, int]

    @cached_property
    def layout(self) -> Layout:
        """How the arrays are cut into files."""
        return Layout(
            shard_rows=self.settings.shard_rows,
            chunk_rows=self.settings.inner_rows,
            dtype=np.dtype(self.settings.dtype),
            widths=self.widths,
            num_proteins=self.num_proteins,
            num_units=self.num_units,
        )

    def as_json(self) -> dict[str, Any]:
        """As it stands in `plan.json`."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "settings": self.settings.model_dump(),
            "widths": {str(modality): self.widths[modality] for modality in MODALITIES},
            "fingerprint": self.fingerprint,
            "random_weights": self.random_weights,
            "content_sha256": self.content_sha256,
            "plan_sha256": self.plan_sha256,
            "proteins": self.num_proteins,
            "units": self.num_units,
            "rows": {str(modality): self.rows[modality] for modality in MODALITIES},
            "kinds": self.kinds,
        }


def parse_header(data: bytes, path: Path | str) -> Header:
    """Read the bytes of a `plan.json`; raises `StoreError` if it is of a newer major version or damaged."""
    document = parse_document(data, path)
    check_version(document, path)
    try:
        return Header(
            settings=StoreSettings.parse(document["settings"], source=f"{path}: settings"),
            widths={modality: document["widths"][modality] for modality in MODALITIES},
            fingerprint=document["fingerprint"],
            random_weights=document["random_weights"],
            content_sha256=document["content_sha256"],
            plan_sha256=document["plan_sha256"],
            num_proteins=document["proteins"],
            num_units=document["units"],
            rows={modality: document["rows"][modality] for modality in MODALITIES},
            kinds=document["kinds"],
        )
    except (KeyError, TypeError, ConfigError) as error:
        raise CorruptStoreError(f"{path}: damaged ({error}). Run amma-featurize verify.") from error


def read_header(store: Path) -> Header | None:
    """The header of a store, None where none was begun."""
    path = store / PLAN_FILE
    return parse_header(read_regular(path), path) if path.exists() else None
