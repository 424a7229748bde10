"""Choosing encoders and their options on the command line."""

from pathlib import Path
from typing import Any

import pytest

from amma.featurize.encoders.choice import EncoderChoice
from amma.featurize.encoders.presets import PRESETS, build_encoders
from amma.featurize.encoders.registry import EncoderSpec
from amma.manifests.errors import ConfigError, UsageError
from amma.manifests.table import Modality


def test_without_a_choice_the_preset_stands() -> None:
    assert EncoderChoice().specs("tiny") == {}


def test_an_option_is_added_to_those_of_the_preset() -> None:
    specs = EncoderChoice(layer=1, max_residues=50).specs("tiny")
    preset = PRESETS["tiny"][Modality.SEQ]
    assert specs == {
        Modality.SEQ: EncoderSpec(name=preset.name, options={**preset.options, "layer": 1, "max_residues": 50})
    }


def test_another_encoder_does_not_take_over_the_options_of_the_one_it_replaces() -> None:
    assert EncoderChoice(seq_encoder="esm2_t6_8M", layer=3).specs("tiny") == {
        Modality.SEQ: EncoderSpec(name="esm2_t6_8M", options={"layer": 3})
    }


def test_naming_the_encoder_of_the_preset_changes_nothing() -> None:
    assert EncoderChoice(seq_encoder="esm1b").specs("paper") == {}


def test_a_hugging_face_id_or_a_folder_stands_for_the_encoder_that_reads_it(tmp_path: Path) -> None:
    specs = EncoderChoice(seq_encoder="facebook/esm2_t6_8M_UR50D", func_encoder=str(tmp_path)).specs("paper")
    assert specs == {
        Modality.SEQ: EncoderSpec(name="huggingface-seq", options={"model": "facebook/esm2_t6_8M_UR50D"}),
        Modality.FUNC: EncoderSpec(name="huggingface-text", options={"model": str(tmp_path)}),
    }


@pytest.mark.parametrize(
    ("choice", "modality", "field", "value"),
    [
        ({"layer": 1}, Modality.SEQ, "layer", 1),
        ({"max_residues": 40}, Modality.STR, "max_residues", 40),
        ({"long": "skip"}, Modality.SEQ, "long", "skip"),
        ({"text_fields": ("name", "function")}, Modality.FUNC, "fields", ["name", "function"]),
        ({"special_tokens": "keep"}, Modality.FUNC, "special_tokens", None),
    ],
)
def test_each_choice_reaches_its_encoder_and_its_fingerprint(
    choice: dict[str, Any], modality: Modality, field: str, value: Any
) -> None:
    chosen = build_encoders("tiny", device="cpu", replaced=EncoderChoice(**choice).specs("tiny")).fingerprint()
    plain = build_encoders("tiny", device="cpu").fingerprint()
    assert chosen[modality] != plain[modality]
    if value is not None:
        found = chosen[modality][field]
        assert (list(found) if isinstance(value, list) else found) == value


def test_an_unknown_backend_or_encoder_is_refused_with_one_line() -> None:
    with pytest.raises(ConfigError):
        EncoderChoice.parse({"str_backend": "torchdrag"}, source="the options")
    with pytest.raises(UsageError, match="esm2_t6_8M"):
        build_encoders("tiny", device="cpu", replaced=EncoderChoice(seq_encoder="esm2_t6_9M").specs("tiny"))


def test_an_option_that_an_encoder_does_not_have_is_refused() -> None:
    with pytest.raises(ConfigError, match="huggingface-seq"):
        build_encoders(
            "tiny", device="cpu", replaced={Modality.SEQ: EncoderSpec(name="huggingface-seq", options={"layers": 3})}
        )
