"""What a model is trained for: sums of errors by term, and how many things each was summed over, kept apart.

A step may be several batches on several devices. So nothing is averaged here: the caller adds up the counts of the
whole step, and divides each batch's sums by them.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float32
from torch import Tensor

from amma.manifests.table import Modality
from amma.train.model.batch import PackedBatch, Visible
from amma.train.model.config import ObjectiveConfig
from amma.train.model.fusion import FusionModel

Gather = Callable[[Tensor], tuple[Tensor, int]]
"""From the rows of this rank to those of all ranks, in the order of ranks, and how many of them lie before its own.

It must carry gradients back to the ranks that the rows came from, summed over the ranks that used them; numbers of
rows may differ. Whole numbers are gathered as well, without gradient.
"""


def alone(rows: Tensor) -> tuple[Tensor, int]:
    """The `Gather` of a run that has one rank."""
    return rows, 0


@dataclass(frozen=True)
class ErrorSum:
    """Errors summed over `count` things: squared ones over numbers (tokens × live channels), or one a protein."""

    total: Float32[Tensor, ""]
    count: int

    @property
    def mean(self) -> float:
        """The mean error; 0 where nothing was counted. Waits for the device."""
        return float(self.total.detach()) / self.count if self.count else 0.0

    def plus(self, other: "ErrorSum") -> "ErrorSum":
        """Both together."""
        return ErrorSum(self.total + other.total, self.count + other.count)


@dataclass(frozen=True)
class Losses:
    """The errors of one batch by term; `trained` carries the gradient, all others are for the log.

    Terms are modalities where something is rebuilt, and have names of their own elsewhere. `hidden` and `visible` are
    what is rebuilt of tokens that the encoder did not see and that it saw; `chance` is the error of knowing nothing,
    where it depends on the batch.
    """

    trained: dict[str, ErrorSum]
    hidden: dict[str, ErrorSum] = field(default_factory=dict)
    visible: dict[str, ErrorSum] = field(default_factory=dict)
    chance: dict[str, ErrorSum] = field(default_factory=dict)

    def total(self, counts: Mapping[str, int] | None = None) -> Float32[Tensor, ""]:
        """Σ over terms of sum / count (Eq. 4, 16); a term without anything counted adds 0.

        `counts` are those of the whole step, over its batches and ranks; by default this batch is all there is.
        """
        terms = [
            error.total / max(error.count if counts is None else counts[term], 1)
            for term, error in self.trained.items()
        ]
        return torch.stack(terms).sum()


class Objective(ABC):
    """A loss of one kind, for the models it fits; `amma.train.model.family` says which those are.

    `gather` brings together what lies on several ranks, for an objective whose loss is over the whole batch; it is
    called in training mode only, the same number of times on every rank.
    """

    adds_up: ClassVar[bool]
    """True if the loss of a batch is the sum of its parts' losses, given the counts of the whole: only then may a step
    be taken in micro-batches."""
    masked: ClassVar[bool]
    """True if it hides tokens from the encoder; else all are visible, and no masks are drawn."""

    def __init__(self, config: ObjectiveConfig | None = None, gather: Gather = alone) -> None:
        self.config = config or ObjectiveConfig()
        self._gather = gather

    @abstractmethod
    def counts(self, model: FusionModel, batch: PackedBatch, visible: Visible) -> dict[str, int]:
        """The counts that `__call__` will give for this batch, known before any work is done."""

    @abstractmethod
    def __call__(self, model: FusionModel, batch: PackedBatch, visible: Visible) -> Losses:
        """Run the model and sum its errors; summed over ranks, `total` of the summed counts is the step's loss."""

    def expected(self, model: FusionModel) -> dict[Modality, float]:
        """The error that predicting the mean has on the training split, by modality, where something is rebuilt."""
        return {}
