"""Finished analyses whose sections a report shows along with its own."""

from amma.evaluate.report.section import Section
from amma.manifests.settings import Settings


class Included(Settings):
    """An analysis as it was found in its folder: its sections, unchanged, and what they are of.

    `same_checkpoint` says whether that is the model that this report is about; `sha256` is that of its `report.json`.
    """

    analysis: str
    title: str
    lead: str
    sections: tuple[Section, ...]
    checkpoint_step: int
    checkpoint_sha256: str
    same_checkpoint: bool
    random_encoders: bool
    sha256: str
