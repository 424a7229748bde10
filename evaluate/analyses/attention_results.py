"""Settings and results of an attention analysis."""

from typing import Annotated, Literal

from pydantic import Field

from amma.evaluate.analyses.report import AnalysisReport
from amma.evaluate.analyses.residue_attention import ResidueTokens
from amma.evaluate.report.estimates import Interval, Summary
from amma.manifests.settings import Settings
from amma.manifests.sites import KINDS
from amma.manifests.table import Modality

FEWEST = 2
"""Proteins: one is given the name of another, and position alone is learnt from others."""
MOST_SHOWN = 6
"""Two pictures in space each; browsers stop at about sixteen on a page."""
RowOf = Literal["trained", "untrained", "shuffled pairs", "position only", "chance"]
"""Chance is the mean over all orders in which the residues could stand."""
FIGURES = ("precision", "average_precision", "auroc")


class AttentionConfig(Settings):
    """One `amma-eval attention`, resolved."""

    checkpoint: str
    store: str
    ids: str | None = None
    number: Annotated[int, Field(ge=FEWEST)] = 200
    shown: Annotated[int, Field(ge=1, le=MOST_SHOWN)] = 4
    seed: Annotated[int, Field(ge=0)] = 0
    sites: str | None = None
    kinds: tuple[str, ...] = KINDS
    top: Annotated[int, Field(ge=1)] = 10
    residue_tokens: ResidueTokens = "both"
    manifest: str | None = None
    untrained_seeds: Annotated[int, Field(ge=1)] = 3
    bootstrap: Annotated[int, Field(ge=0)] = 1000
    clusters: str | None = None
    device: str = "cpu"


class SiteFacts(Settings):
    """The table of sites, by content, and what of it could be used.

    `num_rejected` rows are no sites of a protein in the store (of `reasons` the first few), `num_elsewhere` are of
    proteins that the store lacks; `num_proteins` of the store have a site of the kinds.
    """

    sha256: str
    kinds: tuple[str, ...]
    num_proteins: int
    num_elsewhere: int
    num_rejected: int
    reasons: tuple[str, ...]


class MeanFigure(Settings):
    """A figure's mean over proteins: over the seeds of its model, and an interval over resamples of the proteins."""

    value: Summary
    interval: Interval | None


class Margin(Settings):
    """What the trained model has more than a control, on the same proteins and resamples."""

    difference: float
    interval: Interval | None


class RankingRow(Settings):
    """How well one kind of scores finds annotated residues; `trained_minus` has no entry in the trained row."""

    of: RowOf
    num_seeds: int
    precision: MeanFigure
    average_precision: MeanFigure
    auroc: MeanFigure
    trained_minus: dict[str, Margin]


class FocusRow(Settings):
    """Where the name's attention goes, as means over proteins and then over seeds.

    `shares` are those of each modality's tokens, `num_residues` and `evenness` (exp of the entropy over their number;
    1: all get the same) are of the residues. `like_trained` is the correlation, over the residues of a protein, with
    what its own name attends to in the trained model.
    """

    of: RowOf
    num_seeds: int
    shares: dict[Modality, Summary]
    evenness: Summary
    like_trained: Summary | None


class ProteinFigures(Settings):
    """One protein; `precision` and `auroc` are those of each row, averaged over seeds, empty without sites.

    `num_residues` have a token in the model. Of those annotated, `num_annotated` have one, `num_beyond` have none.
    """

    id: str
    num_residues: int
    num_name_tokens: int
    num_annotated: int
    num_beyond: int
    precision: dict[RowOf, float]
    auroc: dict[RowOf, float]
    structure: str | None


class LeftOut(Settings):
    """A protein that could not be looked at, or whose structure could not be drawn, and why."""

    id: str
    code: str
    reason: str


class AttentionResults(Settings):
    """All figures. `chance` is that of precision; without sites there is none, and there are no rows."""

    family: str
    layer: int
    num_heads: int
    residue_tokens: ResidueTokens
    sites: SiteFacts | None
    num_shuffles: int
    num_resamples: int
    clusters: str
    num_clusters: int
    chance: float | None
    rows: tuple[RankingRow, ...]
    focus: tuple[FocusRow, ...]
    proteins: tuple[ProteinFigures, ...]
    shown: tuple[str, ...]
    left_out: tuple[LeftOut, ...]
    without_structure: tuple[LeftOut, ...]

    def row(self, of: RowOf) -> RankingRow:
        """The row of these scores; raises `KeyError` where there is none."""
        for row in self.rows:
            if row.of == of:
                return row
        raise KeyError(of)

    def focus_of(self, of: RowOf) -> FocusRow:
        """Where the attention of these goes; raises `KeyError` where there is none."""
        for row in self.focus:
            if row.of == of:
                return row
        raise KeyError(of)


class AttentionReport(AnalysisReport):
    """`report.json` of an attention analysis."""

    analysis: Literal["attention"] = "attention"
    results: AttentionResults
