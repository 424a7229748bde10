"""Read a feature store: any protein's rows at memory speed, and never a wrong number.

Every read checks the protein's crc32c. Reading needs neither the encoders nor the manifest the store was made from,
and goes past zarr: shard files are flat, so rows are taken with `preadv` (about ten times faster).
"""

import operator
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Int32, Int64

from amma.featurize.store.catalogue import checked_file, partial_catalogue, sealed_catalogue
from amma.featurize.store.documents import is_sealed, read_regular
from amma.featurize.store.header import parse_header
from amma.featurize.store.ids import StoredIds, kinds_of, read_sequences
from amma.featurize.store.layout import CLS_MODALITIES, IDS_FILE, INDEX_ARRAYS, PLAN_FILE, side_file
from amma.featurize.store.ledger import checked_side_file, read_entry
from amma.featurize.store.opened import OpenShards
from amma.featurize.store.seal import read_seal
from amma.featurize.store.unit import UnitFacts, checksum
from amma.manifests.errors import CorruptStoreError, StoreError
from amma.manifests.table import MODALITIES, Modality


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of one protein and modality.

    `index` is the residue index (0-based) of each structure row or the text field of each token, None for sequences.
    """

    features: Float[np.ndarray, "rows width"]
    index: Int32[np.ndarray, " rows"] | None


class FeatureStore:
    """A sealed store, or with `partial` what is committed of an unfinished one. Safe to read from many threads.

    Proteins are numbered in plan order, that of `ids`. Raises `StoreError` if `path` is no store, is not sealed, or is
    of a newer major version (`E_VERSION`); `CorruptStoreError` if the seal or a small file is not as it was written.
    Shards are checked as they are read; `amma-featurize verify` checks all of them.
    """

    def __init__(self, path: Path, *, partial: bool = False) -> None:
        self.path = Path(path)
        self.is_sealed = is_sealed(self.path)
        if not (self.path / PLAN_FILE).exists() and not self.is_sealed:
            raise StoreError(f"{path}: not a feature store (no {PLAN_FILE}). Make one with amma-featurize run.")
        if not self.is_sealed and not partial:
            raise StoreError(
                f"{path}: not sealed; the run that fills it has not ended. Run the same amma-featurize run again to "
                "finish it, or read what is there as a partial store.",
                code="E_UNSEALED",
            )
        if self.is_sealed:
            seal = read_seal(self.path)
            self.root_hash, self._files = seal.root, seal.files
            header = parse_header(checked_file(self.path, PLAN_FILE, self._files), self.path / PLAN_FILE)
            for name in self._files:
                if name.endswith("zarr.json"):
                    checked_file(self.path, name, self._files)
            self._catalogue = sealed_catalogue(self.path, header.layout, self._files)
        else:
            self.root_hash, self._files = "", {}
            header = parse_header(read_regular(self.path / PLAN_FILE), self.path / PLAN_FILE)
            self._catalogue = partial_catalogue(self.path, header)
        self.header = header
        self.layout = header.layout
        self.fingerprint: dict[str, Any] = header.fingerprint
        self.random_weights = header.random_weights
        self.num_proteins = header.num_proteins
        self.widths: dict[Modality, int] = dict(header.widths)
        self.dtype = header.layout.dtype
        self.ids = StoredIds(self._ids_bytes, self.num_proteins)
        self._shards = OpenShards(self.path, self.layout)
        self._cls_lock = threading.Lock()
        self._cls_checked: set[str] = set()

    def __enter__(self) -> "FeatureStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return self.num_proteins

    def close(self) -> None:
        """Close the shard files; a later read opens them again."""
        self._shards.close()

    def sequences(self) -> list[str]:
        """The sequence of every protein."""
        return read_sequences(self._ids_bytes())

    def row_of(self, id: str) -> int:
        """The number of the protein called `id`; raises `KeyError` if it is not in the store."""
        return self.ids.position(id)

    def present(self, modality: Modality) -> Bool[np.ndarray, " N"]:
        """Which proteins have features of this modality."""
        return self._catalogue.present[modality]

    def length(self, modality: Modality) -> Int32[np.ndarray, " N"]:
        """How many rows each protein has; 0 where it is not present."""
        return self._catalogue.length[modality]

    def start(self, modality: Modality) -> Int64[np.ndarray, " N"]:
        """The row of the Zarr array at which each protein begins."""
        return self._catalogue.start[modality]

    def kinds(self) -> list[str]:
        """`triplet`, `seq-str`, `seq-func` or `seq` by what is present; `absent` where nothing is."""
        return kinds_of(np.stack([self.present(modality) for modality in MODALITIES], axis=1))

    def read(self, modality: Modality, protein: SupportsIndex) -> Rows:
        """The rows of one protein, checked against its crc32c.

        Raises `CorruptStoreError` naming the file and the protein, `StoreError` if it has no such features.
        """
        protein = operator.index(protein)
        length = self._length_of(modality, protein)
        features = np.empty((length, self.widths[modality]), dtype=self.layout.features(modality).dtype)
        spec = INDEX_ARRAYS.get(modality)
        index = None if spec is None else np.empty(length, dtype=spec.dtype)
        self.read_into(modality, protein, features, index)
        return Rows(features, None if index is None else index.astype(np.int32, copy=False))

    def read_into(
        self, modality: Modality, protein: SupportsIndex, features: np.ndarray, index: np.ndarray | None
    ) -> None:
        """As `read`, into buffers of the stored dtypes and the protein's length, which the caller uses again.

        `index` is None for sequences only. What is in the buffers after a `CorruptStoreError` must not be used.
        """
        protein = operator.index(protein)
        start = int(self._catalogue.start[modality][protein])
        spec = INDEX_ARRAYS.get(modality)
        if (spec is None) != (index is None) or len(features) != self._length_of(modality, protein):
            raise ValueError(f"buffers are not those of a protein of {self._length_of(modality, protein)} rows")
        try:
            name = self._shards.read_into(self.layout.features(modality), start, features)
            if spec is not None and index is not None:
                name += f" or {self._shards.read_into(spec, start, index)}"
        except CorruptStoreError as error:
            raise CorruptStoreError(f"{error} Hit: protein {self._name(protein)}.") from error
        expected, found = int(self._catalogue.crc32c[modality][protein]), checksum(features, index)
        if found != expected:
            raise CorruptStoreError(
                f"{self.path / name}: protein {self._name(protein)}: crc32c is {found:08x}, stored was "
                f"{expected:08x}. Run amma-featurize verify {self.path}."
            )

    def cls(self, modality: Modality, protein: SupportsIndex) -> Float[np.ndarray, " width"]:
        """The special-token row of one protein (BOS of ESM, [CLS] of BERT)."""
        protein = operator.index(protein)
        self._length_of(modality, protein)
        if modality not in CLS_MODALITIES:
            raise StoreError(f"{self.path}: {modality} features have no special-token row")
        if not self.is_sealed:
            return self._cls_of_unit(modality, protein)
        spec = self.layout.cls(modality)
        chunk, row = divmod(protein, self.layout.protein_chunk_rows(spec))
        name = self.layout.protein_files(spec)[chunk]
        with self._cls_lock:
            if name not in self._cls_checked:
                checked_file(self.path, name, self._files)
                self._cls_checked.add(name)
        values = np.empty(spec.row_shape, dtype=spec.dtype)
        descriptor = os.open(self.path / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            read = os.preadv(descriptor, [values.view(np.uint8).data], row * spec.row_bytes)
        finally:
            os.close(descriptor)
        if read != spec.row_bytes:
            raise CorruptStoreError(f"{self.path / name}: was cut while the store was open. Run amma-featurize verify.")
        return values

    def _cls_of_unit(self, modality: Modality, protein: int) -> np.ndarray:
        unit = int(self._catalogue.start[modality][protein]) // self.layout.shard_rows
        entry = read_entry(self.path, unit, self.header.plan_sha256)
        facts = UnitFacts.from_bytes(checked_side_file(self.path, entry, side_file(unit)))
        row: np.ndarray = facts.cls[modality][protein - entry.first]
        return row

    def _length_of(self, modality: Modality, protein: int) -> int:
        if not self._catalogue.present[modality][protein]:
            raise StoreError(f"{self.path}: protein {self._name(protein)} has no {modality} features")
        return int(self._catalogue.length[modality][protein])

    def _name(self, protein: int) -> str:
        try:
            return repr(self.ids[protein])
        except CorruptStoreError:
            return f"number {protein}"

    def _ids_bytes(self) -> Any:
        if self.is_sealed:
            return pa.BufferReader(checked_file(self.path, IDS_FILE, self._files))
        return pa.BufferReader(read_regular(self.path / IDS_FILE))
