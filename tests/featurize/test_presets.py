"""Presets give three encoders that fit together; a wrong name, option or device is answered with the right one."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from amma.featurize.encoders.buckets import length_buckets
from amma.featurize.encoders.device import resolve_device
from amma.featurize.encoders.presets import PRESETS, EncoderSet, build_encoders
from amma.featurize.encoders.protocol import Encoder, EncoderInput
from amma.featurize.encoders.registry import ENCODERS, EncoderSpec, Place, build_encoder
from amma.manifests.errors import ConfigError, UsageError, WeightsError
from amma.manifests.structures import Chain
from amma.manifests.table import MODALITIES, Modality, Protein


@pytest.fixture(scope="module")
def tiny() -> EncoderSet:
    return build_encoders("tiny", device="cpu")


def helix(length: int) -> EncoderInput:
    """A protein with a sequence, an ideal α-helix and a name."""
    turn = np.arange(length) * np.radians(100)
    ca = np.stack([2.3 * np.cos(turn), 2.3 * np.sin(turn), 1.5 * np.arange(length)], axis=1).astype(np.float32)
    letters = ("MKTAYIAKQRQISFVKSHFSRQLEERLGLIEV" * (length // 32 + 1))[:length]
    chain = Chain(residue=np.arange(length, dtype=np.int32), letters=letters, ca=ca)
    return EncoderInput(Protein(id="helix", sequence=letters, structure="helix.pdb", name="Helix kinase"), chain)


def test_tiny_encodes_each_modality_at_its_own_width(tiny: EncoderSet) -> None:
    item = helix(30)

    for modality, width in zip(MODALITIES, (64, 96, 48), strict=True):
        encoder = tiny[modality]
        assert isinstance(encoder, Encoder)
        assert encoder.modality == modality
        assert encoder.width == width
        (encoded,) = encoder.encode([item])
        assert encoded.features.shape == (encoder.lengths([item.protein])[0], width)
        assert np.isfinite(encoded.features).all()
        # Stores are float16; random weights must stay far from its limit.
        assert np.abs(encoded.features).max() < 1000


def test_rows_beyond_the_sequence_encoders_limit_are_given_by_neither_encoder() -> None:
    limited = build_encoders(
        "tiny", device="cpu", replaced={Modality.SEQ: EncoderSpec(name="random-esm", options={"max_residues": 12})}
    )
    item = helix(30)

    assert limited.max_residues == 12
    for modality in (Modality.SEQ, Modality.STR):
        assert limited[modality].lengths([item.protein]) == [12]
        assert len(limited[modality].encode([item])[0].features) == 12


def test_tiny_is_the_same_every_time_and_says_that_its_weights_are_random(tiny: EncoderSet) -> None:
    fingerprint = tiny.fingerprint()

    assert tiny.random_weights
    assert tiny.max_residues == 1022
    assert fingerprint == build_encoders("tiny", device="cpu").fingerprint()
    assert json.loads(json.dumps(fingerprint)) == fingerprint
    assert list(fingerprint) == ["seq", "str", "func"]


def test_an_encoder_can_be_replaced(tiny: EncoderSet) -> None:
    spec = EncoderSpec(name="random-esm", options={"architecture": "esm2", "width": 32, "heads": 2})

    other = build_encoders("tiny", device="cpu", replaced={Modality.SEQ: spec})

    assert other.seq.width == 32
    assert other.max_residues is None
    assert other.fingerprint()["seq"] != tiny.fingerprint()["seq"]
    assert other.fingerprint()["func"] == tiny.fingerprint()["func"]


@pytest.mark.parametrize("name", sorted(ENCODERS))
def test_every_known_encoder_is_built_or_says_which_weights_it_needs(name: str, tmp_path: Path) -> None:
    place = Place(weights=tmp_path, device="cpu")
    options = {"model": str(tmp_path / "absent")} if name.startswith("huggingface") else {}
    if name == "gearnet":
        options = {"file": str(tmp_path / "absent.pth")}  # no weights of a plain GearNet are published
    sequence = "esm" in name or name.endswith("-seq")
    modality = Modality.SEQ if sequence else Modality.STR if "gearnet" in name else Modality.FUNC
    spec = EncoderSpec(name=name, options=options)

    if name.startswith("random"):
        assert build_encoder(spec, modality, place).random_weights
    else:
        with pytest.raises(WeightsError, match="https://") as caught:
            build_encoder(spec, modality, place)
        assert str(tmp_path) in str(caught.value)


def test_paper_without_weights_names_every_file_its_address_and_its_folder(tmp_path: Path) -> None:
    (tmp_path / "esm1b_t33_650M_UR50S.pt").write_bytes(b"found, but not read while others are missing")

    with pytest.raises(WeightsError) as caught:
        build_encoders("paper", weights=tmp_path, device="cpu")

    message = str(caught.value)
    for part in ("mc_gearnet_edge.pth", "https://zenodo.org", "BiomedBERT", "https://huggingface.co", str(tmp_path)):
        assert part in message
    assert "esm1b" not in message
    assert "\n" not in message


def test_paper_is_the_papers_three_encoders() -> None:
    assert [PRESETS["paper"][modality].name for modality in MODALITIES] == ["esm1b", "gearnet-edge", "pubmedbert"]


def test_an_unknown_preset_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"no preset called 'papr'. Did you mean 'paper'\? Known: paper, tiny\."):
        build_encoders("papr", device="cpu")


def test_an_unknown_encoder_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"no encoder called 'gernet-edge'. Did you mean 'gearnet-edge'\?"):
        build_encoder(EncoderSpec(name="gernet-edge"), Modality.STR, Place(None, "cpu"))


def test_an_encoder_of_another_modality_is_refused() -> None:
    with pytest.raises(UsageError, match="random-bert encodes func, but was chosen as the encoder of seq"):
        build_encoder(EncoderSpec(name="random-bert"), Modality.SEQ, Place(None, "cpu"))


def test_wrong_options_are_all_named() -> None:
    spec = EncoderSpec(name="random-esm", options={"widht": 64, "layers": 0})

    with pytest.raises(ConfigError) as caught:
        build_encoder(spec, Modality.SEQ, Place(None, "cpu"))

    assert "random-esm" in str(caught.value)
    assert "widht" in str(caught.value)
    assert "layers" in str(caught.value)


def test_the_device_is_found_or_refused() -> None:
    assert resolve_device("cpu") == "cpu"
    assert resolve_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    for wrong in ("gpu", "meta", "cuda:99", ""):
        with pytest.raises(UsageError):
            resolve_device(wrong)


def test_groups_of_similar_length_hold_every_record_once_and_little_padding() -> None:
    lengths = np.random.default_rng(0).integers(1, 500, 300).tolist()

    groups = length_buckets(lengths)

    assert sorted(index for group in groups for index in group) == list(range(300))
    for group in groups:
        longest = max(lengths[index] for index in group)
        assert all(lengths[index] >= 0.8 * longest for index in group)
    assert len(groups) < 60
    assert length_buckets([]) == []
