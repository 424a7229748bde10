"""The paper's tables 2, 3, 4 and 6 from finished reports of `amma-eval function`, beside what the paper printed."""

import platform
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from amma.evaluate.analyses.ablation_page import lead_of, sections_of
from amma.evaluate.analyses.ablation_published import Column, PublishedTable, published
from amma.evaluate.analyses.ablation_reports import Finished, Tuning, check_together, read_finished
from amma.evaluate.analyses.ablation_results import (
    CLASSES,
    AblationInputs,
    AblationProvenance,
    AblationReport,
    AblationResults,
    AblationSet,
    AblationTable,
    ReportFacts,
)
from amma.evaluate.analyses.ablation_rows import ROWS, Member, members_of, name_of, rows_of
from amma.evaluate.config import TaskName

PACKAGES = ("amma", "numpy", "pandas", "plotly", "pydantic")
CLASS_TABLE = PublishedTable(title="classes of EC numbers", pretraining="", columns=("Fmax", "AUPR"), means={}, rows={})
"""Not the paper's: it has no such task."""
_CLASS_COLUMNS = (Column("Fmax", TaskName.EC_CLASS, "fmax"), Column("AUPR", TaskName.EC_CLASS, "aupr"))
_ABOUT: dict[str, tuple[str, ...]] = {
    "2": ("model.", "mask.", "objective."),
    "3": ("mix.", "epochs", "stores"),
    "4": ("mask.alpha",),
    "6": ("model.family", "objective."),
    CLASSES: ("model.", "mask.", "objective."),
}
"""What a table is about: settings in which its rows are meant to differ, as keys begin."""


def read_reports(folders: Sequence[Path]) -> list[Finished]:
    """Open reports that can stand in one table; raises `InputError` or `UsageError` that says what is wrong where."""
    finished = [read_finished(folder) for folder in folders]
    check_together(finished)
    return finished


def tabulate(finished: Sequence[Finished]) -> AblationResults:
    """All tables: one set for each way of tuning and reading out."""
    members = [Member(place, each) for place, each in enumerate(finished)]
    by_tuning: dict[Tuning, list[Member]] = {}
    for each in members:
        by_tuning.setdefault(each.finished.tuning, []).append(each)
    sets = tuple(_set(of) for of in by_tuning.values())
    return AblationResults(
        source=published().source,
        mark=published().mark,
        reports=tuple(_facts(each, sets) for each in members),
        sets=sets,
    )


def inputs_of(finished: Sequence[Finished]) -> AblationInputs:
    """What `check_together` found to be the same."""
    by_task = {str(each.report.task.name): each.report.inputs for each in finished}
    return AblationInputs(
        labels_sha256={task: inputs.labels_sha256 for task, inputs in by_task.items()},
        splits_sha256={task: inputs.splits_sha256 for task, inputs in by_task.items()},
        encoders_sha256=finished[0].pretraining.encoders_sha256,
        random_encoders=any(each.report.inputs.random_encoders for each in finished),
    )


def analyse(finished: Sequence[Finished], results: AblationResults, *, started: float) -> AblationReport:
    """The whole report; `started` is `time.monotonic()` of the beginning."""
    folders = tuple(str(each.folder) for each in finished)
    return AblationReport(
        title="Models and ablations beside the paper's",
        lead=lead_of(results),
        config={"reports": folders},
        inputs=inputs_of(finished),
        results=results,
        sections=sections_of(results),
        provenance=AblationProvenance(
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=round(time.monotonic() - started, 1),
            versions={"python": platform.python_version(), **{package: version(package) for package in PACKAGES}},
            platform=platform.platform(),
            reports=folders,
        ),
    )


def _set(members: Sequence[Member]) -> AblationSet:
    tables, without = [], []
    for number in ROWS:
        printed = published().tables[number]
        tasks = {column.task for column in printed.measured}
        named = members_of(number, [each for each in members if each.finished.report.task.name in tasks])
        if named:
            tables.append(_table(number, printed, printed.measured, named))
        else:
            without.append(number)
    classes = [each for each in members if each.finished.report.task.name == TaskName.EC_CLASS]
    if classes:
        named = [(name_of(each.finished), each) for each in classes]
        tables.append(_table(CLASSES, CLASS_TABLE, _CLASS_COLUMNS, named))
    config = members[0].finished.report.config
    return AblationSet(
        protocol=config.protocol,
        readout=config.readout,
        tune=config.tune,
        visible=config.visible,
        draws=config.draws,
        tables=tuple(tables),
        without=tuple(without),
    )


def _table(
    number: str, printed: PublishedTable, columns: Sequence[Column], named: Sequence[tuple[str, Member]]
) -> AblationTable:
    return AblationTable(
        table=number,
        title=printed.title,
        columns=printed.columns,
        rows=tuple(rows_of(named, columns, printed)),
        notes=tuple(_notes(number, [each for _, each in named])),
    )


def _notes(number: str, members: Sequence[Member]) -> Iterator[str]:
    """In what rows differ that the table is not about."""
    different = [
        f"{key} {', '.join(values)}"
        for key, values in _differences([each.finished for each in members])
        if not key.startswith(_ABOUT[number])
    ]
    if different:
        yield f"Pretraining differs between rows in more than what the table is about: {'; '.join(different)}."
    for task in dict.fromkeys(each.finished.report.task.name for each in members):
        reports = [each.finished.report for each in members if each.finished.report.task.name == task]
        tunings = [report.config.model_dump(mode="json", exclude={"num_seeds"}) for report in reports]
        keys = [key for key in tunings[0] if any(one[key] != tunings[0][key] for one in tunings)]
        if keys:
            told = "; ".join(f"{key} {' and '.join(dict.fromkeys(str(one[key]) for one in tunings))}" for key in keys)
            yield f"Task {task} was tuned with different settings: {told}."
        if len({report.inputs.store_root_hash for report in reports}) > 1:
            yield f"Task {task} was evaluated on different stores, of the same encoders and the same test proteins."


def _differences(finished: Sequence[Finished]) -> Iterator[tuple[str, list[str]]]:
    """Settings of pretraining that not all have alike, where all have them, with their values."""
    settings = [
        {**each.pretraining.settings, "stores": ",".join(each.report.inputs.pretraining_stores)} for each in finished
    ]
    for key in settings[0]:
        values = list(dict.fromkeys(one[key] for one in settings if key in one))
        if len(values) > 1 and all(key in one for one in settings):
            yield key, [f"{value[:12]}…" for value in values] if key == "stores" else values


def _facts(member: Member, sets: Sequence[AblationSet]) -> ReportFacts:
    finished = member.finished
    report, facts = finished.report, finished.pretraining
    tables = [
        table.table
        for each in sets
        for table in each.tables
        if any(row.kind == "ours" and member.place in row.reports for row in table.rows)
    ]
    return ReportFacts(
        sha256=finished.sha256,
        checkpoint_sha256=report.inputs.checkpoint_sha256,
        checkpoint_step=report.inputs.checkpoint_step,
        task=TaskName(report.task.name),
        row=name_of(finished),
        protocol=report.config.protocol,
        num_tunings=len(report.row("trained").runs),
        pretraining_seed=facts.seed,
        num_test=report.leakage.num_test,
        num_seen=report.leakage.num_seen,
        tables=tuple(tables),
    )
