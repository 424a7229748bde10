import numpy as np
import pytest
import torch

from amma.manifests.table import Modality
from amma.train.model.batch import PackedBatch, pack
from amma.train.model.config import PRESETS, WITHOUT_EFFECT, ModelConfig
from amma.train.model.contrastive import Contrastive
from amma.train.model.family import FAMILY, count_parameters, make_model, objective_class
from amma.train.model.masking import generator_for
from amma.train.model.standardise import Moments

SEQ, STR, FUNC = Modality
WIDTHS = {SEQ: 6, STR: 5, FUNC: 4}
CONFIG = ModelConfig(family="contrastive", width=8, ffn=16, num_fusion_layers=2, num_heads=2)
LENGTHS = ((5, 4, 3), (2, 2, 7), (9, 8, 1))


@pytest.fixture
def model() -> Contrastive:
    torch.manual_seed(0)
    model = Contrastive(CONFIG, WIDTHS)
    for modality, width in WIDTHS.items():
        rows = generator_for(9, width).normal(2, range(1, width + 1), (50, width))
        if modality is STR:
            rows[:, 2] = 7
        model.standardiser.fit(modality, Moments(width).update(rows))
    return model.eval()


def make_batch(*proteins: int) -> PackedBatch:
    rows: dict[Modality, list[tuple[torch.Tensor, torch.Tensor]]] = {modality: [] for modality in Modality}
    for protein in proteins:
        rng = generator_for(protein)
        for modality, length in zip(Modality, LENGTHS[protein], strict=True):
            features = rng.normal(1, 3, (length, WIDTHS[modality])).astype(np.float32)
            rows[modality].append((torch.from_numpy(features), torch.arange(length)))
    return pack(tuple(f"P{protein}" for protein in proteins), rows)


@torch.no_grad()
def test_each_vector_is_the_projection_of_the_mean_of_standardised_tokens(model: Contrastive) -> None:
    batch = make_batch(0, 1, 2)
    fused = model.fuse(batch)
    for protein in range(3):
        for modality, tokens in batch.tokens.items():
            standardised = model.standardiser(modality, tokens.of(protein))
            vector = model.projections[modality](standardised.mean(dim=0, keepdim=True))
            if modality is SEQ:
                vector = model.encoder(vector, torch.tensor([0, 1]))
            torch.testing.assert_close(fused.tokens[modality].of(protein), vector, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_there_is_one_token_for_each_protein_and_modality(model: Contrastive) -> None:
    fused = model.fuse(make_batch(0, 2))
    assert fused.ids == ("P0", "P2")
    assert fused.global_BD is None
    for tokens in fused.tokens.values():
        assert tokens.offsets.tolist() == [0, 1, 2]
        assert tokens.position_T.tolist() == [0, 0]
        assert tokens.features_TD.shape == (2, 8)
        assert tokens.features_TD.dtype == torch.float32


@torch.no_grad()
def test_a_protein_is_the_same_alone_and_among_others(model: Contrastive) -> None:
    together = model.fuse(make_batch(2, 0, 1))
    for place, protein in enumerate((2, 0, 1)):
        alone = model.fuse(make_batch(protein))
        for modality, tokens in together.tokens.items():
            torch.testing.assert_close(tokens.of(place), alone.tokens[modality].of(0), rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_a_modality_is_the_same_with_and_without_the_others(model: Contrastive) -> None:
    batch = make_batch(0, 1, 2)
    together = model.fuse(batch)
    for modality, tokens in batch.tokens.items():
        fused = model.fuse(PackedBatch(batch.ids, {modality: tokens}))
        assert list(fused.tokens) == [modality]
        torch.testing.assert_close(fused.tokens[modality].features_TD, together.tokens[modality].features_TD)


@torch.no_grad()
def test_hidden_tokens_have_no_part_in_the_mean(model: Contrastive) -> None:
    batch = make_batch(0, 1, 2)
    visible = {m: torch.arange(len(t.position_T)) % 2 == 0 for m, t in batch.tokens.items()}
    for modality, tokens in batch.tokens.items():
        visible[modality][tokens.offsets[:-1]] = True
    before = model.fuse(batch, visible)
    for modality, tokens in batch.tokens.items():
        tokens.features_TD[~visible[modality]] = 1e3
        assert not torch.equal(model.fuse(batch).tokens[modality].features_TD, before.tokens[modality].features_TD)
        after = model.fuse(batch, visible).tokens[modality].features_TD
        assert torch.equal(after, before.tokens[modality].features_TD)


def test_a_protein_without_a_single_token_is_refused(model: Contrastive) -> None:
    batch = make_batch(0, 1)
    with pytest.raises(ValueError, match="func: a protein without a single token"):
        model.fuse(batch, {m: torch.full((len(t.position_T),), m is not FUNC) for m, t in batch.tokens.items()})


def test_it_has_projections_and_the_encoder_and_nothing_else(model: Contrastive) -> None:
    assert {name.split(".")[0] for name, _ in model.named_parameters()} == {"projections", "encoder"}
    assert {id(p) for p in model.fusion_parameters()} == {id(p) for p in model.parameters()}
    widths = {SEQ: 1280, STR: 3072, FUNC: 768}
    whole = PRESETS["paper"].model
    contrastive = whole.model_copy(update={"family": "contrastive"})
    with torch.device("meta"):
        autoencoder = make_model(whole, widths)
    shared = [p for part in (autoencoder.projections, autoencoder.encoder) for p in part.parameters()]
    assert count_parameters(contrastive, widths) == sum(p.numel() for p in shared) == 28_631_040


def test_every_family_has_a_model_an_objective_and_its_settings() -> None:
    assert FAMILY.keys() == WITHOUT_EFFECT.keys()
    for family, settings in WITHOUT_EFFECT.items():
        config = CONFIG.model_copy(update={"family": family})
        assert make_model(config, WIDTHS).config.family == family
        assert objective_class(family).masked == ("mask" not in settings)
