"""What a protocol will tune, and how much work that is, before anything is computed."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from amma.evaluate.config import FinetuneConfig, Optimizer, Protocol, Tune
from amma.evaluate.tasks.task import Task
from amma.manifests.table import Modality
from amma.train.model.fusion import FusionModel

BYTES_PER_PARAMETER = 16
"""On the device weight, gradient and two moments in float32; on disk weight, best weight and the moments."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """Of one kind of model: the parameters that are tuned besides the head, by part; how many tunings, and their steps.

    A step is one batch of the training split; each tuning has at most `epochs` passes of `steps_per_epoch`.
    """

    parameters: Mapping[str, int]
    tunings: int
    epochs: int
    steps_per_epoch: int

    @property
    def steps(self) -> int:
        """Of all tunings together, if none stops early."""
        return self.tunings * self.epochs * self.steps_per_epoch

    @property
    def num_parameters(self) -> int:
        """All that are tuned, but for the head."""
        return sum(self.parameters.values())

    def as_plain(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "steps": self.steps}


def schedule(config: FinetuneConfig, task: Task, model: FusionModel, *, encoder_parameters: int = 0) -> Schedule:
    """The schedule of a model on a task; `encoder_parameters` are those of a sequence encoder that is tuned along."""
    return Schedule(
        parameters={} if config.protocol is Protocol.PROBE else _parts(config, model, encoder_parameters),
        tunings=len(config.grid) + config.num_seeds - 1,
        epochs=config.max_epochs,
        steps_per_epoch=-(-len(task.train.ids) // config.batch_size),
    )


def _parts(config: FinetuneConfig, model: FusionModel, encoder_parameters: int) -> dict[str, int]:
    def count(*modules: object) -> int:
        return sum(each.numel() for module in modules for each in module.parameters())  # type: ignore[attr-defined]

    parts = {"sequence encoder": encoder_parameters} if config.protocol is Protocol.PAPER else {}
    parts |= {
        "fusion encoder": count(model.encoder),
        "projection of structures": count(model.projections[Modality.STR]),
    }
    if config.tune is not Tune.PAPER:
        everything = sum(each.numel() for each in model.fusion_parameters())
        known = parts["fusion encoder"] + parts["projection of structures"]
        parts["other projections and modality vectors"] = everything - known
    return parts


def schedule_lines(config: FinetuneConfig, planned: Schedule) -> list[str]:
    """The schedule in words."""
    optimizer = {Optimizer.ADAMW: "AdamW", Optimizer.ADAM: "Adam"}[config.optimizer]
    heads = " or ".join(f"{rate:g}" for rate in config.head_lrs)
    parts = [f"{name} {number:,}" for name, number in planned.parameters.items()]
    fusion = f", {' or '.join(f'{rate:g}' for rate in config.fusion_lrs)} elsewhere" if config.fusion_lrs else ""
    decay = f", times {config.lr_decay:g} after each epoch" if config.lr_decay != 1 else ""
    products = f"; products of the sequence encoder in {config.precision}" if config.precision else ""
    lines = [
        f"tuned with a head: {', '.join(parts)} parameters ({planned.num_parameters:,})" if parts else "tuned: a head",
        f"{optimizer}, learning rates {heads} for the head{fusion}{decay}{products}",
        f"at most {planned.tunings} tunings x {planned.epochs} epochs x {planned.steps_per_epoch:,} steps of "
        f"{config.batch_size} proteins = {planned.steps:,} steps for each of the trained and the untrained model",
    ]
    if config.protocol is Protocol.PAPER:
        gigabytes = BYTES_PER_PARAMETER * planned.num_parameters / 1e9
        lines.append(
            f"at least {gigabytes:.1f} GB on the device for weights, gradients and moments; activations come on top "
            "(--recompute: hardly any). As much on disk, in REPORT_DIR, until the report is there"
        )
    return lines
