"""What `report.json` of an analysis holds. All but `provenance` is the same whenever the same command runs again."""

import json
import platform
import time
from abc import ABC, abstractmethod
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


class Analysis(Settings, ABC):
    """Common to all analyses, whatever they look at. The page shows `sections`, and nothing else.

    Each adds its own typed `inputs`, which say at least whether encoders were random, `results` and `provenance`.
    """

    format: Literal["amma-analysis"] = "amma-analysis"
    version: str = FORMAT_VERSION
    analysis: str
    title: str
    lead: str
    config: dict[str, Any]
    sections: tuple[Section, ...]

    @property
    @abstractmethod
    def random_encoders(self) -> bool:
        """Whether any of the features came from encoders with random weights."""

    @abstractmethod
    def facts(self) -> list[tuple[str, str]]:
        """Name and value of all that ends the page: where the figures come from."""

    def document(self) -> Document:
        """The page."""
        return Document(
            kicker=f"AMMA · {self.analysis}",
            title=self.title,
            lead=self.lead,
            random_encoders=self.random_encoders,
            sections=self.sections,
            facts=tuple(self.facts()),
        )


class AnalysisReport(Analysis):
    """Common to the analyses of one checkpoint on the proteins of one store; `proteins` says who was looked at."""

    inputs: AnalysisInputs
    proteins: HeldOutFacts | None = None
    provenance: Provenance

    @property
    def random_encoders(self) -> bool:
        """Those of the store, or of pretraining."""
        return self.inputs.random_encoders

    def facts(self) -> list[tuple[str, str]]:
        """Checkpoint, store, settings, versions."""
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
