import numpy as np
import pytest

from amma.evaluate.metrics.exact import aupr, fmax
from amma.evaluate.report.slices import LENGTHS, Slices


def some(num_proteins: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    target_NK = rng.random((num_proteins, 5)) < 0.3
    return rng.random((num_proteins, 5)), rng.random((num_proteins, 5)), target_NK


def test_a_slice_by_identity_holds_all_that_are_below_its_cut_off() -> None:
    one, other, target_NK = some(40)
    identity_N = np.random.default_rng(1).random(40)
    identity_N[:3] = 0.3, 0.5, 0.95  # at a cut-off is not below it
    slices = Slices.by_identity(identity_N, target_NK)
    assert [(each.at_least, each.below) for each in slices.facts] == [
        (None, below) for below in (0.3, 0.4, 0.5, 0.7, 0.95)
    ]
    for facts, figures in zip(slices.facts, slices.figures([one, other]), strict=True):
        kept = [n for n in range(40) if identity_N[n] < facts.below]
        assert facts.num_proteins == len(kept)
        assert facts.num_unlabelled == sum(not target_NK[n].any() for n in kept)
        assert figures.fmax is not None
        assert figures.aupr is not None
        assert figures.fmax.values == tuple(fmax(score[kept], target_NK[kept]).value for score in (one, other))
        assert figures.aupr.mean == pytest.approx(np.mean([aupr(s[kept], target_NK[kept]) for s in (one, other)]))


def test_a_list_says_who_is_in_a_slice_and_whom_it_does_not_name_is_in_none() -> None:
    score_NK, _, target_NK = some(4)
    target_NK[0] = True
    slices = Slices.listed({0.3: frozenset("a"), 0.95: frozenset("acx")}, tuple("abcd"), target_NK)
    assert [(each.below, each.num_proteins) for each in slices.facts] == [(0.3, 1), (0.95, 2)]
    figures = slices.figures([score_NK])[1].fmax
    assert figures is not None
    assert figures.mean == fmax(score_NK[[0, 2]], target_NK[[0, 2]]).value


def test_slices_by_length_hold_every_protein_once_and_leave_empty_ends_out() -> None:
    score_NK, _, target_NK = some(6)
    length_N = np.array([100, 199, 200, 450, 599, 101])
    slices = Slices.by_length(length_N, target_NK)
    assert [(each.at_least, each.below) for each in slices.facts] == [(100, 200), (200, 300), (300, 400), (400, 600)]
    assert [each.num_proteins for each in slices.facts] == [3, 1, 0, 2]
    assert (slices.kept_SN.sum(axis=0) == 1).all()
    empty = slices.figures([score_NK])[2]
    assert (empty.fmax, empty.aupr) == (None, None)


def test_a_slice_without_a_label_has_no_figure() -> None:
    score_NK, _, target_NK = some(6)
    target_NK[:2] = False
    slices = Slices.by_length(np.array([5, 7, 5000, 5000, 5000, 5000]), target_NK)
    first, *between, last = slices.figures([score_NK])
    assert (first.fmax, first.aupr) == (None, None)
    assert slices.facts[0].num_unlabelled == slices.facts[0].num_proteins == 2
    assert last.fmax is not None
    assert last.fmax.mean == fmax(score_NK[2:], target_NK[2:]).value
    assert len(between) == len(LENGTHS) - 1
