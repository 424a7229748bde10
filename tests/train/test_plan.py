import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from amma.manifests.table import Modality
from amma.train.cli import main
from amma.train.data.training_set import prepare_training_set
from amma.train.model.amma import AMMA
from amma.train.model.family import count_parameters
from amma.train.run.config import RunConfig
from amma.train.run.log import read_log
from amma.train.run.loop import pretrain
from amma.train.run.plan import plan

Make = Callable[..., RunConfig]


def drawn(run_dir: Path) -> dict[str, int]:
    total: dict[str, int] = {}
    for line in read_log(run_dir / "log.jsonl"):
        if line["kind"] == "epoch":
            for stream, count in line["drawn"].items():
                total[stream] = total.get(stream, 0) + count
    return total


@pytest.mark.parametrize("mixing", ["interleave", "sum"])
def test_a_plan_tells_the_steps_and_the_mix_that_the_run_then_has(mixing: str, config: Make, tmp_path: Path) -> None:
    settings = config(mix={"mixing": mixing, "weights": {"seq-str": 2, "seq-func": 0}})
    planned = plan(settings, measure=0)
    outcome = pretrain(settings, tmp_path / "run")
    assert planned["steps"] == outcome.last_step == 2 * planned["steps_per_epoch"]
    streams = planned["mix"]["streams"]
    assert {name: 4 * stream["batches"] for name, stream in streams.items()} == drawn(tmp_path / "run")
    for stream in streams.values():
        assert stream["epochs"] == pytest.approx(4 * stream["batches"] / stream["proteins"])
    assert planned["measured"] is planned["hours"] is None
    assert "activations" not in planned["memory_bytes"]


def test_tokens_of_the_steps_are_those_of_its_proteins(config: Make) -> None:
    settings = config(epochs=1)
    training_set = prepare_training_set(settings)
    corpus = training_set.corpus
    sizes = []
    for step in range(training_set.mix.steps_per_epoch):
        sizes.append(0)
        for portion in training_set.mix.plan(step):
            for draw in portion.draws:
                sizes[-1] += sum(len(corpus.read(m, draw.protein).features) for m in portion.modalities)
    found = plan(settings, measure=0)["tokens_per_step"]
    assert found == {"mean": pytest.approx(sum(sizes) / len(sizes)), "largest": max(sizes)}


def test_memory_is_what_the_tensors_take(config: Make, widths: dict[Modality, int]) -> None:
    settings = config(epochs=1, max_steps=5)
    planned = plan(settings, measure=2)
    model = AMMA(settings.model, widths)
    held = sum(parameter.numel() for parameter in model.parameters())
    memory = planned["memory_bytes"]
    assert (memory["weights"], memory["gradients"], memory["adamw"]) == (4 * held, 4 * held, 8 * held)
    assert planned["parameters"] == count_parameters(settings.model, widths)
    assert memory["total"] == 16 * held + memory["activations"]
    # At least what a pre-norm layer cannot do without: two inputs and outputs of norms, q, k, v, and the hidden layer.
    wide = plan(config(epochs=1, max_steps=5, mix={"batch_size": 8}), measure=2)["memory_bytes"]["activations"]
    assert 1.5 < wide / memory["activations"] < 2.5
    smallest = planned["tokens_per_step"]["largest"] * (6 * 16 + 32) * 4
    assert smallest < memory["activations"] < 100 * smallest


def test_hours_come_from_measured_steps_or_from_a_number(config: Make) -> None:
    settings = config(epochs=1000)
    measured = plan(settings, measure=2)
    assert measured["hours"] == pytest.approx(measured["step_seconds"] * measured["steps"] / 3600)
    assert 0 < measured["step_seconds"] < 10
    assert measured["measured"] == {"device": "cpu", "threads": 1, "steps": 2}
    assert plan(settings, measure=0, step_seconds=1.44)["hours"] == pytest.approx(1.44 * measured["steps"] / 3600)


def test_measuring_leaves_no_trace_in_the_threads_and_kernels(config: Make) -> None:
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    plan(config(threads=2), measure=1)
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == before


def test_the_command_shows_the_plan_as_json_and_as_lines(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def show(*arguments: Any) -> str:
        options = ["--preset", "tiny", "--epochs", "2", "--validation-fraction", "0", "--device", "cpu"]
        monkeypatch.setattr(sys, "argv", ["amma-train", "plan", str(store), *options, *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
        return capsys.readouterr().out

    planned = json.loads(show("--measure", "1", "--json"))
    assert planned["steps"] == 20
    assert set(planned["mix"]["streams"]) == {"triplet", "seq-str", "seq-func"}
    assert planned["hours"] > 0
    assert "\nhours: 0.1\n" in show("--measure", "0", "--step-seconds", "18")
    smaller = json.loads(show("--measure", "0", "--json", "--family", "no-auxiliary"))
    assert smaller["parameters"] < planned["parameters"]
    wider = json.loads(show("--measure", "0", "--json", "--projection-hidden", "80"))
    # Features of 8, 12 and 6 channels, D = 64: 16 more hidden ones with their biases.
    assert wider["parameters"] == planned["parameters"] + 16 * (8 + 12 + 6 + 3 * (1 + 64))
    tokens = json.loads(show("--measure", "0", "--json", "--global-token", "--hidden-tokens", "learned"))
    assert tokens["parameters"] == planned["parameters"]
    assert tokens["memory_bytes"]["weights"] == planned["memory_bytes"]["weights"] + 4 * (64 + 3 * 128)
    assert list(tmp_path.iterdir()) == []
