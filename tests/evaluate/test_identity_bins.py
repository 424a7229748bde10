from pathlib import Path

import numpy as np
import pytest

from amma.evaluate.metrics.exact import aupr, fmax
from amma.evaluate.metrics.identity_bins import BelowCutoff, figures_below, figures_listed
from amma.manifests.deepfri import read_identity_cutoffs


def make_case() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    target = rng.random((60, 7)) < 0.25
    return rng.random(60), rng.normal(size=target.shape) + 2 * target, target


def test_each_cut_off_has_the_figures_of_the_proteins_below_it() -> None:
    identity, score, target = make_case()
    found = figures_below(identity, score, target)
    assert [each.below for each in found] == [0.3, 0.4, 0.5, 0.7, 0.95]
    assert [each.num_proteins for each in found] == sorted(each.num_proteins for each in found)
    for each in found:
        rows = [row for row in range(60) if identity[row] < each.below]
        assert each == BelowCutoff(
            each.below, len(rows), fmax(score[rows], target[rows]).value, aupr(score[rows], target[rows])
        )


def test_a_protein_at_a_cut_off_is_not_below_it_and_one_without_relatives_is_below_all() -> None:
    score, target = np.ones((3, 2)), np.ones((3, 2), dtype=bool)
    found = figures_below(np.array([0.0, 0.4, 1.0]), score, target, (0.3, 0.4, 0.7))
    assert [each.num_proteins for each in found] == [1, 1, 2]


def test_a_cut_off_without_proteins_or_without_true_pairs_has_no_figures() -> None:
    target = np.array([[False], [True]])
    *without, alone = figures_below(np.array([0.35, 0.6]), np.ones((2, 1)), target, (0.3, 0.4, 0.7))
    assert without == [BelowCutoff(0.3, 0, None, None), BelowCutoff(0.4, 1, None, None)]
    # Everything is predicted for both: precision 1/2, recall 1/2.
    assert (alone.num_proteins, alone.fmax, alone.aupr) == (2, pytest.approx(0.5), pytest.approx(0.5))


@pytest.mark.parametrize("wrong", [np.nan, -0.1, 95.0])
def test_identities_that_are_no_fractions_are_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match=f"fractions from 0 to 1; that of protein 1 is {wrong}"):
        figures_below(np.array([0.2, wrong]), np.ones((2, 1)), np.ones((2, 1), dtype=bool))


def test_published_lists_give_the_published_test_sets(shared: Path) -> None:
    left = read_identity_cutoffs(shared / "data" / "deepfri" / "nrPDB-EC_2020.04_test.csv")
    ids = sorted(left["<95%"])
    rng = np.random.default_rng(0)
    target = rng.random((len(ids), 5)) < 0.3
    score = rng.random(target.shape)
    kept = {float(name.strip("<%")) / 100: np.isin(ids, list(inside)) for name, inside in left.items()}
    found = figures_listed(kept, score, target)
    assert [(each.below, each.num_proteins) for each in found] == [
        (0.3, 720),
        (0.4, 902),
        (0.5, 1117),
        (0.7, 1476),
        (0.95, 1919),
    ]
    assert found[-1].fmax == fmax(score, target).value
