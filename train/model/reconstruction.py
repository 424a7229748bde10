"""Rebuilding hidden tokens: squared errors, and over how many numbers they were summed.

Shapes: T tokens of one modality, F width of its features.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor

from amma.manifests.table import Modality
from amma.train.model.batch import PackedBatch, Visible
from amma.train.model.fusion import FusionModel
from amma.train.model.objective import ErrorSum, Losses, Objective


class Reconstruction(Objective):
    """Rebuild all tokens of all modalities from the visible ones."""

    adds_up = True
    masked = True

    def counts(self, model: FusionModel, batch: PackedBatch, visible: Visible) -> dict[str, int]:
        """The counts that `__call__` will give, known before any work is done."""
        return {
            modality: self._num_counted(visible[modality]) * model.standardiser.num_live(modality)
            for modality in batch.modalities
        }

    def __call__(self, model: FusionModel, batch: PackedBatch, visible: Visible) -> Losses:
        """Run the model and sum its errors."""
        return self.errors(model, batch, visible, model(batch, visible))

    def expected(self, model: FusionModel) -> dict[Modality, float]:
        """The mean square of each modality's channels: 1 in standardised units."""
        if self.config.targets == "standardised":
            return dict.fromkeys(model.widths, 1.0)
        standardiser = model.standardiser
        return {m: float(standardiser.scale(m)[standardiser.live(m)].square().mean()) for m in model.widths}

    def of_the_mean(self, model: FusionModel, batch: PackedBatch, visible: Visible) -> Losses:
        """The errors of predicting every channel's mean over the training split: what a model must beat."""
        zeros = {m: torch.zeros_like(tokens.features_TD) for m, tokens in batch.tokens.items()}
        return self.errors(model, batch, visible, zeros)

    def errors(
        self,
        model: FusionModel,
        batch: PackedBatch,
        visible: Visible,
        rebuilt: Mapping[Modality, Float[Tensor, "_T _F"]],
    ) -> Losses:
        """The errors of any reconstruction, given in standardised units."""
        trained: dict[str, ErrorSum] = {}
        hidden: dict[str, ErrorSum] = {}
        seen: dict[str, ErrorSum] = {}
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
        self,
        model: FusionModel,
        modality: Modality,
        features_TF: Float[Tensor, "T F"],
        rebuilt_TF: Float[Tensor, "T F"],
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
