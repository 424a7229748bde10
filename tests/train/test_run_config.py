from pathlib import Path
from typing import Any

import pytest

from amma.manifests.errors import ConfigError
from amma.train.model.config import PRESETS
from amma.train.run.config import FREE_TO_CHANGE, RunConfig, check_same_run


def test_a_preset_gives_model_and_mask_and_single_values_replace_theirs() -> None:
    changes: dict[str, Any] = {"model": {"global_token": True}, "mask": {"visible_tokens": 20}}
    config = RunConfig.from_preset("tiny", **changes, values={"stores": ["s.zarr"]})
    assert config.model == PRESETS["tiny"].model.model_copy(update={"global_token": True})
    assert config.mask.visible_tokens == 20
    assert config.mask.alpha == PRESETS["tiny"].mask.alpha


def test_the_papers_recipe_is_the_default() -> None:
    config = RunConfig.from_preset("paper", model={}, mask={}, values={"stores": ["s.zarr"]})
    assert (config.optimizer.lr, config.optimizer.weight_decay, config.optimizer.lr_gamma) == (1e-4, 0.05, 0.5)
    assert (config.epochs, config.mix.batch_size, config.mask.visible_tokens) == (10, 4, 160)
    assert config.mask.alpha == (1.0, 2.0, 2.0)


def test_all_faults_are_told_at_once() -> None:
    values: dict[str, Any] = {"stores": [], "epochs": -1, "mix": {"weights": {"seq-str": -1, "pairs": 1}}, "speed": 9}
    with pytest.raises(ConfigError) as caught:
        RunConfig.from_preset("tiny", model={}, mask={"visible_tokens": 0}, values=values)
    for key in ("stores", "epochs", "mix.weights.seq-str", "mix.weights.pairs", "speed", "mask.visible_tokens"):
        assert f"\n  {key}" in str(caught.value)


def test_a_configuration_survives_json() -> None:
    config = RunConfig.from_preset(
        "paper", model={}, mask={}, values={"stores": ["s.zarr"], "exclude": ["a.txt"], "max_steps": 4}
    )
    assert RunConfig.parse(config.model_dump(mode="json"), source="test") == config


def test_only_what_cannot_change_a_number_may_change() -> None:
    before = RunConfig.from_preset("tiny", model={}, mask={}, values={"stores": ["s.zarr"]}).model_dump(mode="json")
    changed = {
        "epochs": 3,
        "max_steps": 9,
        "checkpoint_every": 2,
        "log_every": 5,
        "device": "cuda",
        "threads": 2,
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
        "validation_fraction": 0.5,
        "mix": {"batch_size": 9},
        "model": {**before["model"], "positions": "none"},
        "mask": {**before["mask"], "shortfall": "drop"},
    }
    for key, value in decides.items():
        with pytest.raises(ConfigError, match=key):
            check_same_run(before, {**before, key: value}, where=Path("run"))
