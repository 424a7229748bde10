import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amma.manifests.table import Modality
from amma.train.model.standardise import Moments, Standardiser

SEQ = Modality.SEQ


@given(st.lists(st.integers(0, 9), min_size=1, max_size=8), st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_moments_of_blocks_are_the_moments_of_all_rows(blocks: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    # A mean far from 0 is where sums of squares would lose everything.
    rows = [(rng.normal(1e4, [1, 5, 0.1], (size, 3))).astype(np.float32) for size in blocks]
    one, two = Moments(3), Moments(3)
    for index, block in enumerate(rows):
        (one if index % 2 else two).update(block)
    merged = one.merge(two)
    whole = np.concatenate(rows).astype(np.float64)
    assert merged.count == len(whole)
    if len(whole):
        np.testing.assert_allclose(merged.mean_D, whole.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(merged.sigma_D, whole.std(axis=0), rtol=1e-6, atol=1e-9)


def fitted(rows: np.ndarray) -> Standardiser:
    standardiser = Standardiser({SEQ: rows.shape[1]})
    moments = Moments(rows.shape[1])
    for start in range(0, len(rows), 7):
        moments.update(rows[start : start + 7])
    standardiser.fit(SEQ, moments)
    return standardiser


def test_training_features_come_out_with_mean_0_and_sigma_1_and_go_back() -> None:
    rows = np.random.default_rng(0).normal(3, [1, 20, 0.4], (500, 3)).astype(np.float32)
    standardiser = fitted(rows)
    out = standardiser(SEQ, torch.from_numpy(rows))
    torch.testing.assert_close(out.mean(0), torch.zeros(3), rtol=0, atol=1e-4)
    torch.testing.assert_close(out.std(0, correction=0), torch.ones(3), rtol=0, atol=1e-4)
    torch.testing.assert_close(standardiser.inverse(SEQ, out), torch.from_numpy(rows))


def test_nearly_constant_channels_are_not_blown_up_and_constant_ones_are_not_live() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(0, 2, (400, 5)).astype(np.float32)
    rows[:, 3] = 0.1
    rows[:, 4] = 1 + 1e-5 * rng.normal(size=400)
    standardiser = fitted(rows)
    assert standardiser.live(SEQ).tolist() == [True, True, True, False, True]
    assert standardiser.num_live(SEQ) == 4
    median = float(np.median(rows[:, [0, 1, 2, 4]].std(axis=0)))
    np.testing.assert_allclose(standardiser.scale(SEQ)[3:], 1e-3 * median, rtol=1e-5)
    # A constant channel that varies in another store says nothing to the model.
    other = torch.from_numpy(rows) + 1.0
    assert standardiser(SEQ, other)[:, 3].tolist() == [0.0] * 400
    assert torch.isfinite(standardiser.inverse(SEQ, standardiser(SEQ, other))).all()


def test_statistics_travel_in_the_state_and_nothing_else_does() -> None:
    rows = np.random.default_rng(0).normal(3, [1, 20, 0.4], (50, 3)).astype(np.float32)
    rows[:, 1] = 5
    standardiser, other = fitted(rows), Standardiser({SEQ: 3})
    assert other.num_live(SEQ) == 3
    other.load_state_dict(standardiser.state_dict())
    assert other.num_live(SEQ) == 2
    features = torch.randn(4, 3)
    assert torch.equal(other(SEQ, features), standardiser(SEQ, features))
    assert not list(standardiser.parameters())


def test_features_are_standardised_in_float32_whatever_they_come_in() -> None:
    rows = np.random.default_rng(0).normal(1000, 1, (50, 3)).astype(np.float32)
    standardiser = fitted(rows)
    with torch.autocast("cpu", torch.bfloat16):
        half = standardiser(SEQ, torch.from_numpy(rows))
    assert half.dtype == torch.float32
    assert torch.equal(half, standardiser(SEQ, torch.from_numpy(rows)))
    assert standardiser(SEQ, torch.from_numpy(rows).half()).dtype == torch.float32


def test_without_any_rows_features_pass_unchanged() -> None:
    standardiser = Standardiser({SEQ: 3})
    standardiser.fit(SEQ, Moments(3))
    features = torch.randn(4, 3)
    assert torch.equal(standardiser(SEQ, features), features)
