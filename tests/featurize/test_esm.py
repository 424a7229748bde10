"""ESM features are fair-esm's, whatever the batch; other letters and other checkpoints are refused."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import esm
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amma.featurize.encoders.esm import LETTERS, EsmEncoder
from amma.featurize.encoders.esm_checkpoint import random_model
from amma.featurize.encoders.protocol import Encoded, EncoderInput
from amma.manifests.errors import ConfigError, WeightsError
from amma.manifests.files import sha256_of_file
from amma.manifests.quarantine import RecordError
from amma.manifests.table import Protein

FAMILIES = ["esm1b", "esm2"]
SEQUENCES = [
    "MKTAYIAKQRQISFVKSHFSRQ",
    "G",
    "ACDEFGHIKLMNPQRSTVWYXBUZO",
    "MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQAPILSRVGDGTQD" * 2,
]


def proteins(*sequences: str) -> list[EncoderInput]:
    return [EncoderInput(Protein(id=f"p{number}", sequence=sequence)) for number, sequence in enumerate(sequences)]


def write_checkpoint(path: Path, family: str, *, layers: int = 2, width: int = 16, heads: int = 2) -> dict[str, Any]:
    """Write a checkpoint as fair-esm publishes them, at toy size; the oracle reads the returned contents."""
    model = random_model(seed=3, architecture=family, layers=layers, width=width, heads=heads)
    weights = {name: value for name, value in model.state_dict().items() if "contact_head" not in name}
    prefixed = {
        ("encoder." if name.startswith("lm_head") else "encoder.sentence_encoder.") + name: value.clone()
        for name, value in weights.items()
    }
    sizes = {"encoder_layers": layers, "encoder_embed_dim": width, "encoder_attention_heads": heads}
    if family == "esm2":
        # Real files hold a string where the dictionary package's name was; only `model` is used.
        contents = {"cfg": {"model": argparse.Namespace(**sizes, token_dropout=True)}, "model": prefixed}
    else:
        switches = {"arch": "roberta_large", "max_positions": 1024, "token_dropout": True}
        args = argparse.Namespace(**sizes, **switches, encoder_ffn_embed_dim=4 * width)
        contents = {"args": args, "model": prefixed}
    torch.save(contents, path)
    return contents


def oracle(model: Any, alphabet: Any, sequence: str, layer: int) -> tuple[np.ndarray, np.ndarray]:
    """Residue and BOS features by fair-esm's own tokenizer and forward, one sequence at a time."""
    _, _, tokens = alphabet.get_batch_converter()([("", sequence)])
    with torch.no_grad():
        hidden = model(tokens, repr_layers=[layer])["representations"][layer][0]
    return hidden[1 : len(sequence) + 1].numpy(), hidden[0].numpy()


def distance(ours: np.ndarray, reference: np.ndarray) -> float:
    """Largest absolute difference over the root mean square of the reference."""
    assert ours.shape == reference.shape
    return float(np.abs(ours - reference).max() / np.sqrt((reference**2).mean()))


@pytest.mark.parametrize("family", FAMILIES)
def test_features_of_a_published_checkpoint_are_fair_esms(tmp_path: Path, family: str) -> None:
    path = tmp_path / f"{family}_toy.pt"
    contents = write_checkpoint(path, family)
    model, alphabet = esm.pretrained.load_model_and_alphabet_core(path.stem, contents)
    model.eval()

    encoder = EsmEncoder.from_file(path)
    encoded = encoder.encode(proteins(*SEQUENCES))

    assert not encoder.random_weights
    assert encoder.width == 16
    for sequence, ours in zip(SEQUENCES, encoded, strict=True):
        features, cls = oracle(model, alphabet, sequence, layer=2)
        assert distance(ours.features, features) <= 1e-5
        assert ours.cls is not None
        assert distance(ours.cls, cls) <= 1e-5
        assert ours.index is None
        assert ours.features.dtype == np.float32


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_any_layer_can_be_read(tmp_path: Path, family: str, layer: int) -> None:
    path = tmp_path / f"{family}_toy.pt"
    contents = write_checkpoint(path, family)
    model, alphabet = esm.pretrained.load_model_and_alphabet_core(path.stem, contents)

    (ours,) = EsmEncoder.from_file(path, layer=layer).encode(proteins(SEQUENCES[0]))

    assert distance(ours.features, oracle(model.eval(), alphabet, SEQUENCES[0], layer)[0]) <= 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_a_proteins_features_do_not_depend_on_its_batch_mates(family: str) -> None:
    encoder = EsmEncoder.random(architecture=family, layers=3, width=32, heads=4)
    rng = np.random.default_rng(0)
    # Similar lengths, so that they do share padded batches, and a few far away.
    sequences = ["".join(rng.choice(list(LETTERS), size)) for size in [*range(40, 52), 300, 1, 2]]

    together = encoder.encode(proteins(*sequences))

    for sequence, among in zip(sequences, together, strict=True):
        (alone,) = encoder.encode(proteins(sequence))
        assert distance(among.features, alone.features) <= 1e-5
        assert among.cls is not None
        assert alone.cls is not None
        assert distance(among.cls, alone.cls) <= 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_only_layers_below_the_one_that_is_read_are_kept(family: str) -> None:
    model = random_model(seed=0, architecture=family, layers=3, width=16, heads=2)
    model.layers[2] = None

    encoder = EsmEncoder(model, name="cut", weights_sha256="", layer=2)

    whole = EsmEncoder.random(architecture=family, layers=3, width=16, heads=2, layer=2)
    (ours,), (reference,) = encoder.encode(proteins(SEQUENCES[0])), whole.encode(proteins(SEQUENCES[0]))
    assert np.array_equal(ours.features, reference.features)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_precision_is_in_the_fingerprint_and_features_are_float32_in_each(precision: str) -> None:
    encoder = EsmEncoder.random(precision=precision)

    (encoded,) = encoder.encode(proteins(SEQUENCES[0]))

    assert encoder.fingerprint()["dtype"] == {"fp32": "float32", "bf16": "bfloat16"}[precision]
    assert encoded.features.dtype == np.float32
    exact = EsmEncoder.random().encode(proteins(SEQUENCES[0]))[0]
    difference = distance(encoded.features, exact.features)
    assert difference == 0 if precision == "fp32" else 1e-4 < difference < 0.06


@pytest.mark.gpu
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("precision", "bound"), [("fp32", 1e-5), ("bf16", 0.06), ("fp16", 0.01)])
def test_a_gpu_gives_what_the_cpu_gives(family: str, precision: str, bound: float) -> None:
    sizes = {"architecture": family, "layers": 6, "width": 320, "heads": 20}
    reference = EsmEncoder.random(**sizes).encode(proteins(*SEQUENCES))

    encoder = EsmEncoder.random(**sizes, device="cuda", precision=precision)
    encoded = encoder.encode(proteins(*SEQUENCES))

    for ours, theirs in zip(encoded, reference, strict=True):
        assert distance(ours.features, theirs.features) <= bound


def test_the_same_batch_gives_the_same_bits() -> None:
    encoder = EsmEncoder.random()

    first, second = encoder.encode(proteins(*SEQUENCES)), encoder.encode(proteins(*SEQUENCES))

    assert all(np.array_equal(one.features, other.features) for one, other in zip(first, second, strict=True))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text(LETTERS, min_size=1, max_size=30), max_size=6))
def test_there_is_one_row_a_residue_as_lengths_promised(sequences: list[str]) -> None:
    encoder = _small()
    batch = proteins(*sequences)

    encoded = encoder.encode(batch)

    lengths = encoder.lengths([item.protein for item in batch])
    assert lengths == [len(sequence) for sequence in sequences]
    assert [item.features.shape for item in encoded] == [(length, 8) for length in lengths]


def _small(cache: list[EsmEncoder] = []) -> EsmEncoder:  # noqa: B006 - built once for all examples
    if not cache:
        cache.append(EsmEncoder.random(layers=1, width=8, heads=2))
    return cache[0]


def test_esm1b_reads_the_first_1022_residues() -> None:
    encoder = EsmEncoder.random(layers=1, width=8, heads=2)
    rng = np.random.default_rng(1)
    sequence = "".join(rng.choice(list(LETTERS[:20]), 1100))
    long, whole = proteins(sequence, sequence[:1022])

    assert encoder.max_residues == 1022
    assert encoder.lengths([long.protein, whole.protein]) == [1022, 1022]
    (ours,), (reference,) = encoder.encode([long]), encoder.encode([whole])
    assert np.array_equal(ours.features, reference.features)


def test_esm2_reads_any_length_unless_told() -> None:
    unlimited = EsmEncoder.random(architecture="esm2", layers=1, width=8, heads=2)
    limited = EsmEncoder.random(architecture="esm2", layers=1, width=8, heads=2, max_residues=10)
    (item,) = proteins("ACDEFGHIKL" * 110)

    assert unlimited.max_residues is None
    assert unlimited.encode([item])[0].features.shape == (1100, 8)
    assert limited.encode([item])[0].features.shape == (10, 8)
    assert limited.lengths([item.protein]) == [10]
    assert limited.fingerprint()["max_residues"] == 10


@pytest.mark.parametrize(
    ("sequence", "position"),
    [
        ("MKJ", 3),
        ("MK<eos>A", 3),
        ("<mask>", 1),
        ("<cls>MK", 1),
        ("M-K", 2),
        ("MK.", 3),
        ("MK*", 3),
        ("mK", 1),
        ("M K", 2),
        ("MK\n", 3),
        ("M1K", 2),
        ("MΑK", 2),
        ("M\x00K", 2),
    ],
)
def test_what_is_not_a_residue_is_refused_with_its_place(sequence: str, position: int) -> None:
    encoder = _small()
    (item,) = proteins(sequence)

    with pytest.raises(RecordError) as caught:
        encoder.encode([item])

    assert caught.value.code == "E_ALPHABET"
    assert f"{sequence[position - 1]!r} at residue {position} " in caught.value.reason
    with pytest.raises(RecordError):
        encoder.check(item.protein)


def test_an_empty_sequence_is_refused() -> None:
    with pytest.raises(RecordError) as caught:
        _small().encode(proteins(""))

    assert caught.value.code == "E_EMPTY"


def test_every_letter_that_is_accepted_is_a_token_of_its_own_to_esm() -> None:
    alphabet = esm.data.Alphabet.from_architecture("ESM-1b")
    encoder = _small()

    for letter in LETTERS:
        tokens = encoder._residue_tokens(Protein(id="p", sequence=letter * 3))
        assert tokens.tolist() == [alphabet.get_idx(letter)] * 3
        assert tokens[0] != alphabet.unk_idx


def test_random_encoders_follow_their_seed_and_leave_torchs_random_state_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()

    first, same, other = (EsmEncoder.random(seed=seed, layers=1, width=8, heads=2) for seed in (0, 0, 1))

    assert torch.equal(torch.get_rng_state(), before)
    features = [encoder.encode(proteins(SEQUENCES[0]))[0].features for encoder in (first, same, other)]
    assert np.array_equal(features[0], features[1])
    assert not np.allclose(features[0], features[2])
    assert first.fingerprint() == same.fingerprint()
    assert first.fingerprint()["weights_sha256"] != other.fingerprint()["weights_sha256"]
    assert first.random_weights


@pytest.mark.parametrize("family", FAMILIES)
def test_random_features_are_of_order_one_and_tell_residues_apart(family: str) -> None:
    (encoded,) = EsmEncoder.random(architecture=family).encode(proteins(SEQUENCES[3]))

    assert 0.5 < encoded.features.std() < 2
    assert np.abs(encoded.features).max() < 20
    assert encoded.features.std(axis=0).min() > 0.05


def test_the_fingerprint_holds_what_decides_the_numbers_and_is_plain_json(tmp_path: Path) -> None:
    path = tmp_path / "esm1b_toy.pt"
    write_checkpoint(path, "esm1b")
    encoder = EsmEncoder.from_file(path)
    fingerprint = encoder.fingerprint()

    assert json.loads(json.dumps(fingerprint)) == fingerprint
    assert fingerprint["weights_sha256"] == sha256_of_file(path)
    assert fingerprint["max_residues"] == 1022
    assert fingerprint["long"] == "truncate"
    assert str(tmp_path) not in json.dumps(fingerprint)
    assert fingerprint != EsmEncoder.from_file(path, layer=1).fingerprint()
    assert fingerprint != EsmEncoder.from_file(path, max_residues=500).fingerprint()


def test_the_name_of_the_file_is_not_part_of_the_fingerprint(tmp_path: Path) -> None:
    path, renamed = tmp_path / "esm1b_toy.pt", tmp_path / "weights.pt"
    write_checkpoint(path, "esm1b")
    renamed.write_bytes(path.read_bytes())

    assert EsmEncoder.from_file(path).fingerprint() == EsmEncoder.from_file(renamed).fingerprint()


@pytest.mark.parametrize(
    "wrong",
    [{"layer": 3}, {"layer": -1}, {"max_residues": 1023}, {"max_residues": 0}, {"width": 30}],
    ids=str,
)
def test_what_the_architecture_does_not_have_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        EsmEncoder.random(**wrong)


def damaged(contents: dict[str, Any], how: str) -> Any:
    model, args = contents["model"], contents["args"]
    if how == "a tensor less":
        del model["encoder.sentence_encoder.layers.1.fc1.bias"]
    elif how == "a layer more":
        model["encoder.sentence_encoder.layers.2.fc1.bias"] = torch.zeros(64)
    elif how == "another width":
        args.encoder_embed_dim = 32
    elif how == "another architecture":
        args.arch = "protein_bert_base"
    elif how == "no layers given":
        del args.encoder_layers
    elif how == "no args":
        del contents["args"]
    elif how == "heads that do not divide":
        args.encoder_attention_heads = 3
    elif how == "a bare list":
        return [1, 2]
    return contents


@pytest.mark.parametrize(
    "how",
    [
        "a tensor less",
        "a layer more",
        "another width",
        "another architecture",
        "no layers given",
        "no args",
        "heads that do not divide",
        "a bare list",
    ],
)
def test_a_checkpoint_of_another_kind_is_refused_in_one_line(tmp_path: Path, how: str) -> None:
    path = tmp_path / "esm1b_toy.pt"
    torch.save(damaged(write_checkpoint(path, "esm1b"), how), path)

    with pytest.raises(WeightsError) as caught:
        EsmEncoder.from_file(path)

    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_nothing_is_fetched_by_torch_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("torch.hub was called")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    path = tmp_path / "esm1b_toy.pt"
    write_checkpoint(path, "esm1b")

    assert len(EsmEncoder.from_file(path).encode(proteins("MK"))) == 1


def _rows(encoded: Sequence[Encoded]) -> int:
    return sum(len(item.features) for item in encoded)


def test_an_empty_batch_gives_nothing() -> None:
    assert _rows(_small().encode([])) == 0
    assert _small().lengths([]) == []
