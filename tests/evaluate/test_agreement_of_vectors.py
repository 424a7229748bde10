import numpy as np
import pytest

from amma.evaluate.analyses.agreement import NUM_SHUFFLES, Measure, ranks, spreads
from amma.evaluate.analyses.relation import relation_cosines
from amma.evaluate.analyses.vectors import Vectors
from amma.evaluate.metrics.bootstrap import draw_resamples
from amma.manifests.table import Modality
from amma.train.model.alignment import debiased_cka, effective_rank, recall_at, spread

SEQ, STR, FUNC = Modality
N, D = 60, 12


def vectors(seed: int, *, equal: bool) -> Vectors:
    """Structure as sequence but turned alike for both, or nothing in common; function is of its own."""
    rng = np.random.default_rng(seed)
    x, y, z = rng.normal(1, 1, (3, N, D)).astype(np.float32)
    return {SEQ: x, STR: x + 5 if equal else y, FUNC: z}


def test_equal_vectors_find_each_other_and_shuffled_ones_by_chance() -> None:
    measured = Measure(batch_size=N, weight_BN=draw_resamples(np.arange(N), 200))
    pair = measured.pairs([vectors(0, equal=True)], comparable=True)["seq-str"]
    assert pair.cka is not None
    assert pair.cka.mean == pytest.approx(1)
    assert pair.recall is not None
    assert pair.recall.at["1"].mean == 1
    assert pair.recall.intervals is not None
    assert (pair.recall.intervals["1"].low, pair.recall.intervals["1"].high) == (1, 1)
    assert pair.cka_shuffled is not None
    assert abs(pair.cka_shuffled.mean) < 0.1
    unrelated = measured.pairs([vectors(0, equal=False)], comparable=True)["seq-str"].recall
    assert unrelated is not None
    assert unrelated.at["5"].mean == pytest.approx(5 / N, abs=0.07)
    assert unrelated.intervals is not None
    assert unrelated.intervals["5"].low <= unrelated.at["5"].mean <= unrelated.intervals["5"].high


def test_figures_are_means_over_seeds_of_what_each_measure_gives() -> None:
    seeds = [vectors(seed, equal=False) for seed in range(3)]
    pairs = Measure(batch_size=8, other_sizes=(4, N)).pairs(seeds, comparable=True)
    assert list(pairs) == ["seq-str", "seq-func", "str-func"]
    for name, figures in pairs.items():
        a, b = (Modality(part) for part in name.split("-"))
        assert figures.relation.values == tuple(float(relation_cosines(of[a], of[b], 8).mean()) for of in seeds)
        assert figures.relation_by_batch_size["4"].values[1] == relation_cosines(seeds[1][a], seeds[1][b], 4).mean()
        assert set(figures.relation_by_batch_size) == {"4", "8", str(N)}
        assert figures.cka is not None
        assert figures.cka.values == tuple(debiased_cka(of[a], of[b]) for of in seeds)
        assert figures.recall is not None
        there, back = ([recall_at([5], *(of[m] for m in way))[5] for of in seeds] for way in ((a, b), (b, a)))
        assert figures.recall.ways[name]["5"].values == tuple(there)
        assert figures.recall.at["5"].values == pytest.approx([(p + q) / 2 for p, q in zip(there, back, strict=True)])
        assert figures.recall.intervals is None
        assert figures.relation_interval is None
    assert ranks(seeds)["seq"].values == tuple(effective_rank(of[SEQ]) for of in seeds)
    assert spreads(seeds)["func"].values == tuple(spread(of[FUNC]) for of in seeds)


def test_vectors_behind_maps_of_their_own_are_not_compared_by_direction() -> None:
    pair = Measure(batch_size=4).pairs([vectors(0, equal=True)], comparable=False)["seq-str"]
    assert pair.recall is None
    assert pair.cka is not None


def test_the_interval_of_a_relation_holds_its_mean_and_needs_batches() -> None:
    weight_BN = draw_resamples(np.arange(N), 200)
    pair = Measure(batch_size=6, weight_BN=weight_BN).pairs([vectors(3, equal=False)], comparable=True)["seq-func"]
    assert pair.relation_interval is not None
    assert pair.relation_interval.low < pair.relation.mean < pair.relation_interval.high
    whole = Measure(batch_size=N, weight_BN=weight_BN).pairs([vectors(3, equal=False)], comparable=True)["seq-func"]
    assert whole.relation_interval is None


def test_shuffles_are_the_same_for_the_same_seed() -> None:
    found = [
        Measure(batch_size=4, seed=seed).pairs([vectors(0, equal=True)], comparable=True)["seq-str"].relation_shuffled
        for seed in (0, 0, 1)
    ]
    assert found[0] == found[1] != found[2]
    assert NUM_SHUFFLES > 1
    assert found[0].sd > 0
