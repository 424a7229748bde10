"""The report of a function evaluation, put together from the scores of its rows.

Shapes: B resamples, N test proteins.
"""

import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64

from amma.evaluate.config import FunctionConfig
from amma.evaluate.controls.nearest import Nearest
from amma.evaluate.metrics.bootstrap import LEVEL, draw_resamples
from amma.evaluate.report.calibrated import calibration_facts
from amma.evaluate.report.extremes import find_extremes
from amma.evaluate.report.hierarchy import Hierarchy
from amma.evaluate.report.pairs import paired_with
from amma.evaluate.report.pretraining_results import PretrainingFacts
from amma.evaluate.report.results import Inputs, IntervalFacts, Leakage, Provenance, Report
from amma.evaluate.report.rows import Scorer
from amma.evaluate.report.scored import Scored
from amma.evaluate.report.slice_results import IdentitySlices, NearestTraining
from amma.evaluate.report.slices import Slices
from amma.evaluate.report.task_facts import task_facts
from amma.evaluate.report.terms import term_records
from amma.evaluate.subject import Subject
from amma.manifests.console import progress
from amma.manifests.files import sha256_of_file
from amma.manifests.labels import split_paths
from amma.train.run.checkpoint import MODEL

PACKAGES = ("amma", "numpy", "torch", "plotly", "pyarrow", "pydantic", "scikit-learn", "obonet")
DECIMALS = 4


@dataclass(frozen=True)
class Rows:
    """The scores of every row of the table, in its order."""

    trained: Scored
    untrained: Scored
    pooled_inputs: Scored
    nearest_sequence: Scored
    label_frequency: Scored

    def __iter__(self) -> Iterator[Scored]:
        return (getattr(self, each.name) for each in fields(self))


def assemble(
    config: FunctionConfig, subject: Subject, scored: Rows, *, leakage: Leakage, nearest: Nearest, started: float
) -> Report:
    """Every figure of the report; `started` is `time.monotonic()` of the beginning."""
    task = subject.task
    target_NK = task.test.target_NK
    length_N = [len(sequence) for sequence in subject.store.sequences().take(task.test.rows.tolist())]
    if subject.listed is None:
        by_identity, method = Slices.by_identity(nearest.identity_N, target_NK), nearest.method
    else:
        by_identity = Slices.listed(subject.listed, task.test.ids, target_NK)
        method = f"the list {Path(config.identity_cutoffs or '').name}"
    by_length = Slices.by_length(np.array(length_N, dtype=np.int64), target_NK)
    hierarchy = None if subject.ontology is None else Hierarchy(task, subject.ontology, config.cafa_tau_step)
    intervals, weight_BN = _resamples(config, subject)
    scorer = Scorer(task, weight_BN, by_identity, by_length, hierarchy)
    trained, *others = scored
    with progress("figures", 2 * len(others) + 1, unit="tables") as advance:
        rows = []
        for each in scored:
            rows.append(scorer.row(each))
            advance(1)
        paired = paired_with(trained, others, task, subject.clusters, num_resamples=config.bootstrap, advance=advance)
    return Report(
        task=task_facts(config, subject),
        config=config.finetune,
        inputs=_inputs(config, subject),
        pretraining=PretrainingFacts.of(subject.trained),
        intervals=intervals,
        rows=tuple(rows),
        paired=paired,
        cafa=hierarchy.facts() if hierarchy else None,
        identity=IdentitySlices(
            method=method,
            slices=by_identity.facts,
            nearest_method=nearest.method,
            nearest=tuple(_nearest(subject, nearest)),
        ),
        lengths=by_length.facts,
        terms=term_records(
            task,
            subject.names,
            trained=trained,
            untrained=scored.untrained,
            label_frequency=scored.label_frequency,
        ),
        calibration=calibration_facts(task, trained),
        extremes=find_extremes(
            task,
            subject.names,
            trained=trained,
            untrained=scored.untrained,
            length_N=length_N,
            identity_N=nearest.identity_N,
        ),
        leakage=leakage,
        included=subject.included,
        provenance=_provenance(config, subject, time.monotonic() - started),
    )


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


def _nearest(subject: Subject, nearest: Nearest) -> Iterator[NearestTraining]:
    train = subject.task.train.ids
    for identifier, identity, place in zip(
        subject.task.test.ids, nearest.identity_N.tolist(), nearest.place_N.tolist(), strict=True
    ):
        yield NearestTraining(
            id=identifier, identity=round(identity, DECIMALS), training=None if place < 0 else train[place]
        )


def _inputs(config: FunctionConfig, subject: Subject) -> Inputs:
    state = subject.trained.state
    return Inputs(
        checkpoint_step=state["step"],
        checkpoint_sha256=state["files"][MODEL]["sha256"],
        pretraining_stores=tuple(subject.trained.root_hashes),
        store_root_hash=subject.store.root_hash,
        labels_sha256=sha256_of_file(Path(config.labels)),
        splits_sha256={
            name: sha256_of_file(path)
            for name, path in split_paths(Path(config.splits), prefix=config.split_prefix).items()
        },
        identity_cutoffs_sha256=sha256_of_file(Path(config.identity_cutoffs)) if config.identity_cutoffs else None,
        term_names_sha256=sha256_of_file(Path(config.term_names)) if config.term_names else None,
        random_encoders=subject.store.random_weights or subject.trained.random_weights,
    )


def _provenance(config: FunctionConfig, subject: Subject, seconds: float) -> Provenance:
    return Provenance(
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(seconds, 1),
        versions={"python": platform.python_version(), **{package: version(package) for package in PACKAGES}},
        platform=platform.platform(),
        device=config.device,
        threads=torch.get_num_threads(),
        checkpoint=str(subject.trained.path),
        store=config.store,
        labels=config.labels,
        splits=config.splits,
        ontology=config.ontology,
        included=config.include,
    )
