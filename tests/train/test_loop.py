import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

import amma.train.run.loop
from amma.featurize.store.lock import StoreLock
from amma.featurize.store.reader import FeatureStore
from amma.manifests.errors import ConfigError, InputError, StoreError
from amma.manifests.table import Modality
from amma.train.data.seen import WITH, WITHOUT
from amma.train.data.sequence_hash import sequence_hash
from amma.train.model.standardise import Moments
from amma.train.run.checkpoint import Checkpoints, load_model, resolve_checkpoint
from amma.train.run.config import RunConfig
from amma.train.run.interruption import Interruption
from amma.train.run.log import read_log
from amma.train.run.loop import Outcome, pretrain
from amma.train.run.step import Stepper, StepResult
from amma.train.run.step_input import StepInput

Make = Callable[..., RunConfig]


@dataclass
class Watched:
    """What every step of all runs of a test was given, by step."""

    ids: dict[int, list[tuple[str, ...]]]
    masks: dict[int, bytes]


def watch(patch: pytest.MonkeyPatch) -> Watched:
    seen = Watched({}, {})
    take = Stepper.take

    def watching(self: Stepper, given: StepInput) -> StepResult:
        seen.ids[given.step] = [batch.ids for _, batch, _ in given.portions]
        seen.masks[given.step] = b"".join(
            mask.numpy().tobytes() for _, _, masks in given.portions for mask in masks.visible.values()
        )
        return take(self, given)

    patch.setattr(Stepper, "take", watching)
    return seen


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    return watch(monkeypatch)


def stop_in_step(monkeypatch: pytest.MonkeyPatch, step: int, number: signal.Signals = signal.SIGTERM) -> None:
    """Send this process a signal while it computes step `step`."""
    take = Stepper.take

    def signalled(self: Stepper, given: StepInput) -> StepResult:
        if given.step == step:
            os.kill(os.getpid(), number)
        return take(self, given)

    monkeypatch.setattr(Stepper, "take", signalled)


def lines(run_dir: Path) -> list[dict[str, Any]]:
    """The log without what depends on the clock."""
    return [{key: value for key, value in line.items() if key != "timing"} for line in read_log(run_dir / "log.jsonl")]


def tensors(run_dir: Path) -> dict[str, bytes]:
    """Every number of the newest checkpoint."""
    folder = Checkpoints(run_dir).newest_first()[0]
    files = [load_file(folder / name) for name in ("model.safetensors", "training.safetensors")]
    return {name: tensor.numpy().tobytes() for file in files for name, tensor in file.items()}


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, config: Make) -> tuple[Path, Watched]:
    """The small run without an interruption, and what its steps were given."""
    run_dir = tmp_path_factory.mktemp("straight") / "run"
    with pytest.MonkeyPatch.context() as patch:
        seen = watch(patch)
        assert pretrain(config(), run_dir) == Outcome(18, 18, run_dir / "checkpoints" / "step-00000018", 0)
    assert len(seen.ids) == 18
    return run_dir, seen


@pytest.fixture
def reference(straight: tuple[Path, Watched]) -> Path:
    return straight[0]


def same_run(one: Path, other: Path) -> bool:
    return lines(one) == lines(other) and tensors(one) == tensors(other)


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("step", [3, 8])  # 8 is the last step of the first epoch: its validation is still to come
def test_a_signal_ends_the_step_saves_and_the_run_goes_on_to_the_bit(
    step: int, number: signal.Signals, exit_code: int, reference: Path, config: Make, tmp_path: Path
) -> None:
    handler = signal.getsignal(number)
    with pytest.MonkeyPatch.context() as patch:
        stop_in_step(patch, step, number)
        outcome = pretrain(config(), tmp_path / "run")
    assert (outcome.step, outcome.exit_code) == (step + 1, exit_code)
    assert outcome.checkpoint == tmp_path / "run" / "checkpoints" / f"step-{step + 1:08d}"
    assert signal.getsignal(number) is handler
    assert pretrain(config(), tmp_path / "run").exit_code == 0
    assert same_run(tmp_path / "run", reference)


@pytest.mark.parametrize("question", [14, 15, 16, 17])
def test_a_signal_between_any_two_looks_at_it_leaves_the_run_whole(
    question: int, reference: Path, config: Make, tmp_path: Path
) -> None:
    asked = 0

    def from_then_on(self: Interruption) -> bool:
        nonlocal asked
        asked += 1
        return asked >= question

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Interruption, "__bool__", from_then_on)
        outcome = pretrain(config(), tmp_path / "run")
    assert 0 < outcome.step < 18
    pretrain(config(), tmp_path / "run")
    assert same_run(tmp_path / "run", reference)


def test_a_signal_while_channels_are_measured_ends_the_run_before_it_began(config: Make, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(amma.train.run.loop.Interruption, "__bool__", lambda self: True)
        outcome = pretrain(config(), tmp_path / "run")
    assert (outcome.step, outcome.checkpoint) == (0, None)
    assert pretrain(config(max_steps=1), tmp_path / "run").step == 1


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(
    reference: Path, config: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pretrain(config(max_steps=7, checkpoint_every=4), tmp_path / "run")
    damaged = tmp_path / "run" / "checkpoints" / "step-00000007" / "training.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    pretrain(config(), tmp_path / "run")
    said = capsys.readouterr().err
    assert "skipping step-00000007" in said
    assert "going on at step 4 of 18" in said
    assert same_run(tmp_path / "run", reference)


def test_what_ends_a_run_or_only_watches_it_may_change(reference: Path, config: Make, tmp_path: Path) -> None:
    pretrain(config(epochs=1, checkpoint_every=2), tmp_path / "run")
    pretrain(config(checkpoint_every=5), tmp_path / "run")
    assert same_run(tmp_path / "run", reference)


def test_a_run_does_not_go_on_with_other_settings(config: Make, tmp_path: Path) -> None:
    pretrain(config(max_steps=1), tmp_path / "run")
    before = tensors(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"mix\.batch_size: 4 before, 5 now\n  seed: 0 before, 1 now"):
        pretrain(config(seed=1, mix={"batch_size": 5}), tmp_path / "run")
    assert tensors(tmp_path / "run") == before


def test_a_run_does_not_go_on_with_other_proteins(
    config: Make, tmp_path: Path, make_store: Callable[..., Path]
) -> None:
    pretrain(config(max_steps=1), tmp_path / "run")
    other = make_store(tmp_path / "other.zarr", {"triplet": 30}, seed=9)
    with pytest.raises(ConfigError, match=r"inputs\.root_hashes"):
        pretrain(config(stores=[other]), tmp_path / "run")


def test_a_store_that_moved_is_the_same_store(config: Make, tmp_path: Path, store: Path, reference: Path) -> None:
    pretrain(config(max_steps=3), tmp_path / "run")
    moved = tmp_path / "moved.zarr"
    shutil.copytree(store, moved)
    pretrain(config(stores=[moved]), tmp_path / "run")
    assert same_run(tmp_path / "run", reference)


def test_a_finished_run_says_so_and_changes_nothing(
    reference: Path, config: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (reference / "log.jsonl").read_bytes(), tensors(reference)
    assert pretrain(config(), reference).exit_code == 0
    assert "the run is finished: 18 steps" in capsys.readouterr().err
    assert ((reference / "log.jsonl").read_bytes(), tensors(reference)) == before


def test_a_folder_with_other_things_in_it_is_left_alone(config: Make, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(InputError, match=r"holds thesis\.txt and no config\.json"):
        pretrain(config(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_two_processes_do_not_train_in_one_folder(config: Make, tmp_path: Path) -> None:
    with StoreLock(tmp_path), pytest.raises(StoreError, match="in use by process") as caught:
        pretrain(config(), tmp_path)
    assert caught.value.code == "E_LOCKED"


def test_numbers_read_one_step_late_are_the_same_numbers(reference: Path, config: Make, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(amma.train.run.loop, "reads_late", lambda device: True)
        pretrain(config(max_steps=11, checkpoint_every=4), tmp_path / "run")
        pretrain(config(), tmp_path / "run")
    assert same_run(tmp_path / "run", reference)


def test_threads_change_neither_proteins_nor_masks(config: Make, tmp_path: Path, watched: Watched) -> None:
    pretrain(config(epochs=1), tmp_path / "one")
    one = Watched(dict(watched.ids), dict(watched.masks))
    pretrain(config(epochs=1, threads=4), tmp_path / "four")
    assert one == watched


def test_no_excluded_or_validation_protein_is_ever_trained_on(
    config: Make, tmp_path: Path, store: Path, watched: Watched
) -> None:
    (tmp_path / "held.txt").write_text("P3\nP20\nnot-there\n")
    pretrain(config(exclude=[tmp_path / "held.txt"], epochs=2), tmp_path / "run")
    trained = {name for step in watched.ids.values() for ids in step for name in ids}
    start = lines(tmp_path / "run")[0]
    assert not trained & {"P3", "P20", "P40", "P41"}  # the last two are sequences only
    assert (start["excluded"], start["excluded_unknown_ids"], start["not_in_a_stream"]) == (2, 1, 2)
    assert start["validation"] >= 1
    assert len(trained) == 40 - 2 - start["validation"] == sum(start["streams"].values())
    with FeatureStore(store) as features:
        sequence = dict(zip(features.ids, features.sequences(), strict=True))
    seen = load_model(tmp_path / "run").seen
    kind = {f"P{n}": WITHOUT if 24 <= n < 34 else WITH for n in range(40)}  # P24 to P33 have no text
    expected = {sequence_hash(sequence[name]): kind[name] for name in trained}
    assert dict(zip(seen.hashes.tolist(), seen.text.tolist(), strict=True)) == expected


def test_the_standardiser_is_that_of_the_training_proteins_alone(
    config: Make, tmp_path: Path, store: Path, watched: Watched
) -> None:
    pretrain(config(epochs=3, validation_fraction=0.3), tmp_path / "run")
    trained = {name for step in watched.ids.values() for ids in step for name in ids}
    standardiser = load_model(tmp_path / "run").model.standardiser
    with FeatureStore(store) as features:
        for modality in Modality:
            moments = Moments(features.widths[modality])
            for name in sorted(trained):
                row = features.row_of(name)
                if features.present(modality)[row]:
                    moments.update(features.read(modality, row).features)
            np.testing.assert_allclose(standardiser.mean(modality), moments.mean_D, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(standardiser.scale(modality), moments.sigma_D, rtol=1e-5)


def test_the_log_tells_what_was_drawn_and_ends_with_a_line_for_each_epoch(reference: Path) -> None:
    log = lines(reference)
    steps = [line for line in log if line["kind"] == "step"]
    epochs = [line for line in log if line["kind"] == "epoch"]
    assert [line["step"] for line in steps] == list(range(18))
    assert [line["epoch"] for line in epochs] == [1, 2]
    for line in epochs:
        of_epoch = [step for step in steps if step["epoch"] == line["epoch"]]
        drawn: dict[str, int] = {}
        for step in of_epoch:
            for stream, count in step["drawn"].items():
                drawn[stream] = drawn.get(stream, 0) + count
        assert line["drawn"] == drawn
        assert line["loss"] == pytest.approx(np.mean([step["loss"] for step in of_epoch]))
        assert set(line["validation"]["error"]) == {"seq", "str", "func"}
        assert sum(line["visible_per_protein"].values()) > 8  # of 12 for triplets
    assert epochs[-1]["loss"] < epochs[0]["loss"]
    assert all(
        "waited_seconds" in line["timing"] for line in read_log(reference / "log.jsonl") if line["kind"] == "epoch"
    )


def test_the_best_checkpoint_has_the_lowest_validation_loss(reference: Path) -> None:
    losses = {line["step"]: line["validation"]["loss"] for line in lines(reference) if line["kind"] == "epoch"}
    best = resolve_checkpoint(reference)
    assert best.name == f"step-{min(losses, key=losses.__getitem__):08d}"
    assert load_model(reference).state["best"]["loss"] == min(losses.values())


def test_without_validation_the_best_checkpoint_is_the_latest(config: Make, tmp_path: Path) -> None:
    pretrain(config(validation_fraction=0, epochs=2), tmp_path / "run")
    assert resolve_checkpoint(tmp_path / "run").name == "step-00000020"
    assert lines(tmp_path / "run")[-1]["validation"] is None


def test_two_stores_train_as_one(
    config: Make, tmp_path: Path, make_store: Callable[..., Path], watched: Watched
) -> None:
    stores = [
        make_store(tmp_path / "one.zarr", {"triplet": 9}),
        make_store(tmp_path / "two.zarr", {"seq-str": 8}, seed=1, prefix="Q"),
    ]
    pretrain(config(stores=stores, epochs=1, validation_fraction=0), tmp_path / "run")
    trained = {name for step in watched.ids.values() for ids in step for name in ids}
    assert {name[0] for name in trained} == {"P", "Q"}
    assert len(load_model(tmp_path / "run").root_hashes) == 2


def test_a_damaged_shard_stops_the_run_with_the_proteins_name(config: Make, tmp_path: Path, store: Path) -> None:
    damaged = tmp_path / "damaged.zarr"
    shutil.copytree(store, damaged)
    pretrain(config(stores=[damaged], max_steps=1), tmp_path / "run")
    shard = sorted(path for path in (damaged / "seq" / "features" / "c").rglob("*") if path.is_file())[0]
    data = bytearray(shard.read_bytes())
    data[::97] = bytes(len(data[::97]))
    shard.write_bytes(data)
    with pytest.raises(StoreError, match="crc32c is") as caught:
        pretrain(config(stores=[damaged]), tmp_path / "run")
    assert caught.value.code == "E_CORRUPT"
    shutil.rmtree(damaged)
    shutil.copytree(store, damaged)
    assert pretrain(config(stores=[damaged]), tmp_path / "run").step == 18
