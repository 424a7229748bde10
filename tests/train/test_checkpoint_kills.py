"""Death, or a full disk, at any file operation of a save: a whole checkpoint is there, and the run goes on to the bit.

What is saved is what a small run saved at its steps. A child dies within the save; what it leaves is the folder of a
run, in which the next command goes on.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from amma.featurize.store.lock import is_lock_file
from amma.manifests.errors import CheckpointError
from amma.train.run.checkpoint import MODEL, STATE, TRAINING, Checkpoints, Snapshot, read_snapshot, resolve_checkpoint
from amma.train.run.config import RunConfig
from amma.train.run.log import read_log
from amma.train.run.loop import pretrain

Make = Callable[..., RunConfig]
NUM_STEPS = 12
SETTINGS = {"epochs": 4, "checkpoint_every": 1}


@dataclass(frozen=True)
class Straight:
    """A run that nothing happened to: its folder as it was after each save, and the folder at its end."""

    run_dir: Path
    after: Path

    def folder(self, step: int) -> Path:
        return self.after / str(step)

    def snapshot(self, step: int) -> Snapshot:
        return read_snapshot(self.folder(step) / "checkpoints" / f"step-{step:08d}")

    def is_best(self, step: int) -> bool:
        best = self.snapshot(step).state["best"]
        return bool(best) and best["step"] == step


def lock_files(folder: str, names: list[str]) -> list[str]:
    """What a copy of a run's folder must not have: its owner is alive."""
    return [name for name in names if is_lock_file(name)]


@pytest.fixture(scope="module")
def straight(config: Make, tmp_path_factory: pytest.TempPathFactory) -> Straight:
    """Twelve steps, nine an epoch: the ninth is the first best one."""
    folder = tmp_path_factory.mktemp("straight")
    run_dir, after = folder / "run", folder / "after"
    save = Checkpoints.save

    def keeping(self: Checkpoints, snapshot: Snapshot, *, seen: Path, best: bool) -> Path:
        made = save(self, snapshot, seen=seen, best=best)
        shutil.copytree(run_dir, after / str(snapshot.state["step"]), ignore=lock_files)
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "save", keeping)
        pretrain(config(**SETTINGS, max_steps=NUM_STEPS), run_dir)
    return Straight(run_dir, after)


def goes_on_to_the_bit(config: Make, straight: Straight, trial: Path, *, to: int) -> bool:
    """Whether the same command takes the folder to where the run was after step `to`."""
    shutil.copy(straight.run_dir / "log.jsonl", trial)  # which a run writes before it saves; it cuts what is too much
    pretrain(config(**SETTINGS, max_steps=to), trial)

    def lines(folder: Path) -> list[dict[str, Any]]:
        records = read_log(folder / "log.jsonl")
        return [{key: value for key, value in record.items() if key != "timing"} for record in records]

    ours, theirs = (folder / "checkpoints" / f"step-{to:08d}" for folder in (trial, straight.folder(to)))
    same = all((ours / name).read_bytes() == (theirs / name).read_bytes() for name in (MODEL, TRAINING))
    return same and lines(trial) == lines(straight.folder(to))


def die_at(straight: Straight, children: Any, trial: Path, *, step: int, number: int, disk_full: bool = False) -> int:
    """Save `step` in a child into the folder of the step before; it dies at its `number`-th operation on files."""
    shutil.copytree(straight.folder(step - 1), trial)
    snapshot, best = straight.snapshot(step), straight.is_best(step)

    def save() -> None:
        Checkpoints(trial).save(snapshot, seen=trial / "seen.safetensors", best=best)

    return int(children.run_to_operation(number, save, below=trial, disk_full=disk_full))


def newest(run_dir: Path) -> int:
    """The step a run would go on from; all of that checkpoint must be what the straight run saved."""
    checkpoints = Checkpoints(run_dir)
    checkpoints.sweep()
    found = checkpoints.load_newest()
    assert found is not None
    return int(found[1].state["step"])


def test_a_run_killed_at_an_operation_of_a_save_goes_on_to_the_bit(
    straight: Straight, config: Make, tmp_path: Path, children: Any
) -> None:
    """Of the step that is the first best one, every fourth operation; the others are in the slow test."""
    assert kills_of(straight, config, tmp_path, children, step=9, stride=4, go_on_every=3) > 3


@pytest.mark.slow
def test_100_kills_in_saves_leave_a_whole_checkpoint_each_and_the_run_goes_on_to_the_bit(
    straight: Straight, config: Make, tmp_path: Path, children: Any
) -> None:
    """Every operation of saves that prune or not, that make a best checkpoint or not."""
    kills = [
        kills_of(straight, config, tmp_path, children, step=step, stride=1, go_on_every=5)
        for step in (1, 4, 8, 9, 10, 11)
    ]
    assert sum(kills) >= 100
    assert min(kills) > 15


def kills_of(
    straight: Straight,
    config: Make,
    tmp_path: Path,
    children: Any,
    *,
    step: int,
    stride: int,
    go_on_every: int,
) -> int:
    """Die at every `stride`-th operation of the save of `step` until one comes to its end; the number of deaths."""
    reached: list[int] = []
    number, ended = stride, children.KILLED
    while ended != 0:
        trial = tmp_path / f"{step}-{number}"
        ended = die_at(straight, children, trial, step=step, number=number)
        assert ended in (0, children.KILLED)
        if number // stride % go_on_every == 0 or ended == 0:
            assert goes_on_to_the_bit(config, straight, trial, to=step + 1), number
        else:
            reached.append(newest(trial))
            for name in ("latest", "best"):  # a pointer names a whole checkpoint, or none
                pointed = Checkpoints(trial).pointed(name)
                assert pointed is None or read_snapshot(pointed).state["step"] in (step, step - 1, 9)
            assert resolve_checkpoint(trial).is_dir()
        shutil.rmtree(trial)
        number += stride
    # The step before, and from one operation on the new one.
    assert reached == sorted(reached)
    assert set(reached) == {step - 1, step}
    return number // stride - 2


@pytest.mark.slow
def test_a_disk_that_is_full_from_any_operation_on_is_said_and_the_next_run_goes_on_to_the_bit(
    straight: Straight, config: Make, tmp_path: Path, children: Any
) -> None:
    number, ended = 1, children.DISK_FULL
    said = 0
    while ended != 0:
        trial = tmp_path / str(number)
        ended = die_at(straight, children, trial, step=9, number=number, disk_full=True)
        said += ended == children.DISK_FULL
        assert newest(trial) in (8, 9)
        if number % 4 == 0 or ended == 0:
            assert goes_on_to_the_bit(config, straight, trial, to=10), number
        shutil.rmtree(trial)
        number += 1
    assert said > 10


def test_a_kill_while_the_same_step_is_saved_again_leaves_a_whole_checkpoint(
    straight: Straight, config: Make, tmp_path: Path, children: Any
) -> None:
    """As when a run was stopped at the end of an epoch, before its validation, and goes on."""
    number, ended = 1, children.KILLED
    snapshot = straight.snapshot(9)
    while ended != 0:
        trial = tmp_path / str(number)
        shutil.copytree(straight.folder(9), trial)
        ended = children.run_to_operation(
            number,
            lambda: Checkpoints(trial).save(snapshot, seen=trial / "seen.safetensors", best=True),  # noqa: B023
            below=trial,
        )
        assert ended in (0, children.KILLED)
        assert newest(trial) == 9
        shutil.rmtree(trial)
        number += 1
    assert number > 20


@pytest.mark.parametrize("kind", ["step-00000009.pruned.tmp", "step-00000011.replaced.tmp", "step-00000012.tmp"])
def test_folders_that_a_kill_left_half_removed_or_half_written_are_no_checkpoints(
    kind: str, straight: Straight, config: Make, tmp_path: Path
) -> None:
    """Removing a folder is many operations on its files, which the tests above do not count."""
    whole = straight.folder(11) / "checkpoints" / "step-00000011"
    names = sorted(path.name for path in whole.iterdir())
    for number in range(len(names) + 1):
        trial = tmp_path / str(number)
        shutil.copytree(straight.folder(11), trial)
        left = trial / "checkpoints" / kind
        left.mkdir()
        for name in names[:number]:
            shutil.copy(whole / name, left)
        assert newest(trial) == 11
        assert not left.exists()
    assert goes_on_to_the_bit(config, straight, trial, to=12)


def test_a_checkpoint_that_is_written_in_place_would_not_survive(
    straight: Straight, tmp_path: Path, children: Any
) -> None:
    """The tests above can fail: this one dies between removing a file and writing it again."""
    trial = tmp_path / "run"
    shutil.copytree(straight.folder(9), trial)
    newest_one, *older = Checkpoints(trial).newest_first()
    for folder in older:
        shutil.rmtree(folder)
    content = (newest_one / STATE).read_bytes()

    def in_place() -> None:
        (newest_one / STATE).unlink()
        (newest_one / STATE).write_bytes(content)

    assert children.run_to_operation(2, in_place, below=trial) == children.KILLED
    with pytest.raises(CheckpointError, match="every checkpoint is damaged"):
        newest(trial)
