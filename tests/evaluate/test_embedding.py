from typing import Any

import numpy as np
import pytest

from amma.evaluate.analyses.embedding import (
    mixing,
    most_perplexity,
    nearness,
    num_components,
    plane,
    random_vectors,
    reduced,
    reduced_jointly,
)
from amma.evaluate.analyses.vectors import Vectors
from amma.manifests.table import Modality

SEQ, STR, FUNC = Modality


def vectors(number: int, widths: tuple[int, ...] = (7, 5, 9), seed: int = 0) -> Vectors:
    rng = np.random.default_rng(seed)
    return {m: rng.normal(3, 2, (number, width)).astype(np.float32) for m, width in zip(Modality, widths, strict=True)}


def pca(x: np.ndarray, count: int) -> np.ndarray:
    """By the covariance's eigenvectors, another way than scikit-learn's."""
    centred = x - x.mean(axis=0)
    _, axes = np.linalg.eigh(centred.T @ centred)
    return centred @ axes[:, ::-1][:, :count]


def test_each_modality_is_reduced_by_itself_to_what_all_can_give() -> None:
    given = vectors(20)
    assert num_components(given) == 5
    assert num_components(vectors(4)) == 3
    for components, kept in ((100, 5), (2, 2)):
        found = reduced(given, components, scale=False)
        for modality, x in given.items():
            expected = pca(x.astype(np.float64), kept)
            assert found[modality].shape == (20, kept)
            assert np.allclose(np.abs(found[modality]), np.abs(expected), atol=1e-8)  # an axis may point either way


def test_min_max_is_by_channel_and_modality_and_leaves_what_does_not_vary_at_zero() -> None:
    given = vectors(20)
    given[STR][:, 2] = 4.0
    found = reduced(given, 5, scale=True)
    x = given[STR].astype(np.float64)
    width = x.max(axis=0) - x.min(axis=0)
    scaled = np.divide(x - x.min(axis=0), width, out=np.zeros_like(x), where=width > 0)
    assert np.allclose(np.abs(found[STR][:, :4]), np.abs(pca(scaled, 5)[:, :4]), atol=1e-8)
    assert scaled.max() == 1


def test_one_pca_for_all_keeps_modalities_apart_that_lie_apart() -> None:
    rng = np.random.default_rng(1)
    given = {m: (rng.normal(size=(30, 6)) + 10 * place).astype(np.float32) for place, m in enumerate(Modality)}
    jointly = reduced_jointly(given, 6, scale=False)
    stacked = np.concatenate(list(given.values())).astype(np.float64)
    assert np.allclose(np.abs(np.concatenate(list(jointly.values()))), np.abs(pca(stacked, 6)), atol=1e-7)
    assert mixing(jointly) == 0
    assert mixing(reduced_jointly(given, 6, scale=True)) == 0  # one min-max for all does not move them together either
    assert mixing(reduced(given, 6, scale=True)) > 0.7
    assert mixing(reduced(given, 6, scale=False)) > 0.7  # the artefact: each is centred by itself


def test_mixing_is_one_at_random_and_zero_on_islands() -> None:
    rng = np.random.default_rng(2)
    same = {m: rng.normal(size=(200, 3)) for m in Modality}
    assert mixing(same) == pytest.approx(1, abs=0.05)
    assert mixing({m: x + 100 * place for place, (m, x) in enumerate(same.items())}) == 0
    assert mixing({m: x[: 200 - 60 * place] for place, (m, x) in enumerate(same.items())}) == pytest.approx(1, abs=0.08)


def test_a_proteins_own_points_are_near_only_if_they_are_matched() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(100, 3))
    orders = [rng.permutation(100) for _ in range(8)]
    matched = {m: x + 0.01 * rng.normal(size=x.shape) for m in Modality}
    assert nearness(matched, orders) < 0.05
    shuffled = {m: points[rng.permutation(100)] for m, points in matched.items()}
    assert nearness(shuffled, orders) == pytest.approx(1, abs=0.15)


def test_the_plane_is_the_same_for_the_same_seed_and_keeps_islands_apart() -> None:
    rng = np.random.default_rng(4)
    islands = {m: rng.normal(size=(12, 5)) + 50 * place for place, m in enumerate(Modality)}
    options: dict[str, Any] = {"perplexity": 5.0, "iterations": 250}
    first, again = (plane(islands, **options, seed=1) for _ in range(2))
    assert list(first) == list(islands)
    assert all(np.array_equal(first[m], again[m]) for m in first)
    assert all(of.shape == (12, 2) for of in first.values())
    assert mixing(first) < 0.2
    assert most_perplexity(36) < 12


def test_random_vectors_have_only_mean_and_scale_in_common_with_the_given_ones() -> None:
    given = vectors(2000)
    drawn = random_vectors(given, np.random.default_rng(5))
    for modality, x in given.items():
        assert np.allclose(drawn[modality].mean(axis=0), x.mean(axis=0), atol=0.2)
        assert np.allclose(drawn[modality].std(axis=0), x.std(axis=0), rtol=0.1)
        assert abs(np.corrcoef(drawn[modality][:, 0], x[:, 0])[0, 1]) < 0.1
