"""What the paper leaves open about the model: each switch does what it says, and the rest holds with it as without."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from batches import TRIPLETS, WIDTHS, make_batch, make_visible, with_features
from torch import Tensor

from amma.manifests.table import MODALITIES, Modality
from amma.train.model.amma import AMMA
from amma.train.model.batch import PackedBatch, pack
from amma.train.model.config import PRESETS, ModelConfig
from amma.train.model.family import count_parameters
from amma.train.model.reconstruction import Reconstruction
from amma.train.run.config import OptimizerConfig
from amma.train.run.optimizer import make_optimizer

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
SWITCHES: list[dict[str, Any]] = [
    {"positions": "none"},
    {"modality_vectors": False},
    {"decoder_positions": False},
    {"hidden_tokens": "learned"},
    {"projection_hidden": 24},
    {"num_heads": 4, "num_decoder_heads": 1},
    {"global_token": True},
    {"positions": "none", "modality_vectors": False, "decoder_positions": False},
    {"decoder_positions": False, "hidden_tokens": "learned", "global_token": True},
]
FAMILIES = ["asymmetric", "symmetric", "no-auxiliary"]
each_switch = pytest.mark.parametrize(
    "switch", SWITCHES, ids=lambda switch: ", ".join(f"{key}={value}" for key, value in switch.items())
)


def small(**switch: Any) -> AMMA:
    torch.manual_seed(0)
    return AMMA(ModelConfig.parse({**SMALL.model_dump(), **switch}, source="x"), WIDTHS)


def nothing_visible(batch: PackedBatch) -> dict[Modality, Tensor]:
    return make_visible(batch, share=0.0)


@each_switch
@pytest.mark.parametrize("family", FAMILIES)
def test_a_protein_is_the_same_alone_and_among_others(family: str, switch: dict[str, Any]) -> None:
    model = small(family=family, **switch)
    batch = make_batch(TRIPLETS)
    visible = make_visible(batch)
    fused, rebuilt = model.fuse(batch, visible), model(batch, visible)
    for protein, name in enumerate(batch.ids):
        spans = {m: slice(*t.offsets[protein : protein + 2].tolist()) for m, t in batch.tokens.items()}
        rows = {m: [(batch.tokens[m].features_TD[s], batch.tokens[m].position_T[s])] for m, s in spans.items()}
        alone, seen = pack((name,), rows), {m: visible[m][s] for m, s in spans.items()}
        fused_alone, rebuilt_alone = model.fuse(alone, seen), model(alone, seen)
        for modality, span in spans.items():
            among = fused.tokens[modality].of(protein)
            torch.testing.assert_close(fused_alone.tokens[modality].of(0), among, rtol=0, atol=1e-5)
            rms = float(rebuilt[modality].detach().square().mean().sqrt())
            torch.testing.assert_close(rebuilt_alone[modality], rebuilt[modality][span], rtol=0, atol=1e-5 * rms)
        assert (fused.global_BD is None) == (fused_alone.global_BD is None) == (not switch.get("global_token"))
        if fused.global_BD is not None and fused_alone.global_BD is not None:
            assert fused.global_BD.shape == (len(TRIPLETS), SMALL.width)
            torch.testing.assert_close(fused_alone.global_BD[0], fused.global_BD[protein], rtol=0, atol=1e-5)


@each_switch
@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_tokens_reach_neither_the_encoder_nor_a_decoder(family: str, switch: dict[str, Any]) -> None:
    model, batch = small(family=family, **switch), make_batch(TRIPLETS)
    visible = make_visible(batch)
    loud = {m: torch.where(visible[m][:, None], t.features_TD, 1e3) for m, t in batch.tokens.items()}
    changed = with_features(batch, loud)
    before, after = model.fuse(batch, visible), model.fuse(changed, visible)
    rebuilt, again = model(batch, visible), model(changed, visible)
    for modality in MODALITIES:
        assert torch.equal(before.tokens[modality].features_TD, after.tokens[modality].features_TD)
        assert torch.equal(rebuilt[modality], again[modality])
    if before.global_BD is not None and after.global_BD is not None:
        assert torch.equal(before.global_BD, after.global_BD)
    features = {m: t.features_TD.clone().requires_grad_() for m, t in batch.tokens.items()}
    sum(x.square().sum() for x in model(with_features(batch, features), visible).values()).backward()
    for modality, matrix in features.items():
        assert torch.equal(matrix.grad.abs().sum(1) > 0, visible[modality])


@each_switch
@pytest.mark.parametrize("pair", [(SEQ, STR), (SEQ, FUNC), (SEQ,)])
def test_a_pair_batch_leaves_all_that_belongs_to_the_absent_modality_without_gradient(
    pair: tuple[Modality, ...], switch: dict[str, Any]
) -> None:
    model, batch = small(**switch), make_batch(TRIPLETS, pair)
    losses = Reconstruction()(model, batch, make_visible(batch))
    assert tuple(losses.trained) == pair
    losses.total().backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    absent = {name for name in gradients if set(name.split(".")) & (set(MODALITIES) - set(pair))}
    assert absent
    assert all(gradients[name] is None for name in absent)
    parts = ("projections.", "embeddings.", "encoder.", "global_token", "decoders.")
    used = {name: gradients[name] for name in gradients.keys() - absent if name.startswith(parts)}
    assert all(gradient is not None and gradient.isfinite().all() for gradient in used.values())
    assert all(gradient is not None and gradient.any() for gradient in used.values())


@each_switch
def test_a_step_asks_the_device_nothing(switch: dict[str, Any]) -> None:
    """On the meta device, which has no numbers, any question about a value is an error."""
    model, batch = small(**switch), make_batch(TRIPLETS)
    visible = make_visible(batch)
    counts = Reconstruction().counts(model, batch, visible)
    model, far = model.to("meta"), batch.to("meta")
    Reconstruction()(model, far, visible).total(counts).backward()
    assert {p.grad.device.type for p in model.parameters()} == {"meta"}


@each_switch
def test_bf16_autocast_keeps_what_layers_add_to_in_float32(switch: dict[str, Any]) -> None:
    model, batch = small(**switch), make_batch(TRIPLETS)
    visible = make_visible(batch)
    inputs: list[Tensor] = []
    for layer in (*model.encoder.layers, *(layer for d in model.decoders.values() for layer in d.transformer.layers)):
        layer.register_forward_pre_hook(lambda layer, arguments: inputs.append(arguments[0]))
    exact = model(batch, visible)
    with torch.autocast("cpu", torch.bfloat16):
        half = model(batch, visible)
    assert {tensor.dtype for tensor in inputs} == {torch.float32}
    for modality in MODALITIES:
        assert (half[modality].float() - exact[modality]).abs().mean() < 0.05


@each_switch
def test_fusion_and_decoder_parameters_are_all_of_them_and_apart(switch: dict[str, Any]) -> None:
    model = small(**switch)
    fusion, decoder = set(model.fusion_parameters()), set(model.decoder_parameters())
    assert fusion | decoder == set(model.parameters())
    assert not fusion & decoder
    batch = make_batch(TRIPLETS)
    sum(tokens.features_TD.sum() for tokens in model.fuse(batch).tokens.values()).backward()
    assert all(p.grad is not None for p in fusion)
    assert all(p.grad is None for p in decoder)


@each_switch
def test_vectors_are_not_counted_and_do_not_decay(switch: dict[str, Any]) -> None:
    for name, parameters in {"paper": 111_038_464, "paper-text-51m": 50_962_944, "uniform-768": 110_651_648}.items():
        preset = PRESETS[name].model
        changed = ModelConfig.parse({**preset.model_dump(), **switch}, source="x")
        hidden = changed.projection_hidden or preset.width
        more = (hidden - preset.width) * (sum(PAPER_WIDTHS.values()) + len(PAPER_WIDTHS) * (1 + preset.width))
        assert count_parameters(changed, PAPER_WIDTHS) == parameters + more
    model = small(**switch)
    decays, stays = (set(group["params"]) for group in make_optimizer(model, OptimizerConfig()).param_groups)
    assert set(model.uncounted_parameters()) <= stays
    assert all(parameter.dim() == 2 for parameter in decays)


def test_switches_add_and_remove_the_parameters_that_they_name_and_leave_the_others_as_they_are() -> None:
    default = small().state_dict()
    for switch, added, removed in (
        ({"global_token": True}, {"global_token"}, set()),
        ({"hidden_tokens": "learned"}, {f"hidden_tokens.{m}" for m in MODALITIES}, set()),
        ({"modality_vectors": False}, set(), {f"{d}embeddings.{m}" for d in ("", "decoder_") for m in MODALITIES}),
        ({"decoder_positions": False}, set(), {f"decoder_embeddings.{m}" for m in MODALITIES}),
        ({"positions": "none"}, set(), set()),
        ({"num_heads": 4, "num_decoder_heads": 1}, set(), set()),
    ):
        state = small(**switch).state_dict()
        assert state.keys() - default.keys() == added
        assert default.keys() - state.keys() == removed
        if added:
            assert all(torch.equal(state[name], tensor) for name, tensor in default.items())
    shapes = {m: tuple(small(projection_hidden=24).projections[m].first.weight.shape) for m in MODALITIES}
    assert shapes == {SEQ: (24, 6), STR: (24, 10), FUNC: (24, 4)}


def permuted(batch: PackedBatch, order: Mapping[Modality, Tensor]) -> PackedBatch:
    """The same places with other contents: row i gets that of row `order[i]`."""
    return with_features(batch, {m: t.features_TD[order[m]] for m, t in batch.tokens.items()})


def test_without_positions_the_encoder_does_not_know_the_order_of_tokens() -> None:
    batch = make_batch([(9, 9, 5), (4, 4, 8)])
    order = {
        m: torch.cat([torch.randperm(int(n)) + start for n, start in zip(t.lengths, t.offsets, strict=False)])
        for m, t in batch.tokens.items()
    }
    for positions, blind in (("none", True), ("sincos", False)):
        model = small(positions=positions, global_token=True)
        plain, other = model.fuse(batch), model.fuse(permuted(batch, order))
        for modality in MODALITIES:
            moved = plain.tokens[modality].features_TD[order[modality]]
            assert torch.allclose(moved, other.tokens[modality].features_TD, rtol=0, atol=1e-5) == blind
        assert plain.global_BD is not None
        assert other.global_BD is not None
        assert torch.allclose(plain.global_BD, other.global_BD, rtol=0, atol=1e-5) == blind
        # Decoders have positions of their own, and still tell places apart.
        rebuilt = model(batch, nothing_visible(batch))[SEQ][:9]
        assert (torch.cdist(rebuilt, rebuilt) + 9 * torch.eye(9)).min() > 1e-3


@pytest.mark.parametrize("hidden_tokens", ["zeros", "learned"])
@pytest.mark.parametrize("family", FAMILIES)
def test_without_decoder_positions_all_hidden_tokens_of_a_modality_decode_alike(
    family: str, hidden_tokens: str
) -> None:
    model = small(family=family, decoder_positions=False, hidden_tokens=hidden_tokens)
    batch = make_batch([(9, 9, 6), (8, 8, 8)])
    visible = make_visible(batch)
    read_at = {"asymmetric": {STR: SEQ, FUNC: None}, "symmetric": {}, "no-auxiliary": {STR: SEQ, FUNC: None}}[family]
    for modality, rebuilt in model(batch, visible).items():
        source = read_at.get(modality, modality)  # None: queries, none of which has a content
        hidden = torch.ones(len(rebuilt), dtype=torch.bool) if source is None else ~visible[source]
        for protein in range(2):
            mine = batch.tokens[modality].protein_T() == protein
            alike, others = rebuilt[mine & hidden], rebuilt[mine & ~hidden]
            assert len(alike) > 2
            torch.testing.assert_close(alike, alike[:1].expand_as(alike), rtol=0, atol=1e-6)
            if len(others):
                assert torch.cdist(alike[:1], others).min() > 1e-3


def test_without_modality_vectors_equal_contents_at_a_residue_are_the_same_token() -> None:
    features = torch.randn(5, 6)
    batch = pack(("a",), {SEQ: [(features, torch.arange(5))], STR: [(features, torch.arange(5))]})
    for vectors in (True, False):
        torch.manual_seed(0)
        model = AMMA(SMALL.model_copy(update={"modality_vectors": vectors}), {SEQ: 6, STR: 6})
        model.projections[STR].load_state_dict(model.projections[SEQ].state_dict())
        fused = model.fuse(batch).tokens
        same = torch.allclose(fused[SEQ].features_TD, fused[STR].features_TD, rtol=0, atol=1e-6)
        assert same == (not vectors)


@pytest.mark.parametrize("family", FAMILIES)
def test_learned_hidden_tokens_of_zeros_are_zeros_to_the_bit(family: str) -> None:
    plain, learned = small(family=family), small(family=family, hidden_tokens="learned")
    for vector in learned.hidden_tokens.values():
        torch.nn.init.zeros_(vector)
    batch = make_batch(TRIPLETS)
    visible = make_visible(batch)
    ours, theirs = learned(batch, visible), plain(batch, visible)
    assert all(torch.equal(ours[modality], theirs[modality]) for modality in MODALITIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_hidden_token_is_its_learned_vector_with_position_and_modality(family: str) -> None:
    """Where nothing is visible, that is what the modality's own vector would be with the two added up."""
    plain, learned = small(family=family), small(family=family, hidden_tokens="learned")
    for modality, vector in learned.hidden_tokens.items():
        torch.nn.init.normal_(vector)
        plain.decoder_embeddings[modality].data += vector.data
    batch = make_batch(TRIPLETS)
    ours, theirs = (model(batch, nothing_visible(batch)) for model in (learned, plain))
    for modality in MODALITIES:
        torch.testing.assert_close(ours[modality], theirs[modality], rtol=0, atol=1e-5)


def test_learned_hidden_tokens_stand_at_hidden_places_and_queries_only() -> None:
    batch = make_batch(TRIPLETS)
    some = make_visible(batch)
    everything = {m: torch.ones_like(mask) for m, mask in some.items()}
    for visible, seen in (
        (some, {SEQ: {SEQ, STR, FUNC}, STR: {FUNC}, FUNC: {STR, FUNC}}),
        (everything, {SEQ: set(), STR: set(), FUNC: {FUNC}}),  # nothing is hidden, but queries have no content
    ):
        for modality, targets in seen.items():
            model = small(hidden_tokens="learned")
            before = model(batch, visible)
            torch.nn.init.normal_(model.hidden_tokens[modality])
            after = model(batch, visible)
            assert {m for m in MODALITIES if not torch.equal(before[m], after[m])} == targets


def test_the_number_of_heads_changes_the_numbers_and_not_the_weights() -> None:
    batch = make_batch(TRIPLETS)
    plain = small()
    for switch in ({"num_heads": 4}, {"num_decoder_heads": 4}):
        other = small(**switch)
        other.load_state_dict(plain.state_dict())
        assert not torch.allclose(other(batch, make_visible(batch))[SEQ], plain(batch, make_visible(batch))[SEQ])
        same = torch.equal(other.fuse(batch).tokens[SEQ].features_TD, plain.fuse(batch).tokens[SEQ].features_TD)
        assert same == ("num_decoder_heads" in switch)


def test_every_token_can_look_at_the_global_token_and_no_decoder_can() -> None:
    batch = make_batch(TRIPLETS)
    visible = make_visible(batch)
    model = small(global_token=True)
    assert model.global_token is not None

    def answers() -> tuple[dict[Modality, Tensor], dict[Modality, Tensor]]:
        fused = {m: t.features_TD.clone() for m, t in model.fuse(batch, visible).tokens.items()}
        return fused, model(batch, visible)

    before = answers()
    torch.nn.init.normal_(model.global_token)
    after = answers()
    assert not any(torch.equal(before[0][m], after[0][m]) for m in MODALITIES)
    # Values of zero: tokens no longer mix in the encoder, and what decoders are given is all that could differ.
    for layer in model.encoder.layers:
        torch.nn.init.zeros_(layer.attention.query_key_value.weight)
    before = answers()
    torch.nn.init.normal_(model.global_token)
    after = answers()
    assert all(torch.equal(before[1][m], after[1][m]) for m in MODALITIES)


def test_a_protein_has_its_global_token_whatever_it_shows() -> None:
    model = small(global_token=True)
    for modalities in (MODALITIES, (SEQ, STR), (SEQ, FUNC), (SEQ,), (STR,)):
        batch = make_batch([(1, 1, 1), (9, 7, 5), (4, 4, 8)], modalities)
        blind = model.fuse(batch, nothing_visible(batch)).global_BD
        assert blind is not None
        torch.testing.assert_close(blind, blind[:1].expand(3, -1), rtol=0, atol=1e-6)
        seeing = model.fuse(batch).global_BD
        assert seeing is not None
        assert torch.cdist(seeing, torch.cat([seeing, blind[:1]])).topk(2, largest=False).values[:, 1].min() > 1e-3
        assert torch.isfinite(Reconstruction()(model, batch, nothing_visible(batch)).total())
