"""Residue features are the model's own for each kind of protein model; what is no residue is refused.

ESM-1b counts positions from its padding token, ESM-2 has rotary ones, ProtBERT counts from 0 and splits at blanks.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from amma.featurize.encoders.huggingface import HuggingFaceModel
from amma.featurize.encoders.huggingface_sequence import HuggingFaceSequenceEncoder
from amma.featurize.encoders.protocol import Encoded, Encoder, EncoderInput
from amma.featurize.encoders.registry import EncoderSpec, Place, build_encoder
from amma.featurize.encoders.residue_tokens import ResidueLimits, ResidueTokens
from amma.featurize.encoders.weights import fill_with_random_numbers
from amma.manifests.errors import ConfigError, WeightsError
from amma.manifests.quarantine import RecordError
from amma.manifests.table import Modality, Protein

SIZES = {"hidden_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
LETTERS = list("LAGVSERTIDPKQNFYMHWCXBUZO")
RESIDUES = 60
"""What the positions of each of these models allow."""

SEQUENCES = ["M", "MKTAYIAKQR", "ACDEFGHIKLMNPQRSTVWYXBUZO", "MKV" * 20, "MKV" * 300]


def write_words(folder: Path, words: list[str]) -> None:
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")


def esm(folder: Path, positions: str, size: int) -> None:
    words = ["<cls>", "<pad>", "<eos>", "<unk>", *LETTERS, ".", "-", "<null_1>", "<mask>"]
    write_words(folder, words)
    transformers.EsmTokenizer(folder / "vocab.txt").save_pretrained(folder)
    config = transformers.EsmConfig(
        vocab_size=len(words),
        mask_token_id=words.index("<mask>"),
        pad_token_id=1,
        max_position_embeddings=size,
        position_embedding_type=positions,
        emb_layer_norm_before=positions == "absolute",
        token_dropout=True,
        **SIZES,
    )
    model = transformers.EsmForMaskedLM(config)
    fill_with_random_numbers(model, 0)
    model.save_pretrained(folder)


def esm1b(folder: Path) -> None:
    esm(folder, "absolute", RESIDUES + 4)


def esm2(folder: Path) -> None:
    esm(folder, "rotary", RESIDUES + 2)


def protbert(folder: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS]
    write_words(folder, words)
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false, "tokenizer_class": "BertTokenizer"}')
    config = transformers.BertConfig(vocab_size=len(words), max_position_embeddings=RESIDUES + 2, **SIZES)
    model = transformers.BertForMaskedLM(config)
    fill_with_random_numbers(model, 0)
    model.save_pretrained(folder)


KINDS: dict[str, Callable[[Path], None]] = {kind.__name__: kind for kind in (esm1b, esm2, protbert)}


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("published") / request.param
    KINDS[request.param](path)
    return path


def build(folder: Path, precision: str = "fp32", **options: Any) -> Encoder:
    spec = EncoderSpec(name="huggingface-seq", options={"model": str(folder), **options})
    return build_encoder(spec, Modality.SEQ, Place(None, "cpu", precision))


@pytest.fixture(scope="module")
def encoder(folder: Path) -> Encoder:
    return build(folder)


def encode(encoder: Encoder, *sequences: str) -> list[Encoded]:
    return encoder.encode([EncoderInput(Protein(id="p", sequence=sequence)) for sequence in sequences])


def distance(ours: np.ndarray | None, reference: np.ndarray | None) -> float:
    """Largest absolute difference over the root mean square of the reference."""
    assert ours is not None
    assert reference is not None
    assert ours.shape == reference.shape
    return float(np.abs(ours - reference).max() / np.sqrt((reference**2).mean()))


@pytest.mark.parametrize("sequence", SEQUENCES[:4])
def test_features_are_the_models_on_its_own_tokenizers_tokens(folder: Path, encoder: Encoder, sequence: str) -> None:
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder)
    model: Any = transformers.AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        hidden = model(**tokenizer(" ".join(sequence), return_tensors="pt")).last_hidden_state[0].numpy()

    (ours,) = encode(encoder, sequence)

    assert len(hidden) == len(sequence) + 2
    assert distance(ours.features, hidden[1:-1]) <= 1e-5
    assert distance(ours.cls, hidden[0]) <= 1e-5
    assert ours.index is None
    assert ours.features.dtype == np.float32
    assert encoder.width == 40


def test_a_sequence_takes_every_position_that_the_model_has_and_no_more(encoder: Encoder) -> None:
    whole, longer = encode(encoder, "MKV" * 20, "MKV" * 300)

    assert limit_of(encoder) == RESIDUES
    assert len(longer.features) == RESIDUES
    # Not the same bits: the two are one padded batch, but the tokens are the same.
    assert distance(longer.features, whole.features) <= 1e-5


def limit_of(encoder: Encoder) -> int:
    assert isinstance(encoder, HuggingFaceSequenceEncoder)
    return encoder.max_residues


def test_fewer_residues_can_be_asked_for_and_more_are_refused(folder: Path, encoder: Encoder) -> None:
    short = build(folder, max_residues=5)

    assert short.lengths([Protein(id="p", sequence="MKTAYIAKQR")]) == [5]
    assert distance(encode(short, "MKTAYIAKQR")[0].features, encode(encoder, "MKTAY")[0].features) <= 1e-5
    assert short.fingerprint() == {**encoder.fingerprint(), "max_residues": 5}
    with pytest.raises(ConfigError, match=f"at most {RESIDUES} residues, got max_residues {RESIDUES + 1}"):
        build(folder, max_residues=RESIDUES + 1)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_another_layer_is_the_models_own_after_so_many_blocks(folder: Path, encoder: Encoder, layer: int) -> None:
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder)
    model: Any = transformers.AutoModel.from_pretrained(folder).eval()
    given: dict[int, torch.Tensor] = {}
    for number, block in enumerate(model.encoder.layer):
        block.register_forward_pre_hook(lambda _, inputs, number=number: given.update({number: inputs[0]}))
    with torch.no_grad():
        output = model(**tokenizer(" ".join("MKTAYIAKQR"), return_tensors="pt"))
    given[2] = output.last_hidden_state

    other = build(folder, layer=layer)

    assert distance(encode(other, "MKTAYIAKQR")[0].features, given[layer][0, 1:-1].numpy()) <= 1e-5
    assert other.fingerprint() == {**encoder.fingerprint(), "layer": "last" if layer == 2 else layer}


@pytest.mark.parametrize("layer", [-1, 3])
def test_a_layer_that_the_model_does_not_have_is_refused(folder: Path, layer: int) -> None:
    with pytest.raises(ConfigError, match=f"has layers 0 to 2, got layer {layer}"):
        build(folder, layer=layer)


def test_longer_proteins_can_be_skipped(folder: Path, encoder: Encoder) -> None:
    skipping = build(folder, max_residues=5, long="skip")
    proteins = [Protein(id="p", sequence=sequence) for sequence in ("MKTAY", "MKTAYI", "M")]

    assert skipping.lengths(proteins) == [5, 0, 1]
    assert distance(encode(skipping, "MKTAY")[0].features, encode(encoder, "MKTAY")[0].features) <= 1e-5
    with pytest.raises(RecordError) as caught:
        encode(skipping, "MKTAYI")
    assert caught.value.code == "E_LONG"
    assert skipping.fingerprint() == {**encoder.fingerprint(), "max_residues": 5, "long": "skip"}


def test_features_do_not_depend_on_batch_mates_and_repeat_to_the_bit(folder: Path, encoder: Encoder) -> None:
    sequences = SEQUENCES + ["MKVLAT" * count for count in range(1, 10)]

    among, again = encode(encoder, *sequences), encode(build(folder), *sequences)

    for sequence, one, other in zip(sequences, among, again, strict=True):
        (alone,) = encode(encoder, sequence)
        assert distance(one.features, alone.features) <= 1e-5
        assert distance(one.cls, alone.cls) <= 1e-5
        assert one.features.tobytes() == other.features.tobytes()
        assert one.cls is not None
        assert other.cls is not None
        assert one.cls.tobytes() == other.cls.tobytes()


@pytest.mark.parametrize(
    ("sequence", "place"),
    [
        ("MK<eos>V", "'<' at residue 3"),
        ("MK[SEP]V", "'[' at residue 3"),
        ("<cls>", "'<' at residue 1"),
        ("M K", "' ' at residue 2"),
        ("MKJ", "'J' at residue 3"),
        ("MK-V", "'-' at residue 3"),
        ("mk", "'m' at residue 1"),
        ("MÄ", "'Ä' at residue 2"),
        ("MKV" * 300 + "*", "at residue 901"),
    ],
)
def test_what_is_no_residue_is_refused_before_the_tokenizer_could_see_it(
    encoder: Encoder, sequence: str, place: str
) -> None:
    with pytest.raises(RecordError) as caught:
        encode(encoder, sequence)

    assert caught.value.code == "E_ALPHABET"
    assert place in caught.value.reason


def test_an_empty_sequence_is_refused(encoder: Encoder) -> None:
    with pytest.raises(RecordError) as caught:
        encode(encoder, "")

    assert caught.value.code == "E_EMPTY"


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(alphabet=LETTERS, min_size=1, max_size=80), max_size=4))
def test_lengths_are_the_rows_that_encode_gives_and_a_residue_is_a_token(sequences: list[str]) -> None:
    encoder = _shared()
    proteins = [Protein(id="p", sequence=sequence) for sequence in sequences]

    lengths = encoder.lengths(proteins)

    assert lengths == [min(len(sequence), RESIDUES) for sequence in sequences]
    assert lengths == [len(item.features) for item in encode(encoder, *sequences)]
    assert [encoder.cost(length) for length in lengths] == [len(encoder._tokens.tokens(item)) for item in proteins]


def _shared(cache: list[HuggingFaceSequenceEncoder] = []) -> HuggingFaceSequenceEncoder:  # noqa: B006 - built once
    import tempfile

    if not cache:
        with tempfile.TemporaryDirectory() as made:
            esm1b(Path(made) / "esm1b")
            built = build(Path(made) / "esm1b")
        assert isinstance(built, HuggingFaceSequenceEncoder)
        cache.append(built)
    return cache[0]


@pytest.mark.parametrize(("precision", "dtype", "bound"), [("bf16", "bfloat16", 0.06), ("fp16", "float16", 0.012)])
def test_half_precision_stays_near_fp32_and_is_in_the_fingerprint(
    folder: Path, encoder: Encoder, precision: str, dtype: str, bound: float
) -> None:
    half = build(folder, precision)

    for ours, exact in zip(encode(half, *SEQUENCES), encode(encoder, *SEQUENCES), strict=True):
        assert 0 < distance(ours.features, exact.features) <= bound
    assert encoder.fingerprint()["dtype"] == "float32"
    assert half.fingerprint() == {**encoder.fingerprint(), "dtype": dtype}


def test_the_fingerprint_holds_what_decides_the_numbers_and_no_path(folder: Path, tmp_path: Path) -> None:
    fingerprint = build(folder).fingerprint()

    assert json.loads(json.dumps(fingerprint)) == fingerprint
    assert str(folder.parent) not in json.dumps(fingerprint)
    assert len({build(made(tmp_path, kind)).fingerprint()["weights_sha256"] for kind in KINDS}) == len(KINDS)


def made(folder: Path, kind: str) -> Path:
    KINDS[kind](folder / kind)
    return folder / kind


def test_a_vocabulary_in_another_order_is_another_fingerprint(tmp_path: Path) -> None:
    first = build(made(tmp_path, "esm2")).fingerprint()
    words = (tmp_path / "esm2" / "vocab.txt").read_text().split("\n")
    words[4], words[5] = words[5], words[4]
    (tmp_path / "esm2" / "vocab.txt").write_text("\n".join(words))

    second = build(tmp_path / "esm2").fingerprint()

    assert second == {**first, "tokenizer_sha256": second["tokenizer_sha256"]}
    assert second["tokenizer_sha256"] != first["tokenizer_sha256"]


def test_a_letter_that_the_model_does_not_know_is_refused_and_a_standard_one_missing_refuses_the_model(
    tmp_path: Path,
) -> None:
    folder = made(tmp_path, "protbert")
    words = (folder / "vocab.txt").read_text()
    (folder / "vocab.txt").write_text(words.replace("\nO", "\nofold"))

    with pytest.raises(RecordError, match=r"'O' at residue 2.*ACDEFGHIKLMNPQRSTVWYXBUZ\)"):
        encode(build(folder), "MO")

    (folder / "vocab.txt").write_text(words.replace("\nW", "\nwrong"))
    with pytest.raises(ConfigError, match="no token for W"):
        build(folder)


def model_with(tokenizer: Any) -> HuggingFaceModel:
    config = transformers.BertConfig(vocab_size=len(tokenizer), **SIZES)
    model = transformers.BertModel(config, add_pooling_layer=False)
    return HuggingFaceModel(model, tokenizer, name="other", weights_sha256="")


def test_a_tokenizer_that_joins_residues_is_refused() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *LETTERS, "▁"]
    vocabulary = {word: number for number, word in enumerate(words)}
    # Byte pairs over a text with its blanks: "A C" is three pieces, and a letter alone is one.
    pieces = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="[UNK]"))
    pieces.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    pieces.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    names = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=pieces, **names)

    with pytest.raises(ConfigError, match="does not read a residue as a token"):
        ResidueTokens(model_with(tokenizer), ResidueLimits())


def test_a_tokenizer_that_puts_nothing_before_a_sequence_is_refused() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", *LETTERS])}
    pieces = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    pieces.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=pieces, unk_token="[UNK]", pad_token="[PAD]")

    with pytest.raises(ConfigError, match=r"no \[CLS\]"):
        ResidueTokens(model_with(tokenizer), ResidueLimits())


def test_a_model_that_is_nowhere_is_refused_with_its_address() -> None:
    with pytest.raises(WeightsError, match=r"https://huggingface\.co/nobody/nothing"):
        build(Path("nobody/nothing"))
