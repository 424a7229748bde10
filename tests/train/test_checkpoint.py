import json
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file as save_arrays

from amma.manifests.errors import CheckpointError
from amma.manifests.table import Modality
from amma.train.data.seen import NOT_RECORDED
from amma.train.model.amma import AMMA
from amma.train.model.config import ModelConfig
from amma.train.run.checkpoint import (
    MODEL,
    SEEN,
    STATE,
    TRAINING,
    Checkpoints,
    Snapshot,
    describe_checkpoint,
    load_model,
    read_snapshot,
    read_state,
    resolve_checkpoint,
)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    save_arrays({"hashes": np.array([3, 2**63 + 1], dtype=np.uint64)}, tmp_path / "seen.safetensors")
    return tmp_path


def snapshot_of(step: int) -> Snapshot:
    """Tensors and state from which the step can be told."""
    return Snapshot(
        {"step": step}, {"weight": torch.full((4,), float(step))}, {"moment": torch.full((2,), -float(step))}
    )


def save(run_dir: Path, step: int, *, best: bool = False) -> Path:
    return Checkpoints(run_dir).save(snapshot_of(step), seen=run_dir / "seen.safetensors", best=best)


def newest_step(run_dir: Path) -> int | None:
    """The step of the checkpoint a run would go on from, after checking that it is wholly of that step."""
    checkpoints = Checkpoints(run_dir)
    checkpoints.sweep()
    found = checkpoints.load_newest()
    if found is None:
        return None
    _, snapshot = found
    step = snapshot.state["step"]
    assert torch.equal(snapshot.model["weight"], torch.full((4,), float(step)))
    assert torch.equal(snapshot.training["moment"], torch.full((2,), -float(step)))
    return int(step)


def test_a_checkpoint_gives_back_what_was_saved(run_dir: Path) -> None:
    folder = save(run_dir, 7)
    assert folder.name == "step-00000007"
    assert newest_step(run_dir) == 7
    assert (run_dir / "checkpoints" / "latest").read_text() == "step-00000007\n"
    assert sorted(path.name for path in folder.iterdir()) == sorted([MODEL, TRAINING, SEEN, STATE])


def test_the_last_two_and_the_best_are_kept(run_dir: Path) -> None:
    for step in range(1, 7):
        save(run_dir, step, best=step == 2)
    assert [path.name[-1] for path in Checkpoints(run_dir).newest_first()] == ["6", "5", "2"]
    assert resolve_checkpoint(run_dir).name == "step-00000002"
    save(run_dir, 7, best=True)
    assert [path.name[-1] for path in Checkpoints(run_dir).newest_first()] == ["7", "6"]


def test_the_hashes_of_what_was_seen_take_no_room_in_each_checkpoint(run_dir: Path) -> None:
    folders = [save(run_dir, step) for step in (1, 2)]
    assert len({(folder / SEEN).stat().st_ino for folder in folders}) == 1


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "flip": flip,
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "empty": lambda path: path.write_bytes(b""),
    "gone": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", [MODEL, TRAINING, SEEN, STATE])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before_and_said(
    run_dir: Path, name: str, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    save(run_dir, 1)
    folder = save(run_dir, 2)
    (folder / SEEN).unlink()
    (folder / SEEN).write_bytes((run_dir / "seen.safetensors").read_bytes())  # a file of its own, to be damaged alone
    DAMAGE[damage](folder / name)
    assert newest_step(run_dir) == 1
    assert "skipping step-00000002" in capsys.readouterr().err


def test_no_changed_bit_of_the_state_goes_unnoticed(run_dir: Path) -> None:
    path = save(run_dir, 12) / STATE
    sound = path.read_bytes()
    unnoticed = []
    for position in range(0, len(sound), 3):
        data = bytearray(sound)
        data[position] ^= 1 << (position % 8)
        path.write_bytes(data)
        try:
            changed = read_state(path.parent)
        except CheckpointError:
            continue
        unnoticed.append(changed["step"])  # only white space may change unnoticed
    assert set(unnoticed) <= {12}


def test_when_all_are_damaged_nothing_is_begun_anew_by_itself(run_dir: Path) -> None:
    flip(save(run_dir, 1) / MODEL)
    with pytest.raises(CheckpointError, match="every checkpoint is damaged"):
        newest_step(run_dir)


def test_a_full_disk_is_said_and_leaves_the_checkpoints_before(run_dir: Path) -> None:
    save(run_dir, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))  # no file may grow beyond 64 bytes
    try:
        with pytest.raises(CheckpointError, match="make room, then run the same command again") as caught:
            save(run_dir, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.code == "E_DISK"
    assert [path.name for path in (run_dir / "checkpoints").glob("step-*")] == ["step-00000001"]
    assert newest_step(run_dir) == 1
    save(run_dir, 2)
    assert newest_step(run_dir) == 2


def test_a_damaged_newer_checkpoint_is_set_aside_when_the_run_goes_on(run_dir: Path) -> None:
    for step in (1, 2):
        save(run_dir, step)
    flip(run_dir / "checkpoints" / "step-00000002" / MODEL)
    checkpoints = Checkpoints(run_dir)
    found = checkpoints.load_newest()
    assert found is not None
    checkpoints.abandon_after(found[0])
    assert (run_dir / "checkpoints" / "step-00000002.damaged").is_dir()
    save(run_dir, 2)
    assert newest_step(run_dir) == 2


def test_a_best_checkpoint_that_is_damaged_gives_way_to_the_newest(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(run_dir, 1, best=True)
    save(run_dir, 2)
    assert resolve_checkpoint(run_dir).name == "step-00000001"
    flip(run_dir / "checkpoints" / "step-00000001" / MODEL)
    assert resolve_checkpoint(run_dir).name == "step-00000002"
    assert "taking the newest, step-00000002" in capsys.readouterr().err


def test_any_of_a_run_its_checkpoints_and_a_step_names_a_checkpoint(run_dir: Path) -> None:
    folder = save(run_dir, 3)
    for path in (run_dir, run_dir / "checkpoints", folder):
        assert resolve_checkpoint(path) == folder


def test_a_folder_without_a_checkpoint_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="Expected a run folder of amma-train"):
        resolve_checkpoint(tmp_path)


def test_a_newer_version_is_refused_and_not_skipped(run_dir: Path) -> None:
    save(run_dir, 1)
    state = save(run_dir, 2) / STATE
    state.write_text(json.dumps({**json.loads(state.read_text()), "version": "2.0"}))
    with pytest.raises(CheckpointError, match=r"of version 2\.0, this program reads") as caught:
        Checkpoints(run_dir).load_newest()
    assert caught.value.code == "E_VERSION"


def test_a_model_comes_back_with_its_statistics_and_its_origin(
    run_dir: Path, small: ModelConfig, widths: dict[Modality, int]
) -> None:
    torch.manual_seed(3)
    model = AMMA(small, widths)
    model.standardiser.mean(Modality.STR).fill_(2.5)
    state = {
        "step": 5,
        "epoch": 1,
        "config": {"model": small.model_dump(mode="json"), "seed": 0},
        "widths": {str(modality): width for modality, width in widths.items()},
        "inputs": {"fingerprint": {"seq": "x"}, "root_hashes": ["ab"]},
        "random_weights": True,
    }
    Checkpoints(run_dir).save(Snapshot(state, model.state_dict(), {}), seen=run_dir / "seen.safetensors", best=False)
    loaded = load_model(run_dir)
    assert loaded.model.state_dict().keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], value)
    assert not loaded.model.training
    assert loaded.state["step"] == 5
    assert loaded.random_weights
    assert loaded.root_hashes == ["ab"]
    assert loaded.store_fingerprint == {"seq": "x"}
    assert loaded.seen.hashes.tolist() == [3, 2**63 + 1]
    assert loaded.seen.text.tolist() == [NOT_RECORDED, NOT_RECORDED]  # the file of this test is one of format 1.0


def test_a_damaged_model_is_never_loaded(run_dir: Path) -> None:
    folder = save(run_dir, 1)
    flip(folder / MODEL)
    with pytest.raises(CheckpointError, match="damaged"):
        load_model(folder)
    with pytest.raises(CheckpointError, match="damaged"):
        read_snapshot(folder)
    with pytest.raises(CheckpointError, match="damaged"):
        describe_checkpoint(folder)
