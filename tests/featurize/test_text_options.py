"""Which fields of a text are encoded, and whether its special tokens are rows."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amma.featurize.encoders.protocol import Encoded, EncoderInput
from amma.featurize.encoders.registry import EncoderSpec, Place, build_encoder
from amma.featurize.encoders.text import TextEncoder
from amma.featurize.encoders.tiny_vocabulary import tiny_vocabulary
from amma.manifests.errors import ConfigError
from amma.manifests.table import TEXT_FIELDS, Modality, Protein

KINASE = Protein(
    id="kinase",
    sequence="MK",
    name="Tyrosine-protein kinase",
    function="Binds ATP.",
    location="Cell membrane",
    similarity="Belongs to the family.",
)


def protein(**fields: str) -> Protein:
    return Protein(id="p", sequence="MK", **fields)


def encode(encoder: TextEncoder, *proteins: Protein) -> list[Encoded]:
    return encoder.encode([EncoderInput(protein) for protein in proteins])


@pytest.mark.parametrize("fields", [("name",), ("name", "location"), ("function", "similarity"), TEXT_FIELDS])
def test_a_field_left_out_is_as_one_that_a_protein_does_not_have(fields: tuple[str, ...]) -> None:
    some, all_four = TextEncoder.random(fields=fields), TextEncoder.random()
    cut = protein(**{field: getattr(KINASE, field) for field in fields})

    (ours,), (expected,) = encode(some, KINASE), encode(all_four, cut)

    assert ours.features.tobytes() == expected.features.tobytes()
    assert ours.index is not None
    assert expected.index is not None
    assert ours.index.tolist() == expected.index.tolist()
    assert {TEXT_FIELDS[number] for number in ours.index.tolist()} == set(fields)
    assert ours.cls is not None
    assert expected.cls is not None
    assert ours.cls.tobytes() == expected.cls.tobytes()
    assert some.lengths([KINASE]) == all_four.lengths([cut]) == [len(ours.features)]
    assert some.fingerprint() == {**all_four.fingerprint(), "fields": list(fields)}


def test_a_protein_with_none_of_the_chosen_fields_has_length_zero() -> None:
    encoder = TextEncoder.random(fields=("name",), special_tokens="keep")

    assert encoder.lengths([protein(function="Hydrolysis"), protein(name="kinase")]) == [0, 5]
    assert len(encode(encoder, protein(function="Hydrolysis"))[0].features) == 0


@pytest.mark.parametrize("fields", [(), ("function", "name"), ("name", "name"), ("name", "domain")], ids=str)
def test_fields_that_are_none_out_of_order_twice_or_unknown_are_refused(fields: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match=r"name, function, location, similarity|fields\.1"):
        build_encoder(EncoderSpec(name="random-bert", options={"fields": fields}), Modality.FUNC, Place(None, "cpu"))


def test_kept_special_tokens_are_rows_of_the_field_that_follows_them() -> None:
    encoder, plain = TextEncoder.random(special_tokens="keep"), TextEncoder.random()
    tokenizer: Any = encoder._tokenizer
    tokens: list[int] = []
    fields: list[int] = []
    for number, text in enumerate(KINASE.text):
        content = tokenizer(text, add_special_tokens=False)["input_ids"]
        tokens += [3 if number else 2, *content]
        fields += [number] * (1 + len(content))
    model: Any = encoder._model._model
    with torch.no_grad():
        hidden = model(input_ids=torch.tensor([tokens])).last_hidden_state[0].numpy()

    (ours,), (without,) = encode(encoder, KINASE), encode(plain, KINASE)

    assert np.abs(ours.features - hidden).max() <= 1e-5 * np.sqrt((hidden**2).mean())
    assert ours.index is not None
    assert ours.index.tolist() == fields
    assert ours.cls is not None
    assert np.array_equal(ours.cls, ours.features[0])
    special = np.isin(tokens, (2, 3))
    assert special.sum() == 4
    assert np.array_equal(ours.features[~special], without.features)
    assert encoder.fingerprint() == {
        **plain.fingerprint(),
        "special_tokens": "[CLS] is cls and a row, [SEP] are rows",
    }


def test_kept_special_tokens_of_absent_fields_are_rows_too() -> None:
    (encoded,) = encode(TextEncoder.random(special_tokens="keep"), protein(location="Cytoplasm"))

    assert encoded.index is not None
    # [CLS] and the first [SEP] stand for the two empty fields, the second for the third, the last for the fourth.
    assert encoded.index.tolist() == [0, 1, 2, *[2] * (len(encoded.index) - 4), 3]


ENCODERS: dict[str, TextEncoder] = {}


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(*[st.text(max_size=30)] * 4), max_size=5),
    st.sampled_from(["drop", "keep"]),
    st.sampled_from([TEXT_FIELDS, ("name",), ("function", "similarity")]),
)
def test_lengths_are_the_rows_that_encode_gives_and_cost_is_the_tokens(
    texts: list[tuple[str, str, str, str]], special_tokens: Any, fields: tuple[str, ...]
) -> None:
    key = f"{special_tokens} {fields}"
    if key not in ENCODERS:
        sizes = {"layers": 1, "width": 8, "heads": 2, "intermediate": 8}
        ENCODERS[key] = TextEncoder.random(**sizes, fields=fields, special_tokens=special_tokens)
    encoder = ENCODERS[key]
    proteins = [protein(**dict(zip(TEXT_FIELDS, text, strict=True))) for text in texts]

    lengths = encoder.lengths(proteins)

    assert lengths == [len(item.features) for item in encode(encoder, *proteins)]
    tokens = [sum(len(field) for field in four) + 4 for four in encoder._fields(proteins)]
    assert all(encoder.cost(length) == count for length, count in zip(lengths, tokens, strict=True) if length)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import BertConfig, BertModel, BertTokenizer

    path = tmp_path_factory.mktemp("published") / "toy-bert"
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertTokenizer(vocab=tiny_vocabulary()).save_pretrained(path)
    BertModel(BertConfig(vocab_size=len(tiny_vocabulary()), **sizes), add_pooling_layer=False).save_pretrained(path)
    return path


@pytest.mark.parametrize(
    ("name", "where"), [("random-bert", None), ("huggingface-text", "model"), ("pubmedbert", "file")]
)
def test_every_text_encoder_takes_fields_special_tokens_and_a_precision(
    folder: Path, name: str, where: str | None
) -> None:
    options: dict[str, Any] = {"fields": ("name", "function"), "special_tokens": "keep"}
    spec = EncoderSpec(name=name, options=options | ({where: str(folder)} if where else {}))

    encoder = build_encoder(spec, Modality.FUNC, Place(None, "cpu", "bf16"))

    fingerprint = encoder.fingerprint()
    assert fingerprint["fields"] == ["name", "function"]
    assert fingerprint["dtype"] == "bfloat16"
    (encoded,) = encoder.encode([EncoderInput(KINASE)])
    assert encoded.index is not None
    assert np.bincount(encoded.index).tolist()[2:] == [1, 1]
    assert encoder.lengths([KINASE]) == [len(encoded.features)]
    wrong = EncoderSpec(name=name, options={**spec.options, "special_tokens": "some"})
    with pytest.raises(ConfigError, match="special_tokens"):
        build_encoder(wrong, Modality.FUNC, Place(None, "cpu"))
