"""What every model of the family has and gives: the part of a model that evaluation, export and analyses use.

Legend: D fusion width.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

from torch import nn

from amma.manifests.table import MODALITIES, Modality
from amma.train.model.batch import Fused, PackedBatch, Visible
from amma.train.model.config import ModelConfig
from amma.train.model.projection import Projection
from amma.train.model.standardise import Standardiser
from amma.train.model.transformer import Transformer


class FusionModel(nn.Module, ABC):
    """Standardised features of each modality, their projections to width D, and a fusion encoder.

    `widths` are the feature widths of the modalities in the store. The statistics in `standardiser` are those of
    the pretraining split; they are part of the state and go wherever the weights go.
    """

    per_token: ClassVar[bool]
    """True if `fuse` gives a row for each token; False if it gives one for each protein and modality."""

    encoder: Transformer
    global_token: nn.Parameter | None

    def __init__(self, config: ModelConfig, widths: Mapping[Modality, int]) -> None:
        super().__init__()
        self.config = config
        self.widths = {modality: widths[modality] for modality in MODALITIES if modality in widths}
        self.standardiser = Standardiser(self.widths)
        self.projections = nn.ModuleDict(
            {
                modality: Projection(width, config.projection_hidden or config.width, config.width)
                for modality, width in self.widths.items()
            }
        )

    @staticmethod
    def from_pretrained(folder: Path | str) -> "FusionModel":
        """The model that `amma-train export` wrote to `folder`, of whichever family it is; in training mode, as made.

        Raises `CheckpointError` if the folder is not whole, or of a newer major version (`E_VERSION`).
        """
        from amma.train.model.pretrained import load_pretrained

        return load_pretrained(Path(folder))

    @abstractmethod
    def fuse(self, batch: PackedBatch, visible: Visible | None = None) -> Fused:
        """The representation of each protein, from its visible tokens (None: all are)."""

    @abstractmethod
    def fusion_parameters(self) -> Iterator[nn.Parameter]:
        """All parameters that make a representation."""

    @abstractmethod
    def uncounted_parameters(self) -> Iterator[nn.Parameter]:
        """Vectors that stand for a modality or a token; the paper's number of parameters leaves them out."""
