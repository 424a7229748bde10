"""A triplet of which a whole modality is hidden still trains, whichever modality and whichever model."""

import numpy as np
import pytest
import torch
from batches import TRIPLETS, WIDTHS, make_batch, make_visible
from torch import Tensor

from amma.manifests.table import MODALITIES, Modality
from amma.train.model.amma import AMMA, DECODER_SOURCES
from amma.train.model.batch import PackedBatch
from amma.train.model.config import MaskConfig, ModelConfig
from amma.train.model.masking import draw_batch, generator_for
from amma.train.model.reconstruction import Reconstruction

FAMILIES = ["asymmetric", "symmetric", "no-auxiliary"]
each_family = pytest.mark.parametrize("family", FAMILIES)
each_modality = pytest.mark.parametrize("hidden", list(MODALITIES))


def model_of(family: str, small: ModelConfig) -> AMMA:
    torch.manual_seed(0)
    return AMMA(ModelConfig.parse({**small.model_dump(), "family": family}, source="test"), WIDTHS)


def without(batch: PackedBatch, hidden: Modality, proteins: set[int]) -> dict[Modality, Tensor]:
    """Masks that show some of everything, but nothing of one modality of these proteins."""
    visible = make_visible(batch)
    of_them = torch.tensor([protein in proteins for protein in range(batch.num_proteins)])
    return {**visible, hidden: visible[hidden] & ~of_them[batch.tokens[hidden].protein_T()]}


def moved(model: AMMA, *parts: torch.nn.Module | Tensor) -> list[bool]:
    """Whether each part has a gradient that is not zero; all there are must be finite."""
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    parameters = [[part] if isinstance(part, Tensor) else list(part.parameters()) for part in parts]
    return [any(p.grad is not None and bool(p.grad.any()) for p in of_part) for of_part in parameters]


@each_family
@each_modality
def test_its_decoder_learns_and_all_that_is_visible_learns(family: str, hidden: Modality, small: ModelConfig) -> None:
    model, batch = model_of(family, small), make_batch(TRIPLETS)
    visible = without(batch, hidden, set(range(len(TRIPLETS))))
    losses = Reconstruction()(model, batch, visible)
    assert losses.hidden[hidden].count == batch.tokens[hidden].features_TD.numel()
    assert losses.visible[hidden].count == 0
    assert torch.isfinite(losses.total())
    losses.total().backward()
    assert all(moved(model, *model.decoders.values()))
    # What is not seen is not read. What is seen learns, if a decoder sees anything that it could reach it through.
    assert moved(model, model.projections[hidden], model.embeddings[hidden]) == [False, False]
    some_decoder_sees = any(set(sources) - {hidden} for sources in DECODER_SOURCES[model.config.family].values())
    others = [model.projections[modality] for modality in MODALITIES if modality is not hidden]
    assert moved(model, model.encoder, *others) == [some_decoder_sees] * 3
    assert some_decoder_sees == (family != "no-auxiliary" or hidden is not Modality.SEQ)


@each_family
@each_modality
def test_its_own_error_teaches_what_its_decoder_sees(family: str, hidden: Modality, small: ModelConfig) -> None:
    model, batch = model_of(family, small), make_batch(TRIPLETS)
    losses = Reconstruction()(model, batch, without(batch, hidden, set(range(len(TRIPLETS)))))
    losses.trained[hidden].total.backward()
    sees = bool(set(DECODER_SOURCES[model.config.family][hidden]) - {hidden})
    others = [model.projections[modality] for modality in MODALITIES if modality is not hidden]
    assert moved(model, model.encoder, *others) == [sees] * 3
    assert moved(model, *model.decoders.values()) == [modality is hidden for modality in model.decoders]


@each_family
@each_modality
def test_beside_proteins_that_show_it_nothing_changes_for_those(
    family: str, hidden: Modality, small: ModelConfig
) -> None:
    model, batch = model_of(family, small), make_batch(TRIPLETS)
    some, none = without(batch, hidden, {1}), without(batch, hidden, set())
    with torch.no_grad():
        rebuilt, before = model(batch, some), model(batch, none)
    for modality, tokens in batch.tokens.items():
        theirs = tokens.protein_T() != 1
        torch.testing.assert_close(rebuilt[modality][theirs], before[modality][theirs], rtol=0, atol=1e-6)
        assert rebuilt[modality].isfinite().all()


@each_modality
@pytest.mark.parametrize(("family", "bf16"), [*((family, False) for family in FAMILIES), ("asymmetric", True)])
def test_its_error_falls_step_by_step(family: str, hidden: Modality, bf16: bool, small: ModelConfig) -> None:
    model, batch = model_of(family, small), make_batch(TRIPLETS)
    visible = without(batch, hidden, set(range(len(TRIPLETS))))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    errors = []
    for _ in range(30):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            losses = Reconstruction()(model, batch, visible)
        losses.total().backward()
        optimizer.step()
        errors.append(float(losses.hidden[hidden].mean))
    assert errors[-1] < 0.8 * errors[0]
    assert all(parameter.isfinite().all() for parameter in model.parameters())


@each_family
def test_masks_that_always_drop_a_modality_train_too(family: str, small: ModelConfig) -> None:
    model, batch = model_of(family, small), make_batch([(9, 7, 5), (12, 10, 8), (9, 9, 5), (8, 8, 6)] * 2)
    mask = MaskConfig(visible_tokens=8, modality_dropout=1.0)
    masks = draw_batch([generator_for(0, protein) for protein in range(8)], batch, mask)
    shown = torch.from_numpy(np.stack([masks.counts[modality] for modality in MODALITIES]))
    assert ((shown == 0).sum(0) >= 1).all()
    assert len(set((shown == 0).int().argmax(0).tolist())) == 3  # every modality is the one that is hidden somewhere
    losses = Reconstruction()(model, batch, masks.visible)
    losses.total().backward()
    assert all(moved(model, model.encoder, *model.decoders.values(), *model.projections.values()))
