"""Function prediction from end to end: read a task, tune and score every row of the table, write the report."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from amma.evaluate.config import FunctionConfig
from amma.evaluate.controls.baselines import label_frequency
from amma.evaluate.controls.leakage import find_leakage
from amma.evaluate.controls.nearest import nearest_training
from amma.evaluate.report.assembly import Rows, assemble
from amma.evaluate.report.calibrated import calibrated
from amma.evaluate.report.predictions import PredictionBlock
from amma.evaluate.report.results import Report
from amma.evaluate.report.scored import Scored
from amma.evaluate.subject import Subject
from amma.evaluate.tasks.task import Task
from amma.evaluate.tuned_rows import tune_rows
from amma.evaluate.tuning.finetune import Fit
from amma.evaluate.tuning.protocol import Outcome, SeedRun
from amma.train.run.arithmetic import arithmetic


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
    report_dir: Path | None = None,
    anew: bool = False,
) -> Evaluation:
    """Fine-tune, score and compare: the trained model, the same model untrained, and the controls.

    `keep` is handed the trained model as it is tuned with each seed. Tunings are kept below `report_dir`, so that the
    same call goes on where it was stopped (with `anew`: unless they are of other settings); who writes the report
    removes them (`remove_tunings`).
    Deterministic: the same numbers for the same inputs, device, number of threads and library versions.
    """
    with arithmetic(threads, torch.device(config.device)) as threads_used:
        tuned = partial(tune_rows, config, subject, keep=keep, report_dir=report_dir, anew=anew)
        return _evaluate(config, subject, threads_used, tuned)


def _evaluate(
    config: FunctionConfig, subject: Subject, threads: int, tuned: Callable[[], dict[str, Outcome]]
) -> Evaluation:
    started = time.monotonic()
    task, store = subject.task, subject.store
    # First what may fail for reasons outside of this program, then hours of work.
    leakage = find_leakage(task.test, store, subject.trained.seen, search=subject.search, threads=threads)
    nearest = nearest_training(task, store, subject.search, threads=threads)
    outcomes = tuned()
    scored = Rows(
        trained=Scored.tuned("trained", outcomes["trained"], task=task),
        untrained=Scored.tuned("untrained", outcomes["untrained"], task=task),
        pooled_inputs=Scored.tuned("pooled inputs", outcomes["pooled inputs"], task=task),
        nearest_sequence=Scored.untuned(
            "nearest training sequence", nearest.valid_VK, nearest.test_NK, task=task, meaning=nearest.meaning
        ),
        label_frequency=Scored.untuned(
            "label frequency", *(label_frequency(task, split) for split in (task.valid, task.test)), task=task
        ),
    )
    report = assemble(config, subject, scored, leakage=leakage, nearest=nearest, started=started)
    return Evaluation(report, task, outcomes["trained"].runs)


def prediction_blocks(evaluation: Evaluation) -> Iterator[PredictionBlock]:
    """The trained model's probabilities in the order of `predictions.parquet`."""
    for name in ("test", "valid"):
        for run, calibration in zip(evaluation.runs, evaluation.report.calibration.runs, strict=True):
            score_NK = run.test_NK if name == "test" else run.valid_VK
            split = evaluation.task.split(name)
            yield PredictionBlock(name, run.trial.seed, split, score_NK, calibrated(score_NK, calibration.fitted))
