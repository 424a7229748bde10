"""Which proteins, and which encoders: options declared once for every command of `amma-featurize` that encodes."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer


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


def chosen_encoders(
    store: Path,
    *,
    preset: str,
    weights: Path | None,
    device: str,
    precision: Precision,
    text_fields: str | None,
    **options: Any,
) -> Any:
    """Build the encoders that the options above choose; `options` are the other fields of `EncoderChoice`.

    Without a precision, what `store` was begun with. Raises as `build_encoders`.
    """
    from amma.featurize.encoders.choice import EncoderChoice
    from amma.featurize.encoders.presets import build_encoders
    from amma.featurize.run import recorded_precision

    fields = None if text_fields is None else tuple(text_fields.split(","))
    choice = EncoderChoice.parse({**options, "text_fields": fields}, source="the options")
    return build_encoders(
        preset,
        weights=weights,
        device=device,
        precision=recorded_precision(store) or precision if precision is Precision.AUTO else precision,
        replaced=choice.specs(preset),
    )


def chosen_settings(**options: Any) -> Any:
    """The `StoreSettings` of those options that were given."""
    from amma.featurize.store.settings import StoreSettings

    given = {name: value for name, value in options.items() if value is not None}
    return StoreSettings.parse(given, source="the options")
