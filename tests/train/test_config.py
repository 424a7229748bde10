import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from amma.manifests.errors import ConfigError, UsageError
from amma.train.model.config import PRESETS, MaskConfig, ModelConfig, find_preset


def test_an_unknown_preset_is_answered_with_the_nearest_name() -> None:
    with pytest.raises(UsageError, match=r"Did you mean 'paper-text-51m'.*Known: paper, "):
        find_preset("paper-text-51")


def test_presets_survive_being_written_and_read() -> None:
    for preset in PRESETS.values():
        assert type(preset).parse(preset.model_dump(mode="json"), source="x") == preset


def test_the_tiny_preset_sees_fewer_tokens() -> None:
    assert (find_preset("tiny").mask.visible_tokens, find_preset("paper").mask.visible_tokens) == (48, 160)


@pytest.mark.parametrize(
    "fault",
    [
        {"width": 60, "num_heads": 8},
        {"decoder_width": 9, "num_decoder_heads": 3},
        {"num_heads": 0},
        {"projection_hidden": 0},
        {"positions": "learned"},
        {"hidden_tokens": "ones"},
    ],
)
def test_models_that_cannot_be_built_are_refused(fault: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="model is not valid"):
        ModelConfig.parse(fault, source="model")


@pytest.mark.parametrize(
    "fault",
    [
        {"alpha": (1, 2)},
        {"alpha": (1, 0, 2)},
        {"max_visible_fraction": 0},
        {"visible_tokens": 0},
        {"dropout": 0.1},
        {"rounding": "up"},
        {"shortfall": "lend"},
    ],
)
def test_masks_that_cannot_be_drawn_are_refused(fault: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        MaskConfig.model_validate(fault)


def test_configuration_can_be_read_without_torch_or_pyarrow() -> None:
    loaded = "import sys, amma.train.model.config; print({'torch', 'pyarrow', 'numpy'} & set(sys.modules))"
    answer = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "set()"
