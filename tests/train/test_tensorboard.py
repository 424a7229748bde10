import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest

from amma.manifests.errors import UsageError
from amma.train.run.config import RunConfig
from amma.train.run.log import read_log
from amma.train.run.loop import pretrain
from amma.train.run.tensorboard import TensorBoard, scalars

accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


def read(folder: Path, tag: str) -> dict[int, float]:
    """The values of a tag by step as TensorBoard itself reads them; every step must be there once."""
    events = accumulator.EventAccumulator(str(folder), size_guidance={accumulator.SCALARS: 0})
    events.Reload()
    found = [(event.step, event.value) for event in events.Scalars(tag)]
    assert len(dict(found)) == len(found)
    return dict(found)


def test_a_run_shows_what_its_log_says(config: Callable[..., RunConfig], tmp_path: Path) -> None:
    pretrain(config(epochs=2, tensorboard=True), tmp_path / "run")
    lines = read_log(tmp_path / "run" / "log.jsonl")
    folder = tmp_path / "run" / "tensorboard"
    steps = {line["step"]: line["loss"] for line in lines if line["kind"] == "step"}
    assert read(folder, "step/loss") == pytest.approx(steps, rel=1e-6)  # event files hold float32
    epochs = [line for line in lines if line["kind"] == "epoch"]
    hidden = {line["step"]: line["validation"]["error"]["seq"]["hidden"] for line in epochs}
    assert read(folder, "epoch/validation/error/seq/hidden") == pytest.approx(hidden, rel=1e-6)
    drawn = {line["step"]: line["drawn"]["triplet"] for line in epochs}
    assert read(folder, "epoch/drawn/triplet") == drawn
    rank = {line["step"]: line["validation"]["vectors"]["effective_rank"]["func"] for line in epochs}
    assert read(folder, "epoch/validation/vectors/effective_rank/func") == pytest.approx(rank, rel=1e-6)


def test_steps_after_the_checkpoint_are_taken_back_when_a_run_goes_on(tmp_path: Path) -> None:
    before = TensorBoard(tmp_path, after=0)
    for step in range(1, 8):
        before.write({"kind": "step", "step": step, "loss": float(step)})
    before.close()
    again = TensorBoard(tmp_path, after=4)
    for step in (5, 6):
        again.write({"kind": "step", "step": step, "loss": 100.0 + step})
    again.close()
    assert read(tmp_path, "step/loss") == {1: 1, 2: 2, 3: 3, 4: 4, 5: 105, 6: 106}


def test_a_run_without_the_switch_writes_no_events(config: Callable[..., RunConfig], tmp_path: Path) -> None:
    pretrain(config(epochs=1, max_steps=1), tmp_path / "run")
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_the_switch_without_tensorboard_says_how_to_have_it_before_anything_is_done(
    config: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        "amma.train.run.tensorboard.find_spec", lambda name: None if name == "tensorboard" else find_spec(name)
    )
    with pytest.raises(UsageError, match=r"pip install 'amma\[tensorboard\]'"):
        pretrain(config(tensorboard=True), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_only_numbers_become_scalars() -> None:
    record = {"kind": "epoch", "step": 3, "loss": 1.5, "validation": {"error": {"seq": 2}}, "best": None, "done": True}
    assert dict(scalars(record)) == {"loss": 1.5, "validation/error/seq": 2.0}
