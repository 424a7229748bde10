"""Any number of workers gives the bytes of one process, whatever happens to the workers."""

import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

import amma
from amma.featurize.run import featurize, featurize_part
from amma.featurize.store.ledger import commit, committed_units
from amma.featurize.store.parts import PARTS_FOLDER, Part
from amma.featurize.store.settings import StoreSettings
from amma.featurize.store.stopping import InterruptedRunError
from amma.featurize.store.verify import verify_store
from amma.featurize.workers import crew as crew_module
from amma.featurize.workers import worker
from amma.featurize.workers.cluster import ClusterWriter
from amma.featurize.workers.crew import Crew, parse_resources
from amma.featurize.workers.part import seal_parts
from amma.featurize.workers.recipe import Recipe
from amma.featurize.workers.task import Job, UnitTask, place
from amma.manifests.build import build_manifest
from amma.manifests.errors import FingerprintError, StoreError, UsageError
from amma.manifests.quarantine import read_quarantine
from amma.manifests.table import Manifest
from amma.manifests.toy import write_toy

HERE = Path(__file__).parent
SMALL = StoreSettings(shard_rows=64, chunk_rows=8, token_budget=60, threads=1)
WriteProteins = Callable[..., Manifest]
Encoders = Callable[[], Any]
Tree = Callable[[Path], dict[str, str]]


@pytest.fixture(autouse=True)
def workers_find_the_encoders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    monkeypatch.syspath_prepend(HERE)


def crewed(crew: Crew, manifest: Manifest, **arguments: Any) -> dict[str, Any]:
    """The arguments of `featurize` that have a crew encode with the encoders of `cluster_encoders`."""
    recipe = Recipe("cluster_encoders:build", arguments)
    return {
        "manifest": manifest,
        "encoders": recipe.build(),
        "settings": SMALL,
        "write_units": ClusterWriter(crew, manifest.path, recipe),
    }


def children() -> list[psutil.Process]:
    """The local workers that runs in this process started."""
    return [child for child in psutil.Process().children() if "--local-directory" in _line(child)]


def _line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A scheduler and a worker of two threads that others started; gives the scheduler's file."""
    folder = tmp_path_factory.mktemp("cluster")
    file = folder / "scheduler.json"
    environment = {**os.environ, "PYTHONPATH": str(HERE)}
    common = ["--scheduler-file", str(file)]
    commands = [
        ["dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", *common],
        ["dask_worker", "--host", "127.0.0.1", "--no-nanny", "--nthreads", "2", "--resources", "GPU=1", *common],
    ]
    processes = []
    for command in commands:
        program = [sys.executable, "-P", "-m", f"distributed.cli.{command[0]}", *command[1:]]
        processes.append(subprocess.Popen(program, env=environment, cwd=folder, stderr=subprocess.DEVNULL))
        until = time.monotonic() + 60
        while not file.exists() and time.monotonic() < until:
            time.sleep(0.05)
    yield file
    for process in reversed(processes):
        process.kill()
        process.wait()


@pytest.mark.parametrize("count", [1, 2, 4])
def test_any_number_of_local_workers_gives_the_bytes_of_one_process(
    memory_folder: Path, write_proteins: WriteProteins, fake_encoders: Encoders, tree: Tree, count: int
) -> None:
    manifest = write_proteins(memory_folder, 32)
    whole = featurize(manifest, memory_folder / "whole.zarr", fake_encoders(), SMALL)
    environment = dict(os.environ)
    outcome = featurize(store=memory_folder / "s.zarr", **crewed(Crew(local=count), manifest))
    assert (outcome.root, outcome.num_written) == (whole.root, whole.header.num_units)
    assert tree(memory_folder / "s.zarr") == tree(memory_folder / "whole.zarr")
    assert verify_store(memory_folder / "s.zarr").findings == []
    assert not (memory_folder / "s.zarr" / PARTS_FOLDER).exists()
    assert children() == []
    assert dict(os.environ) == environment


def test_the_workers_of_a_scheduler_that_is_there_do_the_same(
    memory_folder: Path, write_proteins: WriteProteins, fake_encoders: Encoders, tree: Tree, cluster: Path
) -> None:
    manifest = write_proteins(memory_folder, 32)
    featurize(manifest, memory_folder / "whole.zarr", fake_encoders(), SMALL, set_aside=["p7"])
    for name, resources in {"s.zarr": {}, "t.zarr": {"GPU": 1.0}}.items():
        crew = Crew(scheduler=str(cluster), resources=resources)
        featurize(store=memory_folder / name, set_aside=["p7"], **crewed(crew, manifest))
        assert tree(memory_folder / name) == tree(memory_folder / "whole.zarr")


def test_a_part_may_have_workers_too(
    memory_folder: Path, write_proteins: WriteProteins, fake_encoders: Encoders, tree: Tree, cluster: Path
) -> None:
    manifest = write_proteins(memory_folder)
    featurize(manifest, memory_folder / "whole.zarr", fake_encoders(), SMALL)
    store = memory_folder / "s.zarr"
    featurize_part(store=store, part=Part(1, 2), **crewed(Crew(scheduler=str(cluster)), manifest))
    featurize_part(manifest, store, fake_encoders(), Part(0, 2), SMALL)
    seal_parts(store)
    assert tree(store) == tree(memory_folder / "whole.zarr")


def test_workers_with_other_encoders_or_without_a_module_are_refused_before_any_unit(
    memory_folder: Path, write_proteins: WriteProteins, fake_encoders: Encoders, cluster: Path
) -> None:
    manifest = write_proteins(memory_folder)
    crew = Crew(scheduler=str(cluster))
    other = ClusterWriter(crew, manifest.path, Recipe("cluster_encoders:build", {"layer": 2}))
    with pytest.raises(FingerprintError, match=r"on a worker.*seq\.layer: 1 -> 2"):
        featurize(manifest, memory_folder / "s.zarr", fake_encoders(), SMALL, write_units=other)
    lacking = ClusterWriter(crew, manifest.path, Recipe("cluster_encoders:of_another_machine"))
    with pytest.raises(StoreError, match="lacks a module") as caught:
        featurize(manifest, memory_folder / "s.zarr", fake_encoders(), SMALL, write_units=lacking)
    assert caught.value.code == "E_CLUSTER"
    assert committed_units(memory_folder / "s.zarr") == []


def test_where_nobody_answers_is_said_in_one_line(memory_folder: Path, write_proteins: WriteProteins) -> None:
    manifest = write_proteins(memory_folder)
    for address in ("tcp://127.0.0.1:9", "nowhere", "tcp://"):
        crew = Crew(scheduler=address, connect_seconds=1.0)
        with pytest.raises(StoreError, match="no dask scheduler answers at") as caught:
            featurize(store=memory_folder / "s.zarr", **crewed(crew, manifest))
        assert caught.value.code == "E_CLUSTER"
        assert address in str(caught.value)
        assert "\n" not in str(caught.value)


def jobs_of(store: Path, manifest: Manifest, encoders: Any) -> tuple[Job, list[UnitTask], dict[str, bytes]]:
    """What a run sends to workers: the job and all units, of a store that is begun and has no unit."""
    seen: list[Any] = []

    def look(work: Any, origin: Any) -> Any:
        seen.extend((work, origin))
        raise InterruptedRunError("seen")
        yield

    with pytest.raises(InterruptedRunError):
        featurize(manifest, store, encoders, SMALL, write_units=look)
    work, origin = seen
    recipe = Recipe("cluster_encoders:build")
    job = Job(store, work.scratch, manifest.path, recipe, work.header.plan_sha256, amma.__version__)
    plan = work.plan
    tasks = [
        UnitTask.of(plan, unit, origin.proteins(plan, plan.positions(unit)), frozenset())
        for unit in range(plan.num_units)
    ]
    return job, tasks, work.documents


def test_two_workers_that_were_given_the_same_unit_do_not_mix(
    memory_folder: Path, write_proteins: WriteProteins, fake_encoders: Encoders, tree: Tree
) -> None:
    manifest = write_proteins(memory_folder)
    featurize(manifest, memory_folder / "whole.zarr", fake_encoders(), SMALL)
    store = memory_folder / "s.zarr"
    job, tasks, _ = jobs_of(store, manifest, fake_encoders())
    for task in tasks:
        first, second = worker.compute(job, task), worker.compute(job, task)
        assert first.attempt != second.attempt
        assert first.entry == second.entry
        place(store, job.scratch, second)
        commit(store, second.entry)
        # Too late: it finds the unit committed, and takes back what it wrote.
        late = worker.compute(job, task)
        assert not (job.scratch / late.attempt).exists()
        assert (job.scratch / first.attempt).exists()
    outcome = featurize(manifest, store, fake_encoders(), SMALL)
    assert outcome.num_written == 0
    assert tree(store) == tree(memory_folder / "whole.zarr")


def test_tasks_and_receipts_are_of_the_size_of_a_unit_and_hold_no_features(
    memory_folder: Path, write_proteins: WriteProteins, fake_encoders: Encoders
) -> None:
    sizes = {}
    for count in (16, 160):
        manifest = write_proteins(memory_folder / str(count), count)
        job, tasks, _ = jobs_of(memory_folder / f"{count}.zarr", manifest, fake_encoders())
        sizes[count] = max(len(pickle.dumps((job, task))) for task in tasks)
    assert sizes[160] < 1.3 * sizes[16]
    receipt = worker.compute(job, tasks[0])
    seq, _, _ = (job.scratch / receipt.attempt / name for name in sorted(receipt.entry.files) if "features" in name)
    row = seq.read_bytes()[: 8 * 2]
    assert row not in pickle.dumps(receipt)
    assert len(pickle.dumps(receipt)) < 3000


def test_a_worker_that_sees_another_store_or_has_another_version_says_so(
    memory_folder: Path, write_proteins: WriteProteins, fake_encoders: Encoders
) -> None:
    manifest = write_proteins(memory_folder)
    job, _, _ = jobs_of(memory_folder / "s.zarr", manifest, fake_encoders())
    wrong = {
        "does not see the store": replace(job, store=memory_folder / "nowhere.zarr"),
        "sees another store": replace(job, plan_sha256="0" * 64),
        "does not see the manifest": replace(job, manifest=memory_folder / "n.parquet"),
        "has amma": replace(job, version="0.0.0"),
    }
    for words, other in wrong.items():
        with pytest.raises(StoreError, match=words) as caught:
            worker.prepare(other)
        assert caught.value.code == "E_CLUSTER"
    assert worker.prepare(job) == "cpu"


def test_a_worker_that_wrote_elsewhere_is_found_out(
    memory_folder: Path, write_proteins: WriteProteins, fake_encoders: Encoders
) -> None:
    manifest = write_proteins(memory_folder)
    store = memory_folder / "s.zarr"
    job, tasks, _ = jobs_of(store, manifest, fake_encoders())
    receipt = worker.compute(job, tasks[0])
    (job.scratch / receipt.attempt).rename(memory_folder / "on another disk")
    with pytest.raises(StoreError, match="it is not here") as caught:
        place(store, job.scratch, receipt)
    assert caught.value.code == "E_CLUSTER"
    assert committed_units(store) == []


def test_encoders_are_built_once_for_all_units_of_a_job(
    memory_folder: Path, write_proteins: WriteProteins, fake_encoders: Encoders, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = write_proteins(memory_folder)
    job, tasks, _ = jobs_of(memory_folder / "s.zarr", manifest, fake_encoders())
    built: list[Recipe] = []
    original = Recipe.build
    monkeypatch.setattr(Recipe, "build", lambda self: (built.append(self), original(self))[1])
    worker.prepare(replace(job, version=amma.__version__, scratch=memory_folder / "other"))
    for task in tasks:
        worker.compute(job, task)
    assert len(built) == 2  # one for each job


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_asked_to_stop_the_units_under_way_are_kept_and_workers_end(
    memory_folder: Path,
    write_proteins: WriteProteins,
    fake_encoders: Encoders,
    tree: Tree,
    number: signal.Signals,
    code: int,
) -> None:
    manifest = write_proteins(memory_folder)
    store = memory_folder / "s.zarr"

    def signal_after_the_first() -> None:
        until = time.monotonic() + 60
        while not committed_units(store) and time.monotonic() < until:
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    watcher = threading.Thread(target=signal_after_the_first)
    watcher.start()
    with pytest.raises(InterruptedRunError, match=rf"{number.name}; resuming: \d+/\d+ units safe") as caught:
        featurize(store=store, **crewed(Crew(local=1), manifest, seconds=0.1))
    watcher.join()
    assert caught.value.exit_code == code
    assert children() == []
    assert not (store / "lock").exists()
    # Those that were handed out are kept: what is worked on, and the one behind it.
    assert 1 <= len(committed_units(store)) <= 4
    featurize(manifest, store, fake_encoders(), SMALL)
    featurize(manifest, memory_folder / "whole.zarr", fake_encoders(), SMALL)
    assert tree(store) == tree(memory_folder / "whole.zarr")


def test_workers_end_when_the_run_is_killed_and_the_next_one_goes_on(
    memory_folder: Path, write_proteins: WriteProteins, fake_encoders: Encoders, tree: Tree
) -> None:
    manifest = write_proteins(memory_folder)
    store = memory_folder / "s.zarr"
    script = f"""
import sys
from pathlib import Path
from amma.featurize.run import featurize
from amma.featurize.store.settings import StoreSettings
from amma.featurize.workers.cluster import ClusterWriter
from amma.featurize.workers.crew import Crew
from amma.featurize.workers.recipe import Recipe
from amma.manifests.table import Manifest
from amma.manifests.toy import write_toy
manifest, store = Manifest(Path(sys.argv[1])), Path(sys.argv[2])
recipe = Recipe("cluster_encoders:build", {{"seconds": 0.1}})
writer = ClusterWriter(Crew(local=2), manifest.path, recipe)
featurize(manifest, store, recipe.build(), StoreSettings(**{SMALL.model_dump()!r}), write_units=writer)
"""
    run = psutil.Popen([sys.executable, "-c", script, manifest.path, store], stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while not committed_units(store) and time.monotonic() < until:
        time.sleep(0.01)
    workers = run.children()
    run.kill()
    run.wait()
    assert len(workers) == 2
    assert psutil.wait_procs(workers, timeout=30)[1] == []
    outcome = featurize(manifest, store, fake_encoders(), SMALL)
    assert 0 < outcome.num_written < outcome.header.num_units
    featurize(manifest, memory_folder / "whole.zarr", fake_encoders(), SMALL)
    assert tree(store) == tree(memory_folder / "whole.zarr")


def test_local_workers_take_the_gpus_in_turn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    started: list[dict[str, str]] = []

    class Noted(subprocess.Popen[bytes]):
        def __init__(self, command: list[str], env: dict[str, str], **_: object) -> None:
            started.append(env)

    monkeypatch.setattr(subprocess, "Popen", Noted)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-8f2e")
    crew_module._Processes("tcp://127.0.0.1:1", tmp_path, 3, own_gpus=True)
    assert [env["CUDA_VISIBLE_DEVICES"] for env in started] == ["4", "GPU-8f2e", "4"]
    started.clear()
    crew_module._Processes("tcp://127.0.0.1:1", tmp_path, 1, own_gpus=False)
    assert [env["CUDA_VISIBLE_DEVICES"] for env in started] == ["4,GPU-8f2e"]


def test_a_scheduler_that_dies_ends_the_run_in_one_line_and_another_goes_on(
    memory_folder: Path, write_proteins: WriteProteins, fake_encoders: Encoders, tree: Tree
) -> None:
    manifest = write_proteins(memory_folder)
    store = memory_folder / "s.zarr"
    program = [sys.executable, "-P", "-m"]
    options = ["--host", "127.0.0.1", "--scheduler-file", str(memory_folder / "f.json")]
    scheduler = subprocess.Popen(
        [*program, "distributed.cli.dask_scheduler", "--port", "0", "--no-dashboard", *options],
        stderr=subprocess.DEVNULL,
    )
    hired = subprocess.Popen(
        [*program, "distributed.cli.dask_worker", "--no-nanny", "--death-timeout", "5", *options],
        stderr=subprocess.DEVNULL,
        cwd=memory_folder,
    )

    def kill_after_the_first() -> None:
        until = time.monotonic() + 60
        while not committed_units(store) and time.monotonic() < until:
            time.sleep(0.01)
        scheduler.kill()

    while not (memory_folder / "f.json").exists():
        time.sleep(0.05)
    watcher = threading.Thread(target=kill_after_the_first)
    watcher.start()
    crew = Crew(scheduler=str(memory_folder / "f.json"), connect_seconds=20.0)
    try:
        with pytest.raises(StoreError) as caught:
            featurize(store=store, **crewed(crew, manifest, seconds=0.1))
    finally:
        watcher.join()
        for process in (hired, scheduler):
            process.kill()
            process.wait()
    assert caught.value.code == "E_CLUSTER"
    assert "What is committed is safe" in str(caught.value)
    assert committed_units(store)
    featurize(manifest, store, fake_encoders(), SMALL)
    featurize(manifest, memory_folder / "whole.zarr", fake_encoders(), SMALL)
    assert tree(store) == tree(memory_folder / "whole.zarr")


@pytest.mark.slow
def test_real_encoders_give_the_same_bytes_in_workers_as_they_are_typed(tmp_path: Path, tree: Tree) -> None:
    write_toy(tmp_path / "data", proteins=16, seed=1)
    build_manifest(
        sequences=tmp_path / "data" / "sequences.fasta",
        structures=tmp_path / "data" / "structures",
        descriptions=tmp_path / "data" / "descriptions.tsv",
        out=tmp_path / "all.parquet",
    )
    program = str(Path(sys.executable).with_name("amma-featurize"))
    for name, options in {"one.zarr": [], "two.zarr": ["--workers", "2"]}.items():
        common = ["--preset", "tiny", "--device", "cpu", "--threads", "2", "--shard-rows", "512"]
        done = subprocess.run(
            [program, "run", "all.parquet", name, *common, *options],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
    assert tree(tmp_path / "two.zarr") == tree(tmp_path / "one.zarr")


@pytest.mark.slow
def test_20_killed_workers_and_three_deadly_proteins_end_in_the_bytes_of_a_run_without_these_three(
    memory_folder: Path, write_proteins: WriteProteins, fake_encoders: Encoders, tree: Tree
) -> None:
    manifest = write_proteins(memory_folder, 48)
    fatal = ("p3", "p17", "p31")
    store = memory_folder / "s.zarr"
    rng = random.Random(7)
    killed = 0
    done = threading.Event()

    def kill_now_and_then() -> None:
        nonlocal killed
        while killed < 20 and not done.wait(rng.uniform(0.5, 2.0)):
            alive = children()
            if alive:
                rng.choice(alive).kill()
                killed += 1

    killer = threading.Thread(target=kill_now_and_then)
    killer.start()
    featurize(store=store, **crewed(Crew(local=2), manifest, fatal=fatal, seconds=0.02))
    done.set()
    killer.join()
    assert killed == 20
    assert {line.id for line in read_quarantine(store / "quarantine.jsonl")} == set(fatal)
    featurize(manifest, memory_folder / "whole.zarr", fake_encoders(), SMALL, set_aside=fatal)
    assert tree(store) == tree(memory_folder / "whole.zarr")
    assert verify_store(store).findings == []


@pytest.mark.slow
def test_proteins_that_end_workers_in_company_only_are_not_quarantined_but_said(
    memory_folder: Path, write_proteins: WriteProteins
) -> None:
    manifest = write_proteins(memory_folder, 8, longest=10)
    store = memory_folder / "s.zarr"
    with pytest.raises(StoreError, match=r"unit \d+ ends its workers, though none of its proteins does") as caught:
        featurize(store=store, **crewed(Crew(local=2), manifest, together=4))
    assert caught.value.code == "E_CLUSTER"
    assert children() == []


def test_resources_are_names_and_amounts() -> None:
    assert parse_resources(["GPU=1", "memory=2.5"]) == {"GPU": 1.0, "memory": 2.5}
    for wrong in ("GPU", "=1", "GPU=", "GPU=one", "GPU=0", "GPU=-1"):
        with pytest.raises(UsageError, match="expected NAME=AMOUNT"):
            parse_resources([wrong])
