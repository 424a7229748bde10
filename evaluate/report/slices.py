"""Parts of the test split by a number that every protein has: how near it is to training, how long it is.

Shapes: N test proteins, K terms, S slices.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float, Int64

from amma.evaluate.metrics.identity_bins import CUTOFFS, figures_listed
from amma.evaluate.report.estimates import Summary
from amma.evaluate.report.slice_results import Slice, SliceFigures

LENGTHS = (100.0, 200.0, 300.0, 400.0, 600.0, 1000.0)
"""Residues at which one slice ends and the next begins."""


@dataclass(frozen=True)
class Slices:
    """Slices, who is in each (`kept_SN` is True), and what is true of whom."""

    facts: tuple[Slice, ...]
    kept_SN: Bool[np.ndarray, "S N"]
    target_NK: Bool[np.ndarray, "N K"]

    @staticmethod
    def by_identity(identity_N: Float[np.ndarray, " N"], target_NK: Bool[np.ndarray, "N K"]) -> "Slices":
        """Nested ones: all that are below a cut-off, for every cut-off."""
        return _slices(identity_N, [(None, cutoff) for cutoff in CUTOFFS], target_NK)

    @staticmethod
    def listed(
        left: Mapping[float, frozenset[str]], ids: Sequence[str], target_NK: Bool[np.ndarray, "N K"]
    ) -> "Slices":
        """Those that a list has at each cut-off; proteins that it does not name are in none."""
        kept_SN = np.array([[identifier in names for identifier in ids] for names in left.values()])
        return _told([(None, cutoff) for cutoff in left], kept_SN, target_NK)

    @staticmethod
    def by_length(length_N: Int64[np.ndarray, " N"], target_NK: Bool[np.ndarray, "N K"]) -> "Slices":
        """Those that hold each protein once; the ends that no protein is in are left out."""
        bounds = list(pairwise([None, *LENGTHS, None]))
        place_N = np.searchsorted(LENGTHS, length_N, side="right")
        return _slices(length_N, bounds[int(place_N.min()) : int(place_N.max()) + 1], target_NK)

    def figures(self, scores: Sequence[Float[np.ndarray, "N K"]]) -> tuple[SliceFigures, ...]:
        """Exact figures of each slice, summed up over the scores of the seeds."""
        kept = {float(place): kept_N for place, kept_N in enumerate(self.kept_SN)}
        seeds = [figures_listed(kept, score_NK, self.target_NK) for score_NK in scores]
        return tuple(
            SliceFigures(fmax=_summary([one.fmax for one in slice_]), aupr=_summary([one.aupr for one in slice_]))
            for slice_ in zip(*seeds, strict=True)
        )


def _slices(
    value_N: np.ndarray,
    bounds: Sequence[tuple[float | None, float | None]],
    target_NK: Bool[np.ndarray, "N K"],
) -> Slices:
    kept = [
        (value_N >= (-np.inf if low is None else low)) & (value_N < (np.inf if high is None else high))
        for low, high in bounds
    ]
    return _told(bounds, np.array(kept), target_NK)


def _told(
    bounds: Sequence[tuple[float | None, float | None]],
    kept_SN: Bool[np.ndarray, "S N"],
    target_NK: Bool[np.ndarray, "N K"],
) -> Slices:
    unlabelled_N = ~target_NK.any(axis=1)
    facts = tuple(
        Slice(
            at_least=low,
            below=high,
            num_proteins=int(kept_N.sum()),
            num_unlabelled=int((kept_N & unlabelled_N).sum()),
        )
        for (low, high), kept_N in zip(bounds, kept_SN, strict=True)
    )
    return Slices(facts, kept_SN, target_NK)


def _summary(values: Sequence[float | None]) -> Summary | None:
    """None where a slice has no label: then no seed has a figure."""
    known = [value for value in values if value is not None]
    return Summary.of(known) if known else None
