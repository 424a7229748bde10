"""What `report.json` holds. All but `provenance` is the same whenever the same command runs on the same inputs."""

import math
import statistics
from collections.abc import Sequence
from typing import Literal

from amma.evaluate.config import FinetuneConfig, Unlabelled
from amma.manifests.settings import Settings

FORMAT_VERSION = "1.2"


class Summary(Settings):
    """A figure over seeds: mean, and sample standard deviation (None for a single value)."""

    mean: float
    sd: float | None
    values: tuple[float, ...]

    @staticmethod
    def of(values: Sequence[float]) -> "Summary":
        """Summarise at least one value."""
        sd = statistics.stdev(values) if len(values) > 1 else None
        return Summary(mean=statistics.fmean(values), sd=sd, values=tuple(values))


class Interval(Settings):
    """The middle part (`IntervalFacts.level`) of a figure over resamples of the test proteins."""

    low: float
    high: float

    @staticmethod
    def of(bounds: tuple[float, float]) -> "Interval":
        """From a pair of bounds."""
        return Interval(low=bounds[0], high=bounds[1])


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


class Row(Settings):
    """One line of the table.

    The intervals are those of the means over seeds; None where they were not asked for.

    `fmax_torchdrug` is None if it is undefined for a seed.
    """

    name: Literal["trained", "untrained", "pooled inputs", "nearest training sequence", "label frequency"]
    meaning: str
    fmax: Summary
    fmax_interval: Interval | None
    aupr: Summary
    aupr_interval: Interval | None
    f_at_threshold: Summary
    fmax_torchdrug: Summary | None
    aupr_torchdrug: Summary
    trials: tuple[TrialRecord, ...]
    runs: tuple[Run, ...]


class SplitFacts(Settings):
    """Who takes part in a split.

    `num_unlabelled` of the proteins are in the label table without a term and count as all-zero rows; `missing` are
    labelled but not in the store; `num_unknown` ids of the split are outside the label table (or in it without a
    term, if such proteins are dropped) and take no part.
    `num_without_sequence` are read at their structure's residues.
    """

    num_proteins: int
    num_unlabelled: int
    num_pairs: int
    num_terms: int
    num_unknown: int
    num_without_sequence: int
    num_without_structure: int
    missing: tuple[str, ...]


class CeilingFacts(Settings):
    """The best figures possible on the test split for a model that knows nothing of terms unseen in training."""

    num_unseen_terms: int
    num_unseen_pairs: int
    fmax: float
    aupr: float


class TaskFacts(Settings):
    """What is predicted, for whom."""

    name: str
    num_terms: int
    unlabelled: Unlabelled
    train: SplitFacts
    valid: SplitFacts
    test: SplitFacts
    ceiling: CeilingFacts


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


class Report(Settings):
    """The whole of `report.json`; `report.html` shows nothing that is not in here."""

    format: Literal["amma-report"] = "amma-report"
    version: str = FORMAT_VERSION
    task: TaskFacts
    config: FinetuneConfig
    inputs: Inputs
    intervals: IntervalFacts | None
    rows: tuple[Row, ...]
    leakage: Leakage
    provenance: Provenance

    def row(self, name: str) -> Row:
        """The line of the table called `name`."""
        return next(row for row in self.rows if row.name == name)


def finite(value: float) -> float | None:
    """The value, or None for NaN and an infinite threshold, which JSON cannot say."""
    return value if math.isfinite(value) else None
