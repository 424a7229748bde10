"""One optimisation step: losses, gradients, a check that they are finite, and the update."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from amma.manifests.errors import LossError
from amma.train.model.batch import PackedBatch
from amma.train.model.fusion import FusionModel
from amma.train.model.masking import Masks
from amma.train.model.objective import Losses, Objective
from amma.train.run.step_input import StepInput
from amma.train.run.tally import EpochTally, Part

PARTS: tuple[Part, ...] = ("trained", "hidden", "visible", "chance")


class StepResult:
    """The numbers of a finished step, on their way to the host.

    On a GPU they are copied while the next step is computed already; asking for them waits for this step only.
    """

    def __init__(self, given: StepInput, values: Tensor, layout: list[tuple[str, Part, int]]) -> None:
        self.given = given
        self._layout = layout
        self._event: torch.cuda.Event | None = None
        if values.is_cuda:
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()
        else:
            self._values = values

    def read(self) -> "StepNumbers":
        """The numbers, checked; raises `LossError` if the loss or the gradient is not finite."""
        if self._event is not None:
            self._event.synchronize()
        loss, norm, *totals = self._values.tolist()
        for what, value in (("loss", loss), ("norm of the gradient", norm)):
            if not -float("inf") < value < float("inf"):
                raise StepError(self.given, what, value)
        return StepNumbers(self.given, loss, norm, list(zip(self._layout, totals, strict=True)))


@dataclass(frozen=True)
class StepNumbers:
    """The loss, the norm of the gradient before clipping, and the summed errors of a step."""

    given: StepInput
    loss: float
    gradient_norm: float
    errors: list[tuple[tuple[str, Part, int], float]]

    @property
    def num_tokens(self) -> int:
        """Tokens of all modalities and proteins of the step."""
        return sum(len(tokens.position_T) for _, batch, _ in self.given.portions for tokens in batch.tokens.values())

    def add_to(self, tally: EpochTally) -> None:
        """Take this step into an epoch's sums."""
        tally.loss_total += self.loss
        tally.counts["steps"] += 1
        for (term, part, count), total in self.errors:
            tally.errors.add(term, part, total, count)
        for portion, batch, masks in self.given.portions:
            tally.counts[f"stream/{portion.stream}"] += len(portion.draws)
            for modality, tokens in batch.tokens.items():
                tally.counts[f"proteins/{modality}"] += batch.num_proteins
                tally.counts[f"tokens/{modality}"] += len(tokens.position_T)
                tally.counts[f"visible/{modality}"] += int(masks.counts[modality].sum())


class StepError(LossError):
    """A loss or gradient that is not finite; `report` tells which proteins were in the step."""

    def __init__(self, given: StepInput, what: str, value: float) -> None:
        ids = [name for _, batch, _ in given.portions for name in batch.ids]
        super().__init__(
            f"step {given.step}: the {what} is {value} with the proteins {', '.join(map(repr, ids))}. "
            "Nothing was saved after the last checkpoint. Try a lower --lr, --clip, or --precision fp32; "
            "if it is always the same protein, look at its features."
        )
        self.report: dict[str, Any] = {
            "step": given.step,
            "what": what,
            "value": str(value),
            "portions": [
                {
                    "stream": portion.stream,
                    "proteins": [
                        {"id": name, "epoch": draw.epoch, "position": draw.position}
                        for name, draw in zip(batch.ids, portion.draws, strict=True)
                    ],
                }
                for portion, batch, _ in given.portions
            ],
        }


class Stepper:
    """Takes steps with one model and one optimizer on one device.

    `clip` is the largest norm of the gradient, 0 for none; with `bf16` products run in bfloat16 under autocast while
    weights, losses and the optimizer stay in float32.
    """

    def __init__(
        self,
        model: FusionModel,
        optimizer: torch.optim.Optimizer,
        objective: Objective,
        *,
        device: torch.device,
        clip: float,
        bf16: bool,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.objective = objective
        self.device = device
        self._clip = clip
        self._bf16 = bf16
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def take(self, given: StepInput) -> StepResult:
        """One update. On the host's processor a gradient that is not finite raises `LossError` before the update; on a
        device the next `read` does, so that no step waits for its own numbers.
        """
        self.optimizer.zero_grad(set_to_none=True)
        loss = torch.zeros((), device=self.device)
        layout: list[tuple[str, Part, int]] = []
        totals: list[Tensor] = []
        for portion, batch, masks in given.portions:
            losses = self.losses(batch, masks)
            # Portions have no tensor in common: each gives its gradients and its memory before the next begins.
            weighted = losses.total() * portion.weight
            weighted.backward()  # type: ignore[no-untyped-call]
            loss = loss + weighted.detach()
            for part in PARTS:
                for term, error in getattr(losses, part).items():
                    layout.append((term, part, error.count))
                    totals.append(error.total.detach())
        norm = self._gradient_norm()
        result = StepResult(given, torch.stack([loss, norm, *totals]), layout)
        if self.device.type == "cpu":
            result.read()
        if self._clip:
            torch.nn.utils.clip_grads_with_norm_(self._parameters, self._clip, norm)
        self.optimizer.step()
        return result

    def losses(self, batch: PackedBatch, masks: Masks) -> Losses:
        """The errors of one batch, on the device and in the precision of this run."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._bf16):
            return self.objective(self.model, batch.to(self.device), masks.visible)

    def _gradient_norm(self) -> Tensor:
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        return torch.nn.utils.get_total_norm(gradients)
