"""What decides the numbers of an evaluation. Nothing here needs torch, so that a command line can show it."""

from enum import StrEnum
from typing import Annotated, Any, NamedTuple

from pydantic import Field, model_validator

from amma.manifests.settings import Settings

Positive = Annotated[int, Field(gt=0)]
Rate = Annotated[float, Field(gt=0, le=1)]

FUSION_LRS = (1e-5, 1e-4)
HEAD_LRS = (1e-4, 1e-3)
DRAWS = 4


class TaskName(StrEnum):
    """What is predicted: EC numbers as the label table has them, their first digits, or the terms of a branch of GO."""

    EC = "ec"
    EC_CLASS = "ec-class"
    GO_MF = "go-mf"
    GO_BP = "go-bp"
    GO_CC = "go-cc"


class Protocol(StrEnum):
    """What is tuned: fusion encoder and head from cached features (`fusion`), or the head alone (`probe`).

    `paper` tunes the sequence encoder too, as B.2 of the paper does with ESM-1b; structure features come from the
    store. Figures of different protocols do not belong in one table.
    """

    FUSION = "fusion"
    PROBE = "probe"
    PAPER = "paper"


class Tune(StrEnum):
    """Which parts of the model are tuned along with the head (and, in protocol `paper`, with the sequence encoder).

    `all`: fusion encoder, every projection, modality vectors and global token. `paper`: fusion encoder and projection
    of structures, which is what B.2 of the paper lists; the projection of sequences stays as it was pretrained.
    """

    ALL = "all"
    PAPER = "paper"


class Optimizer(StrEnum):
    """What makes steps of gradients: Adam, or Adam with weight decay apart from its moments."""

    ADAMW = "adamw"
    ADAM = "adam"


class Precision(StrEnum):
    """What the products of the sequence encoder are in while it is tuned; its weights and sums are fp32 in both."""

    FP32 = "fp32"
    BF16 = "bf16"


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


class Visible(StrEnum):
    """What a model sees of a protein when it represents it.

    `all`: every token of sequence and structure. `draws`: what masks of pretraining show, several times; the vector is
    the mean of what is read out each time.
    """

    ALL = "all"
    DRAWS = "draws"


class SearchTool(StrEnum):
    """What finds the training sequences that are like a protein's.

    `auto` takes MMseqs2 if it is installed, else DIAMOND if that is, else `kmers`: our own search, by shared 3-mers.
    """

    AUTO = "auto"
    MMSEQS = "mmseqs"
    DIAMOND = "diamond"
    KMERS = "kmers"


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
    """None for `probe`; by default `paper` for `paper`."""
    readout: Readout = Readout.MEAN
    visible: Visible = Visible.ALL
    draws: Positive | None = None
    """Masks of each protein whose read-outs are averaged, fixed ones; None where all is visible."""
    fusion_lrs: tuple[Rate, ...] = FUSION_LRS
    """Tried for the fusion encoder, and the sequence encoder where it is tuned; empty for `probe`."""
    head_lrs: Annotated[tuple[Rate, ...], Field(min_length=1)] = HEAD_LRS
    optimizer: Optimizer = Optimizer.ADAMW
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """0 by default with Adam, as torch has them."""
    lr_decay: Rate = 1.0
    """All learning rates are multiplied by it after each epoch."""
    batch_size: Positive = 32
    max_epochs: Positive = 50
    patience: Positive = 5
    """Tuning stops after this many epochs in which neither validation Fmax nor validation loss got better; the weights
    of the epoch with the best Fmax are kept (at equal Fmax: with the lower loss). As many as epochs by default for
    `paper`, which says nothing of stopping."""
    num_seeds: Positive = 3
    """Tunings that the mean and the standard deviation are taken over, with seeds 0, 1, …"""
    precision: Precision | None = None
    """Of the sequence encoder in protocol `paper`; None for the others, which do not run it."""

    @model_validator(mode="before")
    @classmethod
    def _settings_fit_the_protocol(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        protocol = values.get("protocol", Protocol.FUSION)
        if protocol == Protocol.PAPER:
            values = {**PAPER_DEFAULTS, **values}
            values.setdefault("patience", values["max_epochs"])
        elif values.get("precision") is not None:
            raise ValueError(f"precision has no effect with protocol {protocol}, which does not run the encoder")
        if values.get("visible", Visible.ALL) == Visible.DRAWS:
            values = {**values, "draws": DRAWS if values.get("draws") is None else values["draws"]}
        elif values.get("draws") is not None:
            raise ValueError("draws has no effect with visible all, where every token is seen at once")
        if values.get("optimizer") == Optimizer.ADAM:
            values = {"weight_decay": 0.0, **values}
        if protocol != Protocol.PROBE:
            if values.get("fusion_lrs") == ():
                raise ValueError(f"protocol {protocol} needs at least one learning rate for the fusion encoder")
            return {**values, "tune": values.get("tune") or Tune.ALL}
        for key in ("fusion_lrs", "tune"):
            if values.get(key):
                raise ValueError(f"{key} has no effect with protocol probe, which does not tune the fusion encoder")
        return {**values, "fusion_lrs": (), "tune": None}

    @property
    def head_alone(self) -> "FinetuneConfig":
        """The same for what has no fusion encoder to tune."""
        without = {"fusion_lrs": (), "tune": None, "precision": None, "visible": Visible.ALL, "draws": None}
        return self.model_copy(update={"protocol": Protocol.PROBE, **without})

    @property
    def grid(self) -> tuple[Rates, ...]:
        """Every pair of learning rates."""
        return tuple(Rates(fusion, head) for fusion in self.fusion_lrs or (None,) for head in self.head_lrs)


PAPER_DEFAULTS: dict[str, Any] = {
    "tune": Tune.PAPER,
    "fusion_lrs": (1e-5,),
    "head_lrs": (1e-4,),
    "lr_decay": 0.95,
    "batch_size": 1,
    "max_epochs": 50,
    "precision": Precision.FP32,
}
"""B.2 of the paper, as far as it is the same for all tasks."""

PAPER_DEFAULTS_OF_TASK: dict[TaskName, dict[str, Any]] = {
    TaskName.EC: {"max_epochs": 100},
    TaskName.EC_CLASS: {"max_epochs": 100},
    TaskName.GO_MF: {"optimizer": Optimizer.ADAM},
    TaskName.GO_CC: {"optimizer": Optimizer.ADAM},
    TaskName.GO_BP: {"batch_size": 4},
}
"""The rest of it; where nothing is said, AdamW. The paper has no task of EC classes: as for EC."""


CAFA_TAU_STEP = 0.01
"""CAFA's own grid of thresholds."""


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
    ontology: str | None = None
    """OBO file of the task's terms: their names, and what CAFA's figures are computed on. EC numbers have a hierarchy
    of their own."""
    term_names: str | None = None
    """Table of two columns, term and name, that goes before any other source of names."""
    cafa_tau_step: Annotated[float, Field(gt=0, lt=1)] = CAFA_TAU_STEP
    """Thresholds that CAFA's figures look at: so far apart."""
    identity_cutoffs: str | None = None
    """DeepFRI's published list of the test proteins that are left at each identity to training; without it, figures per
    cut-off go by the nearest protein of the training split at hand."""
    quarantines: tuple[str, ...] = ()
    """`quarantine.jsonl` files of manifests, which say why proteins are not in the store; the store's own, and the one
    beside it, are read in any case."""
    include: tuple[str, ...] = ()
    """Folders of finished analyses whose sections the report shows."""
    search: SearchTool = SearchTool.AUTO
    """What finds the nearest training sequences, and the nearest of those that pretraining saw."""
    device: str = "cpu"
    preset: str | None = None
    """Whose sequence encoder protocol `paper` tunes, as when the store was made; None: `tiny` for a store of random
    encoders, else `paper`."""
    seq_encoder: str | None = None
    """Another one than the preset's, by its name."""
    weights: str | None = None
    """Folder with its weights."""
    recompute: bool = False
    """In protocol `paper`: keep no activations within the encoder's layers, and compute them anew for gradients. The
    figures are the same."""

    @model_validator(mode="before")
    @classmethod
    def _paper_depends_on_task_and_device(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        finetune = values.get("finetune", {})
        if not isinstance(finetune, dict):
            return values
        if finetune.get("protocol") != Protocol.PAPER:
            return values
        task = values.get("task")
        of_task = PAPER_DEFAULTS_OF_TASK[TaskName(task)] if task in list(TaskName) else {}
        on_gpu = str(values.get("device", "cpu")).startswith("cuda")
        defaults = {"precision": Precision.BF16 if on_gpu else Precision.FP32, **of_task}
        return {**values, "finetune": {**defaults, **finetune}}

    @model_validator(mode="after")
    def _an_encoder_is_for_tuning_it(self) -> "FunctionConfig":
        if self.finetune.protocol is not Protocol.PAPER:
            for key in ("preset", "seq_encoder", "weights", "recompute"):
                if getattr(self, key):
                    raise ValueError(f"{key} has no effect with protocol {self.finetune.protocol}, only with paper")
        return self

    @model_validator(mode="after")
    def _an_ontology_is_for_terms_of_go(self) -> "FunctionConfig":
        of_ec = self.task in (TaskName.EC, TaskName.EC_CLASS)
        if of_ec and self.ontology:
            raise ValueError(f"ontology has no effect with task {self.task}, whose numbers are a hierarchy themselves")
        if not of_ec and not self.ontology and self.cafa_tau_step != CAFA_TAU_STEP:
            raise ValueError(f"cafa_tau_step has no effect with task {self.task} without an ontology")
        return self

    @model_validator(mode="after")
    def _clusters_are_for_resampling(self) -> "FunctionConfig":
        if self.clusters is not None and not self.bootstrap:
            raise ValueError("clusters has no effect without resamples (bootstrap 0)")
        return self
