"""Function prediction from end to end: read a task, tune and score every row of the table, write the report.

Shapes: N proteins of the test split, K terms.
"""

import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Float64

from amma.evaluate.config import FunctionConfig
from amma.evaluate.controls.baselines import label_frequency, untrained_models
from amma.evaluate.controls.kmers import nearest_neighbour_scores
from amma.evaluate.controls.leakage import find_leakage
from amma.evaluate.metrics.bootstrap import LEVEL, draw_resamples
from amma.evaluate.report.results import (
    Inputs,
    IntervalFacts,
    Provenance,
    Report,
)
from amma.evaluate.report.rows import Scorer
from amma.evaluate.report.task_facts import task_facts
from amma.evaluate.subject import Subject
from amma.evaluate.tasks.task import Split, Task
from amma.evaluate.tuning.finetune import Bench, Fit, Start
from amma.evaluate.tuning.pooled import PooledInputs
from amma.evaluate.tuning.protocol import Outcome, SeedRun, num_epochs_at_most, run_protocol
from amma.featurize.store.reader import FeatureStore
from amma.manifests.console import progress, say
from amma.manifests.files import sha256_of_file
from amma.manifests.labels import SPLITS, split_paths
from amma.train.run.arithmetic import arithmetic
from amma.train.run.checkpoint import LoadedModel

PACKAGES = ("amma", "numpy", "torch", "plotly", "pyarrow", "pydantic", "scikit-learn")


@dataclass(frozen=True)
class Evaluation:
    """The report, and the trained model's scores it was computed from."""

    report: Report
    task: Task
    runs: tuple[SeedRun, ...]


def evaluate_function(
    config: FunctionConfig,
    subject: Subject,
    *,
    threads: int | None = None,
    keep: Callable[[Fit], None] = lambda _: None,
) -> Evaluation:
    """Fine-tune, score and compare: the trained model, the same model untrained, and the controls.

    `keep` is handed the trained model as it is tuned with each seed.
    Deterministic: the same numbers for the same inputs, device, number of threads and library versions.
    """
    with arithmetic(threads, torch.device(config.device)) as threads_used:
        return _evaluate(config, subject, threads_used, keep)


def _evaluate(config: FunctionConfig, subject: Subject, threads: int, keep: Callable[[Fit], None]) -> Evaluation:
    started = time.monotonic()
    trained, store, task = subject.trained, subject.store, subject.task
    # First what may fail for reasons outside of this program, then hours of work.
    leakage = find_leakage(task.test, store, trained.seen, search=subject.search, threads=threads)
    device = torch.device(config.device)
    bench = Bench(store, task, config.finetune, device)
    alone = Bench(store, task, config.finetune.head_alone, device)
    pooled = PooledInputs(store, trained.model.standardiser, [task.split(name).rows for name in SPLITS], device=device)
    starts: dict[str, tuple[Callable[[int], Start], Bench]] = {
        "trained": (lambda seed: trained.model, bench),
        "untrained": (untrained_models(trained), bench),
        "pooled inputs": (lambda seed: pooled, alone),
    }
    outcomes: dict[str, Outcome] = {}
    total = sum(num_epochs_at_most(on.config) for _, on in starts.values())
    with progress("fine-tuning", total, unit="epochs") as advance:
        for name, (start, on) in starts.items():
            kept = {"keep": keep} if name == "trained" else {}
            outcomes[name] = run_protocol(start, on, advance=advance, tell=partial(_tell, name), **kept)
    intervals, weight_BN = _resamples(config, subject)
    scorer = Scorer(task, weight_BN)
    rows = (
        *(scorer.tuned(name, outcome) for name, outcome in outcomes.items()),
        scorer.untuned("nearest training sequence", *_nearest(task, store)),
        scorer.untuned("label frequency", *(label_frequency(task, split) for split in (task.valid, task.test))),
    )
    report = Report(
        task=task_facts(config, task, store),
        config=config.finetune,
        inputs=_inputs(config, subject),
        intervals=intervals,
        rows=rows,
        leakage=leakage,
        provenance=_provenance(config, trained, time.monotonic() - started),
    )
    return Evaluation(report, task, outcomes["trained"].runs)


def _resamples(
    config: FunctionConfig, subject: Subject
) -> tuple[IntervalFacts | None, Float64[np.ndarray, "B N"] | None]:
    """Resamples of the test proteins by cluster, and what a reader must know of them; None if not asked for."""
    if not config.bootstrap:
        return None, None
    clusters = subject.clusters
    facts = IntervalFacts(
        level=LEVEL,
        num_resamples=config.bootstrap,
        num_clusters=len(np.unique(clusters.number)),
        largest_cluster=int(np.unique(clusters.number, return_counts=True)[1].max()),
        origin=clusters.origin,
        clusters_sha256=sha256_of_file(Path(config.clusters)) if config.clusters else None,
    )
    return facts, draw_resamples(clusters.number, config.bootstrap)


def _tell(name: str, line: str) -> None:
    say(f"{name}: {line}")


def prediction_blocks(evaluation: Evaluation) -> Iterator[tuple[str, int, Split, Float32[np.ndarray, "N K"]]]:
    """The trained model's probabilities as (split, seed, proteins, scores), in the order of `predictions.parquet`."""
    for name in ("test", "valid"):
        for run in evaluation.runs:
            scores = run.test_NK if name == "test" else run.valid_VK
            yield name, run.trial.seed, evaluation.task.split(name), scores


def _nearest(task: Task, store: FeatureStore) -> list[Float32[np.ndarray, "_ K"]]:
    """Scores of the validation and of the test proteins."""
    sequences = store.sequences()
    train = sequences.take(task.train.rows.tolist())
    asked = sequences.take([*task.valid.rows.tolist(), *task.test.rows.tolist()])
    with progress("nearest sequences", len(asked), unit="proteins") as advance:
        scores = nearest_neighbour_scores(train, task.train.target_NK, asked, advance)
    return np.split(scores, [len(task.valid.rows)])


def _inputs(config: FunctionConfig, subject: Subject) -> Inputs:
    state = subject.trained.state
    return Inputs(
        checkpoint_step=state["step"],
        checkpoint_sha256=state["files"]["model.safetensors"]["sha256"],
        pretraining_stores=tuple(subject.trained.root_hashes),
        store_root_hash=subject.store.root_hash,
        labels_sha256=sha256_of_file(Path(config.labels)),
        splits_sha256={
            name: sha256_of_file(path)
            for name, path in split_paths(Path(config.splits), prefix=config.split_prefix).items()
        },
        random_encoders=subject.store.random_weights or subject.trained.random_weights,
    )


def _provenance(config: FunctionConfig, trained: LoadedModel, seconds: float) -> Provenance:
    return Provenance(
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(seconds, 1),
        versions={"python": platform.python_version(), **{package: version(package) for package in PACKAGES}},
        platform=platform.platform(),
        device=config.device,
        threads=torch.get_num_threads(),
        checkpoint=str(trained.path),
        store=config.store,
        labels=config.labels,
        splits=config.splits,
    )
