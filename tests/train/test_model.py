import copy

import pytest
import torch
from batches import TRIPLETS, WIDTHS, make_batch, make_visible, with_features
from torch import Tensor

from amma.manifests.table import MODALITIES, Modality
from amma.train.model.amma import AMMA
from amma.train.model.batch import PackedBatch, pack
from amma.train.model.config import PRESETS, ModelConfig
from amma.train.model.family import count_parameters
from amma.train.model.masking import draw_batch, generator_for
from amma.train.model.reconstruction import Reconstruction
from amma.train.model.standardise import Moments

SEQ, STR, FUNC = Modality
PAPER_WIDTHS = {SEQ: 1280, STR: 3072, FUNC: 768}
SMALL = ModelConfig(
    width=16,
    ffn=32,
    num_fusion_layers=2,
    num_heads=2,
    decoder_width=32,
    decoder_ffn=64,
    num_decoder_heads=2,
)
FAMILIES = ["asymmetric", "symmetric", "no-auxiliary"]


def small(family: str = "asymmetric") -> AMMA:
    torch.manual_seed(0)
    return AMMA(ModelConfig.parse({**SMALL.model_dump(), "family": family}, source="x"), WIDTHS)


@pytest.mark.parametrize(
    ("preset", "parameters"),
    [("paper", 111_038_464), ("paper-text-51m", 50_962_944), ("uniform-768", 110_651_648)],
)
def test_presets_have_the_number_of_parameters_they_are_named_for(preset: str, parameters: int) -> None:
    assert count_parameters(PRESETS[preset].model, PAPER_WIDTHS) == parameters


def test_embeddings_are_the_only_parameters_that_are_not_counted() -> None:
    model = small()
    embeddings = 3 * SMALL.width + 3 * SMALL.decoder_width
    assert sum(p.numel() for p in model.parameters()) == count_parameters(SMALL, WIDTHS) + embeddings


def test_fusion_and_decoder_parameters_are_all_of_them_and_apart() -> None:
    model = small()
    fusion, decoder = set(model.fusion_parameters()), set(model.decoder_parameters())
    assert fusion | decoder == set(model.parameters())
    assert not fusion & decoder
    batch = make_batch(TRIPLETS)
    sum(tokens.features_TD.sum() for tokens in model.fuse(batch).tokens.values()).backward()
    assert all(p.grad is not None for p in fusion)
    assert all(p.grad is None for p in decoder)


def test_every_token_of_every_modality_is_rebuilt() -> None:
    batch = make_batch(TRIPLETS)
    rebuilt = small()(batch, make_visible(batch))
    assert {m: tuple(x.shape) for m, x in rebuilt.items()} == {SEQ: (28, 6), STR: (22, 10), FUNC: (19, 4)}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_protein_is_the_same_alone_and_among_others(family: str) -> None:
    model = small(family)
    batch = make_batch(TRIPLETS)
    visible = make_visible(batch)
    fused, rebuilt = model.fuse(batch, visible), model(batch, visible)
    for protein, name in enumerate(batch.ids):
        spans = {m: slice(*t.offsets[protein : protein + 2].tolist()) for m, t in batch.tokens.items()}
        rows = {m: [(batch.tokens[m].features_TD[s], batch.tokens[m].position_T[s])] for m, s in spans.items()}
        alone, seen = pack((name,), rows), {m: visible[m][s] for m, s in spans.items()}
        for modality, span in spans.items():
            among = fused.tokens[modality].of(protein)
            torch.testing.assert_close(model.fuse(alone, seen).tokens[modality].of(0), among, rtol=0, atol=1e-6)
            rms = float(rebuilt[modality].detach().square().mean().sqrt())
            again = model(alone, seen)[modality]
            torch.testing.assert_close(again, rebuilt[modality][span], rtol=0, atol=2e-6 * rms)


def test_fused_tokens_are_the_visible_ones_in_their_places() -> None:
    batch = make_batch(TRIPLETS)
    visible = make_visible(batch)
    fused = small().fuse(batch, visible)
    assert fused.ids == batch.ids
    for modality, tokens in batch.tokens.items():
        kept = visible[modality]
        assert torch.equal(fused.tokens[modality].position_T, tokens.position_T[kept])
        assert torch.equal(fused.tokens[modality].protein_T(), tokens.protein_T()[kept])
        assert fused.tokens[modality].features_TD.shape == (int(kept.sum()), SMALL.width)
    everything = small().fuse(batch)
    assert {m: len(t.position_T) for m, t in everything.tokens.items()} == {SEQ: 28, STR: 22, FUNC: 19}


def test_hidden_tokens_do_not_reach_the_encoder() -> None:
    model, batch = small(), make_batch(TRIPLETS)
    visible = make_visible(batch)
    before = model.fuse(batch, visible), model(batch, visible)
    loud = {m: torch.where(visible[m][:, None], t.features_TD, 1e3) for m, t in batch.tokens.items()}
    changed = with_features(batch, loud)
    after = model.fuse(changed, visible), model(changed, visible)
    for modality in MODALITIES:
        assert torch.equal(before[0].tokens[modality].features_TD, after[0].tokens[modality].features_TD)
        assert torch.equal(before[1][modality], after[1][modality])


def test_no_gradient_leads_from_a_representation_to_a_hidden_token() -> None:
    model, batch = small(), make_batch(TRIPLETS)
    visible = make_visible(batch)
    features = {m: t.features_TD.clone().requires_grad_() for m, t in batch.tokens.items()}
    fused = model.fuse(with_features(batch, features), visible)
    sum(tokens.features_TD.square().sum() for tokens in fused.tokens.values()).backward()
    for modality, matrix in features.items():
        reached = matrix.grad.abs().sum(1) > 0
        assert torch.equal(reached, visible[modality])


# Which modalities' visible tokens change a reconstruction although the encoder's mixing is switched off.
SEEN_BY_DECODERS = {
    "asymmetric": {SEQ: {SEQ}, STR: {SEQ, FUNC}, FUNC: {SEQ, STR}},
    "symmetric": {SEQ: {SEQ}, STR: {STR}, FUNC: {FUNC}},
    "no-auxiliary": {SEQ: {SEQ}, STR: {SEQ}, FUNC: {SEQ}},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_each_decoder_sees_its_sources_and_nothing_else(family: str) -> None:
    model, batch = small(family), make_batch(TRIPLETS)
    for layer in model.encoder.layers:  # values of zero: tokens no longer mix in the encoder
        torch.nn.init.zeros_(layer.attention.query_key_value.weight)
    visible = make_visible(batch)
    before = model(batch, visible)
    for source in MODALITIES:
        after = model(with_features(batch, {source: batch.tokens[source].features_TD + 1}), visible)
        changed = {target for target in MODALITIES if not torch.equal(before[target], after[target])}
        assert changed == {t for t in MODALITIES if source in SEEN_BY_DECODERS[family][t]}


def test_structure_is_read_off_at_its_own_residues() -> None:
    """A residue whose Cα is missing shifts nothing: the others are rebuilt as if it had one."""
    model = small("no-auxiliary")
    whole, partial = make_batch([(9, 9, 5), (4, 4, 3)]), make_batch([(9, 7, 5), (4, 3, 3)])
    sequence = whole.tokens[SEQ]
    partial = PackedBatch(partial.ids, {**partial.tokens, SEQ: sequence})
    seen = {SEQ: torch.ones(13, dtype=torch.bool), FUNC: torch.zeros(8, dtype=torch.bool)}
    at_all = model(whole, {**seen, STR: torch.zeros(13, dtype=torch.bool)})[STR]
    at_some = model(partial, {**seen, STR: torch.zeros(10, dtype=torch.bool)})[STR]
    torch.testing.assert_close(at_some, at_all[[2, 3, 4, 5, 6, 7, 8, 10, 11, 12]], rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_positions_do_not_all_decode_alike(family: str) -> None:
    batch = make_batch([(9, 7, 6), (8, 8, 8)])
    nothing = {m: torch.zeros(len(t.position_T), dtype=torch.bool) for m, t in batch.tokens.items()}
    for modality, rebuilt in small(family)(batch, nothing).items():
        first = rebuilt[: batch.tokens[modality].offsets[1]]
        distance = torch.cdist(first, first) + torch.eye(len(first)) * 9
        assert distance.min() > 1e-3


def test_proteins_of_which_nothing_is_visible_are_rebuilt_and_train() -> None:
    model, batch = small(), make_batch([(1, 1, 1), (9, 7, 5), (2, 0, 0)])
    visible = make_visible(batch, share=0.5)
    for modality, tokens in batch.tokens.items():
        visible[modality] &= tokens.protein_T() == 1
    losses = Reconstruction()(model, batch, visible)
    losses.total().backward()
    assert torch.isfinite(losses.total())
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    nothing = {m: torch.zeros_like(mask) for m, mask in visible.items()}
    assert torch.isfinite(Reconstruction()(model, batch, nothing).total())


@pytest.mark.parametrize("pair", [(SEQ, STR), (SEQ, FUNC), (SEQ,)])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_pair_batch_leaves_the_absent_modalitys_decoder_without_gradient(
    pair: tuple[Modality, ...], family: str
) -> None:
    model, batch = small(family), make_batch(TRIPLETS, pair)
    losses = Reconstruction()(model, batch, make_visible(batch))
    assert tuple(losses.trained) == pair
    losses.total().backward()
    for modality in MODALITIES:
        decoder = [p.grad for p in model.decoders[modality].parameters()]
        projection = [p.grad for p in model.projections[modality].parameters()]
        if modality in pair:
            assert all(grad is not None and grad.any() for grad in [*decoder, decoder[-1]])
        else:
            assert all(grad is None for grad in [*decoder, *projection, model.embeddings[modality].grad])


def test_sequence_and_structure_share_their_residue_positions() -> None:
    """With equal features, projections and embeddings, a residue's two tokens come out the same."""
    torch.manual_seed(0)
    model = AMMA(SMALL, {SEQ: 6, STR: 6})
    model.projections[STR].load_state_dict(model.projections[SEQ].state_dict())
    model.embeddings[STR].data.copy_(model.embeddings[SEQ])
    features = torch.randn(5, 6)
    batch = pack(("a",), {SEQ: [(features, torch.arange(5))], STR: [(features[2:], torch.arange(2, 5))]})
    fused = model.fuse(batch).tokens
    torch.testing.assert_close(fused[SEQ].features_TD[2:], fused[STR].features_TD, rtol=0, atol=1e-6)


def test_the_scale_of_an_encoders_features_does_not_matter() -> None:
    model, batch = small(), make_batch(TRIPLETS)
    visible = make_visible(batch)
    answers = []
    for scale, shift in ((1.0, 0.0), (40.0, -300.0)):
        scaled = with_features(batch, {m: t.features_TD * scale + shift for m, t in batch.tokens.items()})
        for modality, tokens in scaled.tokens.items():
            moments = Moments(WIDTHS[modality]).update(tokens.features_TD.numpy())
            model.standardiser.fit(modality, moments)
        answers.append({**model(scaled, visible), "loss": Reconstruction()(model, scaled, visible).total()})
    for name, answer in answers[0].items():
        torch.testing.assert_close(answer, answers[1][name], rtol=1e-3, atol=1e-3)


def test_a_step_asks_the_device_nothing() -> None:
    """On the meta device, which has no numbers, any question about a value is an error."""
    model, batch = small(), make_batch(TRIPLETS)
    visible = make_visible(batch)
    counts = Reconstruction().counts(model, batch, visible)
    model, far = model.to("meta"), batch.to("meta")
    losses = Reconstruction()(model, far, visible)
    losses.total(counts).backward()
    assert losses.total().device.type == "meta"
    assert {p.grad.device.type for p in model.parameters()} == {"meta"}


def test_statistics_and_weights_travel_together() -> None:
    model, other = small(), small("asymmetric")
    for parameter in other.parameters():
        torch.nn.init.normal_(parameter)
    model.standardiser.mean(SEQ).fill_(0.5)
    other.load_state_dict(copy.deepcopy(model.state_dict()))
    batch = make_batch(TRIPLETS)
    assert torch.equal(other.fuse(batch).tokens[SEQ].features_TD, model.fuse(batch).tokens[SEQ].features_TD)


def test_bf16_autocast_stays_near_float32_and_keeps_weights_in_float32() -> None:
    model, batch = small(), make_batch(TRIPLETS)
    visible = make_visible(batch)
    exact = model(batch, visible)
    with torch.autocast("cpu", torch.bfloat16):
        losses = Reconstruction()(model, batch, visible)
        half = model(batch, visible)
    losses.total().backward()
    for modality in MODALITIES:
        assert (half[modality].float() - exact[modality]).abs().mean() < 0.05
    assert {p.grad.dtype for p in model.parameters()} == {torch.float32}


def planted(num_proteins: int, generator: torch.Generator) -> PackedBatch:
    """Three modalities that are noisy linear views of one latent walk along each protein."""
    views = {m: torch.randn(3, w, generator=torch.Generator().manual_seed(w)) for m, w in WIDTHS.items()}
    rows: dict[Modality, list[tuple[Tensor, Tensor]]] = {modality: [] for modality in MODALITIES}
    for _ in range(num_proteins):
        latent = torch.randn(1, 3, generator=generator) + 0.3 * torch.randn(12, 3, generator=generator)
        for modality, view in views.items():
            rows[modality].append((latent @ view, torch.arange(12)))
    return pack(tuple(map(str, range(num_proteins))), rows)


def test_a_few_dozen_steps_on_planted_features_beat_predicting_the_mean() -> None:
    generator = torch.Generator().manual_seed(0)
    model, mask, objective = small(), PRESETS["tiny"].mask, Reconstruction()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(60):
        batch = planted(16, generator)
        visible = draw_batch([generator_for(0, step, protein) for protein in range(16)], batch, mask).visible
        loss = objective(model, batch, visible).total()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    batch = planted(64, generator)
    visible = draw_batch([generator_for(1, protein) for protein in range(64)], batch, mask).visible
    with torch.no_grad():
        ours, mean = objective(model, batch, visible), objective.of_the_mean(model, batch, visible)
    for modality in MODALITIES:
        assert ours.hidden[modality].mean < 0.5 * mean.hidden[modality].mean
