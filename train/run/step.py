"""One optimisation step: losses, gradients, a check that they are finite, and the update."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from amma.manifests.errors import LossError
from amma.train.model.batch import PackedBatch, Visible
from amma.train.model.fusion import FusionModel
from amma.train.model.masking import Masks
from amma.train.model.objective import ErrorSum, Losses, Objective
from amma.train.run.ranks import ALONE, Ranks
from amma.train.run.step_input import StepInput
from amma.train.run.tally import EpochTally, Part

PARTS: tuple[Part, ...] = ("trained", "hidden", "visible", "chance")


class StepResult:
    """The numbers of a finished step, on their way to the host: loss, gradient norm, and a sum for each of `keys`.

    On a GPU they are copied while the next step is computed already; asking for them waits for this step only. `counts`
    say over how many things the sums go; None if they come after the sums.
    """

    def __init__(
        self,
        given: StepInput,
        drawn: Mapping[str, int],
        values: Tensor,
        keys: Sequence[tuple[str, Part]],
        counts: Sequence[int] | None,
    ) -> None:
        self.given = given
        self._drawn = drawn
        self._keys = keys
        self._counts = counts
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
        loss, norm, *numbers = self._values.tolist()
        for what, value in (("loss", loss), ("norm of the gradient", norm)):
            if not -float("inf") < value < float("inf"):
                raise StepError(self.given, what, value)
        totals = numbers[: len(self._keys)]
        counts = numbers[len(self._keys) :] if self._counts is None else self._counts
        errors = [
            ErrorOf(term, part, int(count), total)
            for (term, part), count, total in zip(self._keys, counts, totals, strict=True)
        ]
        return StepNumbers(self.given.step, loss, norm, errors, self._drawn)


@dataclass(frozen=True, slots=True)
class ErrorOf:
    """The errors of one term in one part of a step, summed over `count` things."""

    term: str
    part: Part
    count: int
    total: float


@dataclass(frozen=True)
class StepNumbers:
    """The loss, the norm of the gradient before clipping, and the summed errors of a step, over all its processes.

    `drawn` counts proteins by stream, and proteins, tokens and visible tokens by modality (`EpochTally.counts`).
    """

    step: int
    loss: float
    gradient_norm: float
    errors: list[ErrorOf]
    drawn: Mapping[str, int]

    @property
    def num_tokens(self) -> int:
        """Tokens of all modalities and proteins of the step."""
        return sum(count for key, count in self.drawn.items() if key.startswith("tokens/"))

    @property
    def streams(self) -> dict[str, int]:
        """Proteins of the step, by stream."""
        return {key.removeprefix("stream/"): n for key, n in self.drawn.items() if key.startswith("stream/")}

    def add_to(self, tally: EpochTally) -> None:
        """Take this step into an epoch's sums."""
        tally.loss_total += self.loss
        tally.counts["steps"] += 1
        for error in self.errors:
            tally.errors.add(error.term, error.part, error.total, error.count)
        tally.counts.update(self.drawn)


class StepError(LossError):
    """A loss or gradient that is not finite; `report` tells which proteins were in the step.

    `portions` describe them where more processes than this one took part.
    """

    def __init__(self, given: StepInput, what: str, value: float, portions: list[dict[str, Any]] | None = None) -> None:
        self._failed = (given, what, value)
        portions = _described(given) if portions is None else portions
        ids = [protein["id"] for portion in portions for protein in portion["proteins"]]
        super().__init__(
            f"step {given.step}: the {what} is {value} with the proteins {', '.join(map(repr, ids))}. "
            "Nothing was saved after the last checkpoint. Try a lower --lr, --clip, or --precision fp32; "
            "if it is always the same protein, look at its features."
        )
        self.report: dict[str, Any] = {"step": given.step, "what": what, "value": str(value), "portions": portions}

    def with_all(self, reports: Sequence[Mapping[str, Any]]) -> "StepError":
        """The same with the proteins of all processes, from their reports."""
        return StepError(*self._failed, [portion for report in reports for portion in report["portions"]])


def _described(given: StepInput) -> list[dict[str, Any]]:
    return [
        {
            "stream": portion.stream,
            "proteins": [
                {"id": name, "epoch": draw.epoch, "position": draw.position}
                for name, draw in zip(batch.ids, portion.draws, strict=True)
            ],
        }
        for portion, batch, _ in given.portions
    ]


class _Pass(nn.Module):
    """A forward pass up to the errors, as the module whose gradients the processes of a run add up."""

    def __init__(self, model: FusionModel, objective: Objective, device: torch.device) -> None:
        super().__init__()
        self.model = model
        # Has no part in any error. So there is always a parameter without a gradient, which is what torch is told to
        # expect; and a process that was given no protein still has something to differentiate.
        self.idle = nn.Parameter(torch.zeros((), device=device))
        self._objective = objective

    def forward(self, batch: PackedBatch | None, visible: Visible | None) -> Losses | Tensor:
        """The errors of a batch; without one, 0."""
        if batch is None or visible is None:
            nothing: Tensor = self.idle * 0
            return nothing
        return self._objective(self.model, batch, visible)


class Stepper:
    """Takes steps with one model and one optimizer on one device.

    `clip` is the largest norm of the gradient, 0 for none; with `bf16` products run in bfloat16 under autocast while
    weights, losses and the optimizer stay in float32. Where there are several processes, each gives its share of the
    proteins to `take`, and all do the same update.
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
        ranks: Ranks = ALONE,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.objective = objective
        self.device = device
        self._clip = clip
        self._bf16 = bf16
        self._ranks = ranks
        self._pass = ranks.joined(_Pass(model, objective, device))
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def take(self, given: StepInput) -> StepResult:
        """One update. On the host's processor a gradient that is not finite raises `LossError` before the update; on a
        device the next `read` does, so that no step waits for its own numbers.
        """
        self.optimizer.zero_grad(set_to_none=True)
        counts, drawn = self._count(given)
        loss = torch.zeros((), device=self.device)
        sums: dict[str, ErrorSum] = {}
        for number, (portion, batch, masks) in enumerate(given.portions, start=1):
            # Batches have no tensor in common: each gives its gradients and its memory before the next begins.
            with self._ranks.reduces(self._pass, now=number == len(given.portions)):
                losses = self._errors(batch, masks)
                weighted = losses.total(counts[portion.stream]) * portion.weight
                self._differentiate(weighted)
            loss = loss + weighted.detach()
            for part in PARTS:
                for term, error in getattr(losses, part).items():
                    key = f"{portion.stream}/{term}/{part}"
                    own = ErrorSum(error.total.detach(), error.count)
                    sums[key] = sums[key].plus(own) if key in sums else own
        if not given.portions:
            self._differentiate(self._pass(None, None))
        return self._update(given, drawn, loss, sums)

    def _update(
        self, given: StepInput, drawn: Mapping[str, int], loss: Tensor, sums: Mapping[str, ErrorSum]
    ) -> StepResult:
        """Check the gradients and let the optimizer have them; the step's numbers are those of all processes."""
        names = self._ranks.names(("sums", given.streams), sums)
        nothing = ErrorSum(loss.new_zeros(()), 0)
        found = [sums.get(name, nothing) for name in names]
        values, norm = torch.stack([loss, *(error.total for error in found)]), self._gradient_norm()
        counts = [error.count for error in found]
        if self._ranks.size > 1:
            # Counts travel as numbers that hold them exactly, with the sums: on a GPU nobody waits for either.
            values = torch.cat([values.double(), torch.tensor(counts).to(values.device, torch.float64)])
            values = self._ranks.add_up(values)
        values = torch.cat([values[:1], norm.to(values.dtype).reshape(1), values[1:]])
        parts: dict[str, Part] = {part: part for part in PARTS}
        keys = [(term, parts[part]) for _, term, part in (name.split("/") for name in names)]
        result = StepResult(given, drawn, values, keys, counts if self._ranks.size == 1 else None)
        if self.device.type == "cpu":
            result.read()
        if self._clip:
            torch.nn.utils.clip_grads_with_norm_(self._parameters, self._clip, norm)
        self.optimizer.step()
        return result

    def _count(self, given: StepInput) -> tuple[dict[str, Counter[str]], dict[str, int]]:
        """What the losses of each stream are divided by, and what was drawn: both over all batches and processes."""
        mine: Counter[str] = Counter()
        for portion, batch, masks in given.portions:
            mine[f"stream/{portion.stream}"] += len(portion.draws)
            for modality, tokens in batch.tokens.items():
                mine[f"proteins/{modality}"] += batch.num_proteins
                mine[f"tokens/{modality}"] += len(tokens.position_T)
                mine[f"visible/{modality}"] += int(masks.counts[modality].sum())
            for term, count in self.objective.counts(self.model, batch, masks.visible).items():
                mine[f"count/{portion.stream}/{term}"] += count
        counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        drawn = {}
        for name, number in self._ranks.counted(("counts", given.streams), mine).items():
            if name.startswith("count/"):
                _, stream, term = name.split("/")
                counts[stream][term] = number
            else:
                drawn[name] = number
        return counts, drawn

    def _errors(self, batch: PackedBatch, masks: Masks) -> Losses:
        """As `losses`, through what adds up gradients."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._bf16):
            losses: Losses = self._pass(batch.to(self.device), masks.visible)
            return losses

    def _differentiate(self, loss: Tensor) -> None:
        # Processes take the mean of their gradients, and shares of a loss are to be added.
        (loss * self._ranks.size if self._ranks.size > 1 else loss).backward()  # type: ignore[no-untyped-call]

    def losses(self, batch: PackedBatch, masks: Masks) -> Losses:
        """The errors of one batch, on the device and in the precision of this run."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._bf16):
            return self.objective(self.model, batch.to(self.device), masks.visible)

    def _gradient_norm(self) -> Tensor:
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        return torch.nn.utils.get_total_norm(gradients)
