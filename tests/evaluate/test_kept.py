"""A tuning that was stopped goes on to the same bits; one that is finished is not tuned again."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from amma.evaluate import tuned_rows
from amma.evaluate.cli import app
from amma.evaluate.config import FunctionConfig, Rates
from amma.evaluate.function import evaluate_function
from amma.evaluate.report.folder import check_folder
from amma.evaluate.subject import Subject, open_subject
from amma.evaluate.tasks.task import read_task
from amma.evaluate.tuned_rows import tune_rows
from amma.evaluate.tuning import bench as bench_module
from amma.evaluate.tuning import finetune, kept
from amma.evaluate.tuning.bench import Bench
from amma.evaluate.tuning.finetune import Fit, predict, tune
from amma.evaluate.tuning.kept import FOLDER, KeptTuning, Tunings, remove_tunings
from amma.evaluate.tuning.pooled import PooledInputs
from amma.evaluate.tuning.protocol import Outcome, run_protocol
from amma.featurize.store.reader import FeatureStore
from amma.featurize.store.stopping import InterruptedRunError
from amma.manifests.errors import StoreError, UsageError
from amma.train.run.checkpoint import load_model

RATES = {"fusion": Rates(1e-3, 3e-3), "probe": Rates(None, 3e-3)}
SETTINGS: dict[str, dict[str, Any]] = {
    "fusion": {"protocol": "fusion", "max_epochs": 2, "lr_decay": 0.9, "readout": "attention"},
    "probe": {"protocol": "probe", "max_epochs": 3, "optimizer": "adam"},
}


class CrashError(Exception):
    """Stands for anything that ends a process without a chance to write."""


@pytest.fixture
def store(planted) -> Iterator[FeatureStore]:
    with FeatureStore(planted.store) as store:
        yield store


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep an unfinished tuning after every step, and wait for the disk each time."""
    monkeypatch.setattr(kept, "WORTH_WAITING_SECONDS", 0.0)
    monkeypatch.setattr(kept, "KEEP_SECONDS", 0.0)
    monkeypatch.setattr(kept, "KEEP_SHARE", float("inf"))


def make_bench(planted, store: FeatureStore, protocol: str, pause: Callable[[], None] = lambda: None) -> Bench:
    task = read_task("ec", store, labels=planted.labels, splits=planted.splits)
    return Bench(store, task, planted.config(**SETTINGS[protocol]).finetune, torch.device("cpu"), pause=pause)


def weights(fit: Fit) -> list[torch.Tensor]:
    assert not isinstance(fit.model, PooledInputs)
    return [*fit.head.state_dict().values(), *fit.model.state_dict().values()]


def assert_same(one: Fit, other: Fit) -> None:
    assert (one.epochs, one.best_epoch) == (other.epochs, other.best_epoch)
    assert all(torch.equal(*pair) for pair in zip(weights(one), weights(other), strict=True))


def raises_at(number: int, error: type[Exception]) -> Callable[[], None]:
    """A pause that raises when it is called for the `number`-th time (from 1)."""
    calls = iter(range(1, 10**9))

    def pause() -> None:
        if next(calls) == number:
            raise error("stopped")

    return pause


@pytest.mark.parametrize("protocol", list(SETTINGS))
def test_stopped_again_and_again_it_ends_at_the_same_bits(
    planted, store: FeatureStore, tmp_path: Path, protocol: str
) -> None:
    """Each run is allowed a few pauses more than the start takes, so every step and epoch is a boundary once."""
    start = load_model(planted.run).model
    whole = tune(start, make_bench(planted, store, protocol), RATES[protocol], 0)
    stops = 0
    while True:
        # What fixed representations take anew in every run; the head's statistics only until something is kept.
        number = (7 if protocol == "probe" or not stops else 2) if stops < 40 else 10**6
        bench = make_bench(planted, store, protocol, raises_at(number, InterruptedRunError))
        try:
            fit = tune(start, bench, RATES[protocol], 0, kept=KeptTuning(tmp_path / "t", "key"))
            break
        except InterruptedRunError:
            stops += 1
    assert 3 <= stops < 40
    assert_same(whole, fit)


@pytest.mark.parametrize("protocol", list(SETTINGS))
def test_after_a_crash_at_any_epoch_it_goes_on_from_what_was_kept(
    planted, store: FeatureStore, tmp_path: Path, always: None, protocol: str
) -> None:
    start = load_model(planted.run).model
    bench = make_bench(planted, store, protocol)
    whole = tune(start, bench, RATES[protocol], 0)
    for epoch in range(1, len(whole.epochs) + 1):
        folder = tmp_path / str(epoch)
        done: list[int] = []

        def crash(number: int, done: list[int] = done, epoch: int = epoch) -> None:
            done.append(number)
            if sum(done) == epoch:
                raise CrashError

        with pytest.raises(CrashError):
            tune(start, bench, RATES[protocol], 0, advance=crash, kept=KeptTuning(folder, "key"))
        found = KeptTuning(folder, "key").read()
        assert found is not None
        assert len(found.values["epochs"]) == epoch - 1  # the last step of an epoch is kept, then it is validated
        advanced: list[int] = []
        fit = tune(start, bench, RATES[protocol], 0, advance=advanced.append, kept=KeptTuning(folder, "key"))
        assert_same(whole, fit)
        assert sum(advanced) == bench.config.max_epochs


def test_a_finished_tuning_is_read_and_not_tuned_again(
    planted, store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = load_model(planted.run).model
    bench = make_bench(planted, store, "fusion")
    whole = tune(start, bench, RATES["fusion"], 0, kept=KeptTuning(tmp_path / "t", "key"))

    def never(*_: object) -> None:
        raise AssertionError("it was tuned again")

    monkeypatch.setattr(finetune._Tuning, "_take_step", never)
    monkeypatch.setattr(finetune, "_new_head", never)
    again = tune(start, bench, RATES["fusion"], 0, kept=KeptTuning(tmp_path / "t", "key"))
    assert_same(whole, again)
    np.testing.assert_array_equal(predict(whole, bench, bench.task.test), predict(again, bench, bench.task.test))


def test_what_is_kept_of_other_settings_is_not_taken(planted, store: FeatureStore, tmp_path: Path, capsys) -> None:
    start = load_model(planted.run).model
    bench = make_bench(planted, store, "probe")
    tune(start, bench, Rates(None, 1e-2), 0, kept=KeptTuning(tmp_path / "t", "one"))
    assert KeptTuning(tmp_path / "t", "other").read() is None
    assert "is tuned again" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["tensors", "state", "cut", "missing"])
def test_what_is_damaged_is_tuned_again(planted, store: FeatureStore, tmp_path: Path, capsys, damage: str) -> None:
    start = load_model(planted.run).model
    bench = make_bench(planted, store, "probe")
    folder = tmp_path / "t"
    whole = tune(start, bench, RATES["probe"], 0, kept=KeptTuning(folder, "key"))
    tensors = next(folder.glob("*.safetensors"))
    if damage == "tensors":
        data = bytearray(tensors.read_bytes())
        data[-1] ^= 1
        tensors.write_bytes(data)
    elif damage == "state":
        state = json.loads((folder / "state.json").read_text())
        state["values"]["best_epoch"] += 1
        (folder / "state.json").write_text(json.dumps(state))
    elif damage == "cut":
        (folder / "state.json").write_text('{"key"')
    else:
        tensors.unlink()
    fit = tune(start, bench, RATES["probe"], 0, kept=KeptTuning(folder, "key"))
    assert "what was kept of this tuning is damaged" in capsys.readouterr().err
    assert_same(whole, fit)
    assert KeptTuning(folder, "key").read() is not None  # and whole again


def test_unfinished_tunings_are_kept_seldom(planted, store: FeatureStore, tmp_path: Path, monkeypatch) -> None:
    writes: list[dict[str, Any]] = []
    write = KeptTuning.write
    monkeypatch.setattr(
        KeptTuning,
        "write",
        lambda self, values, *rest, **more: writes.append(values) or write(self, values, *rest, **more),
    )
    start = load_model(planted.run).model
    tune(start, make_bench(planted, store, "probe"), RATES["probe"], 0, kept=KeptTuning(tmp_path / "t", "key"))
    assert [values["finished"] for values in writes] == [True]  # it took less than a minute


def test_test_proteins_are_not_read_before_all_choices_are_made(planted, store: FeatureStore, monkeypatch) -> None:
    config = planted.config(protocol="fusion", fusion_lrs=(1e-4, 1e-3), num_seeds=2, max_epochs=2).finetune
    task = read_task("ec", store, labels=planted.labels, splits=planted.splits)
    test = set(task.test.rows.tolist())
    events: list[str] = []
    represent = bench_module.represent

    def watched(model: object, store: object, rows: np.ndarray, *rest: object, **more: object) -> object:
        if test & set(rows.tolist()):
            events.append("test")
        return represent(model, store, rows, *rest, **more)

    monkeypatch.setattr(bench_module, "represent", watched)
    model = load_model(planted.run).model
    run_protocol(
        lambda seed: model, Bench(store, task, config, torch.device("cpu")), tell=lambda _: events.append("tuned")
    )
    # Two pairs of rates with the first seed, one with the second; each then scored once.
    assert events == ["tuned", "tuned", "test", "tuned", "test"]


QUICK: dict[str, Any] = {"protocol": "probe", "num_seeds": 2, "max_epochs": 2, "head_lrs": (3e-3, 1e-2)}


@pytest.fixture(scope="module")
def config(planted) -> FunctionConfig:
    return planted.config(**QUICK).model_copy(update={"bootstrap": 0})


@pytest.fixture(scope="module")
def subject(config: FunctionConfig) -> Subject:
    return open_subject(config)


def same(one: dict[str, Outcome], other: dict[str, Outcome]) -> bool:
    return all(
        one[name].trials == other[name].trials
        and all(
            mine.trial == yours.trial
            and np.array_equal(mine.valid_VK, yours.valid_VK)
            and np.array_equal(mine.test_NK, yours.test_NK)
            for mine, yours in zip(one[name].runs, other[name].runs, strict=True)
        )
        for name in one
    )


def test_an_evaluation_that_is_stopped_everywhere_gives_the_same_outcome(
    config: FunctionConfig, subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tune_rows(config, subject)
    kept_seeds: list[int] = []
    for number in range(13, 10**6, 13):
        # Further each time: what is computed anew when it goes on may take more pauses than what is new.
        pause = raises_at(number, InterruptedRunError)
        monkeypatch.setattr(Tunings, "pause", lambda self, pause=pause: pause())
        kept_seeds.clear()
        try:
            outcome = tune_rows(config, subject, report_dir=tmp_path, keep=lambda fit: kept_seeds.append(fit.seed))
            break
        except InterruptedRunError:
            continue
    assert number > 13
    assert same(whole, outcome)
    assert kept_seeds == [0, 1]  # also of what was finished before


def test_finished_tunings_and_scores_are_read(
    config: FunctionConfig, subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    whole = tune_rows(config, subject, report_dir=tmp_path)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("it was computed again")

    monkeypatch.setattr(bench_module, "represent", never)
    monkeypatch.setattr(finetune._Tuning, "_take_step", never)
    assert same(whole, tune_rows(config, subject, report_dir=tmp_path))
    assert "going on from 9 tunings that were kept" in capsys.readouterr().err


def test_other_settings_are_refused_with_what_differs_or_begun_anew(
    config: FunctionConfig, subject: Subject, tmp_path: Path, capsys
) -> None:
    tune_rows(config, subject, report_dir=tmp_path)
    other = config.model_copy(update={"finetune": config.finetune.model_copy(update={"max_epochs": 1})})
    with pytest.raises(UsageError, match=r"config\.max_epochs: 2 -> 1.*--overwrite"):
        tune_rows(other, subject, report_dir=tmp_path)
    capsys.readouterr()
    outcome = tune_rows(other, subject, report_dir=tmp_path, anew=True)
    assert "going on" not in capsys.readouterr().err
    assert {run.trial.num_epochs for run in outcome["trained"].runs} == {1}
    tune_rows(other, subject, report_dir=tmp_path, anew=True)
    assert "going on from 9" in capsys.readouterr().err  # the same settings go on also then


def test_two_at_once_are_refused(config: FunctionConfig, subject: Subject, tmp_path: Path) -> None:
    with Tunings(tmp_path, {}), pytest.raises(StoreError) as error:
        tune_rows(config, subject, report_dir=tmp_path)
    assert error.value.code == "E_LOCKED"


def test_nothing_but_tunings_is_ever_removed(tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="does not hold tunings"):
        remove_tunings(tmp_path)
    assert (tmp_path / FOLDER / "thesis.tex").exists()


def call(planted, report: Path, *options: str):
    paths = [str(planted.run), str(planted.store), str(report), f"--labels={planted.labels}"]
    quick = ["--task=ec", "--threads=1", "--bootstrap=0", "--seeds=2", "--epochs=3", "--protocol=probe"]
    return CliRunner().invoke(app, ["function", *paths, f"--splits={planted.splits}", *quick, *options])


def facts(report: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((report / "report.json").read_text())
    document.pop("provenance")
    return document


def test_signals_leave_a_state_from_which_the_same_command_goes_on(
    planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    validated = finetune._validated
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    wanted: list[signal.Signals] = []
    calls: list[int] = []

    def signalled(*arguments: Any) -> Any:
        calls.append(1)
        if wanted and len(calls) % 5 == 0:
            os.kill(os.getpid(), wanted.pop())
        return validated(*arguments)

    monkeypatch.setattr(finetune, "_validated", signalled)
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        wanted.append(number)
        stopped = call(planted, tmp_path / "report")
        assert isinstance(stopped.exception, InterruptedRunError)
        assert stopped.exception.exit_code == code
        assert "the same command goes on from there" in str(stopped.exception)
        assert {path.name for path in (tmp_path / "report").iterdir()} == {FOLDER}
        assert signal.getsignal(number) is before[number]
    again = call(planted, tmp_path / "report")
    assert again.exit_code == 0, again.output
    assert "tunings that were kept" in again.stderr
    assert not (tmp_path / "report" / FOLDER).exists()
    assert call(planted, tmp_path / "whole").exit_code == 0
    assert facts(tmp_path / "report") == facts(tmp_path / "whole")


@pytest.mark.slow
def test_killed_at_any_operation_on_its_files_it_ends_at_the_same_report(
    planted, memory_folder: Path, always: None, children
) -> None:
    config = planted.config(protocol="probe", num_seeds=1, max_epochs=1).model_copy(update={"bootstrap": 0})
    subject = open_subject(config)
    whole = evaluate_function(config, subject, threads=1).report.model_dump(mode="json", exclude={"provenance"})

    def run(folder: Path) -> Callable[[], object]:
        return lambda: evaluate_function(config, subject, threads=1, report_dir=folder)

    number = 1
    killed = 0
    while True:
        folder = memory_folder / str(number)
        code = children.run_to_operation(number, run(folder), below=folder)
        if code == 0:
            break
        assert code == children.KILLED
        killed += 1
        report = evaluate_function(config, subject, threads=1, report_dir=folder).report
        assert report.model_dump(mode="json", exclude={"provenance"}) == whole
        number += 5
    assert killed > 6
    remove_tunings(folder)
    assert not (folder / FOLDER).exists()


@pytest.mark.slow
def test_a_full_disk_is_said_and_what_was_kept_is_safe(planted, memory_folder: Path, always: None, children) -> None:
    config = planted.config(protocol="probe", num_seeds=1, max_epochs=1).model_copy(update={"bootstrap": 0})
    subject = open_subject(config)
    whole = tune_rows(config, subject)
    full = 0
    for number in (1, 2, 5, 9, 20, 31):
        folder = memory_folder / f"full-{number}"
        code = children.run_to_operation(
            number, lambda folder=folder: tune_rows(config, subject, report_dir=folder), below=folder, disk_full=True
        )
        full += code == children.DISK_FULL
        assert same(whole, tune_rows(config, subject, report_dir=folder))
    assert full >= 4


def test_a_folder_with_tunings_and_no_page_is_gone_on_with(tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir()
    check_folder(tmp_path, overwrite=False)
    (tmp_path / "report.json").touch()  # killed while the report was written
    check_folder(tmp_path, overwrite=False)
    (tmp_path / "report.html").touch()
    with pytest.raises(UsageError, match="already holds a report"):
        check_folder(tmp_path, overwrite=False)
    check_folder(tmp_path, overwrite=True)


def test_nothing_is_kept_without_a_folder(config: FunctionConfig, subject: Subject, monkeypatch) -> None:
    monkeypatch.setattr(tuned_rows, "Tunings", None)
    tune_rows(config, subject)
