"""Which proteins, and which encoders: options declared once for every command of `amma-featurize` that encodes."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from amma.manifests.errors import UsageError


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


class Dtype(StrEnum):
    """What features are stored as."""

    FLOAT16 = "float16"
    FLOAT32 = "float32"


# The proteins.
Source = Annotated[
    Path,
    typer.Argument(metavar="INPUT", help="A manifest (.parquet), a FASTA file, or a folder of PDB/mmCIF files."),
]
Structures = Annotated[Path | None, typer.Option(help="With FASTA: folder of PDB/mmCIF files.")]
Descriptions = Annotated[Path | None, typer.Option(help="With FASTA or PDB: ProtDescribe table (TSV).")]

# The encoders.
PresetName = Annotated[str, typer.Option(help="Encoders: paper (published weights), or tiny (random weights).")]
Weights = Annotated[Path | None, typer.Option(help="Folder with the weights of the paper's encoders.")]
SeqEncoder = Annotated[
    str | None, typer.Option(metavar="NAME", help="Another sequence encoder: a name, Hugging Face id or folder.")
]
StrEncoder = Annotated[str | None, typer.Option(metavar="NAME", help="Another structure encoder.")]
FuncEncoder = Annotated[
    str | None, typer.Option(metavar="NAME", help="Another text encoder: a name, Hugging Face id or folder.")
]
Layer = Annotated[int | None, typer.Option(help="Layer of the sequence encoder that is stored. [default: its last]")]
MaxResidues = Annotated[
    int | None, typer.Option(min=1, help="Residues of a protein that are encoded. [default: the encoder's limit]")
]
LongProteins = Annotated[
    Long | None, typer.Option(help="Of longer proteins, keep the first residues or nothing. [default: truncate]")
]
StrBackend = Annotated[
    Backend | None, typer.Option(help="Whose GearNet computes; torchdrug needs `make torchdrug`. [default: amma]")
]
TextFields = Annotated[
    str | None,
    typer.Option(metavar="FIELDS", help="Fields to encode. [default: name,function,location,similarity]"),
]
TextSpecialTokens = Annotated[
    SpecialTokens | None, typer.Option(help="Whether [CLS] and [SEP] are rows of a text. [default: drop]")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
EncoderPrecision = Annotated[
    Precision, typer.Option(help="What encoders compute in; auto: bf16 on a GPU that has it, else fp32.")
]

# The store.
StoredDtype = Annotated[Dtype | None, typer.Option(help="What features are stored as. [default: float16]")]
ShardRows = Annotated[int | None, typer.Option(min=1, help="Rows of a shard. [default: 16384]")]
StorageSeed = Annotated[int | None, typer.Option(min=0, help="Of the order of storage. [default: 0]")]
TokenBudget = Annotated[int | None, typer.Option(min=1, help="Most tokens in an encode batch. [default: 8192]")]
Threads = Annotated[
    int | None, typer.Option(min=1, help="CPU threads of the encoders. [default: the processors there are]")
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


def chosen_recipe(
    store: Path,
    *,
    preset: str,
    weights: Path | None,
    device: str,
    precision: Precision,
    text_fields: str | None,
    **options: Any,
) -> Any:
    """The `Recipe` of the encoders that the options above choose; `options` are the other fields of `EncoderChoice`.

    Without a precision, what `store` was begun with, else what this machine's device is made for. Raises
    `UsageError` for what is not known, `ConfigError` for wrong options.
    """
    from amma.featurize.encoders.choice import EncoderChoice
    from amma.featurize.encoders.device import resolve_device, resolve_precision
    from amma.featurize.run import recorded_precision
    from amma.featurize.workers.recipe import Recipe

    fields = None if text_fields is None else tuple(text_fields.split(","))
    choice = EncoderChoice.parse({**options, "text_fields": fields}, source="the options")
    replaced = choice.specs(preset)
    asked = recorded_precision(store) or precision if precision is Precision.AUTO else precision
    return Recipe(
        "amma.featurize.encoders.presets:build_encoders",
        {
            "preset": preset,
            "weights": None if weights is None else weights.absolute(),
            "device": device,
            # Resolved here: a worker must not choose another one for itself.
            "precision": resolve_precision(str(asked), resolve_device(device)),
            "replaced": replaced,
        },
    )


def chosen_encoders(store: Path, **options: Any) -> Any:
    """Build the encoders of `chosen_recipe`. Raises as that and `build_encoders`."""
    return chosen_recipe(store, **options).build()


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


def chosen_settings(**options: Any) -> Any:
    """The `StoreSettings` of those options that were given."""
    from amma.featurize.store.settings import StoreSettings

    given = {name: value for name, value in options.items() if value is not None}
    return StoreSettings.parse(given, source="the options")
