"""The errors on the proteins that were set aside, always under the same masks."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from amma.manifests.table import Modality
from amma.train.data.loader import Loader
from amma.train.model.objective import Losses
from amma.train.run.step import PARTS, Stepper
from amma.train.run.step_input import StepInput
from amma.train.run.tally import ErrorTally, Part


@dataclass(frozen=True)
class ValidationResult:
    """The loss over the whole validation set as one batch; errors relative to predicting the training mean."""

    loss: float
    error: dict[str, dict[str, float]]


def validate(stepper: Stepper, batches: Loader[StepInput]) -> ValidationResult:
    """Go through the batches once, in evaluation mode and without gradients."""
    model_errors, mean_errors = _Sums(), _Sums()
    stepper.model.eval()
    with torch.no_grad():
        for given in batches:
            for _, batch, masks in given.portions:
                on_device = batch.to(stepper.device)
                model_errors.add(stepper.losses(on_device, masks))
                mean_errors.add(stepper.objective.of_the_mean(stepper.model, on_device, masks.visible))
    stepper.model.train()
    ours, theirs = model_errors.tally(), mean_errors.tally()
    return ValidationResult(ours.loss, ours.relative(theirs))


class _Sums:
    """Collects the sums where they are computed; the host reads them once, at the end."""

    def __init__(self) -> None:
        self._keys: list[tuple[Modality, Part, int]] = []
        self._totals: list[Tensor] = []

    def add(self, losses: Losses) -> None:
        for part in PARTS:
            for modality, error in getattr(losses, part).items():
                self._keys.append((modality, part, error.count))
                self._totals.append(error.total)

    def tally(self) -> ErrorTally:
        tally = ErrorTally()
        totals: Sequence[float] = torch.stack(self._totals).tolist() if self._totals else []
        for (modality, part, count), total in zip(self._keys, totals, strict=True):
            tally.add(modality, part, total, count)
        return tally
