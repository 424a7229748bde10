"""Processes that are killed, stopped, or simply end: the same command again goes on to the bit.

Importing takes longer than a tiny run. So `amma-train` runs as a user starts it where that is what is tested, and where
it dies many times it is forked from a process that has imported everything.
"""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from noted_run import pretrain_and_note

from amma.manifests.files import sha256_of_file
from amma.train.run.checkpoint import MODEL, TRAINING, Checkpoints
from amma.train.run.config import RunConfig
from amma.train.run.log import read_log

pytestmark = pytest.mark.slow

Make = Callable[..., RunConfig]
COMMAND = [sys.executable, "-P", "-c", "from amma.train.cli import main; main()", "pretrain"]
WAIT = 180


def wake() -> None:
    """In a child, before anything else: an interruption is one, also where tests run in the background of a shell."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


class Commands:
    """`amma-train pretrain` on the small store with the preset `tiny`, nine or ten steps an epoch."""

    def __init__(self, store: Path, folder: Path) -> None:
        clusters = folder / "clusters.tsv"  # so that no process asks another program for them
        clusters.write_text("".join(f"P{number}\tcluster {number // 2}\n" for number in range(42)))
        self._store = store
        self._folder = folder
        self._options = ["--preset", "tiny", "--epochs", "100", "--threads", "1", "--device", "cpu", "--lr", "1e-3"]
        self._options += ["--lr-step-epochs", "1", "--modality-dropout", "0.3", "--clusters", str(clusters)]

    def start(self, name: str, *options: object) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*COMMAND, str(self._store), str(self._folder / name), *self._options, *map(str, options)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=wake,
        )

    def run(self, name: str, *options: object) -> str:
        """To its end, which must be a good one; what it said."""
        process = self.start(name, *options)
        _, said = process.communicate(timeout=WAIT)
        assert process.returncode == 0, said.decode()
        return said.decode()


@pytest.fixture
def commands(store: Path, tmp_path: Path) -> Commands:
    return Commands(store, tmp_path)


def lines(run_dir: Path) -> list[dict[str, Any]]:
    """The log without what depends on the clock."""
    return [{key: value for key, value in line.items() if key != "timing"} for line in read_log(run_dir / "log.jsonl")]


def numbers(run_dir: Path) -> dict[str, str]:
    """The hashes of the newest checkpoint's weights and optimizer."""
    newest = Checkpoints(run_dir).newest_first()[0]
    return {f"{newest.name}/{name}": sha256_of_file(newest / name) for name in (MODEL, TRAINING)}


def steps_logged(run_dir: Path) -> int:
    """Steps, or a few more: every line counts."""
    log = run_dir / "log.jsonl"
    return log.read_bytes().count(b'"kind": "step"') if log.exists() else 0


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + WAIT
    while not condition() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.002)
    assert condition(), process.communicate()[1].decode()


def test_processes_that_end_at_any_step_give_the_run_of_one_process(commands: Commands, tmp_path: Path) -> None:
    commands.run("whole", "--max-steps", 23)
    stops = [1, 8, 9, 11, 18, 23]
    for before, stop in zip([0, *stops], stops, strict=False):
        said = commands.run("parts", "--max-steps", stop)
        assert (f"going on at step {before} of {stop}" in said) == bool(before)
    assert lines(tmp_path / "parts") == lines(tmp_path / "whole")
    assert numbers(tmp_path / "parts") == numbers(tmp_path / "whole")


SLOW_STEPS = ("--batch-size", 150, "--checkpoint-every", 1000)
"""One is still being computed when a second signal comes."""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_step_that_it_came_in_and_saves_it(
    number: signal.Signals, code: int, commands: Commands, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    process = commands.start("run", *SLOW_STEPS, "--json")
    wait_for(lambda: steps_logged(run_dir) >= 1, process)
    process.send_signal(number)
    shown, said = process.communicate(timeout=WAIT)
    assert process.returncode == code, said.decode()
    assert b"finishing this step and saving" in said
    assert b"the same command goes on from there" in said
    step = steps_logged(run_dir)
    assert json.loads(shown)["step"] == step
    assert Checkpoints(run_dir).newest_first()[0].name == f"step-{step:08d}"


def test_a_second_signal_ends_at_once_and_what_was_saved_before_is_whole(commands: Commands, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    process = commands.start("run", *SLOW_STEPS)
    wait_for(lambda: steps_logged(run_dir) >= 1, process)
    assert process.stderr is not None
    process.send_signal(signal.SIGTERM)
    while not process.stderr.readline().startswith(b"finishing this step"):
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=WAIT) == -signal.SIGTERM  # not 143: it saved nothing and said nothing any more
    _, said = process.communicate()
    assert b"the same command goes on from there" not in said
    found = Checkpoints(run_dir).load_newest()
    assert found is not None
    step = found[1].state["step"]
    commands.run("run", *SLOW_STEPS, "--max-steps", step + 1)
    assert [line["step"] for line in lines(run_dir) if line["kind"] == "step"] == list(range(step + 1))


@pytest.fixture(scope="module")
def forks() -> ForkServerContext:
    """Makes processes that need not import torch again."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["amma.train.run.loop"])
    return context


def ids_noted(notes: Path) -> dict[int, set[str]]:
    """The ids of each step's proteins, of every time that it was taken; a last line may be cut short."""
    found: dict[int, set[str]] = {}
    for line in notes.read_text().splitlines():
        step, _, ids = line.partition(" ")
        found.setdefault(int(step), set()).add(ids)
    return found


def test_after_30_kills_at_any_moment_the_run_is_that_of_a_process_that_was_not_killed(
    forks: ForkServerContext, config: Make, tmp_path: Path
) -> None:
    rng = random.Random(11)
    optimizer = {"lr": 1e-3, "lr_step_epochs": 1, "lr_gamma": 0.9}
    mask = {"visible_tokens": 12, "modality_dropout": 0.3}
    settings = config(optimizer=optimizer, mask=mask, epochs=100, max_steps=400, checkpoint_every=2)
    run_dir, notes = tmp_path / "run", tmp_path / "run.ids"

    def start(name: str) -> BaseProcess:
        process = forks.Process(target=pretrain_and_note, args=(settings, tmp_path / name, tmp_path / f"{name}.ids"))
        process.start()
        return process

    whole = start("whole")
    whole.join(WAIT)
    assert whole.exitcode == 0
    reached: list[int] = []
    while len(reached) < 30:
        process = start("run")
        before = steps_logged(run_dir)
        began, seconds, steps = time.monotonic(), rng.uniform(0, 0.7), rng.randint(1, 7)
        by_time = rng.random() < 0.3  # also before the first step, and while a checkpoint is being read
        while (time.monotonic() - began < seconds) if by_time else (steps_logged(run_dir) < before + steps):
            assert time.monotonic() - began < WAIT
            assert process.is_alive(), "it came to its end before it was killed 30 times"
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.03))
        process.kill()
        process.join(WAIT)
        assert process.exitcode == -signal.SIGKILL
        reached.append(steps_logged(run_dir))
    assert len(set(reached)) > 15
    last = start("run")
    last.join(WAIT)
    assert last.exitcode == 0
    assert lines(run_dir) == lines(tmp_path / "whole")
    assert numbers(run_dir) == numbers(tmp_path / "whole")
    noted = ids_noted(notes)
    assert noted == ids_noted(tmp_path / "whole.ids")
    assert sorted(noted) == list(range(400))
