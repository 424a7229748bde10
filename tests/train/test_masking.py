import math
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from amma.manifests.table import MODALITIES, Modality
from amma.train.model.batch import pack
from amma.train.model.config import MaskConfig
from amma.train.model.masking import draw_batch, draw_counts, draw_visible, generator_for

SEQ, STR, FUNC = Modality
NUM_DRAWS = 10_000


def counts_of(
    lengths: Mapping[Modality, int], config: MaskConfig, num_draws: int = NUM_DRAWS, seed: int = 0
) -> np.ndarray:
    """Draws × modalities."""
    draws = [draw_counts(generator_for(seed, index), lengths, config) for index in range(num_draws)]
    return np.array([[draw.get(modality, 0) for modality in MODALITIES] for draw in draws])


def test_ten_thousand_draws_follow_the_dirichlet() -> None:
    config = MaskConfig()
    counts = counts_of(dict.fromkeys(MODALITIES, 5000), config)
    assert (counts.sum(axis=1) == config.visible_tokens).all()
    shares = counts / config.visible_tokens
    whole = sum(config.alpha)
    for column, alpha in enumerate(config.alpha):
        law = stats.beta(alpha, whole - alpha)
        assert abs(shares[:, column].mean() - law.mean()) < 4 * law.std() / NUM_DRAWS**0.5
        # 0.0195 is exceeded once in a thousand times; 1/160 more for the rounding to whole tokens.
        assert stats.kstest(shares[:, column], law.cdf).statistic < 0.0195 + 0.5 / 160 * law.pdf(law.median())
    covariance = np.cov(shares.T)
    expected = stats.dirichlet(config.alpha).cov()
    np.testing.assert_allclose(covariance, expected, rtol=0.1)


def test_a_pair_shares_by_the_alphas_of_what_it_has() -> None:
    config = MaskConfig(alpha=(1, 2, 6))
    counts = counts_of({SEQ: 5000, FUNC: 5000}, config)
    assert (counts[:, MODALITIES.index(STR)] == 0).all()
    assert (counts.sum(axis=1) == 160).all()
    law = stats.beta(1, 6)
    assert abs(counts[:, 0].mean() / 160 - law.mean()) < 4 * law.std() / NUM_DRAWS**0.5
    # A modality of length 0 is the same as one that is not there.
    with_empty = counts_of({SEQ: 5000, STR: 0, FUNC: 5000}, config)
    assert np.array_equal(counts, with_empty)


lengths_of_a_protein = st.fixed_dictionaries({}, optional={modality: st.integers(0, 700) for modality in MODALITIES})
mask_configs = st.builds(
    MaskConfig,
    visible_tokens=st.integers(1, 300),
    alpha=st.tuples(*[st.floats(0.001, 20)] * 3),
    max_visible_fraction=st.floats(0.01, 1),
    modality_dropout=st.sampled_from([0.0, 0.5, 1.0]),
    rounding=st.sampled_from(["largest-remainder", "multinomial"]),
    shortfall=st.sampled_from(["redistribute", "drop"]),
)


@given(lengths_of_a_protein, mask_configs, st.integers(0, 2**32))
@settings(max_examples=300, deadline=None)
def test_both_visible_fractions_hold_and_all_that_can_be_shown_is(
    lengths: dict[Modality, int], config: MaskConfig, seed: int
) -> None:
    counts = draw_counts(generator_for(seed), lengths, config)
    assert counts.keys() == lengths.keys()
    fraction = config.max_visible_fraction
    caps = {modality: math.floor(fraction * length) for modality, length in lengths.items()}
    assert all(0 <= counts[modality] <= caps[modality] for modality in lengths)
    target = min(config.visible_tokens, math.floor(fraction * sum(lengths.values())))
    assert sum(counts.values()) <= target
    if config.modality_dropout == 0 and config.shortfall == "redistribute":
        assert sum(counts.values()) == min(target, sum(caps.values()))


ROUNDINGS = ("largest-remainder", "multinomial")


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_sums_clamps_and_both_visible_fractions_hold_in_ten_thousand_draws(rounding: str) -> None:
    """Of proteins as they are: some longer than M, some shorter, with text of any length or with hardly any."""
    config = MaskConfig.model_validate({"rounding": rounding})
    rng = np.random.default_rng(0)
    residues = rng.integers(1, 400, NUM_DRAWS)
    structure = residues - rng.integers(0, 4, NUM_DRAWS).clip(max=residues)
    lengths_N3 = np.stack([residues, structure, rng.choice([0, 3, 30, 300], NUM_DRAWS)], axis=1)
    counts_N3 = np.array(
        [
            list(draw_counts(generator_for(4, index), dict(zip(MODALITIES, lengths, strict=True)), config).values())
            for index, lengths in enumerate(lengths_N3.tolist())
        ]
    )
    room_N3 = lengths_N3 * 3 // 4
    assert (counts_N3 >= 0).all()
    assert (counts_N3 <= room_N3).all()
    assert (counts_N3.sum(1) <= lengths_N3.sum(1) * 3 // 4).all()
    assert (counts_N3.sum(1) == np.minimum(160, room_N3.sum(1))).all()
    clamped = (counts_N3 == room_N3) & (room_N3 > 0)
    assert clamped.any(axis=1).mean() > 0.5  # the draws are of the kind that the clamps are for


def shares_of(lengths: Mapping[Modality, int], config: MaskConfig, seed: int) -> np.ndarray:
    """λ of each draw that `counts_of` makes with the same seed, of the modalities in `lengths`."""
    alpha = [config.alpha[MODALITIES.index(modality)] for modality in lengths]
    shares = []
    for index in range(NUM_DRAWS):
        rng = generator_for(seed, index)
        rng.random()
        shares.append(rng.dirichlet(alpha))
    return np.array(shares)


SHORT = [{SEQ: 300, STR: 300, FUNC: 20}, {SEQ: 60, STR: 55, FUNC: 90}, {SEQ: 40, STR: 30, FUNC: 8}, {SEQ: 9}]


@pytest.mark.parametrize("lengths", SHORT)
def test_what_is_short_moves_its_share_to_the_others_in_proportion(lengths: dict[Modality, int]) -> None:
    """Whoever is not full has λ·t tokens for one common t: the water level at which the target is reached."""
    config = MaskConfig()
    columns = [MODALITIES.index(modality) for modality in lengths]
    room = np.array([math.floor(0.75 * length) for length in lengths.values()])
    target = min(160, math.floor(0.75 * sum(lengths.values())), room.sum())
    share_NK = shares_of(lengths, config, seed=1)
    low_N1, high_N1 = np.zeros((NUM_DRAWS, 1)), np.full((NUM_DRAWS, 1), 1e9)
    for _ in range(200):
        level_N1 = (low_N1 + high_N1) / 2
        reached_N1 = np.minimum(room, share_NK * level_N1).sum(1, keepdims=True) >= target
        low_N1, high_N1 = np.where(reached_N1, low_N1, level_N1), np.where(reached_N1, level_N1, high_N1)
    counts_NK = counts_of(lengths, config, seed=1)[:, columns]
    assert (counts_NK.sum(1) == target).all()
    assert (np.abs(counts_NK - np.minimum(room, share_NK * high_N1)) < len(lengths)).all()


@pytest.mark.parametrize("lengths", SHORT)
def test_dropped_shortfall_loses_exactly_the_share_that_cannot_be_shown(lengths: dict[Modality, int]) -> None:
    config = MaskConfig(shortfall="drop")
    columns = [MODALITIES.index(modality) for modality in lengths]
    room = np.array([math.floor(0.75 * length) for length in lengths.values()])
    dropped_NK = counts_of(lengths, config)[:, columns]
    # Long enough to take any share, the same proteins show it whole.
    wanted_NK = counts_of(dict.fromkeys(lengths, 5000), config)[:, columns]
    assert (wanted_NK.sum(1) == 160).all()
    lost_NK = np.maximum(wanted_NK - room, 0)
    assert np.array_equal(dropped_NK, wanted_NK - lost_NK)
    # On average that is what the Dirichlet's law says.
    alpha = [config.alpha[MODALITIES.index(modality)] for modality in lengths]
    for column, (own, most) in enumerate(zip(alpha, room, strict=True)):
        law = stats.beta(own, sum(alpha) - own) if len(alpha) > 1 else stats.uniform(1, 0)
        level = np.linspace(most / 160, 1, 4001)
        expected = 160 * np.trapezoid(law.sf(level), level) if most < 160 and len(alpha) > 1 else max(160 - most, 0)
        error = lost_NK[:, column].std() / NUM_DRAWS**0.5
        assert abs(lost_NK[:, column].mean() - expected) < 4 * error + 0.05
    redistributed_NK = counts_of(lengths, MaskConfig())[:, columns]
    assert (dropped_NK.sum(1) <= redistributed_NK.sum(1)).all()


def test_an_absent_or_dropped_modality_leaves_the_draw_to_the_others_also_where_shortfall_is_lost() -> None:
    config = MaskConfig(shortfall="drop")
    assert (counts_of({SEQ: 5000, STR: 0, FUNC: 5000}, config, 500).sum(axis=1) == 160).all()
    hidden = counts_of(dict.fromkeys(MODALITIES, 5000), config.model_copy(update={"modality_dropout": 1.0}), 500)
    assert (hidden.sum(axis=1) == 160).all()
    assert ((hidden == 0).sum(axis=1) >= 1).all()


@pytest.mark.parametrize("shortfall", ["redistribute", "drop"])
def test_multinomial_counts_have_the_multinomials_mean_and_variance(shortfall: str) -> None:
    lengths = dict.fromkeys(MODALITIES, 5000)
    config = MaskConfig.model_validate({"rounding": "multinomial", "shortfall": shortfall})
    counts_NK, share_NK = counts_of(lengths, config), shares_of(lengths, config, seed=0)
    assert (counts_NK.sum(1) == 160).all()
    # Given λ: mean M·λ, variance M·λ(1 - λ). The squared score of a draw is 1 on average, and spreads by about √2.
    likely = (share_NK > 0.05) & (share_NK < 0.95)
    score = ((counts_NK - 160 * share_NK) / np.sqrt(160 * share_NK * (1 - share_NK) + 1e-12))[likely]
    assert abs(score.mean()) < 4 / len(score) ** 0.5
    assert abs(np.square(score).mean() - 1) < 4 * np.square(score).std() / len(score) ** 0.5
    # Over λ: the Dirichlet-multinomial's. A large α leaves hardly more than the multinomial's own.
    steady = config.model_copy(update={"alpha": (200.0, 400.0, 400.0)})
    rounded = MaskConfig(alpha=(200, 400, 400))
    for column, p in enumerate((0.2, 0.4, 0.4)):
        ours, nearest = (counts_of(lengths, each, seed=2)[:, column].var() for each in (steady, rounded))
        assert ours == pytest.approx(160 * p * (1 - p) * (160 + 1000) / (1 + 1000), rel=0.06)
        assert nearest < 0.2 * ours


@pytest.mark.parametrize("lengths", [SHORT[0], {SEQ: 100, STR: 90, FUNC: 70}])
def test_what_multinomial_counts_cannot_place_is_drawn_again_among_the_others(lengths: dict[Modality, int]) -> None:
    room = np.array([math.floor(0.75 * length) for length in lengths.values()])
    target = min(160, math.floor(0.75 * sum(lengths.values())), room.sum())
    counts = counts_of(lengths, MaskConfig(rounding="multinomial"), 2000)
    nearest = counts_of(lengths, MaskConfig(), 2000)
    assert (counts.sum(1) == target).all()
    assert (counts <= room).all()
    assert (counts != nearest).any()
    np.testing.assert_allclose(counts.mean(0), nearest.mean(0), atol=0.03 * target)


def test_counts_are_rounded_by_the_largest_remainders() -> None:
    lengths = dict.fromkeys(MODALITIES, 5000)
    for index in range(300):
        rng = generator_for(2, index)
        rng.random()
        exact = rng.dirichlet([1, 2, 2]) * 160
        counts = np.array(list(draw_counts(generator_for(2, index), lengths, MaskConfig()).values()))
        floors = np.floor(exact).astype(int)
        raised = set(np.argsort(floors - exact)[: 160 - floors.sum()].tolist())
        assert counts.tolist() == [floor + (column in raised) for column, floor in enumerate(floors)]


def test_every_switch_has_an_effect() -> None:
    lengths = dict.fromkeys(MODALITIES, 100)
    plain = counts_of(lengths, MaskConfig(), 200)
    assert (counts_of(lengths, MaskConfig(visible_tokens=20), 200).sum(axis=1) == 20).all()
    assert counts_of(lengths, MaskConfig(alpha=(50, 1, 1)), 200)[:, 0].mean() > plain[:, 0].mean() + 20
    assert (counts_of(lengths, MaskConfig(max_visible_fraction=0.1), 200).sum(axis=1) == 30).all()
    assert plain.max() <= 75
    assert not (plain == 0).any(axis=1).mean() > 0.05


def test_modality_dropout_hides_one_modality_whole_as_often_as_asked() -> None:
    lengths = {SEQ: 200, STR: 200, FUNC: 200}
    config = MaskConfig(modality_dropout=0.3, alpha=(9, 9, 9))  # flat enough that none is empty by chance
    counts = counts_of(lengths, config, 3000)
    assert (counts.sum(axis=1) == 160).all()
    empty = counts == 0
    assert empty.sum(axis=1).max() == 1
    assert abs(empty.any(axis=1).mean() - 0.3) < 0.035
    np.testing.assert_allclose(empty.mean(axis=0), 0.1, atol=0.025)
    assert draw_counts(generator_for(0), {SEQ: 8}, MaskConfig(modality_dropout=1.0)) == {SEQ: 6}


def test_proteins_that_keep_all_modalities_keep_their_numbers_under_dropout() -> None:
    lengths = dict.fromkeys(MODALITIES, 200)
    plain = counts_of(lengths, MaskConfig(), 300)
    some = counts_of(lengths, MaskConfig(modality_dropout=0.5), 300)
    same = (plain == some).all(axis=1)
    assert 0.4 < same.mean() < 0.6


def test_visible_tokens_are_drawn_uniformly_without_replacement() -> None:
    lengths = {SEQ: 12, STR: 10}
    config = MaskConfig(visible_tokens=8)
    seen = {modality: np.zeros(length) for modality, length in lengths.items()}
    shown = dict.fromkeys(lengths, 0)
    for index in range(4000):
        visible = draw_visible(generator_for(3, index), lengths, config)
        counts = draw_counts(generator_for(3, index), lengths, config)
        assert {modality: int(mask.sum()) for modality, mask in visible.items()} == counts
        for modality, mask in visible.items():
            seen[modality] += mask
            shown[modality] += counts[modality]
    for modality, length in lengths.items():
        expected = shown[modality] / length
        assert (np.abs(seen[modality] - expected) < 4.5 * expected**0.5).all()


def test_a_protein_of_one_token_shows_nothing() -> None:
    assert draw_visible(generator_for(0), {SEQ: 1}, MaskConfig())[SEQ].tolist() == [False]


def test_random_numbers_are_a_function_of_the_integers_and_of_nothing_else() -> None:
    first = generator_for(5, 1, 2).random(4)
    generator_for(5, 1, 3).random(100)
    assert np.array_equal(first, generator_for(5, 1, 2).random(4))
    others = [generator_for(*key).random() for key in [(5, 1), (5, 1, 0), (5, 2, 1), (51, 2), (5, 12), (-5, 1, 2)]]
    assert len({first[0], *others}) == 7
    # A resumed run must go on with the masks it began with, also after an update.
    assert generator_for(0, 1).integers(0, 1000, 4).tolist() == [958, 320, 156, 711]


def test_the_masks_of_a_batch_are_those_of_its_proteins() -> None:
    lengths = {SEQ: [40, 3, 25], FUNC: [10, 30, 1]}
    rows = {m: [(torch.zeros(n, 2), torch.arange(n)) for n in of_all] for m, of_all in lengths.items()}
    batch = pack(("a", "b", "c"), rows)
    masks = draw_batch([generator_for(7, protein) for protein in range(3)], batch, MaskConfig(visible_tokens=20))
    for protein in range(3):
        alone = draw_visible(
            generator_for(7, protein), {m: lengths[m][protein] for m in lengths}, MaskConfig(visible_tokens=20)
        )
        for modality, mask in alone.items():
            start, end = batch.tokens[modality].offsets[protein : protein + 2].tolist()
            assert masks.visible[modality][start:end].tolist() == mask.tolist()
            assert masks.counts[modality][protein] == mask.sum()
