"""Any number of local workers gives the bytes of one process, whatever happens to them."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from amma.featurize.run import featurize
from amma.featurize.store.ledger import committed_units
from amma.featurize.store.parts import PARTS_FOLDER
from amma.featurize.store.settings import StoreSettings
from amma.featurize.store.stopping import InterruptedRunError
from amma.featurize.store.verify import verify_store
from amma.featurize.workers import crew as crew_module
from amma.featurize.workers.crew import Crew
from amma.manifests.build import build_manifest
from amma.manifests.errors import StoreError
from amma.manifests.quarantine import read_quarantine
from amma.manifests.table import Manifest
from amma.manifests.toy import write_toy

SMALL = StoreSettings(shard_rows=64, chunk_rows=8, token_budget=60, threads=1)
WriteProteins = Callable[..., Manifest]
Encoders = Callable[[], Any]
Tree = Callable[[Path], dict[str, str]]
Crewed = Callable[..., dict[str, Any]]

pytestmark = pytest.mark.usefixtures("workers_find_the_encoders")


def children() -> list[psutil.Process]:
    """The local workers that runs in this process started."""
    return [child for child in psutil.Process().children() if "--local-directory" in _line(child)]


def _line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@pytest.mark.parametrize("count", [1, 2, 4])
def test_any_number_of_local_workers_gives_the_bytes_of_one_process(
    memory_folder: Path, write_proteins: WriteProteins, fake_encoders: Encoders, tree: Tree, count: int, crewed: Crewed
) -> None:
    manifest = write_proteins(memory_folder, 32)
    whole = featurize(manifest, memory_folder / "whole.zarr", fake_encoders(), SMALL)
    environment = dict(os.environ)
    outcome = featurize(store=memory_folder / "s.zarr", settings=SMALL, **crewed(Crew(local=count), manifest))
    assert (outcome.root, outcome.num_written) == (whole.root, whole.header.num_units)
    assert tree(memory_folder / "s.zarr") == tree(memory_folder / "whole.zarr")
    assert verify_store(memory_folder / "s.zarr").findings == []
    assert not (memory_folder / "s.zarr" / PARTS_FOLDER).exists()
    assert children() == []
    assert dict(os.environ) == environment


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_asked_to_stop_the_units_under_way_are_kept_and_workers_end(
    memory_folder: Path,
    write_proteins: WriteProteins,
    fake_encoders: Encoders,
    tree: Tree,
    number: signal.Signals,
    code: int,
    crewed: Crewed,
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
        featurize(store=store, settings=SMALL, **crewed(Crew(local=1), manifest, seconds=0.1))
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
    memory_folder: Path, write_proteins: WriteProteins, fake_encoders: Encoders, tree: Tree, crewed: Crewed
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
    featurize(store=store, settings=SMALL, **crewed(Crew(local=2), manifest, fatal=fatal, seconds=0.02))
    done.set()
    killer.join()
    assert killed == 20
    assert {line.id for line in read_quarantine(store / "quarantine.jsonl")} == set(fatal)
    featurize(manifest, memory_folder / "whole.zarr", fake_encoders(), SMALL, set_aside=fatal)
    assert tree(store) == tree(memory_folder / "whole.zarr")
    assert verify_store(store).findings == []


@pytest.mark.slow
def test_proteins_that_end_workers_in_company_only_are_not_quarantined_but_said(
    memory_folder: Path, write_proteins: WriteProteins, crewed: Crewed
) -> None:
    manifest = write_proteins(memory_folder, 8, longest=10)
    store = memory_folder / "s.zarr"
    with pytest.raises(StoreError, match=r"unit \d+ ends its workers, though none of its proteins does") as caught:
        featurize(store=store, settings=SMALL, **crewed(Crew(local=2), manifest, together=4))
    assert caught.value.code == "E_CLUSTER"
    assert children() == []
