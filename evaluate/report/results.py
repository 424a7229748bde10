"""What `report.json` holds. All but `provenance` is the same whenever the same command runs on the same inputs."""

from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, ValidationError

from amma.evaluate.config import FinetuneConfig
from amma.evaluate.report.calibration_results import CalibrationFacts
from amma.evaluate.report.estimates import Difference, Interval, Summary
from amma.evaluate.report.included import Included
from amma.evaluate.report.pretraining_results import PretrainingFacts
from amma.evaluate.report.protein_results import Extremes
from amma.evaluate.report.slice_results import IdentitySlices, Slice, SliceFigures
from amma.evaluate.report.task_results import TaskFacts
from amma.evaluate.report.term_results import TermRecord
from amma.manifests.errors import InputError
from amma.manifests.settings import Settings

FORMAT = "amma-report"
FORMAT_VERSION = "2.1"


RowName = Literal["trained", "untrained", "pooled inputs", "nearest training sequence", "label frequency"]


class PrCurve(Settings):
    """Micro-averaged precision and recall, thresholds descending, thinned to a number of points that can be drawn."""

    recall: tuple[float, ...]
    precision: tuple[float, ...]


class Run(Settings):
    """One seed of a model: how it was tuned (None for what is not tuned), and how it does on the test split.

    `threshold` is where validation F is largest; `f_at_threshold` is the test F there: the figure a user gets who
    has to fix the threshold beforehand. `fmax_threshold` is where the test F is largest. `fmax_torchdrug` and
    `aupr_torchdrug` are the figures as torchdrug 0.2.1 computes them from the same scores; None where that is NaN, as
    it can be where scores are equal.
    """

    seed: int | None
    fusion_lr: float | None
    head_lr: float | None
    num_epochs: int | None
    best_epoch: int | None
    valid_fmax: float
    threshold: float | None
    fmax: float
    fmax_threshold: float | None
    precision: float
    recall: float
    aupr: float
    f_at_threshold: float
    fmax_torchdrug: float | None
    aupr_torchdrug: float
    curve: PrCurve


class TrialRecord(Settings):
    """A pair of learning rates and what it reached on validation with the first seed."""

    fusion_lr: float | None
    head_lr: float
    valid_fmax: float
    best_epoch: int
    num_epochs: int


class CafaFigures(Settings):
    """CAFA's figures of one row: terms propagated along the ontology, thresholds on a grid (`CafaFacts`).

    `fmax` and `weighted_fmax` (terms weighted by their information accretion in training) are larger for better models,
    `s_min` (the smallest semantic distance, in bits; None if a seed predicts nothing at any threshold) is smaller.
    `tau` is the threshold of `fmax`, None if a seed predicts nothing right at any.
    """

    fmax: Summary
    tau: Summary | None
    weighted_fmax: Summary
    s_min: Summary | None


class Row(Settings):
    """One line of the table.

    The intervals are those of the means over seeds; None where they were not asked for.

    `labelled_fmax` and `labelled_aupr` leave proteins without any true term out. `macro_aupr` is the mean of average
    precision over the `num_macro_terms` terms that some test protein has. `fmax_torchdrug` is None if it is undefined
    for a seed. `by_identity` and `by_length` go with `Report.identity.slices` and `Report.lengths`, in their order.
    `cafa` is None without an ontology.
    """

    name: RowName
    meaning: str
    fmax: Summary
    fmax_interval: Interval | None
    aupr: Summary
    aupr_interval: Interval | None
    f_at_threshold: Summary
    labelled_fmax: Summary
    labelled_aupr: Summary
    macro_aupr: Summary
    num_macro_terms: int
    fmax_torchdrug: Summary | None
    aupr_torchdrug: Summary
    by_identity: tuple[SliceFigures, ...]
    by_length: tuple[SliceFigures, ...]
    cafa: CafaFigures | None
    trials: tuple[TrialRecord, ...]
    runs: tuple[Run, ...]


class IntervalFacts(Settings):
    """How the intervals were made: clusters of test proteins were drawn with replacement, `num_resamples` times.

    `origin` says in a few words what a cluster is.
    """

    level: float
    num_resamples: int
    num_clusters: int
    largest_cluster: int
    origin: str
    clusters_sha256: str | None


class IdentityBin(Settings):
    """Test proteins with a seen sequence at least so near (`at_least`, from 0 to 1).

    `num_with_text` of them have such a one that was seen with its text; None if that was not recorded for all of them.
    """

    at_least: float
    num: int
    num_with_text: int | None


class NearestSeen(Settings):
    """A test protein, and the nearest that pretraining saw of those at hand: its id in the store, and the identity."""

    id: str
    identity: float
    seen: str


class SeenByIdentity(Settings):
    """How near the test proteins are to what pretraining saw, themselves included where they were seen.

    A checkpoint keeps hashes and no sequences: compared are the `num_at_hand` of its `num_seen_sequences` that are in
    the evaluated store. Identity is the number of equal residues in an alignment over the shorter length; `method` says
    how alignments were found. `bins` is empty if nothing is at hand; test proteins that no alignment was found for are
    not in `nearest`.
    """

    method: str
    num_seen_sequences: int
    num_at_hand: int
    bins: tuple[IdentityBin, ...]
    nearest: tuple[NearestSeen, ...]


class Leakage(Settings):
    """Test proteins whose sequence (by hash) was among those pretraining was trained on, and others that are near.

    `num_seen_with_text` were seen with their text (in some protein of this sequence), `num_seen_without_text` with
    their structure only; checkpoints of format 1.0 did not record which.
    """

    num_test: int
    num_seen: int
    num_seen_with_text: int
    num_seen_without_text: int
    num_seen_text_not_recorded: int
    seen: tuple[str, ...]
    by_identity: SeenByIdentity


class Inputs(Settings):
    """What the figures were computed from, by content."""

    checkpoint_step: int
    checkpoint_sha256: str
    pretraining_stores: tuple[str, ...]
    store_root_hash: str
    labels_sha256: str
    splits_sha256: dict[str, str]
    term_names_sha256: str | None = None
    identity_cutoffs_sha256: str | None = None
    random_encoders: bool


class Provenance(Settings):
    """What may differ from run to run: when, where and with which versions."""

    finished: str
    seconds: float
    versions: dict[str, str]
    platform: str
    device: str
    threads: int
    checkpoint: str
    store: str
    labels: str | None = None
    splits: str | None = None
    ontology: str | None = None
    included: tuple[str, ...] = ()


class Paired(Settings):
    """The trained model against another row: its figures less those of the other (means over seeds)."""

    against: RowName
    fmax: Difference
    aupr: Difference


class CafaFacts(Settings):
    """How CAFA's figures were computed: on the test proteins that have a term of the ontology, thresholds of a grid.

    `num_terms` are the terms of the task and all above them, without the root; `num_informative` of these have
    information accretion above 0.
    """

    tau_step: float
    num_proteins: int
    num_terms: int
    num_informative: int


class Report(Settings):
    """The whole of `report.json`; `report.html` shows nothing that is not in here.

    `terms` has all terms in the order of the task, `lengths` slices by number of residues. `paired` is empty if no
    intervals were asked for. `pretraining` is None in reports of version 2.0, and of checkpoints that do not tell.
    """

    format: Literal["amma-report"] = "amma-report"
    version: str = FORMAT_VERSION
    task: TaskFacts
    config: FinetuneConfig
    inputs: Inputs
    pretraining: PretrainingFacts | None = None
    intervals: IntervalFacts | None
    rows: tuple[Row, ...]
    paired: tuple[Paired, ...]
    cafa: CafaFacts | None
    identity: IdentitySlices
    lengths: tuple[Slice, ...]
    terms: tuple[TermRecord, ...]
    calibration: CalibrationFacts
    extremes: Extremes
    leakage: Leakage
    included: tuple[Included, ...]
    provenance: Provenance

    def row(self, name: str) -> Row:
        """The line of the table called `name`."""
        return next(row for row in self.rows if row.name == name)


def read_report(path: Path) -> Report:
    """The report in a `report.json`; raises `InputError` if it is none, or of a version that cannot be read."""
    text = path.read_text(encoding="utf-8") if path.is_file() else None
    if text is None:
        raise InputError(f"{path}: no report there. Give the `report.json` that `amma-eval function` wrote.")
    try:
        header = _Header.model_validate_json(text)
    except ValidationError:
        raise InputError(f"{path}: not a report of `amma-eval function`.") from None
    if header.format != FORMAT or header.version.split(".")[0] != FORMAT_VERSION.split(".")[0]:
        raise InputError(
            f"{path}: {header.format} of version {header.version}, this program reads {FORMAT} {FORMAT_VERSION}. "
            "Make the report again with `amma-eval function`, or use the amma that wrote it.",
            code="E_VERSION",
        )
    return Report.model_validate_json(text)


class _Header(Settings):
    model_config = ConfigDict(extra="ignore")

    format: str
    version: str
