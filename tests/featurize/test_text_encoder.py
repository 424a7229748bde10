"""Text features are the model's own on the documented layout, whatever the batch; what does not fit is refused."""

import json
import random
import string
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amma.featurize.encoders.huggingface import HuggingFaceModel
from amma.featurize.encoders.protocol import Encoded, EncoderInput
from amma.featurize.encoders.text import MAX_FIELD_TOKENS, TextEncoder
from amma.featurize.encoders.tiny_vocabulary import tiny_vocabulary
from amma.manifests.errors import ConfigError, WeightsError
from amma.manifests.files import sha256_of_file
from amma.manifests.table import TEXT_FIELDS, Protein

KINASE = Protein(
    id="kinase",
    sequence="MK",
    name="Tyrosine-protein kinase",
    function="Catalyzes the phosphorylation of tyrosine residues; ATP + a [protein]-L-tyrosine.",
    location="Cytoplasm. Cell membrane, peripheral side.",
    similarity="Belongs to the protein kinase superfamily.",
)


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return TextEncoder.random()


def protein(**fields: str) -> Protein:
    return Protein(id="p", sequence="MK", **fields)


def encode(encoder: TextEncoder, *proteins: Protein) -> list[Encoded]:
    return encoder.encode([EncoderInput(protein) for protein in proteins])


def distance(ours: np.ndarray | None, reference: np.ndarray | None) -> float:
    """Largest absolute difference over the root mean square of the reference."""
    assert ours is not None
    assert reference is not None
    assert ours.shape == reference.shape
    return float(np.abs(ours - reference).max() / np.sqrt((reference**2).mean()))


def oracle(encoder: TextEncoder, protein: Protein) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Rows, [CLS] and fields by the letter of the layout, from the model and the tokenizer alone."""
    tokenizer: Any = encoder._tokenizer
    tokens: list[int] = []
    fields: list[int | None] = []
    for number, text in enumerate(protein.text):
        content = tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text, split_special_tokens=True))[:128]
        tokens += [tokenizer.convert_tokens_to_ids("[SEP]" if number else "[CLS]"), *content]
        fields += [None, *[number] * len(content)]
    with torch.no_grad():
        types = torch.zeros(1, len(tokens), dtype=torch.long)
        hidden = (
            encoder._model._model(input_ids=torch.tensor([tokens]), token_type_ids=types).last_hidden_state[0].numpy()
        )
    rows = [row for row, field in enumerate(fields) if field is not None]
    return hidden[rows], hidden[0], [field for field in fields if field is not None]


@pytest.mark.parametrize(
    "text",
    [
        KINASE,
        protein(name="Lysozyme"),
        protein(function="Hydrolysis"),
        protein(similarity="Belongs to the family"),
        protein(name="Lysozyme", similarity="Belongs to the family"),
        protein(function="a " * 300, location="Cytoplasm"),
    ],
    ids=["all fields", "name", "function", "similarity", "name and similarity", "long field"],
)
def test_features_are_the_models_on_the_documented_layout(encoder: TextEncoder, text: Protein) -> None:
    (ours,) = encode(encoder, text)

    features, cls, fields = oracle(encoder, text)
    assert distance(ours.features, features) <= 1e-5
    assert distance(ours.cls, cls) <= 1e-5
    assert ours.index is not None
    assert ours.index.tolist() == fields
    assert ours.features.dtype == np.float32
    assert ours.index.dtype == np.int32


def test_an_absent_fields_separator_stays(encoder: TextEncoder) -> None:
    as_name, as_function = encode(encoder, protein(name="Lysozyme"), protein(function="Lysozyme"))

    assert as_name.index is not None
    assert as_function.index is not None
    assert set(as_name.index) == {0}
    assert set(as_function.index) == {1}
    assert not np.allclose(as_name.features, as_function.features)


def test_a_proteins_features_do_not_depend_on_its_batch_mates(encoder: TextEncoder) -> None:
    # Similar lengths, so that they do share padded batches, and a long one.
    proteins = [protein(name="Lysozyme " * count, location="Cytoplasm") for count in range(1, 30)]
    proteins += [KINASE, protein(name="x"), protein(function="kinase " * 200, similarity="kinase " * 200)]

    for text, among in zip(proteins, encode(encoder, *proteins), strict=True):
        (alone,) = encode(encoder, text)
        assert distance(among.features, alone.features) <= 1e-5
        assert distance(among.cls, alone.cls) <= 1e-5


def test_names_of_special_tokens_in_a_text_are_plain_text(encoder: TextEncoder) -> None:
    injected = protein(name="kinase [SEP] [CLS] [PAD][MASK] [UNK] x")
    tokens = encoder._fields([injected])[0][0]

    assert not set(tokens) & set(encoder._tokenizer.all_special_ids)
    assert len(encode(encoder, injected)[0].features) == len(tokens)


def test_a_field_is_cut_at_128_tokens(encoder: TextEncoder) -> None:
    long, cut = protein(name="a " * 500), protein(name="a " * MAX_FIELD_TOKENS)

    assert encoder.lengths([long, cut]) == [128, 128]
    assert np.array_equal(encode(encoder, long)[0].features, encode(encoder, cut)[0].features)


def test_a_field_is_cut_at_its_end_whatever_its_tokenizers_settings_say(published: Path, tmp_path: Path) -> None:
    folder = copy_of(published, tmp_path / "left")
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": true, "truncation_side": "left"}')
    long = protein(name="kinase " + "a " * MAX_FIELD_TOKENS)

    (right,), (left,) = (encode(TextEncoder.from_folder(path), long) for path in (published, folder))

    assert left.features.tobytes() == right.features.tobytes()


def test_four_full_fields_are_cut_to_512_at_the_end_of_the_last(encoder: TextEncoder) -> None:
    full = protein(**dict.fromkeys(TEXT_FIELDS, "a " * 500))

    assert encoder.lengths([full]) == [508]
    (encoded,) = encode(encoder, full)
    assert encoded.index is not None
    assert np.bincount(encoded.index).tolist() == [128, 128, 128, 124]


def test_a_model_with_fewer_positions_cuts_later_fields_first() -> None:
    from transformers import BertConfig, BertModel, BertTokenizer

    vocabulary = tiny_vocabulary()
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = BertConfig(vocab_size=len(vocabulary), max_position_embeddings=20, **sizes)
    model = BertModel(config, add_pooling_layer=False)
    small = TextEncoder(HuggingFaceModel(model, BertTokenizer(vocab=vocabulary), name="small", weights_sha256=""))
    text = protein(name="a " * 10, function="a " * 10, location="a " * 10, similarity="a")

    (encoded,) = encode(small, text)

    assert encoded.index is not None
    assert np.bincount(encoded.index, minlength=4).tolist() == [10, 6, 0, 0]
    assert small.lengths([text]) == [16]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(*[st.text(max_size=40)] * 4), max_size=5))
def test_lengths_are_the_rows_that_encode_gives(texts: list[tuple[str, str, str, str]]) -> None:
    encoder = _shared()
    proteins = [protein(**dict(zip(TEXT_FIELDS, fields, strict=True))) for fields in texts]

    lengths = encoder.lengths(proteins)

    assert lengths == [len(item.features) for item in encode(encoder, *proteins)]


def _shared(cache: list[TextEncoder] = []) -> TextEncoder:  # noqa: B006 - built once for all examples
    if not cache:
        cache.append(TextEncoder.random(layers=1, width=8, heads=2, intermediate=8))
    return cache[0]


@pytest.mark.parametrize("text", [{}, {"name": " "}, {"function": "\n\t\u00a0"}, {"name": "\u200b"}], ids=repr)
def test_a_text_without_tokens_has_length_zero(encoder: TextEncoder, text: dict[str, str]) -> None:
    blank = protein(**text)

    assert encoder.lengths([KINASE, blank])[1] == 0
    _, encoded = encode(encoder, KINASE, blank)
    assert encoded.features.shape == (0, encoder.width)
    assert encoded.index is not None
    assert len(encoded.index) == 0
    assert encoded.cls is not None


def test_random_encoders_follow_their_seed_and_leave_torchs_random_state_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()

    first, same, other = (TextEncoder.random(seed=seed) for seed in (0, 0, 1))

    assert torch.equal(torch.get_rng_state(), before)
    features = [encode(encoder, KINASE)[0].features for encoder in (first, same, other)]
    assert np.array_equal(features[0], features[1])
    assert not np.allclose(features[0], features[2])
    assert first.fingerprint() == same.fingerprint()
    assert first.fingerprint()["weights_sha256"] != other.fingerprint()["weights_sha256"]
    assert first.random_weights


def test_random_features_are_of_order_one(encoder: TextEncoder) -> None:
    (encoded,) = encode(encoder, KINASE)

    assert encoder.width == 48
    assert 0.5 < encoded.features.std() < 2
    assert encoded.features.std(axis=0).min() > 0.05


def test_a_width_that_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(ConfigError, match="multiple of the number of heads"):
        TextEncoder.random(width=50, heads=4)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files of PubMedBERT's: a masked-language model as a torch file, a word list, two settings."""
    from transformers import BertConfig, BertForMaskedLM

    folder = tmp_path_factory.mktemp("published") / "toy-bert"
    vocabulary = tiny_vocabulary()
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = BertForMaskedLM(BertConfig(vocab_size=len(vocabulary), **sizes))
    model.config.save_pretrained(folder)
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in vocabulary), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return folder


def copy_of(folder: Path, to: Path) -> Path:
    to.mkdir()
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    return to


def test_a_published_folder_gives_its_models_features(published: Path) -> None:
    from transformers import BertForMaskedLM

    encoder = TextEncoder.from_folder(published)
    reference = BertForMaskedLM.from_pretrained(published).eval()
    (ours,) = encode(encoder, KINASE)

    tokens: list[int] = []
    for number, text in enumerate(KINASE.text):
        tokens += [3 if number else 2, *encoder._tokenizer(text, add_special_tokens=False)["input_ids"]]
    with torch.no_grad():
        hidden = reference(input_ids=torch.tensor([tokens]), output_hidden_states=True).hidden_states[-1][0].numpy()
    rows = [row for row, token in enumerate(tokens) if token not in (2, 3)]
    assert distance(ours.features, hidden[rows]) <= 1e-5
    assert distance(ours.cls, hidden[0]) <= 1e-5
    assert not encoder.random_weights
    assert encoder.fingerprint()["weights_sha256"] == sha256_of_file(published / "pytorch_model.bin")


def test_a_folder_read_back_keeps_special_names_plain(published: Path) -> None:
    encoder = TextEncoder.from_folder(published)

    assert not set(encoder._fields([protein(name="a [SEP] b")])[0][0]) & {0, 1, 2, 3, 4}


def test_safetensors_are_preferred_to_a_torch_file(published: Path, tmp_path: Path) -> None:
    from transformers import BertForMaskedLM

    folder = copy_of(published, tmp_path / "both")
    BertForMaskedLM.from_pretrained(published).save_pretrained(folder)
    (folder / "pytorch_model.bin").write_bytes(b"never read")

    encoder = TextEncoder.from_folder(folder)

    assert encoder.fingerprint()["weights_sha256"] == sha256_of_file(folder / "model.safetensors")
    (ours,), (reference,) = encode(encoder, KINASE), encode(TextEncoder.from_folder(published), KINASE)
    assert np.array_equal(ours.features, reference.features)


def test_weights_in_several_files_are_read_and_all_are_in_the_hash(published: Path, tmp_path: Path) -> None:
    from transformers import BertForMaskedLM

    folder = copy_of(published, tmp_path / "sharded")
    BertForMaskedLM.from_pretrained(published).save_pretrained(folder, max_shard_size="50KB")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 1

    encoder = TextEncoder.from_folder(folder)

    (ours,), (reference,) = encode(encoder, KINASE), encode(TextEncoder.from_folder(published), KINASE)
    assert np.array_equal(ours.features, reference.features)
    data = bytearray(shards[-1].read_bytes())
    data[-1] ^= 1
    shards[-1].write_bytes(data)
    assert TextEncoder.from_folder(folder).fingerprint()["weights_sha256"] != encoder.fingerprint()["weights_sha256"]


class Canary:
    """Unpickling one creates a file: a stand-in for any code in a pickle."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.path), "w")


def test_code_in_a_text_encoders_weights_is_refused_and_not_run(published: Path, tmp_path: Path) -> None:
    folder, canary = copy_of(published, tmp_path / "hostile"), tmp_path / "canary"
    torch.save({"bert.embeddings.word_embeddings.weight": Canary(canary)}, folder / "pytorch_model.bin")

    with pytest.raises(WeightsError, match="hostile") as caught:
        TextEncoder.from_folder(folder)

    assert "\n" not in str(caught.value)
    assert not canary.exists()


def test_code_beside_a_model_is_not_run(published: Path, tmp_path: Path) -> None:
    folder, canary = copy_of(published, tmp_path / "remote"), tmp_path / "canary"
    config = json.loads((folder / "config.json").read_text())
    config.update(model_type="unheard-of", auto_map={"AutoConfig": "code.Config", "AutoModel": "code.Model"})
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text(f"open({str(canary)!r}, 'w')\n")

    with pytest.raises(WeightsError):
        TextEncoder.from_folder(folder)

    assert not canary.exists()


@pytest.mark.parametrize(
    ("file", "contents"),
    [
        ("config.json", None),
        ("pytorch_model.bin", None),
        ("pytorch_model.bin", b"PK\x03\x04 cut short"),
        ("config.json", b"{"),
        ("config.json", b'{"model_type": "unheard-of"}'),
    ],
    ids=str,
)
def test_a_folder_with_a_missing_or_damaged_file_is_refused_in_one_line(
    published: Path, tmp_path: Path, file: str, contents: bytes | None
) -> None:
    folder = copy_of(published, tmp_path / "damaged")
    (folder / file).unlink() if contents is None else (folder / file).write_bytes(contents)

    with pytest.raises(WeightsError) as caught:
        TextEncoder.from_folder(folder)

    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_that_leave_part_of_the_model_unset_are_refused(published: Path, tmp_path: Path) -> None:
    folder = copy_of(published, tmp_path / "partial")
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    del state["bert.encoder.layer.1.output.dense.weight"]
    torch.save(state, folder / "pytorch_model.bin")

    with pytest.raises(WeightsError, match=r"lack 1 tensors.*layer\.1\.output\.dense\.weight"):
        TextEncoder.from_folder(folder)


@pytest.mark.parametrize("words", [None, 500, 5000], ids=["missing", "cut short", "of a larger model"])
def test_a_word_list_that_is_not_the_models_is_refused(published: Path, tmp_path: Path, words: int | None) -> None:
    folder = copy_of(published, tmp_path / "words")
    (folder / "vocab.txt").unlink()
    if words is not None:
        vocabulary = [*tiny_vocabulary(), *(f"word{number}" for number in range(5000))]
        (folder / "vocab.txt").write_text("\n".join(vocabulary[:words]), encoding="utf-8")

    with pytest.raises(WeightsError, match="word list"):
        TextEncoder.from_folder(folder)


def test_loading_says_nothing_on_the_terminal(published: Path, capfd: pytest.CaptureFixture[str]) -> None:
    TextEncoder.from_folder(published)

    assert capfd.readouterr() == ("", "")


def test_the_fingerprint_holds_what_decides_the_numbers_and_is_plain_json(published: Path, tmp_path: Path) -> None:
    fingerprint = TextEncoder.from_folder(published).fingerprint()

    assert json.loads(json.dumps(fingerprint)) == fingerprint
    assert str(published) not in json.dumps(fingerprint)
    moved = copy_of(published, tmp_path / "moved")
    assert TextEncoder.from_folder(moved).fingerprint() == fingerprint

    # The same words, another treatment of upper case.
    (moved / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert TextEncoder.from_folder(moved).fingerprint()["tokenizer_sha256"] != fingerprint["tokenizer_sha256"]


def test_the_small_vocabulary_reads_any_ascii_text_without_unknown_tokens(encoder: TextEncoder) -> None:
    vocabulary = tiny_vocabulary()
    assert list(vocabulary)[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))

    generator = random.Random(0)
    printable = string.ascii_letters + string.digits + string.punctuation + " "
    texts = ["".join(generator.choices(printable, k=60)) for _ in range(200)]
    assert not any(vocabulary["[UNK]"] in tokens for tokens in encoder._tokenize(texts))


def test_real_descriptions_take_few_tokens_a_word(encoder: TextEncoder, shared: Path) -> None:
    import csv

    with (shared / "data" / "real" / "descriptions.tsv").open(encoding="utf-8", newline="") as handle:
        names = [row["ProteinName"] for row in csv.DictReader(handle, delimiter="\t")]
    tokens = sum(len(field) for field in encoder._tokenize(names))
    words = sum(len(name.replace("-", " ").split()) for name in names)

    assert tokens / words < 2.5


def test_an_empty_batch_gives_nothing(encoder: TextEncoder) -> None:
    assert encode(encoder) == []
    assert encoder.lengths([]) == []
