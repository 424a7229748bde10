import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from amma.manifests.table import Modality
from amma.train.model.alignment import recall_at
from amma.train.model.amma import AMMA
from amma.train.model.batch import PackedBatch, pack
from amma.train.model.config import ModelConfig, ObjectiveConfig
from amma.train.model.contrast import Contrast
from amma.train.model.contrastive import Contrastive
from amma.train.model.family import make_objective
from amma.train.model.masking import generator_for, show_all
from amma.train.model.objective import Losses
from amma.train.model.standardise import Moments

SEQ, STR, FUNC = Modality
WIDTHS = {SEQ: 6, STR: 5, FUNC: 4}
CONFIG = ModelConfig(family="contrastive", width=8, ffn=16, num_fusion_layers=2, num_heads=2)


@pytest.fixture
def model() -> Contrastive:
    """With statistics that are not trivial."""
    torch.manual_seed(0)
    model = Contrastive(CONFIG, WIDTHS)
    for modality, width in WIDTHS.items():
        rows = generator_for(9, width).normal(2, range(1, width + 1), (50, width))
        model.standardiser.fit(modality, Moments(width).update(rows))
    return model


def make_batch(num: int, modalities: Sequence[Modality] = tuple(Modality), *, first: int = 0) -> PackedBatch:
    """Proteins number `first` and the next ones: the same features whichever batch they are in."""
    rows: dict[Modality, list[tuple[Tensor, Tensor]]] = {modality: [] for modality in modalities}
    for protein in range(first, first + num):
        rng = generator_for(protein)
        residues = int(rng.integers(3, 8))
        for modality, length in ((SEQ, residues), (STR, residues), (FUNC, 4)):
            features = rng.normal(1, 3, (length, WIDTHS[modality])).astype(np.float32)
            if modality in rows:
                rows[modality].append((torch.from_numpy(features), torch.arange(length)))
    return pack(tuple(f"P{protein}" for protein in range(first, first + num)), rows)


def contrast(model: Contrastive, batch: PackedBatch, **settings: Any) -> Losses:
    objective = Contrast(ObjectiveConfig.parse(settings, source="x"))
    return objective(model, batch, show_all(batch).visible)


def by_plain_loops(one: Tensor, other: Tensor, *, temperature: float, normalise: bool) -> float:
    """Mean over proteins and both directions, in Python's own float64."""
    vectors = []
    for matrix in (one, other):
        rows = matrix.detach().double().tolist()
        norms = [math.sqrt(sum(x * x for x in row)) if normalise else 1.0 for row in rows]
        vectors.append([[x / norm for x in row] for row, norm in zip(rows, norms, strict=True)])
    total = 0.0
    for queries, keys in (vectors, vectors[::-1]):
        for number, query in enumerate(queries):
            scores = [sum(a * b for a, b in zip(query, key, strict=True)) / temperature for key in keys]
            top = max(scores)
            total += top + math.log(sum(math.exp(score - top) for score in scores)) - scores[number]
    return total / (2 * len(vectors[0]))


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_the_loss_is_what_plain_loops_give(model: Contrastive, temperature: float, normalise: bool) -> None:
    batch = make_batch(7)
    losses = contrast(model, batch, temperature=temperature, normalise=normalise)
    vectors = model(batch)
    expected = {
        term: by_plain_loops(
            vectors.encoded_BD, vectors.projected[modality], temperature=temperature, normalise=normalise
        )
        for term, modality in {"seq-str": STR, "seq-func": FUNC, "seq-input": SEQ}.items()
    }
    assert {term: error.mean for term, error in losses.trained.items()} == pytest.approx(expected, rel=1e-6)
    assert float(losses.total().detach()) == pytest.approx(sum(expected.values()), rel=1e-6)
    assert losses.hidden == losses.visible == {}


def test_a_term_is_the_cross_entropy_of_rows_and_columns(model: Contrastive) -> None:
    batch = make_batch(9)
    vectors = model(batch)
    one, other = (torch.nn.functional.normalize(v, dim=1) for v in (vectors.encoded_BD, vectors.projected[FUNC]))
    logits, target = one @ other.T / 0.07, torch.arange(9)
    expected = (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2
    assert contrast(model, batch).trained["seq-func"].mean == pytest.approx(float(expected.detach()), rel=1e-6)


def test_terms_of_absent_modalities_fall_away(model: Contrastive) -> None:
    whole = contrast(model, make_batch(5)).trained
    for modality, term in ((STR, "seq-str"), (FUNC, "seq-func")):
        batch = make_batch(5, (SEQ, modality))
        losses = contrast(model, batch)
        assert losses.trained.keys() == {term, "seq-input"} == losses.chance.keys()
        assert losses.trained[term].mean == pytest.approx(whole[term].mean, rel=1e-6)
        assert Contrast().counts(model, batch, show_all(batch).visible) == dict.fromkeys(losses.trained, 5)


def test_knowing_nothing_has_the_loss_that_chance_says(model: Contrastive) -> None:
    torch.nn.init.zeros_(model.encoder.norm.weight)
    torch.nn.init.ones_(model.encoder.norm.bias)
    for modality in WIDTHS:
        torch.nn.init.zeros_(model.projections[modality].second.weight)
        torch.nn.init.ones_(model.projections[modality].second.bias)
    losses = contrast(model, make_batch(6))
    for term, error in losses.trained.items():
        assert error.mean == pytest.approx(math.log(6), rel=1e-6)
        assert losses.chance[term].mean == pytest.approx(math.log(6), rel=1e-6)
        assert not losses.chance[term].total.requires_grad


def test_every_parameter_gets_a_gradient(model: Contrastive) -> None:
    contrast(model, make_batch(6)).total().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_the_gradient_of_the_loss_is_that_of_finite_differences(model: Contrastive) -> None:
    batch = make_batch(4)
    weight = model.projections[STR].second.weight
    contrast(model, batch).total().backward()
    assert weight.grad is not None
    direction = torch.from_numpy(generator_for(3).normal(size=tuple(weight.shape))).float()
    step, losses = 1e-2, []
    for sign in (1, -1):
        with torch.no_grad():
            weight += sign * step * direction
            losses.append(float(contrast(model, batch).total()))
            weight -= sign * step * direction
    assert (losses[0] - losses[1]) / (2 * step) == pytest.approx(float((weight.grad * direction).sum()), rel=2e-2)


def test_a_protein_that_is_drawn_twice_is_not_its_own_negative(model: Contrastive) -> None:
    batch = make_batch(4)
    rows = {m: [(t.of(p), t.position_T[: len(t.of(p))]) for p in (0, 1, 2, 3, 0)] for m, t in batch.tokens.items()}
    twice = pack((*batch.ids, "P0"), rows)
    once, again = contrast(model, batch), contrast(model, twice)
    vectors = model(batch)
    one, other = (torch.nn.functional.normalize(v, dim=1) for v in (vectors.encoded_BD, vectors.projected[STR]))
    logits = (one @ other.T / 0.07).detach()
    expected = 0.0
    for side in (logits, logits.T):
        wider = torch.cat([side, side[:, :1]], dim=1)
        # The first protein sees what it saw before, twice over; to the others it is there twice.
        expected += 2 * float(cross_entropy(side[:1], torch.tensor([0])))
        expected += float(cross_entropy(wider[1:], torch.tensor([1, 2, 3]), reduction="sum"))
    assert float(again.trained["seq-str"].total.detach()) == pytest.approx(expected / 2, rel=1e-5)
    assert again.trained["seq-str"].count == 5
    assert float(again.chance["seq-str"].total) == pytest.approx(2 * math.log(4) + 3 * math.log(5), rel=1e-6)
    assert float(once.chance["seq-str"].total) == pytest.approx(4 * math.log(4), rel=1e-6)


def test_one_protein_alone_counts_nothing_and_gives_a_gradient_of_zero(model: Contrastive) -> None:
    losses = contrast(model, make_batch(1))
    losses.total().backward()
    assert float(losses.total().detach()) == 0
    assert all(error.count == 0 for error in (*losses.trained.values(), *losses.chance.values()))
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in model.parameters())


class Ranks:
    """Ranks that take turns in one process: `gather` gives what all of them have, with gradient to all."""

    def __init__(self, model: Contrastive, batches: Sequence[PackedBatch]) -> None:
        self._model, self._batches, self.rank = model, batches, 0

    def gather(self, rows: Tensor) -> tuple[Tensor, int]:
        first = sum(batch.num_proteins for batch in self._batches[: self.rank])
        if not rows.is_floating_point():
            parts = [self._seen(batch)[1] for batch in self._batches]
        else:
            parts = [self._seen(batch)[0] for batch in self._batches]
        whole = torch.cat(parts)
        torch.testing.assert_close(whole[first : first + len(rows)], rows)
        return whole, first

    def _seen(self, batch: PackedBatch) -> tuple[Tensor, Tensor]:
        """What another rank would send: found by running the objective there up to its exchange."""
        sent: list[Tensor] = []

        def listen(rows: Tensor) -> tuple[Tensor, int]:
            sent.append(rows)
            return rows, 0

        Contrast(gather=listen)(self._model, batch, show_all(batch).visible)
        return sent[0], sent[1]


def test_ranks_have_the_loss_and_gradient_of_the_whole_batch(model: Contrastive) -> None:
    model.train()
    whole = make_batch(7)
    contrast(model, whole).total().backward()
    expected = {
        name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None
    }
    loss = float(contrast(model, whole).total().detach())
    parts = [make_batch(3), make_batch(1, first=3), make_batch(3, first=4)]
    counts = dict.fromkeys(("seq-str", "seq-func", "seq-input"), 7)
    model.zero_grad()
    ranks, summed = Ranks(model, parts), 0.0
    for ranks.rank, batch in enumerate(parts):
        losses = make_objective("contrastive", gather=ranks.gather)(model, batch, show_all(batch).visible)
        assert losses.trained["seq-str"].count == batch.num_proteins
        losses.total(counts).backward()
        summed += float(losses.total(counts).detach())
    assert summed == pytest.approx(loss, rel=1e-5)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-6)


def test_validation_asks_no_other_rank(model: Contrastive) -> None:
    def refuse(rows: Tensor) -> tuple[Tensor, int]:
        raise AssertionError("gathered")

    batch = make_batch(4)
    objective = make_objective("contrastive", gather=refuse)
    model.eval()
    objective(model, batch, show_all(batch).visible)
    model.train()
    with pytest.raises(AssertionError, match="gathered"):
        objective(model, batch, show_all(batch).visible)


def test_the_loss_is_summed_in_float32_under_autocast(model: Contrastive) -> None:
    batch = make_batch(8)
    exact = contrast(model, batch, temperature=1.0).total().detach()
    with torch.autocast("cpu", torch.bfloat16):
        half = contrast(model, batch, temperature=1.0).total().detach()
    assert half.dtype == torch.float32
    assert float(half) == pytest.approx(float(exact), rel=0.02)


def test_a_loss_over_the_batch_says_that_parts_do_not_add_up_to_it(model: Contrastive) -> None:
    objectives = {family: make_objective(family) for family in ("asymmetric", "symmetric", "no-auxiliary")}
    assert all(objective.adds_up and objective.masked for objective in objectives.values())
    objective = make_objective("contrastive")
    assert not objective.adds_up
    assert not objective.masked
    parts = sum(float(contrast(model, make_batch(4, first=n)).total().detach()) / 2 for n in (0, 4))
    assert abs(parts - float(contrast(model, make_batch(8)).total().detach())) > 0.1


def test_a_model_with_decoders_is_not_contrasted() -> None:
    batch = make_batch(3)
    with pytest.raises(TypeError, match="not AMMA"):
        Contrast()(AMMA(CONFIG.model_copy(update={"family": "asymmetric"}), WIDTHS), batch, show_all(batch).visible)


def test_training_lets_proteins_find_what_their_modalities_share() -> None:
    """Sequences and functions show the same four latents, structures others: learned is the one, and not the other."""
    widths = {SEQ: 16, STR: 16, FUNC: 12}
    latents = {SEQ: slice(0, 4), STR: slice(4, 8), FUNC: slice(0, 4)}
    loadings = {m: generator_for(1, width).normal(size=(4, width)) for m, width in widths.items()}

    def draw(num: int, seed: int) -> PackedBatch:
        rng, rows = generator_for(2, seed), dict[Modality, list[tuple[Tensor, Tensor]]]()
        for _ in range(num):
            latent = rng.normal(size=8)
            for modality, width in widths.items():
                features = latent[latents[modality]] @ loadings[modality] + 0.3 * rng.normal(size=(6, width))
                rows.setdefault(modality, []).append((torch.from_numpy(features).float(), torch.arange(6)))
        return pack(tuple(f"P{seed}-{protein}" for protein in range(num)), rows)

    def recall(model: Contrastive, target: Modality) -> float:
        with torch.no_grad():
            vectors = {m: tokens.features_TD.numpy() for m, tokens in model.fuse(held_out).tokens.items()}
        return recall_at([1], vectors[SEQ], vectors[target])[1]

    torch.manual_seed(0)
    model, held_out = Contrastive(CONFIG.model_copy(update={"width": 32, "ffn": 64}), widths), draw(60, seed=-1)
    untrained = recall(model, FUNC)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(100):
        optimizer.zero_grad()
        contrast(model, draw(64, seed=step)).total().backward()
        optimizer.step()
    assert recall(model, FUNC) >= 0.8  # chance is 1 in 60
    assert untrained <= 0.15
    assert recall(model, STR) <= 0.15
