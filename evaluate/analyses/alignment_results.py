"""Settings and results of an alignment."""

from typing import Annotated, Literal

from pydantic import Field

from amma.evaluate.analyses.agreement import Agreement, Given, Of, Outputs
from amma.evaluate.analyses.report import AnalysisReport
from amma.manifests.settings import Settings

FEWEST = 4
"""Proteins; below, debiased CKA is not defined."""
TOGETHER: Given = "all modalities together"
ALONE: Given = "each modality alone"
APART: Given = "no modality sees another"


class AlignmentConfig(Settings):
    """One `amma-eval alignment`, resolved."""

    checkpoint: str
    store: str
    ids: str | None = None
    number: Annotated[int, Field(ge=FEWEST)] = 1000
    seed: Annotated[int, Field(ge=0)] = 0
    batch_size: Annotated[int, Field(ge=2)] = 4
    """Of Table 1's figure. The paper does not state it; 4, of pretraining, is the one batch size that its text has."""
    untrained_seeds: Annotated[int, Field(ge=1)] = 3
    bootstrap: Annotated[int, Field(ge=0)] = 1000
    clusters: str | None = None
    device: str = "cpu"


class AlignmentResults(Settings):
    """All figures; `rows` are kinds of vectors. `clusters` says in a few words what was resampled together."""

    family: str
    batch_size: int
    batch_sizes: tuple[int, ...]
    num_resamples: int
    clusters: str
    num_clusters: int
    chance: dict[str, float]
    rows: tuple[Agreement, ...]

    def row(self, of: Of, given: Given, outputs: Outputs) -> Agreement | None:
        """The row of these vectors, if the model has them."""
        wanted = (of, given, outputs)
        return next((row for row in self.rows if (row.of, row.given, row.outputs) == wanted), None)

    @property
    def outputs(self) -> Outputs:
        """What Table 1's figure is of: lifted outputs, where the model has no such maps fused ones, or Eq. 14's."""
        held = {row.outputs for row in self.rows}
        return "lifted" if "lifted" in held else self.comparable

    @property
    def given(self) -> Given:
        """What Table 1's figure is of: all modalities of a protein together, if the model lets them mix at all."""
        return APART if any(row.given == APART for row in self.rows) else TOGETHER

    @property
    def comparable(self) -> Outputs:
        """The outputs in which directions of one modality mean something in another: before any map of its own."""
        return "fused" if any(row.outputs == "fused" for row in self.rows) else "Eq. 14"


class AlignmentReport(AnalysisReport):
    """`report.json` of an alignment."""

    analysis: Literal["alignment"] = "alignment"
    results: AlignmentResults
