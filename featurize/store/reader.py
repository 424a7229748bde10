"""Read a feature store: any proteins' rows at memory speed, and never a wrong number.

Every read checks the proteins' crc32c. Reading needs neither the encoders nor the manifest the store was made from,
and where the store is a folder it goes past zarr: shard files are flat, so rows are taken with `preadv` straight into
the caller's buffers. At an address the same rows are ranges of bytes. Arrays rewritten by another program are read
through zarr. All are held to the same checksums.

Legend: N proteins of the store, B proteins asked for.
"""

import logging
import operator
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
from awscrt.checksums import crc32c
from jaxtyping import Bool, Float, Int32, Int64, UInt8

from amma.featurize.store.affine import FINGERPRINT_KEY, Affine, read_affines
from amma.featurize.store.catalogue import Catalogue, PartialCatalogue, SealedCatalogue, checked_file
from amma.featurize.store.documents import is_sealed
from amma.featurize.store.files import Files, LocalFiles, ZarrFiles
from amma.featurize.store.foreign import ZarrRows
from amma.featurize.store.header import parse_header
from amma.featurize.store.ids import KIND_NAMES, StoredColumn, StoredIds
from amma.featurize.store.index import Entries
from amma.featurize.store.layout import CLS_MODALITIES, INDEX_ARRAYS, PLAN_FILE, QUARANTINE_FILE, SEAL_FILE
from amma.featurize.store.ledger import committed_units
from amma.featurize.store.location import Location, is_address
from amma.featurize.store.opened import NotFlatError, OpenShards, Part, Place, RowReader, Sum
from amma.featurize.store.packed import Packed, PackedProteins, RowBuffers
from amma.featurize.store.ranged import RangedShards
from amma.featurize.store.seal import Seal, parse_seal
from amma.featurize.store.shard import FileRecord
from amma.featurize.store.unit import UnitFacts
from amma.manifests.errors import CorruptStoreError, StoreError
from amma.manifests.quarantine import Rejection, parse_quarantine
from amma.manifests.table import MODALITIES, Modality

log = logging.getLogger(__name__)

_METADATA = "zarr.json"


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of one protein and modality.

    `index` is the residue index (0-based) of each structure row or the text field of each token, None for sequences.
    """

    features: Float[np.ndarray, "rows width"]
    index: Int32[np.ndarray, " rows"] | None


class FeatureStore:
    """A sealed store, or with `partial` what is committed of an unfinished one. Safe to read from many threads.

    `path` is a folder, an address (`s3://bucket/prefix`, as text), or any store object of zarr's; what is in no folder
    must be sealed.
    Proteins are numbered in plan order, that of `ids`. Opening costs the same for any number of proteins. Raises
    `StoreError` if `path` is no store, is not sealed, or is of a newer major version (`E_VERSION`);
    `CorruptStoreError` if the seal or a small file is not as it was written. Everything else is checked as it is
    read; `amma-featurize verify` checks all of it. `threads` is how many read for one call of `read_many`; a loader
    that has threads of its own needs one.
    """

    def __init__(self, path: Path | str | Any, *, partial: bool = False, threads: int = 1) -> None:
        folder = Path(path) if isinstance(path, (str, Path)) and not is_address(path) else None
        if isinstance(path, str) and folder is None:
            from amma.featurize.store.remote import open_remote

            path = open_remote(path)
        self.path: Location = str(path) if folder is None else folder
        self._files: Files = ZarrFiles(path) if folder is None else LocalFiles(folder)
        self.is_sealed = self._files.exists(SEAL_FILE) if folder is None else is_sealed(folder)
        if not self.is_sealed and not self._files.exists(PLAN_FILE):
            raise StoreError(f"{path}: not a feature store (no {PLAN_FILE}). Make one with amma-featurize run.")
        if not self.is_sealed and (folder is None or not partial):
            raise StoreError(
                f"{path}: not sealed; the run that fills it has not ended. Run the same amma-featurize run again to "
                "finish it, or read what is there as a partial store.",
                code="E_UNSEALED",
            )
        where = self._files.where
        seal = parse_seal(self._files.read(SEAL_FILE), f"{where}/{SEAL_FILE}") if self.is_sealed else None
        plan = (
            self._files.read(PLAN_FILE)
            if seal is None
            else checked_file(self._files, PLAN_FILE, seal.files.get(PLAN_FILE))
        )
        self._quarantine = None if seal is None else seal.files.get(QUARANTINE_FILE)
        self.root_hash = "" if seal is None else seal.root
        self.header = header = parse_header(plan, f"{where}/{PLAN_FILE}")
        self.layout = header.layout
        self.fingerprint: dict[str, Any] = header.fingerprint
        self.random_weights = header.random_weights
        self.num_proteins = header.num_proteins
        self.widths: dict[Modality, int] = dict(header.widths)
        self.dtype = header.layout.dtype
        self.affines: dict[Modality, Affine] = {}
        """What the codes of an int8 store mean; empty for any other."""
        if self.layout.is_coded:
            maps = header.fingerprint[FINGERPRINT_KEY]["maps"]
            listed = {} if seal is None else seal.files

            def read(name: str) -> bytes:
                return checked_file(self._files, name, listed.get(name)) if listed else self._files.read(name)

            self.affines = read_affines(self.layout, read, maps, where)
        self._catalogue: Catalogue = (
            PartialCatalogue(Path(self.path), header)
            if seal is None
            else SealedCatalogue(self._files, header, seal.files)
        )
        self.ids = StoredIds(self._catalogue.text("id"), lambda row: self._catalogue.entries([row]).ids[0])
        self._zarr = ZarrRows(path, where, self.layout)
        self._shards: RowReader = (
            RangedShards(path, where, self.layout) if folder is None else OpenShards(folder, self.layout)
        )
        if seal is not None and self._is_rewritten(seal):
            self._shards = self._zarr
        self._sum: Sum | None = crc32c
        self._length: dict[Modality, np.ndarray] = {}
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="reader") if threads > 1 else None

    def __enter__(self) -> "FeatureStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return self.num_proteins

    def close(self) -> None:
        """Close what is open; a later read opens it again."""
        self._shards.close()
        self._zarr.close()
        self._files.close()

    def sequences(self) -> StoredColumn:
        """The sequence of every protein; iterating holds one row group in memory, `take` gives chosen ones."""
        return self._catalogue.text("sequence")

    def row_of(self, id: str) -> int:
        """The number of the protein called `id`; raises `KeyError` if it is not in the store."""
        return self.ids.position(id)

    def present(self, modality: Modality) -> Bool[np.ndarray, " N"]:
        """Which proteins have features of this modality."""
        return self._catalogue.column(modality, "present")

    def length(self, modality: Modality) -> Int32[np.ndarray, " N"]:
        """How many rows each protein has; 0 where it is not present. Kept once it was asked for."""
        length = self._length.get(modality)
        if length is None:
            length = self._catalogue.column(modality, "length")
            length[~self.present(modality)] = 0
            length.flags.writeable = False
            self._length[modality] = length
        return length

    def start(self, modality: Modality) -> Int64[np.ndarray, " N"]:
        """The row of the Zarr array at which each protein begins."""
        return self._catalogue.column(modality, "start")

    def kind_codes(self) -> UInt8[np.ndarray, " N"]:
        """What each protein has, as places in `KIND_NAMES`."""
        codes = np.zeros(self.num_proteins, dtype=np.uint8)
        for modality in MODALITIES:
            codes = codes * np.uint8(2) + self.present(modality)
        return codes

    def kinds(self) -> list[str]:
        """The names of `kind_codes`: `triplet`, `seq-str`, `seq-func` or `seq`; `absent` where nothing is present."""
        return [KIND_NAMES[code] for code in self.kind_codes().tolist()]

    def first_of_units(self) -> Int64[np.ndarray, " U"]:
        """The number of the first protein of each unit."""
        unit = self.start(MODALITIES[0]) // self.layout.shard_rows
        first: Int64[np.ndarray, " U"] = np.searchsorted(unit, np.arange(self.layout.num_units))
        return first

    def entries(self, proteins: Sequence[int]) -> Entries:
        """Ids, places, lengths and checksums of some proteins, each record checked."""
        return self._catalogue.entries(proteins)

    def read(self, modality: Modality, protein: SupportsIndex) -> Rows:
        """The rows of one protein, checked against its crc32c, as numbers whatever they are stored as.

        Raises `CorruptStoreError` naming the file and the protein, `StoreError` if it has no such features.
        """
        rows = self.read_many([operator.index(protein)], [modality]).rows[modality]
        features = rows.features if rows.affine is None else rows.affine.numbers(rows.features)
        return Rows(features, None if rows.index is None else rows.index.astype(np.int32, copy=False))

    def read_many(
        self, proteins: Sequence[int], modalities: Sequence[Modality], buffers: RowBuffers | None = None
    ) -> PackedProteins:
        """The rows of `proteins` in each of `modalities`, one after the other, checked against their crc32c.

        With `buffers` what is returned are views of them, overwritten by the next call that is given the same.
        Raises `CorruptStoreError` naming the file and the protein, `StoreError` if one has no such features. After
        either, what is in the buffers must not be used.
        """
        entries = self.entries(proteins)
        buffers = RowBuffers() if buffers is None else buffers
        rows = {}
        for modality in modalities:
            length_B = entries.length_BM[:, MODALITIES.index(modality)]
            packed = rows[modality] = self.room(modality, length_B, buffers)
            self.fill(modality, entries, packed, packed.offsets[:-1])
        return PackedProteins(entries.ids, rows)

    def room(self, modality: Modality, length_B: Int64[np.ndarray, " B"], buffers: RowBuffers) -> Packed:
        """Buffers for proteins of these lengths, not filled yet."""
        offsets = np.zeros(len(length_B) + 1, dtype=np.int64)
        np.cumsum(length_B, out=offsets[1:])
        features = buffers.take(self.layout.features(modality), int(offsets[-1]))
        spec = INDEX_ARRAYS.get(modality)
        index = None if spec is None else buffers.take(spec, int(offsets[-1]))
        return Packed(features, index, offsets, self.affines.get(modality))

    def fill(self, modality: Modality, entries: Entries, packed: Packed, begin_B: Int64[np.ndarray, " B"]) -> None:
        """Read the rows of `entries` to the places `begin_B` of `packed`; raises as `read_many`."""
        expected_B = entries.crc32c_BM[:, MODALITIES.index(modality)].tolist()
        parts = self._parts(modality, entries, packed, begin_B.tolist())
        try:
            found_B = self._read(parts) if self._pool is None else self._read_in_threads(parts, self._pool)
        except CorruptStoreError as error:
            raise self._blamed(error, entries, parts) from error
        if self._sum is None:
            return
        for name, part, found, expected in zip(entries.ids, parts, found_B, expected_B, strict=True):
            if found != expected:
                files = " or ".join(place.spec.chunk_file(place.start // self.layout.shard_rows) for place, _ in part)
                raise CorruptStoreError(
                    f"{self._files.where}/{files}: protein {name!r}: crc32c is {found:08x}, stored was "
                    f"{expected:08x}. Run amma-featurize verify {self.path}."
                )

    def units(self) -> Iterator[UnitFacts]:
        """What each committed unit knows of its proteins, in order; every file is checked against its hash."""
        return map(
            self._catalogue.unit, range(self.header.num_units) if self.is_sealed else committed_units(Path(self.path))
        )

    def unit(self, number: int) -> UnitFacts:
        """As `units`, of one."""
        return self._catalogue.unit(number)

    def rejections(self) -> list[Rejection]:
        """The late rejects: proteins of the plan that could not be encoded, a line for each modality that failed."""
        if self.is_sealed:
            return parse_quarantine(checked_file(self._files, QUARANTINE_FILE, self._quarantine))
        return [rejection for facts in self.units() for rejection in facts.past.rejections]

    def will_need(self, proteins: Sequence[int], modalities: Sequence[Modality]) -> None:
        """Have the rows of `proteins` brought into memory while something else is done, where the system can.

        What is damaged is left for the read to say.
        """
        try:
            entries = self.entries(proteins)
        except CorruptStoreError:
            return
        for modality in modalities:
            column = MODALITIES.index(modality)
            places = zip(entries.start_BM[:, column].tolist(), entries.length_BM[:, column].tolist(), strict=True)
            specs = self.layout.row_arrays(modality)
            self._shards.will_need([Place(spec, start, rows) for start, rows in places if rows for spec in specs])

    def cls(self, modality: Modality, protein: SupportsIndex) -> Float[np.ndarray, " width"]:
        """The special-token row of one protein (BOS of ESM, [CLS] of BERT)."""
        protein = operator.index(protein)
        entries = self.entries([protein])
        self._check_present(modality, entries)
        if modality not in CLS_MODALITIES:
            raise StoreError(f"{self.path}: {modality} features have no special-token row")
        return self._catalogue.cls(modality, protein)

    def _parts(self, modality: Modality, entries: Entries, packed: Packed, begin_B: Sequence[int]) -> list[Part]:
        column = MODALITIES.index(modality)
        self._check_present(modality, entries)
        targets = [packed.features] if packed.index is None else [packed.features, packed.index]
        arrays = list(zip(self.layout.row_arrays(modality), targets, strict=True))
        starts, lengths = entries.start_BM[:, column].tolist(), entries.length_BM[:, column].tolist()
        return [
            [(Place(spec, start, rows), target[begin : begin + rows]) for spec, target in arrays]
            for start, rows, begin in zip(starts, lengths, begin_B, strict=True)
        ]

    def _read(self, parts: Sequence[Part]) -> list[int]:
        try:
            return self._shards.read(parts, self._sum)
        except NotFlatError:
            return [self._read_alone(part) for part in parts]

    def _read_in_threads(self, parts: Sequence[Part], pool: ThreadPoolExecutor) -> list[int]:
        cuts = [len(parts) * number // self._threads for number in range(self._threads + 1)]
        pending = [pool.submit(self._read, parts[begin:end]) for begin, end in pairwise(cuts)]
        wait(pending)  # all of them, also after an error: nobody may write into the buffers after this call
        return [value for each in pending for value in each.result()]

    def _read_alone(self, part: Part) -> int:
        try:
            return self._shards.read([part], self._sum)[0]
        except NotFlatError:
            return self._zarr.read([part], self._sum)[0]

    def _blamed(self, error: CorruptStoreError, entries: Entries, parts: Sequence[Part]) -> CorruptStoreError:
        """The error again, with the protein at which it comes up."""
        for name, part in zip(entries.ids, parts, strict=True):
            try:
                self._read([part])
            except CorruptStoreError as again:
                return CorruptStoreError(f"{again} Hit: protein {name!r}.")
        return error

    def _check_present(self, modality: Modality, entries: Entries) -> None:
        absent_B = entries.length_BM[:, MODALITIES.index(modality)] == 0
        if absent_B.any():
            name = entries.ids[int(absent_B.argmax())]
            raise StoreError(f"{self.path}: protein {name!r} has no {modality} features")

    def _is_rewritten(self, seal: Seal) -> bool:
        """Whether another program changed how rows are stored, which their metadata tell.

        Raises `CorruptStoreError` if any other metadata are not as they were sealed, or if these do not fit the plan.
        """
        rows = {f"{spec.path}/{_METADATA}": spec for m in MODALITIES for spec in self.layout.row_arrays(m)}
        for name in seal.files:
            if name.endswith(_METADATA) and name not in rows and name != _METADATA:
                checked_file(self._files, name, seal.files[name])
        changed = [name for name in rows if FileRecord.of(self._files.read(name)) != seal.files.get(name)]
        for name in changed:
            self._zarr.check(rows[name])
        if not changed:
            checked_file(self._files, _METADATA, seal.files.get(_METADATA))
            return False
        log.warning(
            "%s: %s is not what the seal says; rows are read through zarr, ten times slower, and checked all the same",
            self._files.where,
            changed[0],
        )
        return True
