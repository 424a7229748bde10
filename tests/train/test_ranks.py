"""Several processes that train together, as forks of the test: the same steps as one process takes."""

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import normalize

from amma.manifests.errors import UsageError
from amma.train.model.objective import ErrorSum
from amma.train.run.checkpoint import MODEL, Checkpoints
from amma.train.run.config import RunConfig
from amma.train.run.log import read_log
from amma.train.run.loop import pretrain
from amma.train.run.preview import preview
from amma.train.run.ranks import ALONE, joined_processes, own_device
from amma.train.run.step import Stepper, StepResult
from amma.train.run.step_input import StepInput

Make = Callable[..., RunConfig]
Watch = Callable[[Stepper, StepInput], None]

MANY_WAYS = {"mix": {"mixing": "sum", "batch_size": 3, "weights": {"seq-func": 0.5}}, "optimizer": {"clip": 0}}
"""Steps in which some decoders have no part in the last batch, and whose portions cannot be cut evenly."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def processes(children: Any, tmp_path: Path) -> Callable[..., list[int]]:
    """`processes(size, action)` runs `action(rank)` in so many forks, which know of each other; gives exit codes."""

    def run(size: int, action: Callable[[int], object]) -> list[int]:
        port = free_port()

        def of(rank: int) -> Callable[[], object]:
            def act() -> object:
                place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_PORT": port}
                os.environ.update({name: str(value) for name, value in place.items()}, MASTER_ADDR="127.0.0.1")
                sys.stdout = sys.stderr = (tmp_path / f"said-{rank}").open("w", buffering=1)
                return action(rank)

            return act

        started = [children.start(of(rank)) for rank in range(size)]
        return [children.wait(child) for child in started]

    return run


def note(folder: Path, rank: int = 0, before: Watch = lambda stepper, given: None) -> None:
    """From now on, write to `folder` what each step is given and gives; only to be called in a fork."""
    folder.mkdir(exist_ok=True)
    take = Stepper.take

    def noting(self: Stepper, given: StepInput) -> StepResult:
        before(self, given)
        result = take(self, given)
        gradients = {n: p.grad.clone() for n, p in self.model.named_parameters() if p.grad is not None}
        numbers = result.read()
        ids = [(portion.stream, batch.ids) for portion, batch, _ in given.portions]
        torch.save((ids, numbers.loss, gradients, dict(numbers.drawn)), folder / f"{given.step}-{rank}.pt")
        return result

    Stepper.take = noting  # type: ignore[method-assign]


def noted(folder: Path, step: int, size: int = 1) -> list[Any]:
    return [torch.load(folder / f"{step}-{rank}.pt", weights_only=False) for rank in range(size)]


def ids_of(notes: list[Any], stream: str) -> list[str]:
    return [name for ids, *_ in notes for of, names in ids if of == stream for name in names]


def without_clock(run_dir: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k != "timing"} for line in read_log(run_dir / "log.jsonl")]


def weights(run_dir: Path) -> dict[str, bytes]:
    newest = Checkpoints(run_dir).newest_first()[0]
    files = [load_file(newest / name) for name in ("model.safetensors", "training.safetensors")]
    return {name: tensor.numpy().tobytes() for file in files for name, tensor in file.items()}


def assert_same_steps(one: Path, other: Path, *, size: int, steps: int) -> None:
    """The same proteins, losses and gradients, but for rounding."""
    for step in range(steps):
        ((ids, loss, gradients, drawn),), theirs = noted(one, step), noted(other, step, size)
        for stream, _ in ids:
            assert ids_of(noted(one, step), stream) == ids_of(theirs, stream)
        for _, their_loss, their_gradients, their_drawn in theirs:
            assert their_loss == pytest.approx(loss, rel=1e-6 * (step + 1))
            assert their_drawn == drawn
            assert their_gradients.keys() == gradients.keys()
            for name, gradient in gradients.items():
                difference = (their_gradients[name] - gradient).abs().max() / gradient.abs().max().clamp(min=1e-3)
                assert difference < 1e-5 * (step + 1), name


@pytest.mark.parametrize(
    ("size", "changes", "accumulate"),
    [
        (2, MANY_WAYS, 2),
        pytest.param(4, MANY_WAYS, 1, marks=pytest.mark.slow),
        pytest.param(2, {"mix": {"batch_size": 1}}, 1, marks=pytest.mark.slow),
    ],
)
def test_several_processes_take_the_steps_of_one_and_the_first_alone_writes(
    size: int,
    changes: dict[str, Any],
    accumulate: int,
    config: Make,
    tmp_path: Path,
    children: Any,
    processes: Callable[..., list[int]],
) -> None:
    def alone() -> None:
        note(tmp_path / "one")
        pretrain(config(max_steps=4, **changes), tmp_path / "run-1")

    def together(rank: int) -> None:
        note(tmp_path / "two", rank)
        pretrain(config(max_steps=4, accumulate=accumulate, **changes), tmp_path / "run-2")

    assert children.wait(children.start(alone)) == 0
    assert processes(size, together) == [0] * size
    assert_same_steps(tmp_path / "one", tmp_path / "two", size=size, steps=4)
    assert (tmp_path / "said-1").read_text() == ""
    one, two = without_clock(tmp_path / "run-1"), without_clock(tmp_path / "run-2")
    assert [line["kind"] for line in one] == [line["kind"] for line in two]
    assert one[0] == two[0]
    assert [line["drawn"] for line in one[1:]] == [line["drawn"] for line in two[1:]]
    measured, told = (load_file(Checkpoints(tmp_path / run).newest_first()[0] / MODEL) for run in ("run-1", "run-2"))
    assert {name for name in measured if torch.equal(measured[name], told[name])} >= {
        name for name in measured if name.startswith("standardiser")
    }


@pytest.mark.slow
def test_processes_share_the_validation_and_find_what_one_finds(
    config: Make, tmp_path: Path, children: Any, processes: Callable[..., list[int]]
) -> None:
    settings = config(epochs=1, validation_fraction=0.4, mix={"batch_size": 2})
    assert children.wait(children.start(lambda: pretrain(settings, tmp_path / "run-1"))) == 0
    assert processes(2, lambda rank: pretrain(settings, tmp_path / "run-2")) == [0, 0]
    one, two = (without_clock(tmp_path / f"run-{size}")[-1]["validation"] for size in (1, 2))

    def compare(here: Any, there: Any) -> None:
        if isinstance(here, dict):
            assert list(here) == list(there)
            for key in here:
                compare(here[key], there[key])
        else:
            assert here == pytest.approx(there, rel=1e-3, abs=1e-3)

    assert {"pairs", "effective_rank"} <= one["vectors"].keys()
    compare(one, two)


@pytest.mark.slow
def test_a_validation_that_is_not_finite_on_one_process_stops_all_and_names_its_batch(
    config: Make, tmp_path: Path, processes: Callable[..., list[int]]
) -> None:
    def failing(rank: int) -> None:
        losses = Stepper.losses

        def spoilt(self: Stepper, *given: Any) -> Any:
            found = losses(self, *given)
            if rank == 1:
                found.trained.update({m: ErrorSum(e.total * float("inf"), e.count) for m, e in found.trained.items()})
            return found

        Stepper.losses = spoilt  # type: ignore[method-assign]
        pretrain(config(epochs=1, validation_fraction=0.4, mix={"batch_size": 2}), tmp_path / "run")

    assert processes(2, failing) == [1, 1]
    report = json.loads((tmp_path / "run" / "failed_batch.json").read_text())
    (portion,) = report["portions"]
    assert report["what"] == "validation loss"
    assert 1 <= len(portion["proteins"]) <= 2
    assert (tmp_path / "said-1").read_text() == ""


@pytest.mark.slow
@pytest.mark.parametrize("mixing", ["interleave", "sum"])
def test_two_processes_contrast_the_proteins_of_both(
    mixing: str, config: Make, tmp_path: Path, children: Any, processes: Callable[..., list[int]]
) -> None:
    model = {"family": "contrastive", "width": 16, "ffn": 32, "num_fusion_layers": 2, "num_heads": 2}
    changes = {"model": model, "mask": {}, "mix": {"mixing": mixing, "batch_size": 5}, "optimizer": {"clip": 0}}

    def alone() -> None:
        note(tmp_path / "one")
        pretrain(config(max_steps=4, **changes), tmp_path / "run-1")

    def together(rank: int) -> None:
        note(tmp_path / "two", rank)
        pretrain(config(max_steps=4, **changes), tmp_path / "run-2")

    assert children.wait(children.start(alone)) == 0
    assert processes(2, together) == [0, 0]
    assert_same_steps(tmp_path / "one", tmp_path / "two", size=2, steps=4)
    few = {**changes, "mix": {"batch_size": 2}}
    assert processes(3, lambda rank: pretrain(config(**few), tmp_path / "run-3")) == [1, 1, 1]
    assert "every one of the 3 needs some" in (tmp_path / "said-0").read_text()


def test_a_step_whose_proteins_are_compared_with_each_other_has_no_parts(config: Make, tmp_path: Path) -> None:
    model = {"family": "contrastive", "width": 16, "ffn": 32, "num_fusion_layers": 2, "num_heads": 2}
    parts = config(model=model, mask={}, accumulate=2)
    for run in (pretrain, preview):
        with pytest.raises(UsageError, match="--accumulate 2: the loss of family contrastive compares"):
            run(parts, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_step_in_parts_is_the_step_at_once(config: Make, tmp_path: Path, children: Any) -> None:
    def run(name: str, accumulate: int) -> None:
        note(tmp_path / name)
        pretrain(config(max_steps=4, accumulate=accumulate, **MANY_WAYS), tmp_path / f"run-{name}")

    assert children.wait(children.start(lambda: run("whole", 1))) == 0
    assert children.wait(children.start(lambda: run("parts", 3))) == 0
    assert_same_steps(tmp_path / "whole", tmp_path / "parts", size=1, steps=4)
    ((ids, *_),) = noted(tmp_path / "parts", 0)
    assert all(len(names) == 1 for _, names in ids)


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_after_the_same_step_and_they_go_on_to_the_bit(
    config: Make, tmp_path: Path, processes: Callable[..., list[int]]
) -> None:
    def signalled(rank: int) -> int:
        def before(stepper: Stepper, given: StepInput) -> None:
            if rank == 1 and given.step == 2:
                os.kill(os.getpid(), signal.SIGTERM)
                os.kill(os.getpid(), signal.SIGTERM)  # torchrun passes on what Slurm has sent to everybody

        note(tmp_path / "notes", rank, before)
        outcome = pretrain(config(max_steps=6), tmp_path / "run")
        assert (outcome.step, outcome.exit_code) == (3, 143)
        return outcome.step

    assert processes(2, signalled) == [0, 0]
    assert Checkpoints(tmp_path / "run").newest_first()[0].name == "step-00000003"
    assert "stopped at step 3 of 6" in (tmp_path / "said-0").read_text()
    assert processes(2, lambda rank: pretrain(config(max_steps=6), tmp_path / "run")) == [0, 0]
    assert "but for rounding" not in (tmp_path / "said-0").read_text()
    assert processes(2, lambda rank: pretrain(config(max_steps=6), tmp_path / "straight")) == [0, 0]
    assert weights(tmp_path / "run") == weights(tmp_path / "straight")
    assert without_clock(tmp_path / "run") == without_clock(tmp_path / "straight")


@pytest.mark.slow
def test_a_loss_that_is_not_finite_on_one_process_stops_all_and_names_the_proteins_of_all(
    config: Make, tmp_path: Path, processes: Callable[..., list[int]]
) -> None:
    def failing(rank: int) -> None:
        losses = Stepper._errors

        def spoilt(self: Stepper, *given: Any) -> Any:
            found = losses(self, *given)
            if rank == 1:
                found.trained.update({m: ErrorSum(e.total * float("nan"), e.count) for m, e in found.trained.items()})
            return found

        Stepper._errors = spoilt  # type: ignore[method-assign]
        pretrain(config(max_steps=2), tmp_path / "run")

    assert processes(2, failing) == [1, 1]
    report = json.loads((tmp_path / "run" / "failed_batch.json").read_text())
    named = [protein["id"] for portion in report["portions"] for protein in portion["proteins"]]
    assert len(named) == 4
    said = (tmp_path / "said-0").read_text()
    assert "step 0: the loss is nan with the proteins " + ", ".join(map(repr, named)) in said
    assert (tmp_path / "said-1").read_text() == ""
    assert Checkpoints(tmp_path / "run").newest_first()[0].name == "step-00000000"


@pytest.mark.slow
def test_when_a_process_dies_the_others_end_with_a_line_that_says_so(
    config: Make, tmp_path: Path, processes: Callable[..., list[int]]
) -> None:
    def dying(rank: int) -> None:
        def before(stepper: Stepper, given: StepInput) -> None:
            if rank == 0 and given.step == 2:
                os.kill(os.getpid(), signal.SIGKILL)

        note(tmp_path / "notes", rank, before)
        pretrain(config(checkpoint_every=1), tmp_path / "run")

    began = time.monotonic()
    assert processes(2, dying) == [-signal.SIGKILL, 1]
    assert time.monotonic() - began < 60
    assert "RankError: process 1 of 2" in (tmp_path / "said-1").read_text()
    assert Checkpoints(tmp_path / "run").load_newest() is not None


@pytest.mark.slow
def test_a_process_that_falls_silent_counts_as_dead_after_a_while(
    config: Make, tmp_path: Path, processes: Callable[..., list[int]]
) -> None:
    def silent(rank: int) -> None:
        def before(stepper: Stepper, given: StepInput) -> None:
            if rank == 1 and given.step == 2:
                (tmp_path / "silent").write_text(str(os.getpid()))
                os.kill(os.getpid(), signal.SIGSTOP)

        note(tmp_path / "notes", rank, before)
        try:
            pretrain(config(rank_timeout=3), tmp_path / "run")
        finally:
            os.kill(int((tmp_path / "silent").read_text()), signal.SIGKILL)

    assert processes(2, silent) == [1, -signal.SIGKILL]
    assert "RankError: process 0 of 2" in (tmp_path / "said-0").read_text()
    assert "was silent for 3 s" in (tmp_path / "said-0").read_text()


@pytest.mark.slow
def test_what_the_first_process_refuses_it_alone_says(
    config: Make, tmp_path: Path, processes: Callable[..., list[int]]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("precious")
    assert processes(2, lambda rank: pretrain(config(), tmp_path / "run")) == [1, 1]
    assert "holds thesis.txt" in (tmp_path / "said-0").read_text()
    assert (tmp_path / "said-1").read_text() == ""


def test_gathered_rows_carry_gradients_back_to_where_they_came_from(
    tmp_path: Path, processes: Callable[..., list[int]]
) -> None:
    rows = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    share = {0: slice(0, 3), 1: slice(3, 5)}

    def loss_of(own: Tensor, whole: Tensor) -> Tensor:
        return torch.logsumexp(normalize(own) @ normalize(whole).T * 3, dim=1).sum()

    def contrast(rank: int) -> None:
        with joined_processes(torch.device("cpu"), timeout=30) as ranks:
            own = rows[share[rank]].clone().requires_grad_()
            whole, before = ranks.gather_rows(own)
            assert (before, torch.equal(whole, rows)) == (share[rank].start, True)
            keys, _ = ranks.gather_rows(torch.arange(5)[share[rank]])
            assert keys.tolist() == list(range(5))
            loss_of(own, whole).backward()  # type: ignore[no-untyped-call]
            assert own.grad is not None
            np.save(tmp_path / f"{rank}.npy", own.grad.numpy())

    assert processes(2, contrast) == [0, 0]
    everything = rows.clone().requires_grad_()
    loss_of(everything, everything).backward()  # type: ignore[no-untyped-call]
    found = np.concatenate([np.load(tmp_path / f"{rank}.npy") for rank in (0, 1)])
    np.testing.assert_allclose(found, everything.grad, rtol=1e-5, atol=1e-6)


def test_without_torchrun_a_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")  # other programs set it too
    with joined_processes(torch.device("cpu"), timeout=30) as ranks:
        assert ranks is ALONE
    assert ranks.gather_rows(torch.ones(2, 3))[1] == 0


def test_each_process_takes_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert own_device("auto") == own_device("cuda") == torch.device("cuda", 1)
    assert own_device("cpu") == torch.device("cpu")
    with pytest.raises(UsageError, match="cuda:0 is one GPU"):
        own_device("cuda:0")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UsageError, match="process 2 of this machine has no GPU"):
        own_device("cuda")
