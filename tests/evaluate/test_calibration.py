"""Calibration: scikit-learn's logistic regression and reliability curve are the oracles."""

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss

from amma.evaluate.metrics.calibration import Calibration, fit_calibration, reliability
from amma.evaluate.metrics.exact import aupr, fmax


def drawn(seed: int, proteins: int = 60, terms: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Overconfident scores: the logits are twice what they should be, and shifted."""
    rng = np.random.default_rng(seed)
    logit_NK = rng.normal(-2, 1.5, size=(proteins, terms))
    target_NK = rng.random(logit_NK.shape) < 1 / (1 + np.exp(-logit_NK))
    return (1 / (1 + np.exp(-(2 * logit_NK + 1)))).astype(np.float32), target_NK


@pytest.mark.parametrize("seed", range(5))
def test_the_line_is_that_of_an_unpenalised_logistic_regression_on_platts_targets(seed: int) -> None:
    score_NK, target_NK = drawn(seed)
    line = fit_calibration(score_NK, target_NK)
    score, true = score_NK.astype(np.float64).ravel(), target_NK.ravel()
    logit = np.log(score / (1 - score))[:, None]
    wanted = np.where(true, (true.sum() + 1) / (true.sum() + 2), 1 / ((~true).sum() + 2))
    oracle = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(
        np.concatenate([logit, logit]), np.repeat([True, False], len(true)), np.concatenate([wanted, 1 - wanted])
    )
    assert line.slope == pytest.approx(oracle.coef_.item(), rel=1e-4)
    assert line.intercept == pytest.approx(oracle.intercept_.item(), rel=1e-4)
    assert (line.num_pairs, line.num_true, line.identity_because) == (true.size, true.sum(), None)


def test_overconfident_scores_come_out_as_often_true_as_they_say() -> None:
    score_NK, target_NK = drawn(0, proteins=2000)
    other_NK, truth_NK = drawn(1, proteins=2000)
    line = fit_calibration(score_NK, target_NK)
    assert line.slope == pytest.approx(0.5, abs=0.03)
    before, after = reliability(other_NK, truth_NK), reliability(line.apply(other_NK), truth_NK)
    assert (after.expected_error or 1) < 0.01 < 0.05 < (before.expected_error or 0)
    assert (after.brier or 1) < (before.brier or 0)


def test_a_rising_line_leaves_fmax_and_aupr_as_they_are() -> None:
    score_NK, target_NK = drawn(3)
    calibrated_NK = fit_calibration(score_NK, target_NK).apply(score_NK)
    assert fmax(calibrated_NK, target_NK).value == pytest.approx(fmax(score_NK, target_NK).value, abs=1e-12)
    assert aupr(calibrated_NK, target_NK) == pytest.approx(aupr(score_NK, target_NK), abs=1e-12)


@pytest.mark.parametrize("num_bins", [1, 5, 10])
def test_bins_are_those_of_scikit_learn(num_bins: int) -> None:
    score_NK, target_NK = drawn(4)
    found = reliability(score_NK, target_NK, num_bins)
    observed, predicted = calibration_curve(target_NK.ravel(), score_NK.ravel(), n_bins=num_bins)
    filled = [each for each in found.bins if each.count]
    np.testing.assert_allclose([each.observed for each in filled], observed, atol=1e-12)
    np.testing.assert_allclose([each.predicted for each in filled], predicted, atol=1e-6)
    weights = np.array([each.count for each in filled]) / score_NK.size
    assert found.expected_error == pytest.approx((weights * np.abs(observed - predicted)).sum(), abs=1e-6)
    assert found.brier == pytest.approx(brier_score_loss(target_NK.ravel(), score_NK.ravel()), abs=1e-7)
    assert sum(each.count for each in found.bins) == found.num_pairs == score_NK.size


def test_scores_that_separate_true_from_false_give_a_finite_line() -> None:
    target_NK = np.array([[True, False], [False, True]])
    line = fit_calibration(np.where(target_NK, 0.9, 0.1).astype(np.float32), target_NK)
    assert line.identity_because is None
    calibrated_NK = line.apply(np.array([[0.9, 0.1]]))
    np.testing.assert_allclose(calibrated_NK, [[0.75, 0.25]], atol=1e-9)  # (2 + 1) / (2 + 2) and 1 / (2 + 2)


@pytest.mark.parametrize(
    ("score_NK", "target_NK", "because"),
    [
        ([[0.2, 0.7]], [[False, False]], "no validation pair is true"),
        ([[0.2, 0.7]], [[True, True]], "no validation pair is false"),
        ([[0.3, 0.3]], [[True, False]], "all validation scores are equal"),
        ([[0.2, 0.7], [0.3, 0.9]], [[True, False], [True, False]], "do not have the higher scores"),
    ],
)
def test_where_no_rising_line_can_be_fitted_scores_stay_and_it_is_said(
    score_NK: list[list[float]], target_NK: list[list[bool]], because: str
) -> None:
    scores = np.array(score_NK)
    line = fit_calibration(scores, np.array(target_NK))
    assert because in (line.identity_because or "")
    np.testing.assert_array_equal(line.apply(scores), scores)


def test_scores_rounded_to_zero_and_one_stay_at_their_ends() -> None:
    score_NK = np.array([[0.0, 1e-30, 0.5, np.nextafter(np.float32(1), np.float32(0)), 1.0]], dtype=np.float32)
    calibrated_NK = Calibration(slope=0.5, intercept=-1.0, num_pairs=1, num_true=0).apply(score_NK)
    assert (np.diff(calibrated_NK, prepend=0.0, append=1.0) > 0).all()


@pytest.mark.parametrize("wrong", [np.nan, -0.1, 1.5])
def test_scores_that_are_no_probabilities_are_refused(wrong: float) -> None:
    score_NK, target_NK = np.array([[0.5, wrong]]), np.array([[True, False]])
    for use in (fit_calibration, reliability):
        with pytest.raises(ValueError, match="between 0 and 1"):
            use(score_NK, target_NK)
    with pytest.raises(ValueError, match="between 0 and 1"):
        Calibration(num_pairs=0, num_true=0).apply(score_NK)


def test_no_pairs_at_all_have_empty_bins() -> None:
    nothing = np.zeros((0, 3))
    found = reliability(nothing, nothing.astype(bool))
    assert (found.num_pairs, found.brier, {each.observed for each in found.bins}) == (0, None, {None})
    assert fit_calibration(nothing, nothing.astype(bool)).identity_because is not None
