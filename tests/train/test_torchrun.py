"""`torchrun` with four processes, as on a cluster: one is killed, all are asked to stop, and the run goes on."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from amma.train.run.checkpoint import Checkpoints
from amma.train.run.log import read_log

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds the processes of a run in /proc"),
]

LAST = 120
PROGRAM = str(Path(sys.executable).with_name("amma-train"))
OPTIONS = [
    "--preset=tiny",
    "--device=cpu",
    "--threads=1",
    "--validation-fraction=0",
    "--epochs=99",
    "--max-steps",
    LAST,
]
OPTIONS += ["--checkpoint-every=10", "--weight=triplet=1", "--mixing=sum", "--batch-size=6"]


def command(store: Path, run_dir: Path, *, processes: int = 4) -> list[str]:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes]
    return [str(word) for word in [*torchrun, "--no-python", PROGRAM, "pretrain", store, run_dir, *OPTIONS]]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def run(store: Path, run_dir: Path, *, processes: int = 4) -> str:
    """What a run that comes to its end says."""
    ended = subprocess.run(
        command(store, run_dir, processes=processes), env=environment(), capture_output=True, text=True, timeout=110
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stderr


@contextmanager
def started(store: Path, run_dir: Path, *, steps: int) -> Iterator[tuple["subprocess.Popen[str]", dict[int, int]]]:
    """A run that has taken so many steps, and the ids of its processes by rank."""
    said = run_dir.with_suffix(".said").open("w+")
    with subprocess.Popen(command(store, run_dir), env=environment(), stderr=said, stdout=said, text=True) as job:
        try:
            until = time.monotonic() + 100
            log = run_dir / "log.jsonl"
            while not log.exists() or len(read_log(log)) <= steps:
                assert job.poll() is None
                assert time.monotonic() < until
                time.sleep(0.05)
            yield job, ranks_below(job.pid)
        finally:
            job.kill()
            job.wait()


def ranks_below(parent: int) -> dict[int, int]:
    found = {}
    for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        fields = Path(f"/proc/{child}/environ").read_text().split("\0")
        (rank,) = (field.removeprefix("RANK=") for field in fields if field.startswith("RANK="))
        found[int(rank)] = int(child)
    return found


def result(run_dir: Path) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """The log without its clock, and every number of the newest checkpoint."""
    newest = Checkpoints(run_dir).newest_first()[0]
    assert newest.name == f"step-{LAST:08d}"
    files = [load_file(newest / name) for name in ("model.safetensors", "training.safetensors")]
    log = [{k: v for k, v in line.items() if k != "timing"} for line in read_log(run_dir / "log.jsonl")]
    return log, {name: tensor.numpy().tobytes() for file in files for name, tensor in file.items()}


@pytest.fixture(scope="module")
def straight(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("torchrun") / "straight"
    said = run(store, run_dir)
    assert said.count("measuring channels: 40/40") == 1  # one of four speaks
    return run_dir


def test_a_killed_process_ends_the_run_within_a_minute_and_it_goes_on_to_the_bit(
    store: Path, straight: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    with started(store, run_dir, steps=45) as (job, processes):
        os.kill(processes[2], signal.SIGKILL)
        killed = time.monotonic()
        assert job.wait(timeout=60) != 0
        assert time.monotonic() - killed < 60
    said = (tmp_path / "run.said").read_text()
    assert "error E_RANK: process 0 of 4" in said
    found = Checkpoints(run_dir).load_newest()
    assert found is not None
    assert 30 <= found[1].state["step"] < LAST
    assert f"going on at step {found[1].state['step']} of {LAST}" in run(store, run_dir)
    assert result(run_dir) == result(straight)


@pytest.mark.parametrize("to", ["everybody", "one"])
def test_a_run_that_is_asked_to_stop_saves_ends_and_goes_on_to_the_bit(
    to: str, store: Path, straight: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    with started(store, run_dir, steps=25) as (job, processes):
        asked = {"everybody": [job.pid, *processes.values()], "one": [processes[3]]}[to]
        for process in asked:
            os.kill(process, signal.SIGTERM)
        assert job.wait(timeout=60) != 0
    said = (tmp_path / "run.said").read_text()
    found = Checkpoints(run_dir).load_newest()
    assert found is not None
    step = found[1].state["step"]
    assert f"stopped at step {step} of {LAST}; the same command goes on from there" in said
    assert "E_RANK" not in said
    logged = [line["step"] for line in read_log(run_dir / "log.jsonl") if line["kind"] == "step"]
    assert logged == list(range(step))
    run(store, run_dir)
    assert result(run_dir) == result(straight)


def test_a_run_goes_on_with_another_number_of_processes_with_the_same_proteins(
    store: Path, straight: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    with started(store, run_dir, steps=25) as (job, _):
        job.terminate()
        job.wait(timeout=60)
    said = run(store, run_dir, processes=2)
    assert (
        "before: cpu, 1 threads, 4 processes; now: cpu, 1 threads, 2 processes: the same run, but for rounding" in said
    )
    ours, theirs = result(run_dir)[0], result(straight)[0]
    assert [line.get("drawn") for line in ours] == [line.get("drawn") for line in theirs]
    for one, other in zip(ours[1:], theirs[1:], strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-3)
