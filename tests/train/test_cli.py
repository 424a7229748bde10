import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from amma.train.cli import main
from amma.train.model.config import PRESETS
from amma.train.run.log import read_log

QUICK = ["--preset", "tiny", "--epochs", "2", "--threads", "1", "--device", "cpu"]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> int:
    monkeypatch.setattr(sys, "argv", ["amma-train", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_a_run_and_its_checkpoint_are_shown_as_json(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    (tmp_path / "held.txt").write_text("P1\n")
    arguments = [*QUICK, "--exclude", tmp_path / "held.txt", "--weight", "seq-str=2", "--alpha", "1,1,1", "--json"]
    assert run(monkeypatch, "pretrain", store, run_dir, *arguments) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["step"] == shown["last_step"] == 2 * 10
    assert shown["random_encoders"] is True
    assert run(monkeypatch, "inspect", run_dir, "--json") == 0
    checkpoint = json.loads(capsys.readouterr().out)
    assert checkpoint["step"] == shown["best"]["step"]
    assert checkpoint["config"]["mix"]["weights"] == {"seq-str": 2.0}
    assert checkpoint["config"]["mask"]["alpha"] == [1.0, 1.0, 1.0]
    assert set(checkpoint["metrics"]["validation"]["error"]["str"]) == {"all", "hidden", "visible"}
    resolved = json.loads((run_dir / "config.json").read_text())
    assert resolved["config"] == checkpoint["config"]
    assert resolved["config"]["model"]["width"] == 64
    assert run(monkeypatch, "inspect", run_dir) == 0
    assert "metrics.validation.error.func.hidden: " in capsys.readouterr().out


@pytest.mark.parametrize("family", ["symmetric", "no-auxiliary"])
def test_the_family_of_a_run_and_the_weights_it_begins_with_are_options(
    family: str, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one_step = [*QUICK, "--max-steps", "1", "--validation-fraction", "0"]
    assert run(monkeypatch, "pretrain", store, tmp_path / "one", *one_step, "--family", family) == 0
    capsys.readouterr()
    begin = ["--init-from", tmp_path / "one"]
    assert run(monkeypatch, "pretrain", store, tmp_path / "two", *one_step, *begin, "--family", family) == 0
    capsys.readouterr()
    assert run(monkeypatch, "inspect", tmp_path / "two", "--json") == 0
    settings = json.loads(capsys.readouterr().out)["config"]
    assert settings["model"]["family"] == family
    assert settings["init_from"] == str(tmp_path / "one")
    assert run(monkeypatch, "pretrain", store, tmp_path / "three", *one_step, *begin, "--dry-run") == 1
    assert f"family {family} there, asymmetric here" in capsys.readouterr().err
    assert not (tmp_path / "three").exists()


def test_every_switch_of_model_and_masks_is_an_option(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    switches = "--global-token --positions none --no-decoder-positions --no-modality-vectors --hidden-tokens learned "
    switches += "--projection-hidden 48 --heads 2 --decoder-heads 8 --rounding multinomial --shortfall drop"
    one_step = [*QUICK, "--max-steps", "1", "--validation-fraction", "0"]
    assert run(monkeypatch, "pretrain", store, tmp_path / "run", *one_step, *switches.split()) == 0
    capsys.readouterr()
    assert run(monkeypatch, "inspect", tmp_path / "run", "--json") == 0
    config = json.loads(capsys.readouterr().out)["config"]
    expected: dict[str, dict[str, Any]] = {
        "model": {
            "global_token": True,
            "positions": "none",
            "decoder_positions": False,
            "modality_vectors": False,
            "hidden_tokens": "learned",
            "projection_hidden": 48,
            "num_heads": 2,
            "num_decoder_heads": 8,
        },
        "mask": {"rounding": "multinomial", "shortfall": "drop"},
    }
    for section, values in expected.items():
        assert {key: config[section][key] for key in values} == values
        assert all(config[section][key] != PRESETS["tiny"].model_dump()[section][key] for key in values)
    assert run(monkeypatch, "pretrain", store, tmp_path / "run", *one_step) == 2
    assert "model.global_token: true before, false now" in capsys.readouterr().err


def losses_and_weights(run_dir: Path) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """The log but for times, and the bytes of every file of weights."""
    log = [{key: value for key, value in line.items() if key != "timing"} for line in read_log(run_dir / "log.jsonl")]
    files = sorted((run_dir / "checkpoints").glob("*/*.safetensors"))
    return log, {str(file.relative_to(run_dir)): file.read_bytes() for file in files}


def test_two_runs_of_the_same_command_have_the_same_losses_and_weights_to_the_bit(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of them in a process of its own, where everything that Python hashes has another order."""
    clusters = tmp_path / "clusters.tsv"  # so that it does not matter what either process could cluster with
    clusters.write_text("".join(f"P{number}\tcluster {number // 2}\n" for number in range(42)))
    arguments = [*QUICK, "--clusters", clusters, "--checkpoint-every", "4", "--mixing", "sum", "--max-steps", "8"]
    assert run(monkeypatch, "pretrain", store, tmp_path / "here", *arguments) == 0
    command = [sys.executable, "-c", "from amma.train.cli import main; main()", "pretrain", store, tmp_path / "there"]
    seed = os.environ.get("PYTHONHASHSEED", "random")
    environment = {**os.environ, "PYTHONHASHSEED": "2" if seed == "1" else "1"}
    subprocess.run([*command, *arguments], env=environment, capture_output=True, check=True)
    ours, theirs = losses_and_weights(tmp_path / "here"), losses_and_weights(tmp_path / "there")
    assert len([line for line in ours[0] if line["kind"] == "step"]) == 8
    assert len(ours[1]) == 6  # the two checkpoints that are kept, of three files each
    assert ours == theirs
    # What another seed gives is something else, so that this test can tell.
    assert run(monkeypatch, "pretrain", store, tmp_path / "other", *arguments[:-1], "4", "--seed", "1") == 0
    other = losses_and_weights(tmp_path / "other")
    assert other[0][1]["loss"] != ours[0][1]["loss"]
    assert other[1] != ours[1]


def test_a_dry_run_shows_streams_steps_and_parameters_and_writes_nothing(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    assert run(monkeypatch, "pretrain", store, run_dir, *QUICK, "--validation-fraction", 0, "--dry-run", "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["proteins"]["streams"] == {"triplet": 24, "seq-str": 10, "seq-func": 6}
    assert (plan["steps_per_epoch"], plan["steps"]) == (10, 20)
    assert plan["parameters"] > 100_000
    assert not run_dir.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["store.zarr"], r"expected STORE [STORE...] RUN_DIR"),
        (["s", "r", "--preset", "papper"], "Did you mean 'paper'?"),
        (["s", "r", "--weight", "seqstr=2"], "there is no stream 'seqstr'"),
        (["s", "r", "--weight", "seq-str=much"], "expected STREAM=NUMBER"),
        (["s", "r", "--alpha", "1,2"], "expected three numbers"),
        (["s", "r", "--lr", "0", "--epochs", "0"], "optimizer.lr: Input should be greater than 0\n  epochs: "),
        (["s", "r", "--clusters", "c.tsv", "--validation-fraction", "0"], "clusters has no effect"),
        (["s", "r", "--device", "warp"], "there is no device 'warp'"),
        (["s", "r", "--preset", "tiny", "--heads", "7"], "a multiple of its number of heads (7)"),
        (["s", "r", "--projection-hidden", "0"], "model.projection_hidden: Input should be greater than 0"),
        (["s", "r", "--positions", "learned"], "'learned' is not one of 'sincos', 'none'"),
    ],
)
def test_a_wrong_option_is_one_message_that_says_what_to_do(
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, "pretrain", *arguments) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_something_that_is_no_store_or_no_checkpoint_ends_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(monkeypatch, "pretrain", tmp_path, tmp_path / "run", *QUICK) == 1
    assert "not a feature store" in capsys.readouterr().err
    assert run(monkeypatch, "inspect", tmp_path) == 1
    assert "no checkpoint" in capsys.readouterr().err


def test_help_needs_no_heavy_library() -> None:
    program = "import sys, amma.train.cli; print(sorted({'torch', 'pandas', 'zarr', 'pyarrow'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n"
