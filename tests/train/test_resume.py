"""A run stopped after any of its steps: what follows is what would have followed, to the bit.

A run that saves after every step is watched to its end, and every checkpoint of it is kept. From each of them a run
folder is made that has nothing else, and the run goes on in it: what it does is held against what came then.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from amma.manifests.errors import CheckpointError
from amma.manifests.files import sha256_of_file
from amma.manifests.settings import sha256_of_json
from amma.train.data.streams import Mix
from amma.train.model.config import WITHOUT_EFFECT, ModelConfig
from amma.train.run.checkpoint import MODEL, STATE, TRAINING, Checkpoints, Snapshot
from amma.train.run.config import RunConfig
from amma.train.run.loop import pretrain
from amma.train.run.optimizer import optimizer_tensors
from amma.train.run.schedule import StepDecay
from amma.train.run.step import Stepper, StepResult
from amma.train.run.step_input import StepInput
from amma.train.run.tally import EpochTally

Make = Callable[..., RunConfig]
Changes = dict[str, Any]

NOT_CONTRASTIVE = WITHOUT_EFFECT["contrastive"]
SHORT, LONG = 21, 201
FURTHER = 3
"""Steps that a run goes on before it is compared: with nine an epoch, every third time over the end of one."""
TO_THE_END = {1, 9, 10, 26, 63, 100, 151, 199}
BASE: Changes = {
    "epochs": 40,
    "optimizer": {"lr": 3e-3, "lr_step_epochs": 1, "lr_gamma": 0.9},
    "mask": {"visible_tokens": 12, "modality_dropout": 0.3},
}
"""All three streams in turn; in every epoch another learning rate."""
VARIANTS: dict[str, Changes] = {
    "all streams in one step, in bf16": {
        "mix": {"mixing": "sum", "weights": {"seq-func": 0.5}},
        "precision": "bf16",
    },
    "symmetric, hidden tokens only, as the encoders gave them": {
        "model": {"family": "symmetric", "global_token": True},
        "objective": {"loss_on": "hidden", "targets": "raw"},
    },
    "no-auxiliary, pairs only, without validation": {
        "model": {"family": "no-auxiliary"},
        "mix": {"weights": {"triplet": 0}},
        "validation_fraction": 0,
    },
    "contrastive, which has neither decoders nor masks": {
        "model": {"family": "contrastive", **{name: getattr(ModelConfig(), name) for name in NOT_CONTRASTIVE["model"]}},
        "mask": {},
    },
}


class Steps:
    """What every step was given and gave: ids, masks, loss, and the weights and optimizer's state after it."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.ids: dict[int, list[tuple[str, ...]]] = {}
        self.masks: dict[int, str] = {}
        self.losses: dict[int, float] = {}
        self.lr: dict[int, list[float]] = {}
        self.weights: dict[int, str] = {}
        self.optimizer: dict[int, str] = {}
        take = Stepper.take

        def watching(stepper: Stepper, given: StepInput) -> StepResult:
            result = take(stepper, given)
            step = given.step
            self.ids[step] = [batch.ids for _, batch, _ in given.portions]
            self.masks[step] = digest(
                {f"{n}{m}": v for n, (_, _, masks) in enumerate(given.portions) for m, v in masks.visible.items()}
            )
            self.losses[step] = result.read().loss
            self.lr[step] = [group["lr"] for group in stepper.optimizer.param_groups]
            self.weights[step] = digest(stepper.model.state_dict())
            self.optimizer[step] = digest(optimizer_tensors(stepper.model, stepper.optimizer))
            return result

        patch.setattr(Stepper, "take", watching)

    def differ(self, other: "Steps", steps: range) -> set[str]:
        """What is not the same in each of `steps`, of which both must have every one."""
        columns = [(name, column, vars(other)[name]) for name, column in vars(self).items()]
        return {name for name, ours, theirs in columns if any(ours[step] != theirs[step] for step in steps)}


def digest(tensors: Mapping[str, torch.Tensor]) -> str:
    hashed = hashlib.sha256()
    for name in sorted(tensors):
        hashed.update(name.encode() + tensors[name].detach().contiguous().numpy().tobytes())
    return hashed.hexdigest()


def untimed(log: bytes) -> list[str]:
    """The lines of a log without what a clock said; floats survive JSON to the bit."""
    return [
        json.dumps({key: value for key, value in json.loads(line).items() if key != "timing"})
        for line in log.splitlines()
    ]


@dataclass(frozen=True)
class Whole:
    """A run without an interruption: its folder, every checkpoint it ever had, and what its steps were and gave."""

    run_dir: Path
    kept: Path
    steps: Steps
    changes: Changes

    def checkpoint(self, step: int) -> Path:
        return self.kept / f"step-{step:08d}"

    def state(self, step: int) -> dict[str, Any]:
        state: dict[str, Any] = json.loads((self.checkpoint(step) / STATE).read_text())
        return state

    def log(self, step: int) -> list[str]:
        """The log as it was when `step` was saved."""
        return untimed((self.run_dir / "log.jsonl").read_bytes()[: self.state(step)["log_bytes"]])

    def stopped_at(self, step: int, run_dir: Path) -> Path:
        """A run folder whose newest checkpoint is that of `step`; its log is cut in the middle of a later line."""
        (run_dir / "checkpoints").mkdir(parents=True)
        for name in ("config.json", "split.json"):
            shutil.copy(self.run_dir / name, run_dir)
        log = (self.run_dir / "log.jsonl").read_bytes()
        (run_dir / "log.jsonl").write_bytes(log[: self.state(step)["log_bytes"] + 100])
        best = self.state(step)["best"]
        for number in {step, best["step"] if best else step}:
            shutil.copytree(self.checkpoint(number), run_dir / "checkpoints" / self.checkpoint(number).name)
        return run_dir


def settings(config: Make, changes: Changes, **others: Any) -> RunConfig:
    model = {**config().model.model_dump(), **changes.get("model", {})}
    return config(**{**BASE, **changes, "model": model, **others})


def watch(config: Make, folder: Path, num_steps: int, changes: Changes) -> Whole:
    """Train with a checkpoint after every step, and keep them all."""
    kept = folder / "kept"
    kept.mkdir()
    save = Checkpoints.save

    def keeping(self: Checkpoints, snapshot: Snapshot, *, seen: Path, best: bool) -> Path:
        made = save(self, snapshot, seen=seen, best=best)
        shutil.copytree(made, kept / made.name, copy_function=os.link)
        return made

    with pytest.MonkeyPatch.context() as patch:
        steps = Steps(patch)
        patch.setattr(Checkpoints, "save", keeping)
        pretrain(settings(config, changes, max_steps=num_steps, checkpoint_every=1), folder / "run")
    assert sorted(steps.losses) == list(range(num_steps))
    assert len(list(kept.iterdir())) == num_steps + 1
    for each_other in (steps.weights, steps.optimizer):  # else nothing could be seen to be forgotten
        assert len(set(each_other.values())) == num_steps
    return Whole(folder / "run", kept, steps, changes)


@pytest.fixture(scope="module")
def short(config: Make, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return watch(config, tmp_path_factory.mktemp("short"), SHORT, {})


def go_on(config: Make, whole: Whole, run_dir: Path, *, start: int, stop: int) -> set[str]:
    """Train from the checkpoint in `run_dir` to `stop`; what is then not as it was in the whole run."""
    with pytest.MonkeyPatch.context() as patch:
        steps = Steps(patch)
        outcome = pretrain(settings(config, whole.changes, max_steps=stop), run_dir)
    ours, theirs = outcome.checkpoint, whole.checkpoint(stop)
    if outcome.step != stop or ours is None or sorted(steps.losses) != list(range(start, stop)):
        return {"steps"}
    different = steps.differ(whole.steps, range(start, stop))
    if untimed((run_dir / "log.jsonl").read_bytes()) != whole.log(stop):
        different.add("log")
    for name in (MODEL, TRAINING):
        if sha256_of_file(ours / name) != sha256_of_file(theirs / name):
            different.add(name)
    state, then = json.loads((ours / STATE).read_text()), whole.state(stop)
    assert state.keys() == then.keys()
    not_of_the_run = {"sha256", "log_bytes", "config", "files"}  # a timing has more digits, or fewer
    different |= {key for key in state.keys() - not_of_the_run if state[key] != then[key]}
    best = then["best"]["step"] if then["best"] else None
    pointed = Checkpoints(run_dir).pointed("best")
    if (int(pointed.name[-8:]) if pointed else None) != best:
        different.add("pointer")
    return different


def differences(config: Make, whole: Whole, folder: Path, stops: Iterable[int], end: int) -> dict[int, set[str]]:
    """For each step after which the run was stopped, what did not go on as it had; only those with anything."""
    found = {}
    for step in stops:
        run_dir = whole.stopped_at(step, folder / str(step))
        stop = end if step in TO_THE_END else min(step + FURTHER, end)
        found[step] = go_on(config, whole, run_dir, start=step, stop=stop)
        shutil.rmtree(run_dir)
    return {step: what for step, what in found.items() if what}


def test_a_run_stopped_within_or_at_the_end_of_an_epoch_goes_on_to_the_bit(
    config: Make, tmp_path: Path, short: Whole
) -> None:
    assert differences(config, short, tmp_path, [1, 8, 9, 17], SHORT) == {}


@pytest.mark.slow
def test_a_run_stopped_after_each_of_200_steps_goes_on_to_the_bit(config: Make, tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    whole = watch(config, tmp_path / "whole", LONG, {})
    best = {whole.state(step)["best"]["step"] for step in range(9, LONG)}
    assert 1 < len(best) < LONG // 9  # the best checkpoint was not always the newest one of an epoch
    assert differences(config, whole, tmp_path, range(1, LONG), LONG) == {}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_way_to_train_goes_on_to_the_bit(variant: str, config: Make, tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    whole = watch(config, tmp_path / "whole", 12, VARIANTS[variant])
    assert differences(config, whole, tmp_path, [3, 8], 12) == {}


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_way_to_train_goes_on_to_the_bit_over_three_epochs(variant: str, config: Make, tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    whole = watch(config, tmp_path / "whole", 31, VARIANTS[variant])
    assert differences(config, whole, tmp_path, range(1, 31, 3), 31) == {}


Tensors = dict[str, torch.Tensor]
Change = Callable[[dict[str, Any], Tensors, Tensors], object]


def tampered(folder: Path, change: Change) -> None:
    """Change state, weights or optimizer of a checkpoint, and make its hashes right again."""
    state = json.loads((folder / STATE).read_text())
    tensors = {name: load_file(folder / name) for name in (MODEL, TRAINING)}
    change(state, tensors[MODEL], tensors[TRAINING])
    for name, values in tensors.items():
        save_file(values, folder / name)
        state["files"][name] = {"sha256": sha256_of_file(folder / name), "size": (folder / name).stat().st_size}
    del state["sha256"]
    (folder / STATE).write_text(json.dumps({**state, "sha256": sha256_of_json(state)}))


def without(*prefixes: str) -> Change:
    def change(state: dict[str, Any], model: Tensors, training: Tensors) -> None:
        for name in [name for name in training if name.startswith(prefixes)]:
            del training[name]

    return change


def shifted(name: str, by: float) -> Change:
    return lambda state, model, training: training[name].view(-1)[:1].add_(by)


def one_bit(state: dict[str, Any], model: Tensors, training: Tensors) -> None:
    model["encoder.norm.weight"].view(torch.int32)[3] ^= 1


def other_numbers(state: dict[str, Any], model: Tensors, training: Tensors) -> None:
    training["rng/cpu"] = torch.Generator().manual_seed(987).get_state()


def put(*path: str, value: Any) -> Change:
    def change(state: dict[str, Any], model: Tensors, training: Tensors) -> None:
        for key in path[:-1]:
            state = state[key]
        state[path[-1]] = value

    return change


LEARNT = {"weights", "optimizer", MODEL, TRAINING}
"""What is different in any case; whether three losses are depends on the size of the change."""
CONTROLS: dict[str, tuple[Change, set[str]]] = {
    "a bit of a weight": (one_bit, LEARNT),
    "a moment": (shifted("exp_avg_sq/encoder.norm.weight", 1e-3), LEARNT),
    "all moments and counters": (without("step/", "exp_avg/", "exp_avg_sq/"), LEARNT),
    "the optimizer's counter": (shifted("step/encoder.norm.weight", 1), LEARNT),
    "torch's random numbers": (other_numbers, {TRAINING}),  # no step draws any: only the checkpoint can tell
    "the epoch's sums": (put("tally", value=EpochTally().as_json()), {"tally"}),
    "the number of the epoch": (put("epoch", value=0), {"tally", "log", "metrics", "best", "pointer"}),
    "the best checkpoint": (put("best", value=None), {"best", "pointer"}),
    "the best loss": (put("best", "loss", value=0.0), {"best"}),
    "the last epoch's errors": (put("metrics", value=None), {"metrics"}),
}
"""What is wrong in a checkpoint of step 12, and all that is then not as it was in the next three steps."""


@pytest.mark.parametrize("control", CONTROLS)
def test_whatever_a_checkpoint_lacks_or_has_wrong_is_caught(
    control: str, config: Make, tmp_path: Path, short: Whole
) -> None:
    change, caught = CONTROLS[control]
    run_dir = short.stopped_at(12, tmp_path / "run")
    tampered(run_dir / "checkpoints" / "step-00000012", change)
    found = go_on(config, short, run_dir, start=12, stop=15)
    assert found == caught or caught == LEARNT < found


def test_sums_that_a_checkpoint_lacks_are_missing_in_the_line_of_its_epoch(
    config: Make, tmp_path: Path, short: Whole
) -> None:
    run_dir = short.stopped_at(17, tmp_path / "run")
    tampered(run_dir / "checkpoints" / "step-00000017", put("tally", value=EpochTally().as_json()))
    assert go_on(config, short, run_dir, start=17, stop=19) == {"log", "metrics"}


def test_a_log_that_is_cut_at_another_line_is_caught(config: Make, tmp_path: Path, short: Whole) -> None:
    run_dir = short.stopped_at(12, tmp_path / "run")
    tampered(run_dir / "checkpoints" / "step-00000012", put("log_bytes", value=short.state(11)["log_bytes"]))
    assert go_on(config, short, run_dir, start=12, stop=15) == {"log"}


def test_a_step_with_the_streams_of_its_number_is_another_step(config: Make, tmp_path: Path, short: Whole) -> None:
    run_dir = short.stopped_at(12, tmp_path / "run")
    earlier = short.state(11)

    def back(state: dict[str, Any], model: Tensors, training: Tensors) -> None:
        state.update(step=11, streams=earlier["streams"])

    tampered(run_dir / "checkpoints" / "step-00000012", back)
    assert go_on(config, short, run_dir, start=12, stop=15) == {"steps"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (put("streams", "triplet", "position", value=1), "the streams stood at"),
        (put("step", value=11), "the streams stood at"),
        (without("exp_avg/"), "lacks exp_avg of "),
        (without("step/encoder.norm.weight"), r"lacks step of encoder\.norm\.weight"),
    ],
)
def test_a_checkpoint_that_does_not_agree_with_itself_is_refused(
    change: Change, words: str, config: Make, tmp_path: Path, short: Whole
) -> None:
    run_dir = short.stopped_at(12, tmp_path / "run")
    tampered(run_dir / "checkpoints" / "step-00000012", change)
    with pytest.raises(CheckpointError, match=words):
        go_on(config, short, run_dir, start=12, stop=15)


def forget_schedule(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(StepDecay, "at", lambda self, step: self.base)


def forget_position(patch: pytest.MonkeyPatch) -> None:
    """The streams begin again at their first protein: with it go the masks, which are functions of the position."""
    plan = Mix.plan
    patch.setattr(Mix, "plan", lambda self, step: plan(self, step - 12))


@pytest.mark.parametrize(
    ("forget", "caught"),
    [(forget_schedule, {"lr", "losses", "weights"}), (forget_position, {"ids", "masks", "losses", "weights"})],
)
def test_what_a_resume_works_out_from_the_step_is_missed_when_it_is_forgotten(
    forget: Callable[[pytest.MonkeyPatch], None],
    caught: set[str],
    config: Make,
    tmp_path: Path,
    short: Whole,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_dir = short.stopped_at(12, tmp_path / "run")
    forget(monkeypatch)
    found = go_on(config, short, run_dir, start=12, stop=15)
    assert found & {"ids", "masks", "lr", "losses", "weights"} == caught
