from pathlib import Path

import numpy as np
import pytest
import torch

import amma.train.data.position_profile
from amma.manifests.table import MODALITIES, Modality
from amma.train.data.corpus import Corpus
from amma.train.data.position_profile import measure_profiles
from amma.train.model.standardise import Moments, Standardiser


@pytest.fixture
def corpus(store: Path) -> Corpus:
    return Corpus.open([store])


def fitted(corpus: Corpus) -> Standardiser:
    standardiser = Standardiser(corpus.widths)
    for modality, width in corpus.widths.items():
        rng = np.random.default_rng(1)
        standardiser.fit(modality, Moments(width).update(rng.normal(2.0, 3.0, (50, width))))
    return standardiser


def test_a_profile_is_the_standardised_mean_at_each_position_with_one_token_at_the_mean(corpus: Corpus) -> None:
    proteins = np.arange(0, corpus.num_proteins, 2)
    standardiser = fitted(corpus)
    profiles = measure_profiles(corpus, proteins, standardiser, threads=2)
    for modality in MODALITIES:
        at: dict[int, list[torch.Tensor]] = {}
        for protein in proteins[corpus.length(modality)[proteins] > 0]:
            rows = corpus.read(modality, int(protein))
            places = rows.index if modality is Modality.STR else range(len(rows.features))
            assert places is not None
            for place, features in zip(places, standardiser(modality, torch.tensor(rows.features)), strict=True):
                at.setdefault(int(place), []).append(features)
        for place in range(max(at) + 1):
            found = at.get(place, [])  # structures lack their third residue
            expected = sum(found, torch.zeros(corpus.widths[modality])) / (len(found) + 1)
            predicted = profiles[modality].at(torch.tensor([place]))[0]
            torch.testing.assert_close(predicted, expected, rtol=1e-4, atol=1e-5)
        beyond = profiles[modality].at(torch.tensor([max(at) + 100]))
        assert not beyond.any()


def test_a_large_set_is_sampled_evenly_and_threads_change_nothing(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    standardiser = fitted(corpus)
    every_third = measure_profiles(corpus, np.arange(0, corpus.num_proteins, 3), standardiser, threads=1)
    monkeypatch.setattr(amma.train.data.position_profile, "MOST_PROTEINS", -(-corpus.num_proteins // 3))
    sampled = measure_profiles(corpus, np.arange(corpus.num_proteins), standardiser, threads=4)
    places = torch.arange(40)
    for modality in MODALITIES:
        assert torch.equal(sampled[modality].at(places), every_third[modality].at(places))
