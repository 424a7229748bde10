from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from amma.manifests.errors import FingerprintError, InputError, StoreError
from amma.manifests.table import Modality
from amma.train.data.corpus import Corpus, FeatureSource


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, make_store: Callable[..., Path]) -> list[Path]:
    folder = tmp_path_factory.mktemp("two")
    return [
        make_store(folder / "one.zarr", {"triplet": 3, "seq": 1}),
        make_store(folder / "two.zarr", {"seq-str": 2}, seed=1, prefix="Q"),
    ]


def test_several_stores_are_numbered_through(two: list[Path]) -> None:
    corpus = Corpus.open(two)
    one, other = corpus.stores
    assert corpus.num_proteins == len(corpus.ids) == 6
    assert list(corpus.ids) == [*one.ids, *other.ids] == [corpus.ids[protein] for protein in range(6)]
    assert corpus.kinds() == one.kinds() + other.kinds()
    assert list(corpus.sequences()) == [*one.sequences(), *other.sequences()]
    assert corpus.root_hashes == [one.root_hash, other.root_hash]
    assert corpus.length(Modality.SEQ).tolist() == [*one.length(Modality.SEQ), *other.length(Modality.SEQ)]
    for protein in range(6):
        store, row = corpus.locate(protein)
        assert np.array_equal(corpus.read(Modality.SEQ, protein).features, store.read(Modality.SEQ, row).features)
    with pytest.raises(IndexError):
        corpus.locate(6)
    corpus.close()


def test_a_store_and_a_corpus_serve_alike(two: list[Path]) -> None:
    corpus = Corpus.open(two)
    assert isinstance(corpus, FeatureSource)
    assert isinstance(corpus.stores[0], FeatureSource)


def test_stores_of_other_encoders_are_refused_with_the_field_named(
    two: list[Path], tmp_path: Path, make_store: Callable[..., Path], fingerprint: dict[str, Any]
) -> None:
    other = {**fingerprint, "seq": {"name": "test", "layer": 3}}
    path = make_store(tmp_path / "other.zarr", {"triplet": 1}, prefix="R", fingerprint=other)
    with pytest.raises(FingerprintError, match=r"other\.zarr was not written like .*one\.zarr: seq\.layer: 2 -> 3\."):
        Corpus.open([two[0], path])


def test_an_id_in_two_stores_is_refused(two: list[Path], tmp_path: Path, make_store: Callable[..., Path]) -> None:
    path = make_store(tmp_path / "again.zarr", {"seq-str": 1}, seed=5, prefix="P")
    with pytest.raises(InputError, match=r"1 ids are in more than one store, 'P0' in .*one\.zarr and .*again\.zarr"):
        Corpus.open([two[0], path])


def test_no_store_is_no_corpus() -> None:
    with pytest.raises(StoreError, match="no store"):
        Corpus([])
