"""Whole runs of the contrastive model: its log, its checkpoints, its resume, and the settings it refuses."""

import json
import re
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from amma.manifests.errors import AmmaError, ConfigError
from amma.manifests.table import Modality
from amma.train.cli import app
from amma.train.data.split_record import SplitRecord
from amma.train.data.training_set import prepare_training_set
from amma.train.model.contrastive import Contrastive
from amma.train.model.family import count_parameters
from amma.train.run.checkpoint import load_model
from amma.train.run.config import RunConfig
from amma.train.run.log import read_log
from amma.train.run.loop import pretrain
from amma.train.run.plan import plan
from amma.train.run.recipe import resolve

Make = Callable[..., RunConfig]
MODEL = {"family": "contrastive", "width": 16, "ffn": 32, "num_fusion_layers": 2, "num_heads": 2}


def settings(config: Make, **changes: Any) -> RunConfig:
    values: dict[str, Any] = {"model": MODEL, "mask": {}, "optimizer": {"lr": 3e-3}, "validation_fraction": 0.2}
    return config(**{**values, **changes})


def test_a_run_that_was_stopped_and_resumed_is_the_run_that_was_not(config: Make, tmp_path: Path) -> None:
    for name, stops in (("whole", (None,)), ("parts", (3, 7, None))):
        for stop in stops:
            pretrain(settings(config, max_steps=stop), tmp_path / name)
    last = sorted(tmp_path.glob("whole/checkpoints/step-*"))[-1].name
    for file in ("model.safetensors", "training.safetensors"):
        whole, parts = (load_file(tmp_path / run / "checkpoints" / last / file) for run in ("whole", "parts"))
        assert whole.keys() == parts.keys()
        assert all(torch.equal(tensor, parts[name]) for name, tensor in whole.items())
    logs = [read_log(tmp_path / run / "log.jsonl") for run in ("whole", "parts")]
    losses = [[(line["step"], line["loss"]) for line in log if line["kind"] in ("step", "epoch")] for log in logs]
    assert losses[0] == losses[1]
    results = [[line["validation"] for line in log if line["kind"] == "epoch"] for log in logs]
    assert results[0] == results[1]


def test_terms_go_into_the_log_and_nothing_is_said_to_be_rebuilt(
    config: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pretrain(settings(config), tmp_path / "run")
    epochs = [line for line in read_log(tmp_path / "run" / "log.jsonl") if line["kind"] == "epoch"]
    for of in (*epochs, *(line["validation"] for line in epochs)):
        assert of["terms"].keys() == of["chance"].keys() == {"seq-str", "seq-func", "seq-input"}
        assert of["error"] == {}
    assert epochs[-1]["validation"]["controls"] == {}
    assert epochs[-1]["validation"]["loss"] == pytest.approx(sum(epochs[-1]["validation"]["terms"].values()))
    assert epochs[-1]["tokens"]["seq"] / 32 == pytest.approx(epochs[-1]["visible_per_protein"]["seq"])
    assert epochs[1]["loss"] < epochs[0]["loss"]
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("epoch ")]
    number = r"\d\.\d{3}"
    term = rf"{number} \({number}\)"
    line = r"epoch 2/2: loss \d\.\d+, validation \d\.\d+; terms on validation \(knowing nothing\): "
    assert re.fullmatch(line + f"seq-func {term}, seq-input {term}, seq-str {term}", said[1])


def test_what_the_family_does_not_use_is_not_written_beside_the_run(config: Make, tmp_path: Path) -> None:
    pretrain(settings(config, max_steps=1), tmp_path / "run")
    written = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    assert written["model"] == {**MODEL, "projection_hidden": None}
    assert written["objective"] == {"temperature": 0.07, "normalise": True}
    assert "mask" not in written
    loaded = load_model(tmp_path / "run")
    assert isinstance(loaded.model, Contrastive)
    assert RunConfig.parse(loaded.config, source="x").model == loaded.model.config
    assert "temperature" not in config().model_dump()["objective"]


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"mask": {"alpha": [1, 1, 1]}}, "mask.alpha: no effect with family contrastive; leave it out"),
        ({"mask": {"visible_tokens": 160}}, "mask.visible_tokens: no effect"),
        ({"model": {"decoder_width": 64}}, "model.decoder_width: no effect"),
        ({"model": {"positions": "none"}}, "model.positions: no effect"),
        ({"model": {"global_token": True}}, "model.global_token: no effect"),
        ({"objective": {"targets": "raw"}}, "objective.targets: no effect"),
        ({"objective": {"loss_on": "all"}}, "objective.loss_on: no effect"),
        ({"mix": {"batch_size": 1}}, "tells the proteins of a batch apart: at least 2"),
        ({"objective": {"temperature": 0}}, "objective.temperature: Input should be greater than 0"),
    ],
)
def test_what_has_no_effect_is_refused(chosen: dict[str, Any], message: str) -> None:
    model = {**chosen.get("model", {}), "family": "contrastive"}
    with pytest.raises(ConfigError, match=re.escape(message)):
        resolve({**chosen, "model": model}, stores=["s.zarr"])


def test_a_recipe_of_another_family_is_refused_with_its_lines(tmp_path: Path) -> None:
    recipe = tmp_path / "masked.toml"
    recipe.write_text('[mask]\nalpha = [1.0, 2.0, 2.0]\n\n[objective]\nloss_on = "hidden"\n')
    with pytest.raises(
        ConfigError, match=r"line 2, mask\.alpha: no effect(.|\n)*line 5, objective\.loss_on: no effect"
    ):
        resolve({"recipe": str(recipe), "model": {"family": "contrastive"}}, stores=["s.zarr"])
    recipe.write_text('[objective]\ntemperature = 0.1\n[model]\nfamily = "contrastive"\n')
    assert resolve({"recipe": str(recipe)}, stores=["s.zarr"]).objective.temperature == 0.1
    with pytest.raises(ConfigError, match=r"line 2, objective\.temperature: no effect with family symmetric"):
        resolve({"recipe": str(recipe), "model": {"family": "symmetric"}}, stores=["s.zarr"])


@pytest.mark.parametrize("preset", ["paper", "tiny"])
def test_presets_give_the_encoder_and_no_decoders(preset: str) -> None:
    run = resolve({"preset": preset, "model": {"family": "contrastive"}}, stores=["s.zarr"])
    other = resolve({"preset": preset}, stores=["s.zarr"])
    shared = ("width", "ffn", "num_fusion_layers", "num_heads", "projection_hidden")
    assert [getattr(run.model, name) for name in shared] == [getattr(other.model, name) for name in shared]
    assert run.masks is None
    assert other.masks == other.mask


def test_the_plan_counts_what_there_is(config: Make, widths: dict[Modality, int]) -> None:
    run = settings(config)
    planned = plan(run, measure=1)
    assert planned["parameters"] == count_parameters(run.model, widths) == planned["memory_bytes"]["weights"] // 4
    assert planned["memory_bytes"]["activations"] > 0


@pytest.mark.parametrize(("num", "sizes"), [(9, [4, 5]), (8, [4, 4]), (10, [4, 4, 2]), (2, [2]), (1, []), (0, [])])
def test_no_validation_batch_is_of_a_protein_that_has_no_other(
    num: int, sizes: list[int], config: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    # The split is taken as it is from the record of a run.
    record = SplitRecord("test", tuple(f"P{n}" for n in range(num)))
    training_set = prepare_training_set(settings(config), record)
    with closing(training_set.corpus):
        assert [len(portion.draws) for portion in training_set.validation] == sizes
        held_out = [draw.protein for portion in training_set.validation for draw in portion.draws]
        assert len(set(held_out)) == sum(sizes)
    assert (
        "nothing is measured on the validation proteins of stream triplet: there are 1," in capsys.readouterr().err
    ) == (num == 1)


def test_switches_decide_the_loss_and_the_command_line_has_them(store: Path, tmp_path: Path) -> None:
    def train(name: str, *options: str) -> float:
        arguments = ["--preset=tiny", "--family=contrastive", "--max-steps=1", "--threads=1", "--validation-fraction=0"]
        result = CliRunner().invoke(app, ["pretrain", str(store), str(tmp_path / name), *arguments, *options])
        assert result.exit_code == 0, result.output
        losses = [line["loss"] for line in read_log(tmp_path / name / "log.jsonl") if line["kind"] == "step"]
        return float(losses[0])

    losses = {
        options: train(str(number), *options)
        for number, options in enumerate([(), ("--temperature=1",), ("--no-normalise",), ("--batch-size=8",)])
    }
    assert len(set(losses.values())) == 4
    refused = CliRunner().invoke(
        app, ["pretrain", str(store), str(tmp_path / "x"), "--family=contrastive", "--alpha=1,1,1"]
    )
    assert isinstance(refused.exception, AmmaError)
    assert "mask.alpha: no effect with family contrastive" in str(refused.exception)
