import math

import pytest
import torch

from amma.manifests.table import Modality
from amma.train.model.amma import AMMA
from amma.train.model.batch import PackedBatch, pack
from amma.train.model.config import ModelConfig, ObjectiveConfig
from amma.train.model.masking import generator_for
from amma.train.model.reconstruction import Reconstruction
from amma.train.model.standardise import Moments

SEQ, STR, FUNC = Modality
WIDTHS = {SEQ: 6, STR: 5, FUNC: 4}
SMALL = ModelConfig(
    width=8,
    ffn=16,
    num_fusion_layers=1,
    num_heads=2,
    decoder_width=8,
    decoder_ffn=16,
    num_decoder_layers=1,
    num_decoder_heads=2,
)


def make_model() -> AMMA:
    """A model whose statistics are not trivial: means, scales, and a dead channel of structure."""
    torch.manual_seed(0)
    model = AMMA(SMALL, WIDTHS)
    for modality, width in WIDTHS.items():
        rows = generator_for(9, width).normal(2, range(1, width + 1), (50, width))
        if modality is STR:
            rows[:, 2] = 7
        model.standardiser.fit(modality, Moments(width).update(rows))
    return model


def make_batch(*lengths: tuple[int, int, int]) -> PackedBatch:
    torch.manual_seed(len(lengths))
    rows = {
        modality: [(torch.randn(of[column], WIDTHS[modality]) * 3 + 1, torch.arange(of[column])) for of in lengths]
        for column, modality in enumerate(Modality)
    }
    return pack(tuple(str(index) for index in range(len(lengths))), rows)


def make_visible(batch: PackedBatch, share: float = 0.4) -> dict[Modality, torch.Tensor]:
    torch.manual_seed(3)
    return {modality: torch.rand(len(tokens.position_T)) < share for modality, tokens in batch.tokens.items()}


@pytest.mark.parametrize("loss_on", ["all", "hidden"])
@pytest.mark.parametrize("targets", ["standardised", "raw"])
def test_the_loss_is_what_a_plain_loop_gives(loss_on: str, targets: str) -> None:
    model, batch = make_model(), make_batch((5, 4, 7), (3, 3, 2))
    visible = make_visible(batch)
    objective = Reconstruction(ObjectiveConfig.parse({"loss_on": loss_on, "targets": targets}, source="x"))
    losses = objective(model, batch, visible)
    with torch.no_grad():
        rebuilt = model(batch, visible)
    total = 0.0
    for modality, tokens in batch.tokens.items():
        sums = {True: 0.0, False: 0.0}
        numbers = {True: 0, False: 0}
        for token in range(len(tokens.position_T)):
            for channel in range(WIDTHS[modality]):
                if modality is STR and channel == 2:
                    continue
                mean = float(model.standardiser.mean(modality)[channel])
                scale = float(model.standardiser.scale(modality)[channel])
                answer, target = float(rebuilt[modality][token, channel]), float(tokens.features_TD[token, channel])
                error = answer * scale + mean - target if targets == "raw" else answer - (target - mean) / scale
                sums[bool(visible[modality][token])] += error**2
                numbers[bool(visible[modality][token])] += 1
        for shown, measured in ((True, losses.visible), (False, losses.hidden)):
            assert measured[modality].count == numbers[shown]
            assert math.isclose(measured[modality].mean, sums[shown] / numbers[shown], rel_tol=1e-4)
            assert not measured[modality].total.requires_grad
        total += sums[False] / numbers[False] if loss_on == "hidden" else sum(sums.values()) / sum(numbers.values())
    assert math.isclose(float(losses.total().detach()), total, rel_tol=1e-4)


@pytest.mark.parametrize("loss_on", ["all", "hidden"])
def test_a_step_in_micro_batches_has_the_loss_and_gradient_of_the_step_at_once(loss_on: str) -> None:
    model = make_model()
    objective = Reconstruction(ObjectiveConfig.parse({"loss_on": loss_on}, source="x"))
    whole = make_batch((5, 4, 7), (3, 3, 2), (9, 6, 1))
    visible = make_visible(whole)
    objective(model, whole, visible).total().backward()
    expected = [parameter.grad.clone() for parameter in model.parameters()]
    loss = float(objective(model, whole, visible).total().detach())
    model.zero_grad()
    pieces = []
    for protein, name in enumerate(whole.ids):
        spans = {m: slice(*tokens.offsets[protein : protein + 2].tolist()) for m, tokens in whole.tokens.items()}
        rows = {m: [(whole.tokens[m].of(protein), whole.tokens[m].position_T[span])] for m, span in spans.items()}
        pieces.append((pack((name,), rows), {m: visible[m][span] for m, span in spans.items()}))
    per_piece = [objective.counts(model, *piece) for piece in pieces]
    counts = {modality: sum(piece[modality] for piece in per_piece) for modality in whole.modalities}
    assert counts == objective.counts(model, whole, visible)
    summed = 0.0
    for piece in pieces:
        part = objective(model, *piece).total(counts)
        part.backward()
        summed += float(part.detach())
    assert math.isclose(summed, loss, rel_tol=1e-5)
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6)


def test_counts_are_known_before_the_work_is_done() -> None:
    model, batch = make_model(), make_batch((5, 4, 7), (3, 3, 2))
    visible = make_visible(batch)
    for loss_on in ("all", "hidden"):
        objective = Reconstruction(ObjectiveConfig.parse({"loss_on": loss_on}, source="x"))
        trained = objective(model, batch, visible).trained
        assert objective.counts(model, batch, visible) == {m: error.count for m, error in trained.items()}


def test_nothing_to_count_adds_nothing_and_is_not_nan() -> None:
    model, batch = make_model(), make_batch((5, 4, 0))
    everything = {modality: torch.ones(len(t.position_T), dtype=torch.bool) for modality, t in batch.tokens.items()}
    losses = Reconstruction(ObjectiveConfig(loss_on="hidden"))(model, batch, everything)
    losses.total().backward()
    assert float(losses.total().detach()) == 0
    assert losses.hidden[SEQ].mean == 0
    assert losses.visible[FUNC].mean == 0
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in model.parameters())
    assert torch.isfinite(Reconstruction()(model, batch, everything).total())


def test_predicting_the_mean_of_standardised_features_has_an_error_of_one() -> None:
    model, batch = make_model(), make_batch((60, 60, 60))
    for modality, tokens in batch.tokens.items():
        model.standardiser.fit(modality, Moments(WIDTHS[modality]).update(tokens.features_TD.numpy()))
    losses = Reconstruction().of_the_mean(model, batch, make_visible(batch))
    assert math.isclose(float(losses.total()), 3, rel_tol=1e-5)


def test_the_loss_is_summed_in_float32_under_autocast() -> None:
    model, batch = make_model(), make_batch((5, 4, 7))
    visible = make_visible(batch)
    exact = Reconstruction()(model, batch, visible).total().detach()
    with torch.autocast("cpu", torch.bfloat16):
        half = Reconstruction()(model, batch, visible).total().detach()
    assert half.dtype == torch.float32
    assert math.isclose(float(half), float(exact), rel_tol=0.03)
