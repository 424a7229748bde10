"""Several sealed stores read as one: proteins are numbered through, store after store.

This module knows which protein is where; it knows nothing about batches, streams or training.

Legend: N proteins of all stores together.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int32, Int64, UInt8

from amma.featurize.store.fingerprint import differences
from amma.featurize.store.location import Location
from amma.featurize.store.packed import PackedProteins, RowBuffers
from amma.featurize.store.reader import FeatureStore, Rows
from amma.manifests.errors import FingerprintError, InputError, StoreError
from amma.manifests.table import MODALITIES, Modality
from amma.train.data.sequence_hash import sequence_hashes


@runtime_checkable
class FeatureSource(Protocol):
    """What batches are made from: one `FeatureStore` or a `Corpus` of several."""

    @property
    def ids(self) -> Sequence[str]:
        """The proteins' own ids, by number."""

    @property
    def widths(self) -> dict[Modality, int]:
        """Channels of each modality."""

    def length(self, modality: Modality) -> Int32[np.ndarray, " N"]:
        """Rows of each protein in `modality`, 0 where it is absent."""

    def read(self, modality: Modality, protein: int) -> Rows:
        """One protein's rows, checked against their checksum."""

    def read_many(
        self, proteins: Sequence[int], modalities: Sequence[Modality], buffers: RowBuffers | None = None
    ) -> PackedProteins:
        """The rows of several proteins one after the other, each checked against its checksum."""

    def will_need(self, proteins: Sequence[int], modalities: Sequence[Modality]) -> None:
        """Have these rows brought into memory while something else is done."""


class Corpus:
    """Stores with equal fingerprints as one `FeatureSource`.

    Raises `FingerprintError` naming each field in which a store differs from the first, and `InputError` if two
    stores hold the same id.
    """

    def __init__(self, stores: Sequence[FeatureStore]) -> None:
        if not stores:
            raise StoreError("no store was given")
        self.stores = tuple(stores)
        self.ids = _Ids(self)
        self._ends = list(accumulate(store.num_proteins for store in self.stores))
        first = self.stores[0]
        for other in self.stores[1:]:
            different = differences(first.fingerprint, other.fingerprint)
            if different:
                raise FingerprintError(
                    f"{other.path} was not written like {first.path}: {'; '.join(different)}. "
                    "Features of different encoders do not mix; run amma-featurize with the same settings for both."
                )
        if len(self.stores) > 1:
            self._refuse_shared_ids()

    @classmethod
    def open(cls, paths: Sequence[Location]) -> "Corpus":
        """Open each path as a sealed store."""
        return cls([FeatureStore(path) for path in paths])

    @property
    def num_proteins(self) -> int:
        """N."""
        return self._ends[-1]

    @property
    def widths(self) -> dict[Modality, int]:
        """Channels of each modality, the same in every store."""
        return self.stores[0].widths

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What decided the numbers in every one of the stores."""
        return self.stores[0].fingerprint

    @property
    def root_hashes(self) -> list[str]:
        """The root hash of each store, in order."""
        return [store.root_hash for store in self.stores]

    @property
    def random_weights(self) -> bool:
        """True if the encoders' weights were seeded random numbers."""
        return any(store.random_weights for store in self.stores)

    def locate(self, protein: int) -> tuple[FeatureStore, int]:
        """The store of a protein and its number there."""
        if not 0 <= protein < self.num_proteins:
            raise IndexError(protein)
        number = bisect_right(self._ends, protein)
        return self.stores[number], protein - (self._ends[number - 1] if number else 0)

    def length(self, modality: Modality) -> Int32[np.ndarray, " N"]:
        """Rows of each protein in `modality`, 0 where it is absent."""
        lengths = [store.length(modality) for store in self.stores]
        return lengths[0] if len(lengths) == 1 else np.concatenate(lengths)

    def kind_codes(self) -> UInt8[np.ndarray, " N"]:
        """What each protein really has in its store, as places in `KIND_NAMES`."""
        return np.concatenate([store.kind_codes() for store in self.stores])

    def kinds(self) -> list[str]:
        """`triplet`, `seq-str`, `seq-func` or `seq` for each protein: what it really has in the store."""
        return [kind for store in self.stores for kind in store.kinds()]

    def sequences(self) -> Iterator[str]:
        """Every sequence, in order, one store's at a time in memory."""
        for store in self.stores:
            yield from store.sequences()

    def read(self, modality: Modality, protein: int) -> Rows:
        """One protein's rows, checked against their checksum; raises `CorruptStoreError` naming file and id."""
        store, row = self.locate(protein)
        return store.read(modality, row)

    def read_many(
        self, proteins: Sequence[int], modalities: Sequence[Modality], buffers: RowBuffers | None = None
    ) -> PackedProteins:
        """The rows of several proteins one after the other; as `FeatureStore.read_many`, over all stores."""
        parts = self._by_store(proteins)
        if len(parts) == 1:
            ((store, _, rows),) = parts
            return store.read_many(rows, modalities, buffers)
        buffers = RowBuffers() if buffers is None else buffers
        entries = [store.entries(rows) for store, _, rows in parts]
        ids = [""] * len(proteins)
        length_BM = np.zeros((len(proteins), len(MODALITIES)), dtype=np.int64)
        for (_, places, _), found in zip(parts, entries, strict=True):
            length_BM[places] = found.length_BM
            for place, name in zip(places, found.ids, strict=True):
                ids[place] = name
        packed = {}
        for modality in modalities:
            length_B = length_BM[:, MODALITIES.index(modality)]
            whole = packed[modality] = self.stores[0].room(modality, length_B, buffers)
            for (store, places, _), found in zip(parts, entries, strict=True):
                store.fill(modality, found, whole, whole.offsets[places])
        return PackedProteins(tuple(ids), packed)

    def will_need(self, proteins: Sequence[int], modalities: Sequence[Modality]) -> None:
        """Have these rows brought into memory while something else is done, where the system can."""
        for store, _, rows in self._by_store(proteins):
            store.will_need(rows, modalities)

    def first_of_units(self) -> Int64[np.ndarray, " U"]:
        """The number of the first protein of each unit, store after store."""
        begins = [0, *self._ends[:-1]]
        parts = [store.first_of_units() + begin for store, begin in zip(self.stores, begins, strict=True)]
        return np.concatenate(parts)

    def close(self) -> None:
        """Close every store."""
        for store in self.stores:
            store.close()

    def _by_store(self, proteins: Sequence[int]) -> list[tuple[FeatureStore, list[int], list[int]]]:
        """For each store that has some of `proteins`: their places in the sequence, and their numbers in the store."""
        places: dict[int, tuple[FeatureStore, list[int], list[int]]] = {}
        for place, protein in enumerate(proteins):
            store, row = self.locate(protein)
            part = places.setdefault(id(store), (store, [], []))
            part[1].append(place)
            part[2].append(row)
        return list(places.values()) or [(self.stores[0], [], [])]

    def _refuse_shared_ids(self) -> None:
        # Hashes first: eight bytes an id, whatever the number of proteins.
        names, counts = np.unique(sequence_hashes(self.ids), return_counts=True)
        suspects = set(names[counts > 1].tolist())
        if not suspects:
            return
        by_id: dict[str, list[Location]] = {}
        for store in self.stores:
            hashes = sequence_hashes(store.ids)
            for row in np.flatnonzero(np.isin(hashes, list(suspects))):
                by_id.setdefault(store.ids[int(row)], []).append(store.path)
        shared = {name: paths for name, paths in by_id.items() if len(paths) > 1}
        if shared:
            name, paths = next(iter(shared.items()))
            raise InputError(
                f"{len(shared)} ids are in more than one store, {name!r} in {' and '.join(map(str, paths))}. "
                "Each protein may be there once; leave it out of one of the manifests."
            )


class _Ids(Sequence[str]):
    """The ids of a corpus by number, without copying them."""

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus

    def __len__(self) -> int:
        return self._corpus.num_proteins

    def __getitem__(self, protein: Any) -> Any:
        store, row = self._corpus.locate(protein)
        return store.ids[row]

    def __iter__(self) -> Iterator[str]:
        for store in self._corpus.stores:
            yield from store.ids
