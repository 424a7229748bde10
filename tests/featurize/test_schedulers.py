"""The workers of a scheduler that others started give the bytes of one process, or say why not."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from amma.featurize.run import featurize, featurize_part
from amma.featurize.store.ledger import committed_units
from amma.featurize.store.parts import Part
from amma.featurize.store.settings import StoreSettings
from amma.featurize.workers.cluster import ClusterWriter
from amma.featurize.workers.crew import Crew, parse_resources
from amma.featurize.workers.part import seal_parts
from amma.featurize.workers.recipe import Recipe
from amma.manifests.errors import FingerprintError, StoreError, UsageError
from amma.manifests.table import Manifest

HERE = Path(__file__).parent
SMALL = StoreSettings(shard_rows=64, chunk_rows=8, token_budget=60, threads=1)
WriteProteins = Callable[..., Manifest]
Encoders = Callable[[], Any]
Tree = Callable[[Path], dict[str, str]]
Crewed = Callable[..., dict[str, Any]]

pytestmark = pytest.mark.usefixtures("workers_find_the_encoders")


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


def test_the_workers_of_a_scheduler_that_is_there_do_the_same(
    memory_folder: Path,
    write_proteins: WriteProteins,
    fake_encoders: Encoders,
    tree: Tree,
    cluster: Path,
    crewed: Crewed,
) -> None:
    manifest = write_proteins(memory_folder, 32)
    featurize(manifest, memory_folder / "whole.zarr", fake_encoders(), SMALL, set_aside=["p7"])
    for name, resources in {"s.zarr": {}, "t.zarr": {"GPU": 1.0}}.items():
        crew = Crew(scheduler=str(cluster), resources=resources)
        featurize(store=memory_folder / name, set_aside=["p7"], settings=SMALL, **crewed(crew, manifest))
        assert tree(memory_folder / name) == tree(memory_folder / "whole.zarr")


def test_a_part_may_have_workers_too(
    memory_folder: Path,
    write_proteins: WriteProteins,
    fake_encoders: Encoders,
    tree: Tree,
    cluster: Path,
    crewed: Crewed,
) -> None:
    manifest = write_proteins(memory_folder)
    featurize(manifest, memory_folder / "whole.zarr", fake_encoders(), SMALL)
    store = memory_folder / "s.zarr"
    featurize_part(store=store, part=Part(1, 2), settings=SMALL, **crewed(Crew(scheduler=str(cluster)), manifest))
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


def test_where_nobody_answers_is_said_in_one_line(
    memory_folder: Path, write_proteins: WriteProteins, crewed: Crewed
) -> None:
    manifest = write_proteins(memory_folder)
    for address in ("tcp://127.0.0.1:9", "nowhere", "tcp://"):
        crew = Crew(scheduler=address, connect_seconds=1.0)
        with pytest.raises(StoreError, match="no dask scheduler answers at") as caught:
            featurize(store=memory_folder / "s.zarr", settings=SMALL, **crewed(crew, manifest))
        assert caught.value.code == "E_CLUSTER"
        assert address in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_scheduler_that_dies_ends_the_run_in_one_line_and_another_goes_on(
    memory_folder: Path, write_proteins: WriteProteins, fake_encoders: Encoders, tree: Tree, crewed: Crewed
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
            featurize(store=store, settings=SMALL, **crewed(crew, manifest, seconds=0.1))
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


def test_resources_are_names_and_amounts() -> None:
    assert parse_resources(["GPU=1", "memory=2.5"]) == {"GPU": 1.0, "memory": 2.5}
    for wrong in ("GPU", "=1", "GPU=", "GPU=one", "GPU=0", "GPU=-1"):
        with pytest.raises(UsageError, match="expected NAME=AMOUNT"):
            parse_resources([wrong])
