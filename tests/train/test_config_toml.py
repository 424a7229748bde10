"""The settings beside a run are a recipe that gives them again."""

import string
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amma.train.cli import main
from amma.train.run.config import RunConfig
from amma.train.run.config_toml import to_toml
from amma.train.run.folder import read_run
from amma.train.run.log import read_log
from amma.train.run.recipe import built_in, resolve

PATHS = st.text(string.ascii_letters + " é\"'\\#=\t\x7f名[]{}", min_size=1, max_size=12)


def again(config: RunConfig, tmp_path: Path) -> RunConfig:
    file = tmp_path / "config.toml"
    file.write_text(to_toml(config), encoding="utf-8")
    return resolve({"recipe": str(file)})


@given(
    lr=st.floats(min_value=0, exclude_min=True, allow_infinity=False),
    alpha=st.tuples(*[st.floats(1e-300, 1e300)] * 3),
    weights=st.dictionaries(st.sampled_from(["triplet", "seq-str", "seq-func"]), st.floats(0, 1e9)),
    exclude=st.lists(PATHS, max_size=3, unique=True),
    stores=st.lists(PATHS, min_size=1, max_size=3),
    steps=st.none() | st.integers(1, 2**62),
    flag=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_what_is_written_gives_the_same_settings(
    lr: float,
    alpha: tuple[float, float, float],
    weights: dict[str, float],
    exclude: list[str],
    stores: list[str],
    steps: int | None,
    flag: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    chosen: dict[str, Any] = {
        "preset": "tiny" if flag else "uniform-768",
        "model": {"global_token": flag, "projection_hidden": steps},
        "mask": {"alpha": alpha},
        "mix": {"weights": weights},
        "optimizer": {"lr": lr},
        "exclude": exclude,
        "max_steps": steps,
    }
    config = resolve(chosen, stores=stores)
    assert again(config, tmp_path_factory.mktemp("toml")) == config


@pytest.mark.parametrize("name", built_in())
@pytest.mark.parametrize("preset", ["paper", "tiny"])
def test_every_recipe_survives_being_written(name: str, preset: str, tmp_path: Path) -> None:
    config = resolve({"recipe": name, "preset": preset}, stores=["a.zarr", "s3://b/c.zarr"], require=False)
    assert again(config, tmp_path) == config
    assert tomllib.loads(to_toml(config))["recipe"]["name"] == name


def run(monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> int:
    monkeypatch.setattr(sys, "argv", ["amma-train", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_a_run_by_the_settings_of_another_is_the_same_run(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: Callable[..., RunConfig]
) -> None:
    options = ["--preset", "tiny", "--alpha", "2,1,1", "--subset", 9, "--subset-seed", 4, "--weight", "seq-func=0.5"]
    options += ["--max-steps", 2, "--threads", 1, "--device", "cpu", "--validation-fraction", 0.2, "--hidden-tokens"]
    assert run(monkeypatch, "pretrain", store, tmp_path / "one", *options, "learned") == 0
    again = ["--recipe", tmp_path / "one" / "config.toml"]
    assert run(monkeypatch, "pretrain", tmp_path / "two", *again) == 0
    one, two = (read_run(tmp_path / name) for name in ("one", "two"))
    assert one is not None
    assert one == two
    losses = [
        [line["loss"] for line in read_log(tmp_path / name / "log.jsonl") if line["kind"] == "step"]
        for name in ("one", "two")
    ]
    assert len(losses[0]) == 2
    assert losses[0] == losses[1]
    # A run goes on by its own file, too.
    assert run(monkeypatch, "pretrain", tmp_path / "two", *again, "--max-steps", 3) == 0
