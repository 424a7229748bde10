from pathlib import Path

import numpy as np
import pytest
import torch

from amma.evaluate.metrics.exact import aupr, fmax
from amma.evaluate.metrics.torchdrug import aupr_torchdrug, fmax_torchdrug

CASES = ("plain", "ties", "empty_rows", "empty_cols", "sigmoid", "perfect")
WITHOUT_TIES = ("plain", "empty_rows", "empty_cols", "sigmoid", "perfect")


def golden(shared: Path, case: str) -> tuple[np.ndarray, np.ndarray, float, float]:
    with np.load(shared / "golden" / "metrics" / "metrics.npz") as stored:
        return (
            stored[f"{case}_score"],
            stored[f"{case}_target"].astype(bool),
            float(stored[f"{case}_fmax"]),
            float(stored[f"{case}_aupr"]),
        )


@pytest.mark.parametrize("case", CASES)
def test_torchdrugs_own_numbers_are_reproduced(shared: Path, case: str) -> None:
    score, target, expected_fmax, expected_aupr = golden(shared, case)
    assert fmax_torchdrug(torch.tensor(score), torch.tensor(target)) == pytest.approx(expected_fmax, abs=1e-6)
    assert aupr_torchdrug(torch.tensor(score), torch.tensor(target)) == pytest.approx(expected_aupr, abs=1e-6)


@pytest.mark.parametrize("case", WITHOUT_TIES)
def test_without_ties_the_exact_definition_agrees_with_torchdrug(shared: Path, case: str) -> None:
    score, target, expected_fmax, expected_aupr = golden(shared, case)
    assert fmax(score.astype(np.float64), target).value == pytest.approx(expected_fmax, abs=1e-6)
    assert aupr(score.astype(np.float64), target) == pytest.approx(expected_aupr, abs=1e-6)


def test_with_ties_the_exact_definition_gives_another_number(shared: Path) -> None:
    score, target, expected_fmax, expected_aupr = golden(shared, "ties")
    assert fmax(score.astype(np.float64), target).value < expected_fmax - 1e-3
    assert abs(aupr(score.astype(np.float64), target) - expected_aupr) > 1e-3


def test_without_ties_both_definitions_agree_on_random_scores() -> None:
    for seed in range(50):
        rng = np.random.default_rng(seed)
        score, target = rng.permutation(60).reshape(12, 5).astype(np.float64), rng.random((12, 5)) < 0.3
        assert fmax_torchdrug(torch.tensor(score), torch.tensor(target)) == pytest.approx(
            fmax(score, target).value, abs=1e-6
        )
        assert aupr_torchdrug(torch.tensor(score), torch.tensor(target)) == pytest.approx(aupr(score, target), abs=1e-6)
