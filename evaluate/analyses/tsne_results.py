"""Settings and results of a t-SNE analysis."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from amma.evaluate.analyses.report import AnalysisReport
from amma.manifests.settings import Settings

FEWEST = 5
"""Proteins; fewer points have no neighbours to speak of."""
NUMBER = {1: 1000, 4: 500}
COMPONENTS = {1: 100, 4: 500}
"""By figure of the paper: proteins, and dimensions that PCA leaves of each modality."""
Panel = Literal["trained", "untrained", "encoders' features", "random vectors"]


class TsneConfig(Settings):
    """One `amma-eval tsne`, resolved."""

    checkpoint: str
    store: str
    figure: Literal[1, 4] = 4
    ids: str | None = None
    number: Annotated[int, Field(ge=FEWEST)] = NUMBER[4]
    seed: Annotated[int, Field(ge=0)] = 0
    components: Annotated[int, Field(ge=2)] = COMPONENTS[4]
    joint_pca: bool = False
    perplexity: Annotated[float, Field(ge=1)] = 200
    iterations: Annotated[int, Field(ge=250)] = 2500
    labels: str | None = None
    label_column: str = "ec_class"
    device: str = "cpu"

    @model_validator(mode="after")
    def _joint_pca_needs_one_space(self) -> "TsneConfig":
        if self.figure == 1 and self.joint_pca:
            raise ValueError("joint_pca has no effect on figure 1: raw features of three encoders share no space")
        return self


class PanelFigures(Settings):
    """One panel: what was drawn, and how mixed modalities are, in figures that need no picture.

    `outputs` says what vectors are means of. `components` is what PCA left. `mixing_*` is 1 where nearest points are of
    another modality as often as at random and 0 where each keeps to itself: of what t-SNE was given (`input`), and of
    the picture. `nearness_*` is the mean distance of a protein's own points over that of different proteins'.
    `recall_at_5` is that between the vectors themselves, before ℓ, min-max and PCA; None where they share no space.
    """

    panel: Panel
    outputs: str
    components: int
    mixing_input: float
    mixing_picture: float
    nearness_input: float
    nearness_picture: float
    recall_at_5: dict[str, float] | None


class TsneResults(Settings):
    """All figures; `left_out` says which panels could not be drawn, and why."""

    perplexity: float
    panels: tuple[PanelFigures, ...]
    left_out: tuple[str, ...]
    chance_at_5: float
    num_labelled: int


class TsneReport(AnalysisReport):
    """`report.json` of a t-SNE analysis."""

    analysis: Literal["tsne"] = "tsne"
    results: TsneResults
