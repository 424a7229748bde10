"""The reconstruction loss: squared errors and how many numbers they were summed over, kept apart.

A step may be several batches on several devices. So nothing is averaged here: the caller adds up the counts of the
whole step, and divides each batch's sums by them.

Shapes: T tokens of one modality, F width of its features.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor

from amma.manifests.table import Modality
from amma.train.model.amma import AMMA, Visible
from amma.train.model.batch import PackedBatch
from amma.train.model.config import ObjectiveConfig


@dataclass(frozen=True)
class ErrorSum:
    """Squared errors summed over `count` numbers (tokens × live channels)."""

    total: Float32[Tensor, ""]
    count: int

    @property
    def mean(self) -> float:
        """The mean squared error; 0 where nothing was counted. Waits for the device."""
        return float(self.total.detach()) / self.count if self.count else 0.0


@dataclass(frozen=True)
class Losses:
    """The errors of one batch, by modality; `trained` carries the gradient, the other two are for the log."""

    trained: dict[Modality, ErrorSum]
    hidden: dict[Modality, ErrorSum]
    visible: dict[Modality, ErrorSum]

    def total(self, counts: Mapping[Modality, int] | None = None) -> Float32[Tensor, ""]:
        """Σ over modalities of sum / count (Eq. 4); a modality without counted tokens adds 0.

        `counts` are those of the whole step, over its batches and ranks; by default this batch is all there is.
        """
        terms = [
            error.total / max(error.count if counts is None else counts[modality], 1)
            for modality, error in self.trained.items()
        ]
        return torch.stack(terms).sum()


class Reconstruction:
    """Rebuild all tokens of all modalities from the visible ones."""

    def __init__(self, config: ObjectiveConfig | None = None) -> None:
        self.config = config or ObjectiveConfig()

    def counts(self, model: AMMA, batch: PackedBatch, visible: Visible) -> dict[Modality, int]:
        """The counts that `__call__` will give, known before any work is done."""
        return {
            modality: self._num_counted(visible[modality]) * model.standardiser.num_live(modality)
            for modality in batch.modalities
        }

    def __call__(self, model: AMMA, batch: PackedBatch, visible: Visible) -> Losses:
        """Run the model and sum its errors."""
        return self.errors(model, batch, visible, model(batch, visible))

    def of_the_mean(self, model: AMMA, batch: PackedBatch, visible: Visible) -> Losses:
        """The errors of predicting every channel's mean over the training split: what a model must beat."""
        zeros = {m: torch.zeros_like(tokens.features_TD) for m, tokens in batch.tokens.items()}
        return self.errors(model, batch, visible, zeros)

    def errors(
        self, model: AMMA, batch: PackedBatch, visible: Visible, rebuilt: Mapping[Modality, Float[Tensor, "_T _F"]]
    ) -> Losses:
        """The errors of any reconstruction, given in standardised units."""
        trained, hidden, seen = {}, {}, {}
        for modality in batch.modalities:
            error_T = self._token_errors(model, modality, batch.tokens[modality].features_TD, rebuilt[modality])
            num_live = model.standardiser.num_live(modality)
            visible_T = visible[modality].to(error_T.device, non_blocking=True)
            num_visible = int(visible[modality].sum())
            num_hidden = len(error_T) - num_visible
            hidden_sum = (error_T * ~visible_T).sum()
            # Each sum over its own tokens: the difference of two large sums would not be one of small errors.
            whole = error_T.sum() if self.config.loss_on == "all" else hidden_sum
            trained[modality] = ErrorSum(whole, self._num_counted(visible[modality]) * num_live)
            hidden[modality] = ErrorSum(hidden_sum.detach(), num_hidden * num_live)
            seen[modality] = ErrorSum((error_T.detach() * visible_T).sum(), num_visible * num_live)
        return Losses(trained, hidden, seen)

    def _num_counted(self, visible_T: Bool[Tensor, " T"]) -> int:
        return len(visible_T) - (int(visible_T.sum()) if self.config.loss_on == "hidden" else 0)

    def _token_errors(
        self, model: AMMA, modality: Modality, features_TF: Float[Tensor, "T F"], rebuilt_TF: Float[Tensor, "T F"]
    ) -> Float32[Tensor, " T"]:
        """Squared error of each token, summed over live channels.

        The model speaks in standardised units. An error on the encoders' own scale is that error times the scale:
        the same loss as a head that predicts raw features would have, without its bad conditioning.
        """
        standardiser = model.standardiser
        weight_F = standardiser.live(modality).float()
        if self.config.targets == "raw":
            weight_F = weight_F * standardiser.scale(modality)
        difference_TF = (rebuilt_TF.float() - standardiser(modality, features_TF)) * weight_F
        error_T: Tensor = difference_TF.square().sum(dim=1)
        return error_T
