import pytest
import torch
from batches import FUNC, SEQ, STR, TRIPLETS, WIDTHS, make_batch, make_visible
from torch import nn

from amma.featurize.encoders.packed_attention import Segments
from amma.train.model.attention import attend
from amma.train.model.attention_weights import attention_weights, last_layer
from amma.train.model.batch import PackedBatch, Tokens
from amma.train.model.config import ModelConfig
from amma.train.model.family import make_model
from amma.train.model.fusion import FusionModel

SMALL = {"width": 16, "ffn": 32, "num_fusion_layers": 3, "num_heads": 4, "decoder_width": 16, "decoder_ffn": 32}


def make(**switches: object) -> FusionModel:
    torch.manual_seed(0)
    model = make_model(ModelConfig.model_validate({**SMALL, "num_decoder_heads": 2, **switches}), WIDTHS).eval()
    for parameter in model.parameters():  # sharp attention, and biases that count
        nn.init.normal_(parameter, std=0.3)
    if model.per_token:
        with torch.no_grad():
            model.encoder.layers[-1].attention.query_key_value.weight.mul_(6)
    return model


@pytest.mark.parametrize("global_token", [False, True])
def test_the_weights_times_the_values_are_what_the_layers_own_attention_gives(global_token: bool) -> None:
    model, batch = make(global_token=global_token), make_batch(TRIPLETS)
    last = last_layer(model, batch)
    segments = Segments.of(last.joint.offsets.diff().tolist(), "cpu")
    with torch.no_grad():
        query_JHK, key_JHK, value_JHK = last.layer.before(last.input_JW, None)
        own_JW = last.layer.attention.output(attend(query_JHK, key_JHK, value_JHK, segments, segments).flatten(1))
        parts = last.joint.take_apart(own_JW)
        for place, of in enumerate(attention_weights(model, batch)):
            _, _, value_THK = last.layer.before(last.rows_of(place), None)
            mixed_QHK = torch.einsum("hqt,thk->qhk", of.weight_HQT, value_THK)
            ours_QW = last.layer.attention.output(mixed_QHK.flatten(1))
            own = [
                part[sum(lengths[:place]) : sum(lengths[: place + 1])]
                for part, lengths in zip(parts, last.lengths.values(), strict=False)
            ]
            if global_token:
                own.append(parts[-1][place : place + 1])
                assert of.global_column == len(ours_QW) - 1
            torch.testing.assert_close(ours_QW, torch.cat(own), rtol=0, atol=1e-5)


def test_what_the_last_layer_was_given_leads_to_what_the_model_gives() -> None:
    model, batch = make(), make_batch(TRIPLETS)
    last = last_layer(model, batch)
    fused = model.fuse(batch)
    segments = Segments.of(last.joint.offsets.diff().tolist(), "cpu")
    with torch.no_grad():
        encoded_JW = model.encoder.norm(last.layer(last.input_JW, segments, segments, None))
    for part, tokens in zip(last.joint.take_apart(encoded_JW), fused.tokens.values(), strict=True):
        torch.testing.assert_close(part, tokens.features_TD)


def test_rows_sum_to_one_and_are_far_from_even() -> None:
    for of in attention_weights(make(), make_batch(TRIPLETS)):
        torch.testing.assert_close(of.weight_HQT.sum(-1), torch.ones(of.weight_HQT.shape[:2]))
        assert of.weight_HQT.max() > 2 / of.weight_HQT.shape[-1]


def test_a_protein_attends_alone_as_it_does_in_a_batch() -> None:
    model, batch = make(), make_batch(TRIPLETS)
    visible = make_visible(batch, 0.6)
    together = attention_weights(model, batch, visible)
    for place, of in enumerate(together):
        rows = {m: slice(*tokens.offsets[place : place + 2].tolist()) for m, tokens in batch.tokens.items()}
        alone = PackedBatch(
            (batch.ids[place],),
            {
                m: Tokens(t.of(place), torch.tensor([0, len(t.of(place))]), t.position_T[rows[m]])
                for m, t in batch.tokens.items()
            },
        )
        (single,) = attention_weights(model, alone, {m: visible[m][rows[m]] for m in visible})
        assert single.id == of.id
        torch.testing.assert_close(single.weight_HQT, of.weight_HQT, rtol=0, atol=1e-6)


def test_only_those_that_ask_have_rows_and_columns_are_told_apart_by_modality() -> None:
    model, batch = make(), make_batch(TRIPLETS)
    everything = attention_weights(model, batch)
    for (residues, resolved, text), of, all_of in zip(
        TRIPLETS, attention_weights(model, batch, asking=FUNC), everything, strict=True
    ):
        assert of.weight_HQT.shape == (4, text, residues + resolved + text)
        assert [of.to(m).shape[-1] for m in (SEQ, STR, FUNC)] == [residues, resolved, text]
        torch.testing.assert_close(of.weight_HQT, all_of.weight_HQT[:, all_of.columns[FUNC]])
        torch.testing.assert_close(of.to(STR), of.weight_HQT[:, :, residues : residues + resolved])


def test_hidden_tokens_have_no_column() -> None:
    model, batch = make(), make_batch(TRIPLETS)
    visible = make_visible(batch)
    for place, of in enumerate(attention_weights(model, batch, visible)):
        for modality, tokens in batch.tokens.items():
            start, end = tokens.offsets[place : place + 2].tolist()
            assert of.to(modality).shape[-1] == int(visible[modality][start:end].sum())


def test_a_model_without_tokens_and_a_batch_without_those_who_ask_are_refused() -> None:
    with pytest.raises(ValueError, match="fuses no tokens"):
        attention_weights(make(family="contrastive"), make_batch(TRIPLETS))
    with pytest.raises(ValueError, match="no func tokens"):
        attention_weights(make(), make_batch(TRIPLETS, (SEQ, STR)), asking=FUNC)
