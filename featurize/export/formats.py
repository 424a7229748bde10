"""One writer for each format; all take the same rows, protein by protein.

Legend: R rows of one protein and modality, D width.
"""

import csv
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int32

from amma.featurize.export.names import safe_name
from amma.manifests.errors import UsageError
from amma.manifests.table import Modality

ROWS_PER_GROUP = 1024
"""Proteins of a Parquet row group: what pooled vectors take in memory while they are written."""


@runtime_checkable
class Writer(Protocol):
    """Where exported features go. `index` is the residue of each structure row or the field of each token."""

    def __enter__(self) -> "Writer": ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def put(
        self, modality: Modality, id: str, features: Float[np.ndarray, "*rows D"], index: Int32[np.ndarray, " R"] | None
    ) -> None:
        """Write one protein: its rows, or the one vector that they were pooled into (`index` is None then)."""

    def end_of_protein(self, id: str) -> None:
        """All modalities of `id` have been put."""


INDEX_NAMES = {Modality.STR: "residue", Modality.FUNC: "field"}


class Hdf5Writer:
    """`seq.h5`, `str.h5`, `func.h5` in a folder: a dataset a protein, named by its id, as bio_embeddings' tools read.

    An id that HDF5 would take for a path is percent-encoded; the attribute `original_id` always holds the id itself.
    `str-residue.h5` and `func-field.h5` say what each row is.
    """

    def __init__(self, folder: Path) -> None:
        try:
            import h5py
        except ModuleNotFoundError as error:
            raise UsageError("--format h5 needs h5py: pip install h5py, or choose npy or parquet.") from error
        self._open = h5py.File
        self._folder = folder
        self._files: dict[str, Any] = {}

    def __enter__(self) -> "Hdf5Writer":
        self._folder.mkdir()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files.values():
            file.close()

    def put(
        self, modality: Modality, id: str, features: Float[np.ndarray, "*rows D"], index: Int32[np.ndarray, " R"] | None
    ) -> None:
        """One dataset, and one more where rows have an index."""
        self._write(str(modality), id, features)
        if index is not None:
            self._write(f"{modality}-{INDEX_NAMES[modality]}", id, index)

    def end_of_protein(self, id: str) -> None:
        """Datasets are written as they come."""

    def _write(self, name: str, id: str, values: np.ndarray) -> None:
        if name not in self._files:
            self._files[name] = self._open(self._folder / f"{name}.h5", "w")
        dataset = self._files[name].create_dataset(safe_name(id), data=values)
        dataset.attrs["original_id"] = id


class NpyWriter:
    """`seq/ID.npy`, `str/ID.npy`, `str-residue/ID.npy` and so on, and `ids.tsv`: the id and the file name of each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names: dict[str, str] = {}

    def __enter__(self) -> "NpyWriter":
        self._folder.mkdir()
        self._table = (self._folder / "ids.tsv").open("w", encoding="utf-8", newline="\n")
        self._lines = csv.writer(self._table, dialect="excel-tab", lineterminator="\n")
        self._lines.writerow(["id", "file"])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._table.close()

    def put(
        self, modality: Modality, id: str, features: Float[np.ndarray, "*rows D"], index: Int32[np.ndarray, " R"] | None
    ) -> None:
        """One file, and one more where rows have an index."""
        self._write(str(modality), id, features)
        if index is not None:
            self._write(f"{modality}-{INDEX_NAMES[modality]}", id, index)

    def end_of_protein(self, id: str) -> None:
        """A line of the table."""
        self._lines.writerow([id, f"{safe_name(id)}.npy"])

    def _write(self, name: str, id: str, values: np.ndarray) -> None:
        (self._folder / name).mkdir(exist_ok=True)
        np.save(self._folder / name / f"{safe_name(id)}.npy", values, allow_pickle=False)


class ParquetWriter:
    """One table of pooled vectors: `id`, and a column of float32 lists for each modality, null where it is absent."""

    def __init__(self, path: Path, widths: Mapping[Modality, int], modalities: tuple[Modality, ...]) -> None:
        self._path = path
        self._widths = widths
        self._modalities = modalities
        self._vectors: dict[Modality, np.ndarray] = {}
        self._rows: list[tuple[str, dict[Modality, np.ndarray]]] = []

    def __enter__(self) -> "ParquetWriter":
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = [pa.field(str(m), pa.list_(pa.float32(), self._widths[m])) for m in self._modalities]
        self._schema = pa.schema([pa.field("id", pa.string(), nullable=False), *columns])
        self._file = pq.ParquetWriter(self._path, self._schema)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._flush()
        finally:
            self._file.close()

    def put(
        self, modality: Modality, id: str, features: Float[np.ndarray, "*rows D"], index: Int32[np.ndarray, " R"] | None
    ) -> None:
        """Keep the vector until the protein is complete."""
        self._vectors[modality] = features.astype(np.float32, copy=False)

    def end_of_protein(self, id: str) -> None:
        """A row of the table; full groups are written."""
        self._rows.append((id, self._vectors))
        self._vectors = {}
        if len(self._rows) == ROWS_PER_GROUP:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        columns: list[Any] = [pa.array([id for id, _ in self._rows], pa.string())]
        for modality in self._modalities:
            vectors = [vector_of.get(modality) for _, vector_of in self._rows]
            columns.append(pa.array(vectors, self._schema.field(str(modality)).type))
        self._file.write_table(pa.Table.from_arrays(columns, schema=self._schema))
        self._rows.clear()
