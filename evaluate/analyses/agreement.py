"""Figures of agreement between the vectors of two modalities, over the seeds of a model, beside shuffled pairs.

Shuffled: the second modality's vectors in the order of a random permutation, so that every protein is paired with
another one. What a figure is then, it is for no merit of the model.

Legend: S seeds of a model, N proteins, B resamples, D and E widths of two modalities' vectors.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Literal

import numpy as np
from jaxtyping import Float, Float64

from amma.evaluate.analyses.relation import relation_cosines
from amma.evaluate.analyses.vectors import Vectors
from amma.evaluate.metrics.bootstrap import middle
from amma.evaluate.report.estimates import Interval, Summary
from amma.manifests.settings import Settings
from amma.manifests.table import MODALITIES, Modality
from amma.train.model.alignment import debiased_cka, effective_rank, hits_at, spread
from amma.train.model.masking import generator_for

RECALL_AT = (1, 5, 10)
NUM_SHUFFLES = 8
COUNTER = -4
"""Random numbers here are `generator_for(seed, COUNTER, …)`: apart from all others."""
Of = Literal["encoders' features", "untrained", "trained"]
Given = Literal["nothing", "all modalities together", "each modality alone", "no modality sees another"]
Outputs = Literal["features", "projections", "fused", "lifted", "Eq. 14"]


class Shuffled(Settings):
    """A figure over `NUM_SHUFFLES` random pairings of proteins, and over the seeds of the model."""

    mean: float
    sd: float


class Recall(Settings):
    """How often a protein's own vector is among the k nearest of the other modality, by k; chance is k / N.

    `at` is the mean of both ways, `ways` has each. Intervals are over resamples of the proteins' clusters; None where
    they were not asked for.
    """

    at: dict[str, Summary]
    intervals: dict[str, Interval] | None
    ways: dict[str, dict[str, Summary]]


class PairFigures(Settings):
    """How two modalities agree on which proteins are alike.

    `relation` is Table 1's figure in batches of the size asked for, `relation_by_batch_size` in those of other sizes;
    its interval is over batches, None where it was not asked for or there is one batch. `cka` is the debiased one, None
    where it is not defined; `recall` is None where vectors of the two cannot be compared (other widths, or other maps).
    """

    relation: Summary
    relation_interval: Interval | None
    relation_shuffled: Shuffled
    relation_by_batch_size: dict[str, Summary]
    relation_shuffled_by_batch_size: dict[str, Shuffled]
    cka: Summary | None
    cka_shuffled: Shuffled | None
    recall: Recall | None


class Agreement(Settings):
    """All figures of one kind of vectors.

    `of` says whose they are, `given` what its encoder was given (no modality sees
    another in a contrastive model, whatever it is given), `outputs` what they are means of. `separate_maps` is
    True if each modality has gone through a map of its own, so that directions cannot be compared. `num_seeds` models
    were averaged over.
    """

    of: Of
    given: Given
    outputs: Outputs
    separate_maps: bool
    num_seeds: int
    pairs: dict[str, PairFigures]
    effective_rank: dict[str, Summary]
    spread: dict[str, Summary]


class Measure:
    """What all figures of an analysis have in common: sizes of batches, shuffles and resamples.

    `weight_BN` are resamples of the proteins (`draw_resamples`), None for no intervals.
    """

    def __init__(
        self,
        *,
        batch_size: int,
        other_sizes: Sequence[int] = (),
        seed: int = 0,
        weight_BN: Float64[np.ndarray, "B N"] | None = None,
    ) -> None:
        self.batch_size = batch_size
        self._other_sizes = other_sizes
        self._seed = seed
        self._weight_BN = weight_BN

    def pairs(self, seeds: Sequence[Vectors], *, comparable: bool) -> dict[str, PairFigures]:
        """Every two modalities; `comparable` if directions of one mean something in the other."""
        return {
            f"{a}-{b}": self._pair([(of[a], of[b]) for of in seeds], (a, b), comparable=comparable)
            for a, b in combinations([m for m in MODALITIES if m in seeds[0]], 2)
        }

    def _pair(
        self,
        seeds: Sequence[tuple[np.ndarray, np.ndarray]],
        names: tuple[Modality, Modality],
        *,
        comparable: bool,
    ) -> PairFigures:
        cosines = [relation_cosines(x_ND, y_NE, self.batch_size) for x_ND, y_NE in seeds]
        permutations = self._permutations(len(seeds[0][0]))
        sizes = (self.batch_size, *self._other_sizes)
        mixed = {
            size: _shuffled([relation_cosines(x, y[order], size).mean() for x, y in seeds for order in permutations])
            for size in sizes
        }
        ckas = [debiased_cka(x_ND, y_NE) for x_ND, y_NE in seeds]
        known = [cka for cka in ckas if cka is not None]
        has_cka = len(known) == len(seeds)
        return PairFigures(
            relation=Summary.of([float(of.mean()) for of in cosines]),
            relation_interval=self._over_batches(np.mean(cosines, axis=0)),
            relation_shuffled=mixed[self.batch_size],
            relation_by_batch_size={
                str(size): Summary.of([float(relation_cosines(x, y, size).mean()) for x, y in seeds]) for size in sizes
            },
            relation_shuffled_by_batch_size={str(size): mixed[size] for size in sizes},
            cka=Summary.of(known) if has_cka else None,
            cka_shuffled=_shuffled([debiased_cka(x, y, order) or 0.0 for x, y in seeds for order in permutations])
            if has_cka
            else None,
            recall=self._recall(seeds, names) if comparable else None,
        )

    def _recall(self, seeds: Sequence[tuple[np.ndarray, np.ndarray]], names: tuple[Modality, Modality]) -> Recall:
        a, b = names
        ways = {
            f"{a}-{b}": [hits_at(RECALL_AT, x_ND, y_ND) for x_ND, y_ND in seeds],
            f"{b}-{a}": [hits_at(RECALL_AT, y_ND, x_ND) for x_ND, y_ND in seeds],
        }
        both = {k: [(there[k] + back[k]) / 2 for there, back in zip(*ways.values(), strict=True)] for k in RECALL_AT}
        intervals = None
        if self._weight_BN is not None:
            weight_BN = self._weight_BN
            total_B = weight_BN.sum(axis=1)
            intervals = {str(k): Interval.of(middle(weight_BN @ np.mean(both[k], axis=0) / total_B)) for k in RECALL_AT}
        return Recall(
            at={str(k): Summary.of([float(of.mean()) for of in both[k]]) for k in RECALL_AT},
            intervals=intervals,
            ways={
                way: {str(k): Summary.of([float(hit[k].mean()) for hit in hits]) for k in RECALL_AT}
                for way, hits in ways.items()
            },
        )

    def _over_batches(self, cosine_n: Float64[np.ndarray, " batches"]) -> Interval | None:
        """The mean over batches that are drawn with replacement, as often as there are resamples."""
        if self._weight_BN is None or len(cosine_n) < 2:
            return None
        rng = generator_for(self._seed, COUNTER, 1)
        drawn = rng.integers(len(cosine_n), size=(len(self._weight_BN), len(cosine_n)))
        return Interval.of(middle(cosine_n[drawn].mean(axis=1)))

    def _permutations(self, number: int) -> list[np.ndarray]:
        rng = generator_for(self._seed, COUNTER, 0)
        return [rng.permutation(number) for _ in range(NUM_SHUFFLES)]


def ranks(seeds: Sequence[Mapping[Modality, Float[np.ndarray, "_N _D"]]]) -> dict[str, Summary]:
    """The effective rank of each modality's vectors."""
    return {str(m): Summary.of([effective_rank(of[m]) for of in seeds]) for m in seeds[0]}


def spreads(seeds: Sequence[Mapping[Modality, Float[np.ndarray, "_N _D"]]]) -> dict[str, Summary]:
    """The spread of each modality's vectors."""
    return {str(m): Summary.of([spread(of[m]) for of in seeds]) for m in seeds[0]}


def _shuffled(values: Sequence[float]) -> Shuffled:
    return Shuffled(mean=float(np.mean(values)), sd=float(np.std(values)))
