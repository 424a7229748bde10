"""What `compare.json` holds. All but `provenance` is the same whenever the same command runs on the same reports."""

from typing import Any, Literal

from amma.evaluate.config import Protocol
from amma.evaluate.report.estimates import Difference, Summary
from amma.manifests.settings import Settings

FORMAT: Literal["amma-comparison"] = "amma-comparison"
FORMAT_VERSION = "1.0"


class SideFacts(Settings):
    """One of the two: its report by content, and the figures of its trained model on the proteins compared.

    `num_only_here` of its test proteins are not in the other and take no part.
    """

    report_sha256: str
    protocol: Protocol
    num_seeds: int
    fmax: Summary
    aupr: Summary
    num_only_here: int
    random_encoders: bool


class Wins(Settings):
    """How often which side is ahead, and how often neither is by more than rounding."""

    a: int
    b: int
    ties: int


class TermPair(Settings):
    """A term: average precision of either side (mean over seeds), None where no protein has it."""

    term: str
    name: str | None
    num_test: int
    a: float | None
    b: float | None


class ProteinPair(Settings):
    """A protein: F of either side at its validation threshold (mean over seeds)."""

    id: str
    num_terms: int
    a: float
    b: float


class ClusterFacts(Settings):
    """What was drawn: clusters of test proteins, and where they are from."""

    num_clusters: int
    origin: str
    sha256: str | None


class ComparisonProvenance(Settings):
    """What may differ from run to run: when, where and with which versions."""

    finished: str
    seconds: float
    versions: dict[str, str]
    platform: str
    a: str
    b: str
    clusters: str | None


class Comparison(Settings):
    """The whole of `compare.json`. Differences are those of `a` less those of `b`.

    `others` are settings in which the two differ, by key. `terms` has all of the task in its order, `proteins` those
    with a true term. The intervals are the middle 95 % of `num_resamples` resamples.
    """

    format: Literal["amma-comparison"] = FORMAT
    version: str = FORMAT_VERSION
    task: str
    num_proteins: int
    a: SideFacts
    b: SideFacts
    fmax: Difference
    aupr: Difference
    num_resamples: int
    clusters: ClusterFacts
    term_wins: Wins
    protein_wins: Wins
    terms: tuple[TermPair, ...]
    proteins: tuple[ProteinPair, ...]
    others: dict[str, tuple[Any, Any]]
    provenance: ComparisonProvenance

    @property
    def across_protocols(self) -> bool:
        """True if the two were tuned by different protocols."""
        return self.a.protocol is not self.b.protocol
