"""Text features are the model's own in each family of encoders that transformers has, from folders as published.

Families differ in how positions are counted (from 0, from the padding token, relative, rotary), in token types, in
how texts are cut into tokens and in what [CLS] and [SEP] are called.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from amma.featurize.encoders.huggingface import HuggingFaceModel
from amma.featurize.encoders.protocol import Encoded, EncoderInput
from amma.featurize.encoders.text import TextEncoder
from amma.featurize.encoders.tiny_vocabulary import tiny_vocabulary
from amma.featurize.encoders.weights import fill_with_random_numbers
from amma.manifests.errors import ConfigError
from amma.manifests.table import TEXT_FIELDS, Protein

SIZES = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
TOKENS = 64
"""What the positions of each of these models allow."""

KINASE = Protein(
    id="kinase",
    sequence="MK",
    name="Tyrosine-protein kinase",
    function="Binds ATP + a [protein].",
    location="Cell membrane",
    similarity="Belongs to the family.",
)
TEXTS = {
    "all fields": KINASE,
    "name": Protein(id="n", sequence="MK", name="Lysozyme"),
    "no function": Protein(id="f", sequence="MK", name="Kinase", similarity="Kinase"),
    "full": Protein(id="l", sequence="MK", **dict.fromkeys(TEXT_FIELDS, "kinase, " * 40)),
}
CORPUS = [text for protein in TEXTS.values() for text in protein.text] * 3


def save(folder: Path, tokenizer: Any, model: Any) -> None:
    fill_with_random_numbers(model, 0)
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)


def bert(folder: Path) -> None:
    tokenizer = transformers.BertTokenizer(vocab=tiny_vocabulary())
    config = transformers.BertConfig(vocab_size=len(tokenizer), max_position_embeddings=TOKENS, **SIZES)
    save(folder, tokenizer, transformers.BertForMaskedLM(config))


def roberta(folder: Path) -> None:
    folder.mkdir()
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    words.train_from_iterator(CORPUS, trainers.BpeTrainer(special_tokens=special, initial_alphabet=alphabet))
    words.model.save(str(folder))
    tokenizer = transformers.RobertaTokenizer.from_pretrained(folder)
    config = transformers.RobertaConfig(
        vocab_size=len(tokenizer), max_position_embeddings=TOKENS + 2, type_vocab_size=1, pad_token_id=1, **SIZES
    )
    save(folder, tokenizer, transformers.RobertaForMaskedLM(config))


def distilbert(folder: Path) -> None:
    tokenizer = transformers.DistilBertTokenizer(vocab=tiny_vocabulary())
    sizes = {"dim": 24, "n_layers": 2, "n_heads": 2, "hidden_dim": 32}
    config = transformers.DistilBertConfig(vocab_size=len(tokenizer), max_position_embeddings=TOKENS, **sizes)
    save(folder, tokenizer, transformers.DistilBertForMaskedLM(config))


def electra(folder: Path) -> None:
    tokenizer = transformers.ElectraTokenizer(vocab=tiny_vocabulary())
    config = transformers.ElectraConfig(
        vocab_size=len(tokenizer), max_position_embeddings=TOKENS, embedding_size=16, **SIZES
    )
    save(folder, tokenizer, transformers.ElectraForPreTraining(config))


def deberta(folder: Path) -> None:
    words = Tokenizer(models.Unigram())
    words.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
    words.train_from_iterator(CORPUS, trainers.UnigramTrainer(unk_token="[UNK]", special_tokens=special))
    vocabulary = [tuple(entry) for entry in json.loads(words.to_str())["model"]["vocab"]]
    tokenizer = transformers.DebertaV2Tokenizer(vocab=vocabulary, unk_id=3)
    # The switches of DeBERTa-v3.
    config = transformers.DebertaV2Config(
        vocab_size=len(tokenizer) + 2,
        max_position_embeddings=TOKENS,
        relative_attention=True,
        position_biased_input=False,
        pos_att_type=["p2c", "c2p"],
        position_buckets=16,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        type_vocab_size=0,
        **SIZES,
    )
    save(folder, tokenizer, transformers.DebertaV2ForMaskedLM(config))


def modernbert(folder: Path) -> None:
    tokenizer = transformers.BertTokenizer(vocab=tiny_vocabulary())
    special = {"pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}
    config = transformers.ModernBertConfig(
        vocab_size=len(tokenizer), max_position_embeddings=TOKENS, **special, **SIZES
    )
    save(folder, tokenizer, transformers.ModernBertForMaskedLM(config))


FAMILIES: dict[str, Callable[[Path], None]] = {
    family.__name__: family for family in (bert, roberta, distilbert, electra, deberta, modernbert)
}


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("published") / request.param
    FAMILIES[request.param](path)
    return path


@pytest.fixture(scope="module")
def encoder(folder: Path) -> TextEncoder:
    return TextEncoder.from_folder(folder)


def encode(encoder: TextEncoder, *proteins: Protein) -> list[Encoded]:
    return encoder.encode([EncoderInput(protein) for protein in proteins])


def distance(ours: np.ndarray | None, reference: np.ndarray | None) -> float:
    """Largest absolute difference over the root mean square of the reference."""
    assert ours is not None
    assert reference is not None
    assert ours.shape == reference.shape
    return float(np.abs(ours - reference).max() / np.sqrt((reference**2).mean()))


def oracle(folder: Path, protein: Protein) -> tuple[np.ndarray, list[int | None]]:
    """All rows, special ones too (field None), by transformers alone: one text, tokens joined by hand, no mask."""
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder)
    model: Any = transformers.AutoModel.from_pretrained(folder).eval()
    tokens: list[int] = []
    fields: list[int | None] = []
    for number, text in enumerate(protein.text):
        content = tokenizer(text, add_special_tokens=False)["input_ids"]
        tokens += [tokenizer.sep_token_id if number else tokenizer.cls_token_id, *content]
        fields += [None, *[number] * len(content)]
    with torch.no_grad():
        hidden: np.ndarray = model(input_ids=torch.tensor([tokens])).last_hidden_state[0].numpy()
    return hidden, fields


@pytest.mark.parametrize("name", [name for name in TEXTS if name != "full"])
def test_features_are_the_models_on_the_documented_layout(folder: Path, encoder: TextEncoder, name: str) -> None:
    hidden, fields = oracle(folder, TEXTS[name])
    (ours,) = encode(encoder, TEXTS[name])

    rows = [row for row, field in enumerate(fields) if field is not None]
    assert distance(ours.features, hidden[rows]) <= 1e-5
    assert distance(ours.cls, hidden[0]) <= 1e-5
    assert ours.index is not None
    assert ours.index.tolist() == [field for field in fields if field is not None]


def test_a_text_takes_every_position_that_the_model_has_and_no_more(folder: Path, encoder: TextEncoder) -> None:
    assert encoder.max_tokens == TOKENS
    assert encoder.lengths([TEXTS["full"]]) == [TOKENS - 4]

    (ours,) = encode(encoder, TEXTS["full"])
    # The first field leaves no room for more than the other three's [SEP].
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder)
    model: Any = transformers.AutoModel.from_pretrained(folder).eval()
    content = tokenizer(TEXTS["full"].name, add_special_tokens=False)["input_ids"][: TOKENS - 4]
    tokens = [tokenizer.cls_token_id, *content, *[tokenizer.sep_token_id] * 3]
    with torch.no_grad():
        hidden = model(input_ids=torch.tensor([tokens])).last_hidden_state[0].numpy()
    assert distance(ours.features, hidden[1 : TOKENS - 3]) <= 1e-5


def test_features_do_not_depend_on_batch_mates_and_repeat_to_the_bit(encoder: TextEncoder) -> None:
    proteins = [Protein(id="p", sequence="MK", name="kinase " * count, location="Cell") for count in range(1, 12)]
    proteins += TEXTS.values()

    among, again = encode(encoder, *proteins), encode(encoder, *proteins)

    for protein, one, other in zip(proteins, among, again, strict=True):
        (alone,) = encode(encoder, protein)
        assert distance(one.features, alone.features) <= 1e-5
        assert distance(one.cls, alone.cls) <= 1e-5
        assert one.features.tobytes() == other.features.tobytes()


def test_names_of_special_tokens_in_a_text_do_not_become_these_tokens(encoder: TextEncoder) -> None:
    tokenizer: Any = encoder._tokenizer
    names = " ".join([*tokenizer.all_special_tokens, "[CLS]", "[SEP]", "<s>", "</s>", "<pad>"])
    injected = Protein(id="p", sequence="MK", name=f"kinase {names} x{names}")

    tokens = set(encoder._fields([injected])[0][0])

    assert len(tokens) > 3
    assert not tokens & (set(tokenizer.all_special_ids) - {tokenizer.unk_token_id})


@pytest.mark.parametrize(("precision", "dtype", "bound"), [("bf16", "bfloat16", 0.06), ("fp16", "float16", 0.008)])
def test_half_precision_stays_near_fp32_and_is_in_the_fingerprint(
    folder: Path, encoder: TextEncoder, precision: str, dtype: str, bound: float
) -> None:
    half = TextEncoder.from_folder(folder, precision=precision)

    (ours,), (exact,) = encode(half, KINASE), encode(encoder, KINASE)

    assert 0 < distance(ours.features, exact.features) <= bound
    assert 0 < distance(ours.cls, exact.cls) <= bound
    assert ours.features.dtype == np.float32
    assert encoder.fingerprint()["dtype"] == "float32"
    assert half.fingerprint() == {**encoder.fingerprint(), "dtype": dtype}


def test_half_precision_leaves_the_frequencies_of_rotary_positions_alone(tmp_path: Path) -> None:
    modernbert(tmp_path / "rotary")

    exact, half = (HuggingFaceModel.from_folder(tmp_path / "rotary", precision=kind) for kind in ("fp32", "bf16"))

    frequencies = {name: value for name, value in half._model.named_buffers() if name.endswith("inv_freq")}
    assert frequencies
    for name, value in frequencies.items():
        assert torch.equal(value, exact._model.get_buffer(name))
    assert {parameter.dtype for parameter in half._model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (transformers.T5Config(d_model=8, d_ff=8, d_kv=4, num_layers=1, num_heads=2, vocab_size=1886), "positions"),
        (transformers.XLNetConfig(d_model=8, n_layer=1, n_head=2, d_inner=8, vocab_size=1886), "positions"),
        (
            transformers.BartConfig(
                d_model=8,
                encoder_layers=1,
                decoder_layers=1,
                encoder_attention_heads=2,
                decoder_attention_heads=2,
                encoder_ffn_dim=8,
                decoder_ffn_dim=8,
                vocab_size=1886,
            ),
            "decoder",
        ),
    ],
    ids=["t5", "xlnet", "bart"],
)
def test_an_architecture_that_is_no_bert_is_refused_in_one_line(config: Any, reason: str) -> None:
    model = transformers.AutoModel.from_config(config)
    tokenizer = transformers.BertTokenizer(vocab=tiny_vocabulary())

    with pytest.raises(ConfigError, match=reason) as caught:
        HuggingFaceModel(model, tokenizer, name="other", weights_sha256="")

    assert "\n" not in str(caught.value)


def test_a_model_without_a_cls_token_is_refused(tmp_path: Path) -> None:
    roberta(tmp_path / "words")
    words = transformers.GPT2Tokenizer.from_pretrained(tmp_path / "words", cls_token=None, sep_token=None)
    sizes = {"n_positions": TOKENS, "n_embd": 8, "n_layer": 1, "n_head": 2}
    config = transformers.GPT2Config(vocab_size=len(words), bos_token_id=0, eos_token_id=2, **sizes)
    loaded = HuggingFaceModel(transformers.GPT2Model(config), words, name="gpt2", weights_sha256="")

    with pytest.raises(ConfigError, match=r"gpt2.*\[CLS\].*BERT-style"):
        TextEncoder(loaded)
