"""Finished reports that are to stand in one table: opened, and refused where they cannot."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pydantic import ValidationError

from amma.evaluate.report.folder import JSON
from amma.evaluate.report.pretraining_results import PretrainingFacts
from amma.evaluate.report.results import Report, read_report
from amma.manifests.errors import InputError, UsageError
from amma.manifests.files import sha256_of_file

Tuning = tuple[str, str, str | None, str, int | None]
"""Protocol, readout, what is tuned, what is visible, masks: figures of different ones do not belong in one table."""
Setting = tuple[tuple[tuple[str, str], ...], tuple[str, ...], bool]
"""What a model was pretrained with but for seeds: settings, stores, and whether it began with another one's weights."""


@dataclass(frozen=True)
class Finished:
    """A report of `amma-eval function` and where it lies."""

    folder: Path
    sha256: str
    report: Report
    pretraining: PretrainingFacts

    @property
    def tuning(self) -> Tuning:
        """How its models were tuned and read out."""
        config = self.report.config
        return config.protocol, config.readout, config.tune, config.visible, config.draws

    @property
    def seeds(self) -> tuple[int, int, str | None]:
        """What tells it from other pretrainings of its setting; models that it began with have seeds of their own."""
        facts = self.pretraining
        return facts.seed, facts.subset_seed, facts.began_with

    @property
    def setting(self) -> Setting:
        """What its model was pretrained with."""
        facts = self.pretraining
        return (
            tuple(sorted(facts.settings.items())),
            self.report.inputs.pretraining_stores,
            facts.began_with is not None,
        )


def read_finished(folder: Path) -> Finished:
    """Open a report. Raises `InputError` if it is none, of another version, or does not tell of the pretraining."""
    path = folder / JSON
    try:
        report = read_report(path)
    except ValidationError as error:
        fault = next(Report.faults(error))
        raise InputError(f"{path}: not as this amma writes it ({fault}). Run amma-eval function again.") from error
    if report.pretraining is None:
        raise InputError(
            f"{path}: does not tell how its model was pretrained, so its row cannot be found. It was written before "
            "reports told (version 2.0), or of a checkpoint that does not: run amma-eval function again."
        )
    return Finished(folder, sha256_of_file(path), report, report.pretraining)


def check_together(finished: Sequence[Finished]) -> None:
    """Raise `UsageError` that names everything in which reports differ that must be the same in one table.

    Within a task: labels, splits, what becomes of proteins without a label, and the test proteins. Everywhere: the
    encoders. No two reports may be of the same pretraining run and task: one of them would count twice.
    """
    wrong = list(_faults("encoders (sha256)", finished, lambda each: each.pretraining.encoders_sha256))
    by_task: dict[str, list[Finished]] = defaultdict(list)
    for each in finished:
        by_task[each.report.task.name].append(each)
    same: dict[str, Callable[[Finished], object]] = {
        "labels (sha256)": lambda each: each.report.inputs.labels_sha256,
        "unlabelled": lambda each: each.report.task.unlabelled,
        "test proteins": lambda each: each.report.task.test.num_proteins,
        "true terms of test proteins": lambda each: each.report.task.test.num_pairs,
        "terms": lambda each: each.report.task.num_terms,
    }
    for task, reports in by_task.items():
        for what, of in same.items():
            wrong += _faults(f"task {task}: {what}", reports, of)
        for split in ("train", "valid", "test"):
            wrong += _faults(f"task {task}: {split} split (sha256)", reports, partial(_split_hash, split))
    if wrong:
        raise UsageError(
            "these reports cannot be in one table: "
            + "; ".join(wrong)
            + ". Evaluate all models on the same labels, splits and encoders, or leave the others out."
        )
    seen: dict[object, Finished] = {}
    for each in finished:
        key = (each.tuning, each.report.task.name, each.setting, each.seeds)
        if (before := seen.setdefault(key, each)) is not each:
            raise UsageError(
                f"{before.folder} and {each.folder} are of the same task and the same pretraining (settings, stores "
                f"and seed {each.pretraining.seed}), tuned the same way; one would count twice. Leave one of them out."
            )


def _split_hash(split: str, finished: Finished) -> str | None:
    return finished.report.inputs.splits_sha256.get(split)


def _faults(what: str, finished: Sequence[Finished], of: Callable[[Finished], object]) -> list[str]:
    """One line if reports differ in `of`: the first two that do, with what each has."""
    first = finished[0]
    other = next((each for each in finished if of(each) != of(first)), None)
    return [] if other is None else [f"{what}: {of(first)} in {first.folder}, {of(other)} in {other.folder}"]
