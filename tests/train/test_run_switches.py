"""Runs with each switch of the model and of the masks: saved, stopped, resumed, refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from amma.manifests.errors import CheckpointError, ConfigError
from amma.manifests.settings import sha256_of_json
from amma.train.model.config import MaskConfig, ModelConfig
from amma.train.run.checkpoint import STATE, Checkpoints, load_model
from amma.train.run.config import RunConfig
from amma.train.run.loop import pretrain

Make = Callable[..., RunConfig]

MODEL_SWITCHES: list[dict[str, Any]] = [
    {"positions": "none"},
    {"modality_vectors": False},
    {"decoder_positions": False},
    {"hidden_tokens": "learned"},
    {"projection_hidden": 24},
    {"num_heads": 4},
    {"num_decoder_heads": 1},
    {"global_token": True},
]
MASK_SWITCHES: list[dict[str, Any]] = [{"rounding": "multinomial"}, {"shortfall": "drop"}]
each_switch = pytest.mark.parametrize(
    "switch",
    [*MODEL_SWITCHES, *MASK_SWITCHES],
    ids=lambda switch: ", ".join(f"{key}={value}" for key, value in switch.items()),
)
SHORT: dict[str, Any] = {"epochs": 1, "validation_fraction": 0}


def settings(config: Make, switch: dict[str, Any], **changes: Any) -> RunConfig:
    """Of a short run, with a switch of the model or of the mask."""
    plain = config()
    section = "model" if switch.keys() <= ModelConfig.model_fields.keys() else "mask"
    switched = {section: {**getattr(plain, section).model_dump(), **switch}}
    return config(**{**SHORT, **switched, **changes})


def tensors(run_dir: Path) -> dict[str, bytes]:
    """Every number of the newest checkpoint."""
    folder = Checkpoints(run_dir).newest_first()[0]
    files = [load_file(folder / name) for name in ("model.safetensors", "training.safetensors")]
    return {name: tensor.numpy().tobytes() for file in files for name, tensor in file.items()}


@pytest.fixture(scope="module")
def plain(config: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("plain") / "run"
    pretrain(config(**SHORT, max_steps=4), run_dir)
    return run_dir


@each_switch
def test_a_run_with_a_switch_is_another_run_that_resumes_to_the_bit_and_whose_checkpoint_loads(
    switch: dict[str, Any], config: Make, plain: Path, tmp_path: Path
) -> None:
    pretrain(settings(config, switch, max_steps=4), tmp_path / "whole")
    for steps in (2, 4):
        pretrain(settings(config, switch, max_steps=steps), tmp_path / "parts")
    numbers = tensors(tmp_path / "whole")
    assert numbers == tensors(tmp_path / "parts")
    assert numbers != tensors(plain)
    loaded = load_model(tmp_path / "whole")
    expected = settings(config, switch)
    assert loaded.model.config == expected.model
    assert MaskConfig.parse(loaded.config["mask"], source="checkpoint") == expected.mask
    assert {name: t.numpy().tobytes() for name, t in loaded.model.state_dict().items()}.items() <= numbers.items()


@each_switch
def test_a_run_does_not_go_on_with_another_switch(switch: dict[str, Any], config: Make, plain: Path) -> None:
    ((key, value),) = switch.items()
    with pytest.raises(
        ConfigError, match=rf"other settings:\n  (model|mask)\.{key}: .* before, .*{str(value).lower()}"
    ):
        pretrain(settings(config, switch), plain)


@pytest.mark.parametrize("switch", MODEL_SWITCHES, ids=lambda switch: next(iter(switch)))
def test_weights_of_a_model_with_another_switch_are_refused(
    switch: dict[str, Any], config: Make, plain: Path, tmp_path: Path
) -> None:
    ((key, value),) = switch.items()
    with pytest.raises(CheckpointError) as caught:
        pretrain(settings(config, switch, init_from=plain), tmp_path / "run")
    assert f"another model: {key} " in str(caught.value)
    assert f" there, {value} here. Give its --preset" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize("switch", MASK_SWITCHES, ids=lambda switch: next(iter(switch)))
def test_weights_do_not_care_for_the_masks_they_were_trained_with(
    switch: dict[str, Any], config: Make, plain: Path, tmp_path: Path
) -> None:
    pretrain(settings(config, switch, init_from=plain, max_steps=1), tmp_path / "run")
    begun = load_file(tmp_path / "run" / "checkpoints" / "step-00000000" / "model.safetensors")
    assert {name: t.numpy().tobytes() for name, t in begun.items()}.items() <= tensors(plain).items()


def test_a_run_from_before_the_switches_goes_on_and_its_checkpoint_loads(
    config: Make, plain: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    pretrain(config(**SHORT, max_steps=2), run_dir)
    expected = load_model(run_dir).model
    added = {key for switch in [*MODEL_SWITCHES, *MASK_SWITCHES] for key in switch} - {"num_heads", "num_decoder_heads"}

    def without_switches(described: dict[str, Any]) -> None:
        for section in ("model", "mask"):
            kept = {key: value for key, value in described["config"][section].items() if key not in added}
            described["config"][section] = kept

    run = json.loads((run_dir / "config.json").read_text())
    without_switches(run)
    assert added.isdisjoint({**run["config"]["model"], **run["config"]["mask"]})
    (run_dir / "config.json").write_text(json.dumps(run))
    for folder in Checkpoints(run_dir).newest_first():
        state = json.loads((folder / STATE).read_text())
        without_switches(state)
        del state["sha256"]
        (folder / STATE).write_text(json.dumps({**state, "sha256": sha256_of_json(state)}))
    loaded = load_model(run_dir).model
    assert loaded.config == expected.config
    assert all((tensor == loaded.state_dict()[name]).all() for name, tensor in expected.state_dict().items())
    with pytest.raises(ConfigError, match=r'model\.positions: "sincos" before, "none" now'):
        pretrain(settings(config, {"positions": "none"}), run_dir)
    pretrain(config(**SHORT, max_steps=4), run_dir)
    assert tensors(run_dir) == tensors(plain)
