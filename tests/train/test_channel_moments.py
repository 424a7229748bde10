from collections.abc import Callable
from pathlib import Path

import numpy as np

from amma.manifests.table import Modality
from amma.train.data.channel_moments import measure_moments
from amma.train.data.corpus import Corpus


def test_the_moments_are_those_of_all_rows_of_the_named_proteins(store: Path) -> None:
    corpus = Corpus.open([store])
    proteins = np.arange(0, corpus.num_proteins, 2)
    moments = measure_moments(corpus, proteins, threads=2)
    assert moments is not None
    for modality in Modality:
        present = corpus.stores[0].present(modality)
        rows = np.concatenate(
            [corpus.read(modality, int(protein)).features for protein in proteins if present[protein]]
        ).astype(np.float64)
        assert moments[modality].count == len(rows)
        np.testing.assert_allclose(moments[modality].mean_D, rows.mean(axis=0), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(moments[modality].sigma_D, rows.std(axis=0), rtol=1e-9)


def test_any_number_of_threads_gives_the_same_bits(store: Path) -> None:
    corpus = Corpus.open([store])
    proteins = np.arange(corpus.num_proteins)
    one, many = (measure_moments(corpus, proteins, threads=threads) for threads in (1, 4))
    assert one is not None
    assert many is not None
    for modality in Modality:
        assert one[modality].mean_D.tobytes() == many[modality].mean_D.tobytes()
        assert one[modality].m2_D.tobytes() == many[modality].m2_D.tobytes()


def test_it_stops_when_told_to(store: Path) -> None:
    corpus = Corpus.open([store])
    assert measure_moments(corpus, np.arange(corpus.num_proteins), threads=1, stop=lambda: True) is None


def test_progress_counts_every_protein(store: Path) -> None:
    corpus = Corpus.open([store])
    seen: list[int] = []
    measure_moments(corpus, np.arange(corpus.num_proteins), threads=1, advance=seen.append)
    assert sum(seen) == corpus.num_proteins


def test_a_modality_that_nobody_has_counts_nothing(tmp_path: Path, make_store: Callable[..., Path]) -> None:
    corpus = Corpus.open([make_store(tmp_path / "pairs.zarr", {"seq-str": 3})])
    moments = measure_moments(corpus, np.arange(3), threads=1)
    assert moments is not None
    assert moments[Modality.FUNC].count == 0
