from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from amma.manifests.errors import ConfigError
from amma.manifests.settings import Settings
from amma.train.chosen import keys
from amma.train.cli import app
from amma.train.model.config import WITHOUT_EFFECT
from amma.train.options import RunOptions
from amma.train.run.config import FREE_TO_CHANGE, RunConfig, check_same_run
from amma.train.run.recipe import resolve


def test_a_configuration_survives_json() -> None:
    config = resolve({"exclude": ["a.txt"], "max_steps": 4}, stores=["s.zarr"])
    assert RunConfig.parse(config.model_dump(mode="json"), source="test") == config


def test_only_what_cannot_change_a_number_may_change() -> None:
    before = resolve({"preset": "tiny"}, stores=["s.zarr"]).model_dump(mode="json")
    changed = {
        "recipe": "my.toml",
        "tensorboard": True,
        "checkpoint_activations": True,
        "epochs": 3,
        "max_steps": 9,
        "checkpoint_every": 2,
        "log_every": 5,
        "device": "cuda",
        "threads": 2,
        "accumulate": 2,
        "rank_timeout": 30,
        "stores": ["elsewhere.zarr"],
        "exclude": ["held.txt"],
        "clusters": "c.tsv",
        "init_from": "run",
    }
    assert set(changed) == FREE_TO_CHANGE
    check_same_run(before, {**before, **changed}, where=Path("run"))
    decides: dict[str, Any] = {
        "seed": 3,
        "precision": "bf16",
        "compile": True,
        "validation_fraction": 0.5,
        "mix": {"batch_size": 9},
        "model": {**before["model"], "positions": "none"},
        "mask": {**before["mask"], "shortfall": "drop"},
    }
    for key, value in decides.items():
        with pytest.raises(ConfigError, match=key):
            check_same_run(before, {**before, key: value}, where=Path("run"))


def leaves(model: type[Settings], section: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Settings):
            yield from leaves(field.annotation, f"{section}{name}.")
        else:
            yield section + name


def test_every_setting_has_one_option_and_every_option_is_a_setting() -> None:
    """`stores` are arguments; a preset is many settings at once."""
    named = [key.name for key in keys().values()]
    assert len(set(named)) == len(named)
    assert set(named) - {"preset"} == set(leaves(RunConfig)) - {"stores"}
    assert set(leaves(RunConfig)) <= set(RunConfig.dotted_keys())


def test_the_defaults_that_help_shows_are_those_of_the_settings() -> None:
    # A run's own settings leave out what its family does not use: no family uses all.
    settings: dict[str, Any] = {}
    for family in WITHOUT_EFFECT:
        chosen = {"model": {"family": family}}
        for section, values in resolve(chosen, stores=["s.zarr"]).model_dump(mode="json").items():
            settings[section] = {**settings.get(section, {}), **values} if isinstance(values, dict) else values
    settings["model"]["family"] = next(iter(WITHOUT_EFFECT))
    for option, key in keys().items():
        shown = getattr(RunOptions, option)
        if key.name == "preset" or shown is None:
            continue
        value: Any = settings
        for part in key.name.split("."):
            value = value[part]
        assert value == (shown if key.read is None else key.read(shown)), option


@pytest.mark.parametrize("name", ["pretrain", "plan"])
def test_both_commands_take_all_of_them(name: str) -> None:
    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    assert set(keys()) <= {parameter.name for parameter in command.params}
