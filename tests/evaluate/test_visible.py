from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from amma.evaluate.config import FinetuneConfig, FunctionConfig, Readout, Visible
from amma.evaluate.function import evaluate_function
from amma.evaluate.predictor.loaded import Predictor
from amma.evaluate.predictor.saving import PredictorWriter, mean_probability
from amma.evaluate.report.summary import plan_lines
from amma.evaluate.subject import open_subject
from amma.evaluate.tuning.readout import AttentionPooling, represent
from amma.evaluate.tuning.visible import VisibleDraws, check_visible, mask_of, show_what_is_read, visible_draws
from amma.featurize.encoders.protocol import Encoded
from amma.featurize.store.reader import FeatureStore
from amma.featurize.store.writer import ProteinArrays, write_store
from amma.manifests.errors import ConfigError, UsageError
from amma.manifests.table import Modality
from amma.train.data.collate import collate
from amma.train.model.amma import AMMA
from amma.train.model.batch import PackedBatch, Tokens
from amma.train.model.config import MaskConfig, ModelConfig
from amma.train.model.family import make_model
from amma.train.model.masking import generator_for
from amma.train.run.checkpoint import load_model

MASK = MaskConfig(visible_tokens=9)
EVERYTHING = MaskConfig(visible_tokens=10_000, max_visible_fraction=1.0)


def model_and_pooling(run: Path, readout: Readout) -> tuple[AMMA, AttentionPooling | None]:
    trained = load_model(run).model
    torch.manual_seed(0)
    if readout is not Readout.ATTENTION:
        model = AMMA(trained.config.model_copy(update={"global_token": readout is Readout.GLOBAL}), trained.widths)
        model.load_state_dict(trained.state_dict(), strict=False)
        return model.eval(), None
    pooling = AttentionPooling(trained.config.width)
    torch.nn.init.normal_(pooling.score.weight)
    return trained, pooling


@torch.no_grad()
@pytest.mark.parametrize("readout", list(Readout))
def test_draws_that_show_everything_are_the_same_as_all(planted, readout: Readout) -> None:
    model, pooling = model_and_pooling(planted.run, readout)
    with FeatureStore(planted.store) as store:
        proteins = np.arange(40)
        whole, drawn, masked = (
            represent(model, store, proteins, readout, device="cpu", pooling=pooling, draws=draws)
            for draws in (None, VisibleDraws(store, 3, EVERYTHING), VisibleDraws(store, 3, MASK))
        )
    torch.testing.assert_close(drawn, whole, atol=1e-5, rtol=1e-5)
    assert ((masked - whole).abs().amax(dim=1) > 1e-3).all()


@torch.no_grad()
@pytest.mark.parametrize("readout", list(Readout))
def test_a_vector_is_the_same_alone_among_many_in_any_order_and_again(planted, readout: Readout) -> None:
    model, pooling = model_and_pooling(planted.run, readout)
    with FeatureStore(planted.store) as store:
        everyone = np.random.default_rng(0).permutation(store.num_proteins)
        draws = VisibleDraws(store, 3, MASK)
        among = represent(model, store, everyone, readout, device="cpu", pooling=pooling, draws=draws)
        again = represent(
            model, store, everyone, readout, device="cpu", pooling=pooling, draws=VisibleDraws(store, 3, MASK)
        )
        assert torch.equal(among, again)
        for place in range(0, len(everyone), 4):
            one = everyone[place : place + 1]
            alone = represent(model, store, one, readout, device="cpu", pooling=pooling, draws=draws)
            torch.testing.assert_close(alone[0], among[place], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_vector_is_the_same_in_another_store_at_another_place_and_under_another_id(planted, tmp_path: Path) -> None:
    model, _ = model_and_pooling(planted.run, Readout.MEAN)
    with FeatureStore(planted.store) as store:
        chosen = [17, 3, 21, 8]
        copies = []
        for protein in chosen:
            parts = {}
            for modality in (Modality.SEQ, Modality.STR):
                if store.length(modality)[protein]:
                    rows = store.read(modality, protein)
                    pooled = np.zeros(store.widths[modality], np.float32) if modality is Modality.SEQ else None
                    parts[modality] = Encoded(rows.features.astype(np.float32), rows.index, pooled)
            copies.append(ProteinArrays(f"new{protein}", store.sequences()[protein], parts))
        write_store(
            tmp_path / "s.zarr", copies, widths=store.widths, fingerprint=store.fingerprint, random_weights=True
        )
        draws = VisibleDraws(store, 2, MASK)
        here = represent(model, store, np.array(chosen), Readout.MEAN, device="cpu", draws=draws)
    with FeatureStore(tmp_path / "s.zarr") as store:
        rows = np.array([store.row_of(f"new{protein}") for protein in chosen])
        there = represent(model, store, rows, Readout.MEAN, device="cpu", draws=VisibleDraws(store, 2, MASK))
    torch.testing.assert_close(there, here, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_vector_is_the_mean_of_what_each_mask_shows(planted) -> None:
    model, _ = model_and_pooling(planted.run, Readout.MEAN)
    with FeatureStore(planted.store) as store:
        protein = np.array([1])
        draws = VisibleDraws(store, 5, MASK)
        batch = collate(store, [1], (Modality.SEQ, Modality.STR))
        shown = [draws.masks(batch, protein, draw, Readout.MEAN) for draw in range(5)]
        one_by_one = [model.fuse(batch, visible).tokens[Modality.SEQ].features_TD.mean(dim=0) for visible in shown]
        vector = represent(model, store, protein, Readout.MEAN, device="cpu", draws=draws)[0]
    torch.testing.assert_close(vector, torch.stack(one_by_one).mean(dim=0))
    assert any(not torch.equal(one[Modality.SEQ], other[Modality.SEQ]) for one, other in pairwise(shown))


@torch.no_grad()
def test_features_that_are_renewed_are_masked_alike_and_renewed_once(planted) -> None:
    model, _ = model_and_pooling(planted.run, Readout.MEAN)
    renewed = []

    def renew(batch: PackedBatch, proteins: np.ndarray) -> PackedBatch:
        renewed.extend(proteins.tolist())
        tokens = batch.tokens[Modality.SEQ]
        again = Tokens(2 * tokens.features_TD, tokens.offsets, tokens.position_T)
        return PackedBatch(batch.ids, {**batch.tokens, Modality.SEQ: again})

    with FeatureStore(planted.store) as store:
        draws = VisibleDraws(store, 3, MASK)
        proteins = np.arange(12)
        vectors = represent(model, store, proteins, Readout.MEAN, device="cpu", draws=draws, renew=renew)
        batch = renew(collate(store, [1], (Modality.SEQ, Modality.STR)), proteins[1:2])
        shown = [draws.masks(batch, proteins[1:2], draw, Readout.MEAN) for draw in range(3)]
        each = [model.fuse(batch, visible).tokens[Modality.SEQ].features_TD.mean(dim=0) for visible in shown]
    torch.testing.assert_close(vectors[1], torch.stack(each).mean(dim=0), atol=1e-5, rtol=1e-5)
    assert sorted(renewed[:-1]) == proteins.tolist()


@pytest.mark.parametrize("readout", [Readout.MEAN, Readout.FIRST])
def test_a_draw_shows_as_many_tokens_as_a_mask_of_pretraining(planted, readout: Readout) -> None:
    with FeatureStore(planted.store) as store:
        draws = VisibleDraws(store, 1, MASK)
        rows = np.flatnonzero(store.length(Modality.STR) > 0)
        batch = collate(store, rows.tolist(), (Modality.SEQ, Modality.STR))
        lengths = {modality: tokens.lengths.numpy() for modality, tokens in batch.tokens.items()}
        sequence, structure = [], []
        for draw in range(40):
            masks = draws.masks(batch, rows, draw, readout)
            for modality, counts in ((Modality.SEQ, sequence), (Modality.STR, structure)):
                offsets = batch.tokens[modality].offsets
                counts.append(torch.segment_reduce(masks[modality].float(), "sum", offsets=offsets).numpy())
            first = masks[Modality.SEQ][batch.tokens[Modality.SEQ].offsets[:-1]]
            assert first.all() == (readout is Readout.FIRST)
    shown_seq, shown_str = np.array(sequence), np.array(structure)
    total = np.minimum(9, (0.75 * (lengths[Modality.SEQ] + lengths[Modality.STR])).astype(int))
    room = sum((0.75 * each).astype(int) for each in lengths.values())
    # A token more only where the sequence would have shown none.
    assert (np.abs(shown_seq + shown_str - np.minimum(total, room)) <= (shown_seq == 1)).all()
    assert (shown_seq >= 1).all()
    assert (shown_seq <= np.maximum(0.75 * lengths[Modality.SEQ], 1)).all()
    assert shown_str.sum() > shown_seq.sum()  # α is 1 and 2


def test_what_is_read_is_never_hidden_whole() -> None:
    for seed in range(50):
        rng = generator_for(seed)
        some_T = rng.random(7) < 0.5
        first_T, other_T = some_T.copy(), some_T.copy()
        show_what_is_read(rng, first_T, Readout.FIRST)
        assert first_T[0]
        assert first_T.sum() == max(some_T.sum(), 1)
        assert (first_T[1:] <= some_T[1:]).all()
        show_what_is_read(rng, other_T, Readout.MEAN)
        assert np.array_equal(other_T, some_T) or not some_T.any()
        none_T = np.zeros(5, dtype=bool)
        show_what_is_read(rng, none_T, Readout.ATTENTION)
        assert none_T.sum() == 1


def test_modality_dropout_of_pretraining_hides_nothing_here(planted) -> None:
    with FeatureStore(planted.store) as store:
        rows = np.arange(1, 6)
        batch = collate(store, rows.tolist(), (Modality.SEQ, Modality.STR))
        with_it, without = (
            VisibleDraws(store, 1, mask).masks(batch, rows, 0, Readout.MEAN)
            for mask in (MASK.model_copy(update={"modality_dropout": 1.0}), MASK)
        )
    assert all(torch.equal(with_it[modality], without[modality]) for modality in without)


def test_a_model_without_masks_is_refused() -> None:
    widths = {Modality.SEQ: 4, Modality.STR: 4, Modality.FUNC: 4}
    small = {"width": 16, "ffn": 16, "num_heads": 2, "num_fusion_layers": 1}
    contrastive = make_model(ModelConfig(family="contrastive", **small), widths)
    check_visible(contrastive, Visible.ALL)
    with pytest.raises(UsageError, match=r"--visible draws: .*contrastive.*Give --visible all"):
        check_visible(contrastive, Visible.DRAWS)


def test_draws_are_four_by_default_and_refused_where_all_is_visible() -> None:
    assert FinetuneConfig().draws is None
    assert FinetuneConfig(visible=Visible.DRAWS).draws == 4
    assert FinetuneConfig(visible=Visible.DRAWS, draws=7).draws == 7
    with pytest.raises(ConfigError, match="draws has no effect with visible all"):
        FinetuneConfig.parse({"draws": 2}, source="test")
    for given in (FinetuneConfig(), FinetuneConfig(visible=Visible.DRAWS)):
        assert FinetuneConfig.model_validate_json(given.model_dump_json()) == given


def test_m_and_alpha_are_the_checkpoints(planted) -> None:
    trained = load_model(planted.run)
    assert mask_of(trained) == MASK
    with FeatureStore(planted.store) as store:
        assert visible_draws(FinetuneConfig(), trained, store) is None
        found = visible_draws(FinetuneConfig(visible=Visible.DRAWS, draws=2), trained, store)
        assert found is not None
        assert found.number == 2
        whole = replace(trained, config={**trained.config, "mask": EVERYTHING.model_dump(mode="json")})
        all_shown = visible_draws(FinetuneConfig(visible=Visible.DRAWS), whole, store)
        assert all_shown is not None
        batch = collate(store, [1, 2], (Modality.SEQ, Modality.STR))
        some, everything = (draws.masks(batch, np.array([1, 2]), 0, Readout.MEAN) for draws in (found, all_shown))
    assert all(visible.all() for visible in everything.values())
    assert not all(visible.all() for visible in some.values())


def config_of(planted, **finetune: object) -> FunctionConfig:
    config: FunctionConfig = planted.config(**{"max_epochs": 1, "visible": "draws", "draws": 2, **finetune})
    return config.model_copy(update={"bootstrap": 0})


@pytest.mark.parametrize("protocol", ["probe", "fusion"])
def test_a_report_and_its_predictor_see_the_same_masks(planted, tmp_path: Path, protocol: str) -> None:
    config = config_of(planted, protocol=protocol, num_seeds=2)
    subject = open_subject(config)
    assert any("(mean over 2 masks of pretraining)" in line for line in plan_lines(config, subject))
    with PredictorWriter(tmp_path / "report" / "predictor", subject, config.finetune) as writer:
        evaluation = evaluate_function(config, subject, keep=writer.keep)
        writer.finish(evaluation.runs, evaluation.report.inputs, {})
    assert evaluation.report.config.draws == 2
    predictor = Predictor(tmp_path / "report")
    assert predictor.facts.mask == MASK
    found_NK = predictor.probabilities(subject.store, subject.task.test.rows)
    lines = [member.calibration for member in predictor.facts.members]
    expected_NK = mean_probability(lines, [run.test_NK for run in evaluation.runs])
    np.testing.assert_allclose(found_NK, expected_NK, atol=1e-6)

    whole = evaluate_function(config_of(planted, protocol=protocol, visible="all", draws=None), subject)
    assert whole.report.row("trained").aupr != evaluation.report.row("trained").aupr
    assert whole.report.row("untrained").aupr != evaluation.report.row("untrained").aupr
    assert whole.report.row("pooled inputs").runs[0] == evaluation.report.row("pooled inputs").runs[0]
