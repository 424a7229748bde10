"""What a worker is given, what it gives back, and what it finds out before it begins."""

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import amma
from amma.featurize.run import featurize
from amma.featurize.store.ledger import commit, committed_units
from amma.featurize.store.settings import StoreSettings
from amma.featurize.store.stopping import InterruptedRunError
from amma.featurize.workers import worker
from amma.featurize.workers.recipe import Recipe
from amma.featurize.workers.task import Job, UnitTask, place
from amma.manifests.errors import StoreError
from amma.manifests.table import Manifest

SMALL = StoreSettings(shard_rows=64, chunk_rows=8, token_budget=60, threads=1)
WriteProteins = Callable[..., Manifest]
Encoders = Callable[[], Any]
Tree = Callable[[Path], dict[str, str]]
Crewed = Callable[..., dict[str, Any]]

pytestmark = pytest.mark.usefixtures("workers_find_the_encoders")


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
