"""The per-protein entries of a store in memory, from a sealed store's arrays or from an unfinished one's units.

Legend: N proteins in plan order.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int32, Int64, UInt32

from amma.featurize.store.documents import read_regular
from amma.featurize.store.header import Header
from amma.featurize.store.layout import COLUMNS, Layout, column, side_file
from amma.featurize.store.ledger import checked_side_file, committed_units, read_entry
from amma.featurize.store.shard import FileRecord
from amma.featurize.store.unit import UnitFacts
from amma.manifests.errors import CorruptStoreError
from amma.manifests.table import MODALITIES, Modality


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Where each protein's rows are, what their checksum is, and whether they are there."""

    start: dict[Modality, Int64[np.ndarray, " N"]]
    length: dict[Modality, Int32[np.ndarray, " N"]]
    crc32c: dict[Modality, UInt32[np.ndarray, " N"]]
    present: dict[Modality, Bool[np.ndarray, " N"]]
    """True where the features are stored; elsewhere `length` is 0."""


def checked_file(store: Path, name: str, files: Mapping[str, FileRecord]) -> bytes:
    """The bytes of a file that the seal lists; raises `CorruptStoreError` if they are not what it says."""
    data = read_regular(store / name)
    if FileRecord.of(data) != files.get(name):
        raise CorruptStoreError(f"{store / name}: not what the seal says. Run amma-featurize verify {store}.")
    return data


def sealed_catalogue(store: Path, layout: Layout, files: Mapping[str, FileRecord]) -> Catalogue:
    """Read the arrays of a sealed store, each file checked against the seal."""
    columns: dict[str, dict[Modality, np.ndarray]] = {name: {} for name in COLUMNS}
    for modality in MODALITIES:
        for name in COLUMNS:
            spec = column(modality, name)
            values = np.empty(layout.num_proteins, dtype=spec.dtype)
            for chunk, file in enumerate(layout.protein_files(spec)):
                part = np.frombuffer(checked_file(store, file, files), dtype=spec.dtype)
                begin = chunk * layout.protein_chunk_rows(spec)
                values[begin : begin + len(part)] = part[: layout.num_proteins - begin]
            columns[name][modality] = values
    return _catalogue(columns)


def partial_catalogue(store: Path, header: Header) -> Catalogue:
    """Read the entries of the units that are committed so far; the other proteins are not present."""
    columns = {
        name: {modality: np.zeros(header.num_proteins, dtype=column(modality, name).dtype) for modality in MODALITIES}
        for name in COLUMNS
    }
    for unit in committed_units(store):
        entry = read_entry(store, unit, header.plan_sha256)
        facts = UnitFacts.from_bytes(checked_side_file(store, entry, side_file(unit)))
        for modality in MODALITIES:
            for name in COLUMNS:
                columns[name][modality][entry.first : entry.first + entry.proteins] = facts.column(modality, name)
    return _catalogue(columns)


def _catalogue(columns: dict[str, dict[Modality, np.ndarray]]) -> Catalogue:
    for modality in MODALITIES:
        columns["length"][modality][~columns["present"][modality]] = 0
        for values in columns.values():
            values[modality].flags.writeable = False
    return Catalogue(columns["start"], columns["length"], columns["crc32c"], columns["present"])
