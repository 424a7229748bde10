"""Several sealed stores read as one: proteins are numbered through, store after store.

This module knows which protein is where; it knows nothing about batches, streams or training.

Legend: N proteins of all stores together.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int32

from amma.featurize.store.fingerprint import differences
from amma.featurize.store.reader import FeatureStore, Rows
from amma.manifests.errors import FingerprintError, InputError, StoreError
from amma.manifests.table import Modality
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
    def open(cls, paths: Sequence[Path]) -> "Corpus":
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
        return np.concatenate([store.length(modality) for store in self.stores])

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

    def close(self) -> None:
        """Close every store."""
        for store in self.stores:
            store.close()

    def _refuse_shared_ids(self) -> None:
        # Hashes first: eight bytes an id, whatever the number of proteins.
        names, counts = np.unique(sequence_hashes(self.ids), return_counts=True)
        suspects = set(names[counts > 1].tolist())
        if not suspects:
            return
        by_id: dict[str, list[Path]] = {}
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
