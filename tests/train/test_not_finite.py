"""Numbers that are not finite end the run in their step; what was saved before stays as it was."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from amma.manifests.errors import LossError
from amma.train.cli import main
from amma.train.run.checkpoint import Checkpoints, Snapshot
from amma.train.run.config import RunConfig
from amma.train.run.log import read_log
from amma.train.run.loop import pretrain
from amma.train.run.step import Stepper, StepResult
from amma.train.run.step_input import StepInput

Make = Callable[..., RunConfig]
Ids = dict[int, list[str]]


def contents(folder: Path) -> dict[str, str]:
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def ids(monkeypatch: pytest.MonkeyPatch) -> Ids:
    """The proteins of every step that was begun."""
    noted: Ids = {}
    take = Stepper.take

    def noting(self: Stepper, given: StepInput) -> StepResult:
        noted[given.step] = [name for _, batch, _ in given.portions for name in batch.ids]
        return take(self, given)

    monkeypatch.setattr(Stepper, "take", noting)
    return noted


@pytest.fixture
def infinite_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """In step 4 the loss is finite and the gradient of one weight is not."""
    make, take = Stepper.__init__, Stepper.take
    now: list[int] = []

    def hooked(self: Stepper, model: Any, *arguments: Any, **options: Any) -> None:
        make(self, model, *arguments, **options)
        parameter = next(iter(model.parameters()))
        parameter.register_hook(lambda gradient: gradient * (torch.inf if now[-1] == 4 else 1.0))

    def noting(self: Stepper, given: StepInput) -> StepResult:
        now.append(given.step)
        return take(self, given)

    monkeypatch.setattr(Stepper, "__init__", hooked)
    monkeypatch.setattr(Stepper, "take", noting)


def spoil_step(patch: pytest.MonkeyPatch, step: int) -> None:
    """In this step one number of one protein's features is none."""
    take = Stepper.take

    def spoilt(self: Stepper, given: StepInput) -> StepResult:
        if given.step == step:
            next(iter(given.portions[0][1].tokens.values())).features_TD[-1, 0] = torch.nan
        return take(self, given)

    patch.setattr(Stepper, "take", spoilt)


@pytest.fixture
def loss_of_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    spoil_step(monkeypatch, 4)


@pytest.mark.parametrize(
    ("fault", "what", "value"),
    [("infinite_gradient", "norm of the gradient", "inf|nan"), ("loss_of_no_number", "loss", "nan")],
)
def test_a_loss_or_gradient_that_is_not_finite_stops_in_its_step_and_leaves_the_last_checkpoint(
    fault: str,
    what: str,
    value: str,
    config: Make,
    tmp_path: Path,
    ids: Ids,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_dir = tmp_path / "run"
    pretrain(config(max_steps=3), run_dir)
    before = contents(run_dir / "checkpoints")
    request.getfixturevalue(fault)
    with pytest.raises(LossError, match=rf"step 4: the {what} is ({value}) with the proteins 'P") as caught:
        pretrain(config(), run_dir)
    assert caught.value.code == "E_LOSS"
    assert max(ids) == 4
    assert all(repr(name) in str(caught.value) for name in ids[4])
    assert contents(run_dir / "checkpoints") == before
    report = json.loads((run_dir / "failed_batch.json").read_text())
    assert (report["step"], report["what"], report["last_checkpoint"]) == (4, what, "step-00000003")
    assert [protein["id"] for portion in report["portions"] for protein in portion["proteins"]] == ids[4]
    assert str(run_dir / "failed_batch.json") in capsys.readouterr().err
    assert [line["step"] for line in read_log(run_dir / "log.jsonl") if line["kind"] == "step"] == [0, 1, 2, 3]


def test_a_run_whose_fault_is_gone_goes_on_as_if_it_had_not_been(
    config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(max_steps=6, checkpoint_every=2)
    pretrain(settings, tmp_path / "whole")
    with monkeypatch.context() as patch:
        spoil_step(patch, 5)
        with pytest.raises(LossError):
            pretrain(settings, tmp_path / "run")
    pretrain(settings, tmp_path / "run")
    assert read_log(tmp_path / "run" / "log.jsonl") == read_log(tmp_path / "whole" / "log.jsonl")
    weights = [Checkpoints(tmp_path / name).newest_first()[0] / "model.safetensors" for name in ("run", "whole")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_validation_loss_that_is_not_finite_stops_before_the_epoch_is_saved(
    config: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One step an epoch: its loss is that of the first weights, and what it makes of them is validated next."""
    run_dir = tmp_path / "run"
    with pytest.raises(LossError, match=r"step 1: the validation loss is (inf|nan) with the proteins 'P") as caught:
        pretrain(config(mix={"batch_size": 36}, optimizer={"lr": 1e30, "clip": 0}), run_dir)
    report = json.loads((run_dir / "failed_batch.json").read_text())
    (portion,) = report["portions"]
    assert report["last_checkpoint"] == "step-00000000"
    assert portion["proteins"]
    assert all(repr(protein["id"]) in str(caught.value) for protein in portion["proteins"])
    assert [path.name for path in Checkpoints(run_dir).newest_first()] == ["step-00000000"]
    assert [line["kind"] for line in read_log(run_dir / "log.jsonl")] == ["start", "step"]
    assert str(run_dir / "failed_batch.json") in capsys.readouterr().err


def test_weights_that_an_update_made_infinite_are_never_saved(config: Make, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    with pytest.raises(LossError, match=r"step 1: .* is not finite after the last update"):
        pretrain(config(optimizer={"lr": 1e39, "clip": 0}, checkpoint_every=1), run_dir)
    assert [path.name for path in Checkpoints(run_dir).newest_first()] == ["step-00000000"]
    assert not list((run_dir / "checkpoints").glob("*.tmp"))


def test_a_buffer_that_is_no_floating_point_number_is_saved(tmp_path: Path) -> None:
    (tmp_path / "seen").write_bytes(b"")
    snapshot = Snapshot({"step": 1}, {"whole": torch.ones(3, dtype=torch.int64)}, {"rng": torch.zeros(2).byte()})
    assert Checkpoints(tmp_path).save(snapshot, seen=tmp_path / "seen", best=False).is_dir()


def test_the_command_says_it_in_one_line_and_ends_with_1(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = "--preset tiny --epochs 1 --threads 1 --device cpu --lr 1e30 --clip 0 --validation-fraction 0 --json"
    monkeypatch.setattr("sys.argv", ["amma-train", "pretrain", str(store), str(tmp_path / "run"), *options.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "E_LOSS" in shown.err
    assert "Traceback" not in shown.err
    assert str(tmp_path / "run" / "failed_batch.json") in shown.err
