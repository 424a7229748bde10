"""Everything that decides a pretraining run, and which of it may change when the run goes on.

Nothing here needs torch, so that a command line can show it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_serializer, model_validator

from amma.featurize.store.fingerprint import fields
from amma.featurize.store.location import StoreLocation
from amma.manifests.errors import ConfigError
from amma.manifests.settings import Settings
from amma.train.model.config import (
    SMALLEST_BATCH,
    WITHOUT_EFFECT,
    MaskConfig,
    ModelConfig,
    ObjectiveConfig,
    Positive,
)

StreamName = Literal["triplet", "seq-str", "seq-func"]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class OptimizerConfig(Settings):
    """AdamW and its schedule. The paper: 1e-4, weight decay 0.05, StepLR with γ = 0.5, its step unstated."""

    lr: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1e-4
    weight_decay: NonNegative = 0.05
    """On weight matrices; not on biases, norms, embeddings and other vectors."""
    lr_step_epochs: Positive = 3
    lr_gamma: Annotated[float, Field(gt=0, le=1)] = 0.5
    clip: NonNegative = 1.0
    """Largest norm of the gradient; 0 for none."""


class MixConfig(Settings):
    """How proteins become batches.

    `interleave`: each step is a batch from one stream, every stream as often as its proteins times its weight.
    `sum`: each step takes a batch from every stream and adds up their losses times their weights (Eq. 12).
    """

    mixing: Literal["interleave", "sum"] = "interleave"
    weights: dict[StreamName, NonNegative] = Field(default_factory=dict)
    """1 where a stream is not named; 0 leaves it out."""
    batch_size: Positive = 4
    shuffle_block: Annotated[int, Field(ge=0)] = 0
    """Draw so many of a store's units one after the other, shuffled inside: for stores behind a network. 0: all."""

    def weight(self, stream: StreamName) -> float:
        """The weight of one stream."""
        return self.weights.get(stream, 1.0)


class RunConfig(Settings):
    """One `amma-train pretrain` run."""

    recipe: str | None = None
    """The name of what the settings come from, for those who read them; it decides nothing."""
    stores: Annotated[tuple[StoreLocation, ...], Field(min_length=1)]
    model: ModelConfig
    mask: MaskConfig = MaskConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    mix: MixConfig = MixConfig()
    epochs: Positive = 10
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    exclude: tuple[Path, ...] = ()
    subset: Positive | None = None
    """How many triplets are trained on, of those that are neither excluded nor set aside; None for all."""
    subset_seed: Annotated[int, Field(ge=0)] = 0
    validation_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.05
    clusters: Path | None = None
    init_from: Path | None = None
    """A checkpoint whose weights and standardiser the run begins with; everything else begins anew."""
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: bool = False
    """What layers do to each row by torch.compile; the same numbers up to rounding."""
    checkpoint_activations: bool = False
    """Keep the inputs of layers only, and compute the rest anew for the backward pass: less memory, the same bits."""
    device: str = "auto"
    threads: Positive | None = None
    """Of the arithmetic and of the loader; None for torch's own number and the same for the loader."""
    max_steps: Positive | None = None
    checkpoint_every: Positive = 1000
    """Steps; the end of an epoch is always a checkpoint."""
    log_every: Positive = 1
    accumulate: Positive = 1
    """Batches one after the other that make a step, for what does not fit at once; the same step but for rounding."""
    rank_timeout: Positive = 60
    """Seconds after which a process that is not heard of counts as dead, where several train."""
    tensorboard: bool = False
    """Write what the log has for TensorBoard as well."""

    @property
    def masks(self) -> MaskConfig | None:
        """What tokens are hidden by; None for a family that hides none."""
        return None if "mask" in WITHOUT_EFFECT[self.model.family] else self.mask

    @model_serializer(mode="wrap")
    def _without_what_has_no_effect(self, dump: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """All settings but those that the family does not use: a file that has them would say what is not so."""
        values = dump(self)
        for section, names in WITHOUT_EFFECT[self.model.family].items():
            values[section] = {name: value for name, value in values[section].items() if name not in names}
        return {name: value for name, value in values.items() if name != "mask" or value}

    @model_validator(mode="after")
    def _settings_serve_the_family(self) -> "RunConfig":
        family = self.model.family
        for section, names in WITHOUT_EFFECT[family].items():
            settings = getattr(self, section)
            idle = sorted(n for n in names if getattr(settings, n) != type(settings).model_fields[n].default)
            if idle:
                raise ValueError(f"{', '.join(f'{section}.{name}' for name in idle)}: no effect with family {family}")
        smallest = SMALLEST_BATCH.get(family, 1)
        if self.mix.batch_size < smallest:
            raise ValueError(
                f"mix.batch_size is {self.mix.batch_size}, but family {family} tells the proteins of a batch apart: "
                f"at least {smallest}, better 256"
            )
        return self

    @model_validator(mode="after")
    def _clusters_serve_a_split(self) -> "RunConfig":
        if self.clusters is not None and not self.validation_fraction:
            raise ValueError("clusters has no effect when validation_fraction is 0")
        return self

    @model_validator(mode="after")
    def _a_subset_is_of_something(self) -> "RunConfig":
        if self.subset_seed and self.subset is None:
            raise ValueError("subset_seed has no effect without subset")
        if self.subset is not None and not self.mix.weight("triplet"):
            raise ValueError("subset is one of triplets, and has no effect when their weight is 0")
        return self


FREE_TO_CHANGE = frozenset(
    {
        "recipe",
        "epochs",
        "max_steps",
        "checkpoint_every",
        "log_every",
        "tensorboard",
        "accumulate",
        "rank_timeout",
        "checkpoint_activations",
        "device",
        "threads",
        "stores",
        "exclude",
        "clusters",
        "init_from",
    }
)
"""Keys that may differ when a run goes on: where it ends, how it is watched, what it runs on, and paths of files (the
files themselves are compared by their hashes). The schedule does not depend on where the run ends."""


def check_same_run(before: dict[str, Any], now: dict[str, Any], *, where: Path) -> None:
    """Compare the resolved settings of a run with those it is to go on with.

    Raises `ConfigError` naming every key that differs and may not.
    """
    old, new = fields(before), fields(now)
    faults = [
        f"  {key}: {old.get(key, 'nothing')} before, {new.get(key, 'nothing')} now"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and key not in FREE_TO_CHANGE
    ]
    if faults:
        raise ConfigError(
            f"{where} holds a run with other settings:\n"
            + "\n".join(faults)
            + "\nGive the same settings to go on with it, or another folder to start anew."
        )
