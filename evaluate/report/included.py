"""Finished analyses whose sections a report shows along with its own."""

from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, ValidationError

from amma.evaluate.report.section import Section
from amma.manifests.errors import InputError
from amma.manifests.files import sha256_of_file
from amma.manifests.settings import Settings

JSON = "report.json"
MAJOR = "1"
"""The version of an analysis's report that can be read here."""


class Included(Settings):
    """An analysis as it was found in its folder: its sections, unchanged, and what they are of.

    `checkpoint_step` and `checkpoint_sha256` are None for an analysis of several models. `same_checkpoint` says whether
    it is of the model that this report is about; `sha256` is that of its `report.json`.
    """

    analysis: str
    title: str
    lead: str
    sections: tuple[Section, ...]
    checkpoint_step: int | None
    checkpoint_sha256: str | None
    same_checkpoint: bool
    random_encoders: bool
    sha256: str


class _Inputs(Settings):
    model_config = ConfigDict(extra="ignore")

    checkpoint_step: int | None = None
    checkpoint_sha256: str | None = None
    random_encoders: bool


class _Analysis(Settings):
    """What all analyses have in common; each adds results of its own."""

    model_config = ConfigDict(extra="ignore")

    format: Literal["amma-analysis"]
    version: str
    analysis: str
    title: str
    lead: str
    inputs: _Inputs
    sections: tuple[Section, ...]


def read_included(folder: Path, *, checkpoint_sha256: str) -> Included:
    """The analysis in a folder; `checkpoint_sha256` is that of the model that the report is about.

    Raises `InputError` if there is none, or one of another version (`E_VERSION`).
    """
    path = folder / JSON
    if not path.is_file():
        raise InputError(f"{path}: not there. Give a folder that an analysis of amma-eval was written to.")
    text = path.read_text(encoding="utf-8")
    try:
        found = _Analysis.model_validate_json(text)
    except ValidationError as error:
        fault = next(_Analysis.faults(error))
        raise InputError(f"{path}: not the report of an analysis ({fault}). A folder of one has sections.") from None
    if found.version.split(".")[0] != MAJOR:
        raise InputError(
            f"{path}: an analysis of version {found.version}, this program reads {MAJOR}.x. Run the analysis again, or "
            "update amma.",
            code="E_VERSION",
        )
    return Included(
        analysis=found.analysis,
        title=found.title,
        lead=found.lead,
        sections=found.sections,
        checkpoint_step=found.inputs.checkpoint_step,
        checkpoint_sha256=found.inputs.checkpoint_sha256,
        same_checkpoint=found.inputs.checkpoint_sha256 == checkpoint_sha256,
        random_encoders=found.inputs.random_encoders,
        sha256=sha256_of_file(path),
    )
