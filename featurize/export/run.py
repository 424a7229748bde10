"""Export a feature store: the library behind `amma-featurize export`."""

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from amma.featurize.export.formats import Hdf5Writer, NpyWriter, ParquetWriter, Writer
from amma.featurize.store.reader import FeatureStore
from amma.manifests.console import progress
from amma.manifests.errors import InputError, StoreError, UsageError
from amma.manifests.files import TEMPORARY_SUFFIX
from amma.manifests.table import MODALITIES, Modality

Format = Literal["h5", "npy", "parquet"]


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written: how many proteins have each modality, and where it is."""

    path: str
    format: Format
    pooled: bool
    proteins: int
    features: dict[str, int]
    random_encoders: bool

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For people."""
        counts = ", ".join(f"{count} {modality}" for modality, count in self.features.items())
        what = "one vector a protein" if self.pooled else "one row a residue or token"
        return [f"{self.path}: {self.proteins} proteins ({counts}), {what}, {self.format}"]


def export_store(
    store: FeatureStore,
    out: Path,
    *,
    format: Format,
    pooled: bool = False,
    modalities: Sequence[Modality] = MODALITIES,
    ids: Sequence[str] | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
) -> Exported:
    """Write the features of `ids` (None: all) in storage order; `pooled` means their mean over rows, in float32.

    `out` appears under its name when it is whole; what an interrupted export left is removed by the next. Every read
    is checked against the store's checksums. Raises `UsageError` if `out` exists, `InputError` for an unknown id.
    """
    if format == "parquet" and not pooled:
        raise UsageError("Parquet is for one vector a protein: add --pool mean, or choose --format h5 or npy.")
    if out.exists() and not overwrite:
        raise UsageError(f"{out} exists. Give another path, or --overwrite to replace it.")
    proteins = _chosen(store, ids)
    having = {modality: store.present(modality)[proteins] for modality in modalities}
    result = Exported(
        path=str(out),
        format=format,
        pooled=pooled,
        proteins=int(np.logical_or.reduce(list(having.values())).sum()) if having else 0,
        features={str(modality): int(present.sum()) for modality, present in having.items()},
        random_encoders=store.random_weights,
    )
    if dry_run:
        return result
    partial = out.with_name(out.name + TEMPORARY_SUFFIX)
    _remove(partial)
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _writer(format, partial, store, tuple(modalities)) as writer, _bar(len(proteins)) as advance:
            for place, protein in enumerate(proteins.tolist()):
                present = [modality for modality in modalities if having[modality][place]]
                for modality in present:
                    rows = store.read(modality, protein)
                    if pooled:
                        writer.put(modality, store.ids[protein], rows.features.mean(axis=0, dtype=np.float32), None)
                    else:
                        writer.put(modality, store.ids[protein], rows.features, rows.index)
                if present:
                    writer.end_of_protein(store.ids[protein])
                advance(1)
        _remove(out)
        partial.rename(out)
    except OSError as error:
        raise StoreError(f"{out}: could not be written ({error.strerror or error}). Nothing was replaced.") from error
    finally:
        _remove(partial)
    return result


def _chosen(store: FeatureStore, ids: Sequence[str] | None) -> np.ndarray:
    if ids is None:
        return np.arange(store.num_proteins)
    rows = []
    for id in ids:
        try:
            rows.append(store.row_of(id))
        except KeyError as error:
            raise InputError(f"{id!r} is not in {store.path}; amma-featurize inspect shows what is.") from error
    return np.unique(np.array(rows, dtype=np.int64))


def _writer(format: Format, path: Path, store: FeatureStore, modalities: tuple[Modality, ...]) -> Writer:
    if format == "h5":
        return Hdf5Writer(path)
    return NpyWriter(path) if format == "npy" else ParquetWriter(path, store.widths, modalities)


def _bar(total: int) -> Any:
    return progress("export", total, unit="proteins")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
