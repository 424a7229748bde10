"""Results of an ablation: the paper's tables from finished reports. Every figure here is in percent, as the paper's."""

import json
from typing import Literal

from amma.evaluate.analyses.report import Analysis
from amma.evaluate.config import Protocol, Readout, TaskName, Tune, Visible
from amma.evaluate.report.estimates import Summary
from amma.manifests.settings import Settings

Kind = Literal["ours", "control", "published"]
CLASSES = "EC classes"
"""What the table is called that the paper does not have."""


class Score(Settings):
    """A cell: mean, sample standard deviation and values in percent, exact definition.

    One report: over its tunings. Several reports that differ in the seed of pretraining: over their means. Of a control
    that several reports have: over tunings, each the mean over reports. `over` says which; None if there is one value.
    """

    mean: float
    sd: float | None
    values: tuple[float, ...]
    over: Literal["tunings", "pretrainings"] | None
    num_reports: int

    @staticmethod
    def of(fractions: list[float], *, over: Literal["tunings", "pretrainings"], num_reports: int) -> "Score":
        """From at least one fraction (0 to 1)."""
        summary = Summary.of([100 * value for value in fractions])
        return Score(
            mean=summary.mean,
            sd=summary.sd,
            values=summary.values,
            over=over if len(fractions) > 1 else None,
            num_reports=num_reports,
        )


class AblationRow(Settings):
    """A line of a table.

    `ours` is a pretrained model: `about` says what it was pretrained on. `control` is what reports of these rows hold
    beside their model. `published` is a line of the paper without a report of ours. `reports` are places in
    `AblationResults.reports`; `means` has columns that are means over tasks, where all of them are there.
    """

    name: str
    kind: Kind
    about: str
    reports: tuple[int, ...]
    scores: dict[str, Score]
    means: dict[str, float]
    published: dict[str, float]


class AblationTable(Settings):
    """A table of the paper by its number (or `CLASSES`), its columns in order, and what to know when reading it."""

    table: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[AblationRow, ...]
    notes: tuple[str, ...]


class AblationSet(Settings):
    """The tables of one way to tune and read out: figures of different ones are never in one table."""

    protocol: Protocol
    readout: Readout
    tune: Tune | None
    visible: Visible
    draws: int | None
    tables: tuple[AblationTable, ...]
    without: tuple[str, ...]
    """Numbers of the paper's tables that no report of this set belongs to."""

    @property
    def name(self) -> str:
        """In words."""
        parts = [f"protocol {self.protocol}", f"readout {self.readout}"]
        parts += [] if self.tune is None else [f"tune {self.tune}"]
        parts += [] if self.draws is None else [f"the mean over {self.draws} masks of pretraining"]
        return ", ".join(parts)


class ReportFacts(Settings):
    """A report that figures are from, by content, and the tables that it is in."""

    sha256: str
    checkpoint_sha256: str
    checkpoint_step: int
    task: TaskName
    row: str
    protocol: Protocol
    num_tunings: int
    pretraining_seed: int
    num_test: int
    num_seen: int
    tables: tuple[str, ...]


class AblationResults(Settings):
    """All tables. `source` names the paper, `mark` says what its figures are."""

    unit: Literal["percent"] = "percent"
    source: str
    mark: str
    reports: tuple[ReportFacts, ...]
    sets: tuple[AblationSet, ...]


class AblationInputs(Settings):
    """What all reports have in common, by content: labels and splits of each task, and the encoders."""

    labels_sha256: dict[str, str]
    splits_sha256: dict[str, dict[str, str]]
    encoders_sha256: str
    random_encoders: bool


class AblationProvenance(Settings):
    """What may differ from run to run: when, where and with which versions."""

    finished: str
    seconds: float
    versions: dict[str, str]
    platform: str
    reports: tuple[str, ...]


class AblationReport(Analysis):
    """`report.json` of an ablation."""

    analysis: Literal["ablation"] = "ablation"
    inputs: AblationInputs
    results: AblationResults
    provenance: AblationProvenance

    @property
    def random_encoders(self) -> bool:
        """Whether any report is of such."""
        return self.inputs.random_encoders

    def facts(self) -> list[tuple[str, str]]:
        """Labels, encoders, reports, versions."""
        inputs, provenance = self.inputs, self.provenance
        found = zip(provenance.reports, self.results.reports, strict=True)
        return [
            ("Reports", "; ".join(f"{path}, sha256 {report.sha256}" for path, report in found)),
            ("Labels", ", ".join(f"{task} {sha256}" for task, sha256 in inputs.labels_sha256.items())),
            ("Splits", json.dumps(inputs.splits_sha256)),
            ("Encoders", inputs.encoders_sha256),
            ("Published figures", self.results.source),
            ("Finished", f"{provenance.finished}, after {provenance.seconds:g} s"),
            ("Versions", ", ".join(f"{name} {number}" for name, number in provenance.versions.items())),
            ("Platform", provenance.platform),
        ]
