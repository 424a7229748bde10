"""The recipes that come with amma are the paper's runs, and run."""

import json
import sys
import tomllib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from amma.train.cli import main
from amma.train.run.config import RunConfig
from amma.train.run.log import read_log
from amma.train.run.recipe import built_in, find_recipe, resolve

QUICK = ["--preset", "tiny", "--threads", "1", "--device", "cpu", "--validation-fraction", "0"]


def settings(name: str, **chosen: Any) -> RunConfig:
    return resolve({"recipe": name, **chosen}, stores=["s.zarr"], require=False)


def differences(one: RunConfig, other: RunConfig) -> dict[str, tuple[Any, Any]]:
    """By name, the settings and sections in which two differ."""
    pairs = {name: (getattr(one, name), getattr(other, name)) for name in RunConfig.model_fields if name != "recipe"}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def run(monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> int:
    monkeypatch.setattr(sys, "argv", ["amma-train", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_pretraining_is_the_defaults_on_triplets_alone() -> None:
    config = settings("pretraining")
    assert set(differences(config, resolve({}, stores=["s.zarr"]))) == {"mix"}
    assert config.mix.weights == {"seq-str": 0.0, "seq-func": 0.0}
    assert config.mix.batch_size == 4


def test_the_ablations_differ_from_what_stands_beside_them_in_one_thing() -> None:
    for name, beside in (("symmetric", "pretraining"), ("no-auxiliary", "alpha")):
        (pair,) = differences(settings(name), settings(beside)).values()
        assert pair[0] == pair[1].model_copy(update={"family": name})
    assert set(differences(settings("alpha"), settings("pretraining"))) == {"subset"}
    assert settings("alpha").subset == 22_000


def test_the_rows_of_table_4_are_the_runs_that_the_recipe_names(shared: Path) -> None:
    table = json.loads((shared / "golden" / "paper_tables.json").read_text())["table4_alpha_22k"]
    rows = {key.rpartition(" ")[2] for key in table if key != "columns"}
    (line,) = (line for line in find_recipe("alpha").text.splitlines() if "for alpha in" in line)
    assert set(line.partition(" in ")[2].removesuffix("; do").split()) == rows
    configs = [settings("alpha", mask={"alpha": [float(part) for part in row.split(",")]}) for row in sorted(rows)]
    assert all(set(differences(one, other)) == {"mask"} for one, other in pairwise(configs))


@pytest.mark.parametrize("name", built_in())
def test_every_value_of_a_recipe_says_whether_it_is_the_papers_or_ours(name: str) -> None:
    values = 0
    for above, line in pairwise(find_recipe(name).text.splitlines()):
        if " = " in line and not line.startswith(("#", "about", "preset", "requires")):
            values += 1
            assert any(mark in line or above.startswith(mark) for mark in ("# paper", "# ours")), line
    assert values >= 10


def test_recipes_are_listed_and_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "recipes") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == built_in()
    assert next(line for line in lines if line.startswith("unpaired")).endswith("; needs --init-from")
    assert run(monkeypatch, "recipes", "--json") == 0
    listed = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert set(listed) == set(built_in()) >= {"pretraining", "unpaired", "alpha", "no-auxiliary", "symmetric"}
    assert listed["pretraining"]["about"].startswith("Table 2")
    assert run(monkeypatch, "recipes", "unpaired") == 0
    printed = capsys.readouterr().out
    assert printed == find_recipe("unpaired").text
    assert tomllib.loads(printed)["mix"]["mixing"] == "sum"
    assert run(monkeypatch, "recipes", "unpaired", "--json") == 0
    assert json.loads(capsys.readouterr().out)["mix"]["mixing"] == "sum"
    assert run(monkeypatch, "recipes", "unpiared") == 2
    assert "Did you mean 'unpaired'?" in capsys.readouterr().err


def test_unpaired_goes_on_from_a_checkpoint_with_the_sum_of_both_kinds_of_pairs(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    paired, unpaired = tmp_path / "paired", tmp_path / "unpaired"
    assert run(monkeypatch, "pretrain", "--recipe", "pretraining", store, paired, *QUICK, "--epochs", 1) == 0
    log = read_log(paired / "log.jsonl")
    assert {line["kind"]: line["drawn"] for line in log if "drawn" in line} == {
        "step": {"triplet": 4},
        "epoch": {"triplet": 24},
    }
    # Without what it goes on from it is refused, but a plan of it can be made.
    command = ["--recipe", "unpaired", store, unpaired, *QUICK, "--batch-size", 2]
    assert run(monkeypatch, "pretrain", *command) == 2
    assert "recipe unpaired needs --init-from CHECKPOINT: the model that goes on" in capsys.readouterr().err
    assert not unpaired.exists()
    plan = ["plan", "--recipe", "unpaired", store, *QUICK, "--batch-size", 2, "--measure", 0, "--json"]
    assert run(monkeypatch, *plan) == 0
    planned = json.loads(capsys.readouterr().out)
    assert planned["config"]["mix"]["mixing"] == "sum"
    assert planned["steps"] == 5 * planned["steps_per_epoch"] == 25
    assert run(monkeypatch, "pretrain", *command, "--init-from", paired, "--epochs", 2) == 0
    lines = list(read_log(unpaired / "log.jsonl"))
    steps = [line for line in lines if line["kind"] == "step"]
    assert len(steps) == 2 * 5  # an epoch is one of the larger stream: 10 seq-str pairs
    assert all(line["drawn"] == {"seq-str": 2, "seq-func": 2} for line in steps)
    epochs = [line for line in lines if line["kind"] == "epoch"]
    assert [line["drawn"] for line in epochs] == [{"seq-str": 10, "seq-func": 10}] * 2
    written = json.loads((unpaired / "config.json").read_text())["config"]
    assert (written["recipe"], written["init_from"]) == ("unpaired", str(paired))


def test_a_dry_run_shows_what_a_recipe_and_options_make_together(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--recipe", "alpha", "--alpha", "2,1,1", "--subset", 10, *QUICK, "--dry-run"]
    assert run(monkeypatch, "pretrain", store, tmp_path / "run", *options) == 0
    shown = capsys.readouterr().out.splitlines()
    for line in ("config.recipe: alpha", "config.mask.alpha: [2.0, 1.0, 1.0]", "config.subset: 10"):
        assert line in shown
    assert "proteins.streams.triplet: 10" in shown
    assert run(monkeypatch, "pretrain", store, tmp_path / "run", "--recipe", "alpha", *QUICK) == 1
    assert "--subset 22000: there are only 24 training triplets" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", [name for name in built_in() if name != "unpaired"])
def test_every_recipe_trains(
    name: str, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: Callable[..., RunConfig]
) -> None:
    subset = ["--subset", 12] if name in ("alpha", "no-auxiliary") else []
    assert run(monkeypatch, "pretrain", store, tmp_path, "--recipe", name, *QUICK, *subset, "--max-steps", 2) == 0
    steps = [line for line in read_log(tmp_path / "log.jsonl") if line["kind"] == "step"]
    assert [set(line["drawn"]) for line in steps] == [{"triplet"}] * 2
