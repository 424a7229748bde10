import time

import numpy as np
import pytest

from amma.evaluate.metrics import bootstrap
from amma.evaluate.metrics.bootstrap import draw_resamples, middle, resampled_figures
from amma.evaluate.metrics.exact import aupr, fmax


def make_case(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    score = [rng.random((20, 6)), rng.integers(0, 4, (20, 6)) / 3][seed % 2]
    target = rng.random((20, 6)) < 0.25
    target[rng.random(20) < 0.2] = False
    return score, target


@pytest.mark.parametrize("seed", range(10))
def test_figures_of_a_resample_are_those_of_its_proteins_repeated(seed: int, monkeypatch) -> None:
    monkeypatch.setattr(bootstrap, "THRESHOLDS_AT_ONCE", 7)  # several blocks
    score, target = make_case(seed)
    weight = draw_resamples(np.arange(20) // 2, 30, seed=seed)
    fmaxes, auprs = resampled_figures(weight, score, target)
    for row, one_fmax, one_aupr in zip(weight.astype(int), fmaxes, auprs, strict=True):
        repeated = score.repeat(row, axis=0), target.repeat(row, axis=0)
        assert one_fmax == pytest.approx(fmax(*repeated).value, abs=1e-12)
        assert one_aupr == pytest.approx(aupr(*repeated), abs=1e-12)


def test_proteins_of_a_cluster_are_drawn_together_and_clusters_with_replacement() -> None:
    cluster = np.array([7, 7, 3, 9, 3, 7])
    weight = draw_resamples(cluster, 2000)
    assert (weight[:, [0, 2]] == weight[:, [1, 4]]).all()
    assert (weight[:, 0] == weight[:, 5]).all()
    assert (weight[:, [0, 2, 3]].sum(axis=1) == 3).all()
    np.testing.assert_allclose(weight.mean(axis=0), 1, atol=0.06)
    assert len(np.unique(weight, axis=0)) == 10  # every way to draw three of three


def test_resamples_depend_on_the_seed_and_not_on_the_names_of_clusters() -> None:
    weight = draw_resamples(np.array([0, 1, 1, 2]), 50)
    assert np.array_equal(weight, draw_resamples(np.array([5, -1, -1, 3]), 50))
    assert not np.array_equal(weight, draw_resamples(np.array([0, 1, 1, 2]), 50, seed=1))


def test_fewer_thresholds_hardly_move_the_figures(monkeypatch) -> None:
    rng = np.random.default_rng(0)
    target = rng.random((300, 40)) < 0.2
    score = rng.normal(size=target.shape) + 1.5 * target
    weight = draw_resamples(np.arange(300), 20)
    monkeypatch.setattr(bootstrap, "MAX_THRESHOLDS", 10**9)
    exact = resampled_figures(weight, score, target)
    monkeypatch.setattr(bootstrap, "MAX_THRESHOLDS", 1000)
    for thinned, full in zip(resampled_figures(weight, score, target), exact, strict=True):
        np.testing.assert_allclose(thinned, full, atol=1e-3)
        assert not np.array_equal(thinned, full)


def test_an_interval_widens_when_proteins_come_in_clusters() -> None:
    rng = np.random.default_rng(1)
    easy = rng.random(30) < 0.5  # families of ten that are all easy or all hard
    target = rng.random((300, 8)) < 0.3
    score = rng.normal(size=target.shape) + np.where(easy.repeat(10)[:, None], 4.0, 0.5) * target
    widths = []
    for cluster in (np.arange(300), np.arange(300) // 10):
        low, high = middle(resampled_figures(draw_resamples(cluster, 400), score, target)[1])
        assert low < aupr(score, target) < high
        widths.append(high - low)
    assert widths[1] > 1.5 * widths[0]


def test_a_test_split_without_a_true_pair_has_figures_of_zero() -> None:
    fmaxes, auprs = resampled_figures(np.ones((3, 4)), np.random.default_rng(0).random((4, 2)), np.zeros((4, 2), bool))
    assert not fmaxes.any()
    assert not auprs.any()


def test_a_thousand_resamples_of_a_middling_task_take_seconds() -> None:
    rng = np.random.default_rng(0)
    score, target = rng.random((600, 200)), rng.random((600, 200)) < 0.02
    weight = draw_resamples(np.arange(600), 1000)
    started = time.process_time()
    resampled_figures(weight, score, target)
    assert time.process_time() - started < 10  # under 1 on an idle machine
