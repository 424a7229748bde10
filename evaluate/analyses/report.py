"""What `report.json` of an analysis holds. All but `provenance` is the same whenever the same command runs again."""

from typing import Any, Literal

from amma.evaluate.report.results import Provenance
from amma.evaluate.report.section import Section
from amma.manifests.settings import Settings

FORMAT_VERSION = "1.0"


class AnalysisInputs(Settings):
    """What the figures were computed from, by content."""

    checkpoint_step: int
    checkpoint_sha256: str
    pretraining_stores: tuple[str, ...]
    store_root_hash: str
    random_encoders: bool


class AnalysisReport(Settings):
    """Common to all analyses; each adds its own typed `results`. The page shows `sections`, and nothing else."""

    format: Literal["amma-analysis"] = "amma-analysis"
    version: str = FORMAT_VERSION
    analysis: str
    title: str
    lead: str
    config: dict[str, Any]
    inputs: AnalysisInputs
    sections: tuple[Section, ...]
    provenance: Provenance
