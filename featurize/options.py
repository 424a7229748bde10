"""Which proteins, and which encoders: options declared once for every command of `amma-featurize` that encodes."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from amma.manifests.errors import UsageError
from amma.manifests.option_table import takes_options


class Precision(StrEnum):
    """What encoders compute in."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


class Long(StrEnum):
    """What becomes of proteins with more residues than the sequence encoder takes."""

    TRUNCATE = "truncate"
    SKIP = "skip"


class Backend(StrEnum):
    """Whose GearNet computes."""

    AMMA = "amma"
    TORCHDRUG = "torchdrug"


class SpecialTokens(StrEnum):
    """Whether special tokens are rows of a text."""

    DROP = "drop"
    KEEP = "keep"


class View(StrEnum):
    """A modality (its own class would bring pyarrow with it)."""

    SEQ = "seq"
    STR = "str"
    FUNC = "func"


class Dtype(StrEnum):
    """What features are stored as."""

    FLOAT16 = "float16"
    FLOAT32 = "float32"


Source = Annotated[
    Path,
    typer.Argument(metavar="INPUT", help="A manifest (.parquet), a FASTA file, or a folder of PDB/mmCIF files."),
]

# Who does the work.
Workers = Annotated[
    int | None, typer.Option(min=1, help="Processes of this machine that encode. [default: this process alone]")
]
Scheduler = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS", help="Workers of a dask.distributed scheduler, by its address or scheduler file."),
]
WorkerResource = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=AMOUNT", help="With --scheduler: what a worker must offer for a unit, as GPU=1."),
]
PartOption = Annotated[
    str | None,
    typer.Option("--part", metavar="I/N", help="Fill share I (from 0) of N and seal nothing; `seal` does that."),
]
Quarantine = Annotated[
    Path | None, typer.Option(help="File of ids that are not to be encoded, one a line; they are quarantined.")
]


@dataclass(frozen=True)
class EncodingOptions:
    """A table: each attribute is an option of the same name, with its default. Whoever encodes takes all of them."""

    preset: Annotated[str, typer.Option(help="Encoders: paper (published weights), or tiny (random weights).")]
    weights: Annotated[Path | None, typer.Option(help="Folder with the weights of the paper's encoders.")] = None

    # With an input that is no manifest.
    structures: Annotated[Path | None, typer.Option(help="With FASTA: folder of PDB/mmCIF files.")] = None
    descriptions: Annotated[Path | None, typer.Option(help="With FASTA or PDB: ProtDescribe table (TSV).")] = None

    # The encoders.
    seq_encoder: Annotated[
        str | None, typer.Option(metavar="NAME", help="Another sequence encoder: a name, Hugging Face id or folder.")
    ] = None
    str_encoder: Annotated[str | None, typer.Option(metavar="NAME", help="Another structure encoder.")] = None
    func_encoder: Annotated[
        str | None, typer.Option(metavar="NAME", help="Another text encoder: a name, Hugging Face id or folder.")
    ] = None
    layer: Annotated[
        int | None, typer.Option(help="Layer of the sequence encoder that is stored. [default: its last]")
    ] = None
    max_residues: Annotated[
        int | None, typer.Option(min=1, help="Residues of a protein that are encoded. [default: the encoder's limit]")
    ] = None
    long: Annotated[
        Long | None, typer.Option(help="Of longer proteins, keep the first residues or nothing. [default: truncate]")
    ] = None
    str_backend: Annotated[
        Backend | None, typer.Option(help="Whose GearNet computes; torchdrug needs `make torchdrug`. [default: amma]")
    ] = None
    text_fields: Annotated[
        str | None,
        typer.Option(metavar="FIELDS", help="Fields to encode. [default: name,function,location,similarity]"),
    ] = None
    special_tokens: Annotated[
        SpecialTokens | None, typer.Option(help="Whether [CLS] and [SEP] are rows of a text. [default: drop]")
    ] = None
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto"
    precision: Annotated[
        Precision, typer.Option(help="What encoders compute in; auto: bf16 on a GPU that has it, else fp32.")
    ] = Precision.AUTO

    # The store.
    dtype: Annotated[Dtype | None, typer.Option(help="What features are stored as. [default: float16]")] = None
    shard_rows: Annotated[int | None, typer.Option(min=1, help="Rows of a shard. [default: 16384]")] = None
    seed: Annotated[int | None, typer.Option(min=0, help="Of the order of storage. [default: 0]")] = None
    token_budget: Annotated[int | None, typer.Option(min=1, help="Most tokens in an encode batch. [default: 8192]")] = (
        None
    )
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads of the encoders. [default: the processors there are]")
    ] = None

    def settings(self) -> Any:
        """The `StoreSettings` of those options that were given."""
        from amma.featurize.store.settings import StoreSettings

        given = {
            "dtype": self.dtype,
            "shard_rows": self.shard_rows,
            "seed": self.seed,
            "token_budget": self.token_budget,
            "threads": self.threads,
        }
        return StoreSettings.parse(
            {name: value for name, value in given.items() if value is not None}, source="the options"
        )

    def recipe(self, store: Path) -> Any:
        """The `Recipe` of the encoders that were chosen.

        Without a precision, what `store` was begun with, else what this machine's device is made for. Raises
        `UsageError` for what is not known, `ConfigError` for wrong options.
        """
        from amma.featurize.encoders.choice import EncoderChoice
        from amma.featurize.encoders.device import resolve_device, resolve_precision
        from amma.featurize.run import recorded_precision
        from amma.featurize.workers.recipe import Recipe

        options = {name: getattr(self, name) for name in EncoderChoice.model_fields}
        fields = None if self.text_fields is None else tuple(self.text_fields.split(","))
        choice = EncoderChoice.parse({**options, "text_fields": fields}, source="the options")
        replaced = choice.specs(self.preset)
        recorded = recorded_precision(store) if self.precision is Precision.AUTO else None
        return Recipe(
            "amma.featurize.encoders.presets:build_encoders",
            {
                "preset": self.preset,
                "weights": None if self.weights is None else self.weights.absolute(),
                "device": self.device,
                # Resolved here: a worker must not choose another one for itself.
                "precision": resolve_precision(recorded or str(self.precision), resolve_device(self.device)),
                "replaced": replaced,
            },
        )


takes_encoding = takes_options(EncodingOptions, "encoding", lambda context, values: EncodingOptions(**values))
"""Gives a command every option of `EncodingOptions` where it has its parameter `encoding`."""


def chosen_crew(*, workers: int | None, scheduler: str | None, worker_resource: list[str] | None) -> Any:
    """The `Crew` of the options above, None for this process alone. Raises `UsageError`."""
    from amma.featurize.workers.crew import Crew, parse_resources

    if workers is not None and scheduler is not None:
        raise UsageError("--workers starts a cluster of this machine's own, --scheduler uses another; give one.")
    if worker_resource and scheduler is None:
        raise UsageError("--worker-resource chooses among the workers of a --scheduler; give that too.")
    if workers is None and scheduler is None:
        return None
    return Crew(workers, scheduler, parse_resources(worker_resource or []))
