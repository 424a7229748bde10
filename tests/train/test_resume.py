"""A run stopped after each of its first fifty steps: what follows is what would have followed, to the bit."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import amma.train.run.loop
from amma.train.run.checkpoint import Checkpoints
from amma.train.run.config import RunConfig
from amma.train.run.log import read_log
from amma.train.run.loop import Run, pretrain
from amma.train.run.step import Stepper, StepResult
from amma.train.run.step_input import StepInput

pytestmark = pytest.mark.slow

Make = Callable[..., RunConfig]
NUM_STEPS = 51
SETTINGS = {"epochs": 6, "max_steps": NUM_STEPS, "optimizer": {"lr": 1e-3, "lr_step_epochs": 1}}
"""Nine steps an epoch: the learning rate has dropped five times at the end."""


class Steps:
    """What every step was given and gave: ids, masks, loss, and the weights after it."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.ids: dict[int, list[tuple[str, ...]]] = {}
        self.masks: dict[int, bytes] = {}
        self.losses: dict[int, float] = {}
        self.weights: dict[int, bytes] = {}
        take = Stepper.take

        def watching(stepper: Stepper, given: StepInput) -> StepResult:
            result = take(stepper, given)
            visible = [mask for _, _, masks in given.portions for mask in masks.visible.values()]
            self.ids[given.step] = [batch.ids for _, batch, _ in given.portions]
            self.masks[given.step] = torch.cat(visible).numpy().tobytes()
            self.losses[given.step] = result.read().loss
            flat = torch.cat([parameter.detach().flatten() for parameter in stepper.model.parameters()])
            self.weights[given.step] = flat.numpy().tobytes()
            return result

        patch.setattr(Stepper, "take", watching)

    def differ(self, other: "Steps", *, since: int) -> set[str]:
        """What is not the same in each step from `since` on."""
        return {
            name
            for name in ("ids", "masks", "losses", "weights")
            if any(getattr(self, name)[step] != getattr(other, name)[step] for step in range(since, NUM_STEPS))
        }


@pytest.fixture(scope="module")
def straight(config: Make, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Steps]:
    run_dir = tmp_path_factory.mktemp("straight") / "run"
    with pytest.MonkeyPatch.context() as patch:
        steps = Steps(patch)
        pretrain(config(**SETTINGS), run_dir)
    assert sorted(steps.losses) == list(range(NUM_STEPS))
    assert len(set(steps.weights.values())) == NUM_STEPS
    return run_dir, steps


def go_on(config: Make, run_dir: Path, *, stop: int, forget: Callable[[pytest.MonkeyPatch], None] | None) -> Steps:
    """Train until `stop`, and in a new call to the end; `forget` leaves something out of the restoring."""
    pretrain(config(**{**SETTINGS, "max_steps": stop}), run_dir)
    with pytest.MonkeyPatch.context() as patch:
        steps = Steps(patch)
        if forget is not None:
            forget(patch)
        pretrain(config(**SETTINGS), run_dir)
    assert sorted(steps.losses) == list(range(stop, NUM_STEPS))
    return steps


def end_of(run_dir: Path) -> tuple[list[dict[str, object]], dict[str, bytes]]:
    """The log without its timings, and all numbers of the newest checkpoint."""
    newest = Checkpoints(run_dir).newest_first()[0]
    files = [load_file(newest / name) for name in ("model.safetensors", "training.safetensors")]
    numbers = {name: tensor.numpy().tobytes() for file in files for name, tensor in file.items()}
    log = [{k: v for k, v in line.items() if k != "timing"} for line in read_log(run_dir / "log.jsonl")]
    return log, numbers


@pytest.mark.parametrize("stop", range(1, NUM_STEPS))
def test_a_run_stopped_after_any_step_goes_on_to_the_bit(
    stop: int, config: Make, tmp_path: Path, straight: tuple[Path, Steps]
) -> None:
    steps = go_on(config, tmp_path / "run", stop=stop, forget=None)
    assert steps.differ(straight[1], since=stop) == set()
    assert end_of(tmp_path / "run") == end_of(straight[0])


def forget_optimizer(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(amma.train.run.loop, "restore_optimizer", lambda model, optimizer, tensors: None)


def forget_schedule(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(amma.train.run.loop.StepDecay, "at", lambda self, step: self.base)


def forget_position(patch: pytest.MonkeyPatch) -> None:
    """The streams begin again at their first protein: with it go the masks, which are functions of the position."""
    make = Run._training_input
    first: list[int] = []

    def from_the_start(run: Run, step: int) -> StepInput:
        first.append(step)
        given = make(run, step - min(first))
        return StepInput(step, given.portions)

    patch.setattr(Run, "_training_input", from_the_start)


@pytest.mark.parametrize(
    ("forget", "caught"),
    [
        (forget_optimizer, {"losses", "weights"}),
        (forget_schedule, {"losses", "weights"}),
        (forget_position, {"ids", "masks", "losses", "weights"}),
    ],
)
@pytest.mark.parametrize("stop", [10, 25, 40])
def test_whatever_a_resume_forgets_is_caught(
    forget: Callable[[pytest.MonkeyPatch], None],
    caught: set[str],
    stop: int,
    config: Make,
    tmp_path: Path,
    straight: tuple[Path, Steps],
) -> None:
    steps = go_on(config, tmp_path / "run", stop=stop, forget=forget)
    assert steps.differ(straight[1], since=stop) == caught
    assert end_of(tmp_path / "run")[1] != end_of(straight[0])[1]


def test_random_numbers_that_a_resume_forgets_are_caught(
    config: Make, tmp_path: Path, straight: tuple[Path, Steps]
) -> None:
    """Training draws none of torch's numbers, so its steps cannot tell; the checkpoint that holds their state does."""

    def forget(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(torch, "set_rng_state", lambda state: torch.manual_seed(987))

    steps = go_on(config, tmp_path / "run", stop=25, forget=forget)
    assert steps.differ(straight[1], since=25) == set()
    ours, theirs = end_of(tmp_path / "run")[1], end_of(straight[0])[1]
    assert {name for name in ours if ours[name] != theirs[name]} == {"rng/cpu"}
