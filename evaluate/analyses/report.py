"""What `report.json` of an analysis holds. All but `provenance` is the same whenever the same command runs again."""

import json
import platform
import time
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, Literal

import torch

from amma.evaluate.analyses.subject import AnalysisSubject, HeldOutFacts
from amma.evaluate.report.results import Provenance
from amma.evaluate.report.section import Document, Section
from amma.manifests.settings import Settings
from amma.train.run.checkpoint import MODEL

FORMAT_VERSION = "1.0"
PACKAGES = ("amma", "numpy", "torch", "plotly", "pyarrow", "pydantic", "scikit-learn")
PAPER = "Ko et al., arXiv 2405.06663"


class AnalysisInputs(Settings):
    """What the figures were computed from, by content."""

    checkpoint_step: int
    checkpoint_sha256: str
    pretraining_stores: tuple[str, ...]
    store_root_hash: str
    random_encoders: bool

    @staticmethod
    def of(subject: AnalysisSubject) -> "AnalysisInputs":
        """Those of an opened checkpoint and store."""
        state = subject.trained.state
        return AnalysisInputs(
            checkpoint_step=state["step"],
            checkpoint_sha256=state["files"][MODEL]["sha256"],
            pretraining_stores=tuple(subject.trained.root_hashes),
            store_root_hash=subject.store.root_hash,
            random_encoders=subject.random_encoders,
        )


class AnalysisReport(Settings):
    """Common to all analyses; each adds its own typed `results`. The page shows `sections`, and nothing else.

    `proteins` says who was looked at; None for an analysis that looks at finished runs and no proteins.
    """

    format: Literal["amma-analysis"] = "amma-analysis"
    version: str = FORMAT_VERSION
    analysis: str
    title: str
    lead: str
    config: dict[str, Any]
    inputs: AnalysisInputs
    proteins: HeldOutFacts | None = None
    sections: tuple[Section, ...]
    provenance: Provenance

    def document(self) -> Document:
        """The page."""
        return Document(
            kicker=f"AMMA · {self.analysis}",
            title=self.title,
            lead=self.lead,
            random_encoders=self.inputs.random_encoders,
            sections=self.sections,
            facts=tuple(self._facts()),
        )

    def _facts(self) -> list[tuple[str, str]]:
        inputs, provenance = self.inputs, self.provenance
        step, sha256 = inputs.checkpoint_step, inputs.checkpoint_sha256
        return [
            ("Checkpoint", f"{provenance.checkpoint}, step {step}, sha256 {sha256}"),
            ("Store", f"{provenance.store}, root {inputs.store_root_hash}"),
            ("Pretraining stores", ", ".join(inputs.pretraining_stores)),
            ("Settings", json.dumps(self.config, sort_keys=True, ensure_ascii=False)),
            ("Finished", f"{provenance.finished}, after {provenance.seconds:g} s on {provenance.device}"),
            ("Versions", ", ".join(f"{name} {number}" for name, number in provenance.versions.items())),
            ("Platform", f"{provenance.platform}, {provenance.threads} threads"),
        ]


def provenance_of(subject: AnalysisSubject, *, started: float, device: str, labels: str | None = None) -> Provenance:
    """When, where and with which versions; `started` is `time.monotonic()` of the beginning."""
    return Provenance(
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - started, 1),
        versions={"python": platform.python_version(), **{package: version(package) for package in PACKAGES}},
        platform=platform.platform(),
        device=device,
        threads=torch.get_num_threads(),
        checkpoint=str(subject.trained.path),
        store=str(subject.store.path),
        labels=labels,
    )
