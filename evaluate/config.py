"""What decides the numbers of an evaluation. Nothing here needs torch, so that a command line can show it."""

from enum import StrEnum
from typing import Annotated, Any, NamedTuple

from pydantic import Field, model_validator

from amma.manifests.settings import Settings

Positive = Annotated[int, Field(gt=0)]
Rate = Annotated[float, Field(gt=0, le=1)]

FUSION_LRS = (1e-5, 1e-4)
HEAD_LRS = (1e-4, 1e-3)


class TaskName(StrEnum):
    """What is predicted: EC numbers as the label table has them, their first digits, or the terms of a branch of GO."""

    EC = "ec"
    EC_CLASS = "ec-class"
    GO_MF = "go-mf"
    GO_BP = "go-bp"
    GO_CC = "go-cc"


class Protocol(StrEnum):
    """What is tuned: fusion encoder and head from cached features (`fusion`), or the head alone (`probe`).

    Figures of different protocols do not belong in one table. In neither are the frozen encoders tuned, as the
    paper did with ESM-1b.
    """

    FUSION = "fusion"
    PROBE = "probe"


class Tune(StrEnum):
    """Which parts of the model protocol `fusion` tunes along with the head.

    `all`: fusion encoder, every projection, modality vectors and global token. `paper`: fusion encoder and projection
    of structures, which is what B.2 of the paper lists (and ESM-1b, which is frozen here); the projection of sequences
    stays as it was pretrained.
    """

    ALL = "all"
    PAPER = "paper"


class Readout(StrEnum):
    """How the fused residues of a protein become one vector.

    `mean` averages the outputs at all residues of the sequence, `first` takes that at residue 1 (the paper's "first
    token"), `attention` is their mean with weights that are learned with the head (a softmax over residues of a linear
    score, equal at the start); of a protein without sequence features those of its structure. `global` is the output at
    the global token, which only a model that was pretrained with `--global-token` has. The contrastive model has no
    tokens: `mean` is its vector, and all others are refused.
    """

    MEAN = "mean"
    FIRST = "first"
    ATTENTION = "attention"
    GLOBAL = "global"


class Unlabelled(StrEnum):
    """What becomes of a protein that is in the label table without a term of the task: a row of negatives, or nothing.

    `keep` is what published figures on DeepFRI's splits are computed with.
    """

    KEEP = "keep"
    DROP = "drop"


class Rates(NamedTuple):
    """Learning rates; `fusion` is None where the fusion encoder is frozen."""

    fusion: float | None
    head: float


class FinetuneConfig(Settings):
    """How a model is tuned on a task, and how its settings are chosen.

    Every pair of learning rates is tried with the first seed; the pair with the best validation Fmax is used for all
    seeds. The same goes for every model in a report.
    """

    protocol: Protocol = Protocol.FUSION
    tune: Tune | None = Tune.ALL
    """None for `probe`."""
    readout: Readout = Readout.MEAN
    fusion_lrs: tuple[Rate, ...] = FUSION_LRS
    """Tried for the fusion encoder; empty for `probe`."""
    head_lrs: Annotated[tuple[Rate, ...], Field(min_length=1)] = HEAD_LRS
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    batch_size: Positive = 32
    max_epochs: Positive = 50
    patience: Positive = 5
    """Tuning stops after this many epochs in which neither validation Fmax nor validation loss got better; the weights
    of the epoch with the best Fmax are kept (at equal Fmax: with the lower loss)."""
    num_seeds: Positive = 3
    """Tunings that the mean and the standard deviation are taken over, with seeds 0, 1, …"""

    @model_validator(mode="before")
    @classmethod
    def _rates_fit_the_protocol(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        if values.get("protocol") != Protocol.PROBE:
            if values.get("fusion_lrs") == ():
                raise ValueError("protocol fusion needs at least one learning rate for the fusion encoder")
            return {**values, "tune": values.get("tune") or Tune.ALL}
        for key in ("fusion_lrs", "tune"):
            if values.get(key):
                raise ValueError(f"{key} has no effect with protocol probe, which does not tune the fusion encoder")
        return {**values, "fusion_lrs": (), "tune": None}

    @property
    def head_alone(self) -> "FinetuneConfig":
        """The same for what has no fusion encoder to tune."""
        return self.model_copy(update={"protocol": Protocol.PROBE, "fusion_lrs": (), "tune": None})

    @property
    def grid(self) -> tuple[Rates, ...]:
        """Every pair of learning rates."""
        return tuple(Rates(fusion, head) for fusion in self.fusion_lrs or (None,) for head in self.head_lrs)


class FunctionConfig(Settings):
    """One `amma-eval function`, resolved."""

    checkpoint: str
    store: str
    labels: str
    splits: str
    split_prefix: str | None = None
    """What the names of the three lists begin with (`nrPDB-GO_2019.06.18_`); without it, a plain `train.txt` or the
    only list there is."""
    task: TaskName
    unlabelled: Unlabelled = Unlabelled.KEEP
    finetune: FinetuneConfig = FinetuneConfig()
    bootstrap: Annotated[int, Field(ge=0)] = 1000
    """Resamples of the test proteins for the intervals; 0 for none."""
    clusters: str | None = None
    """Table of two columns, id and cluster, that says which test proteins are resampled together; without it, those
    with equal sequences are."""
    device: str = "cpu"

    @model_validator(mode="after")
    def _clusters_are_for_resampling(self) -> "FunctionConfig":
        if self.clusters is not None and not self.bootstrap:
            raise ValueError("clusters has no effect without resamples (bootstrap 0)")
        return self
