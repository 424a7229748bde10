"""The options that decide a run, declared once for every command of `amma-train` that takes them."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from amma.manifests.errors import UsageError


class Family(StrEnum):
    """What each decoder sees of the fused tokens."""

    ASYMMETRIC = "asymmetric"
    SYMMETRIC = "symmetric"
    NO_AUXILIARY = "no-auxiliary"


class Positions(StrEnum):
    """What the fusion encoder is told about a token's place."""

    SINCOS = "sincos"
    NONE = "none"


class HiddenTokens(StrEnum):
    """What stands for the content of a token that a decoder is not shown."""

    ZEROS = "zeros"
    LEARNED = "learned"


class Rounding(StrEnum):
    """How shares become whole numbers of tokens."""

    LARGEST_REMAINDER = "largest-remainder"
    MULTINOMIAL = "multinomial"


class Shortfall(StrEnum):
    """What becomes of tokens that a modality cannot show."""

    REDISTRIBUTE = "redistribute"
    DROP = "drop"


class Mixing(StrEnum):
    """How proteins with and without structure or text become batches."""

    INTERLEAVE = "interleave"
    SUM = "sum"


class Precision(StrEnum):
    """What products are computed in."""

    FP32 = "fp32"
    BF16 = "bf16"


class LossOn(StrEnum):
    """Which tokens the loss counts."""

    ALL = "all"
    HIDDEN = "hidden"


class Targets(StrEnum):
    """The scale on which errors are measured."""

    STANDARDISED = "standardised"
    RAW = "raw"


# The model.
PresetName = Annotated[str, typer.Option(help="Model size: paper, paper-text-51m, uniform-768 or tiny.")]
FamilyName = Annotated[
    Family,
    typer.Option(
        help="asymmetric: structure from sequence and function, function from sequence and structure; symmetric: "
        "each from itself (Eq. 13); no-auxiliary: all from the sequence (Eq. 17)."
    ),
]
Heads = Annotated[int | None, typer.Option(help="Attention heads of the fusion encoder; the preset's if not given.")]
DecoderHeads = Annotated[int | None, typer.Option(help="Attention heads of the decoders; the preset's if not given.")]
ProjectionHidden = Annotated[
    int | None, typer.Option(metavar="WIDTH", help="Hidden width of the two-layer projections; D if not given.")
]
PositionsName = Annotated[
    Positions, typer.Option(help="Positions in the fusion encoder; the decoders have their own switch.")
]
ModalityVectors = Annotated[
    bool, typer.Option(help="Learned vectors that tell modalities apart, in the encoder and in the decoders.")
]
DecoderPositions = Annotated[
    bool,
    typer.Option(
        help="Add positions and modality vectors again before each decoder; without them hidden tokens decode alike."
    ),
]
HiddenTokensName = Annotated[
    HiddenTokens,
    typer.Option(help="What decoders get in place of hidden tokens: zeros, or a learned vector for each modality."),
]
GlobalToken = Annotated[
    bool,
    typer.Option("--global-token", help="Give every protein a learned token in the fusion encoder, always visible."),
]

# Masks.
VisibleTokens = Annotated[
    int | None, typer.Option(help="Tokens of a protein that the encoder sees; the preset's if not given.")
]
Alpha = Annotated[
    str | None, typer.Option(metavar="SEQ,STR,FUNC", help="Dirichlet concentrations of the mask (default 1,2,2).")
]
MaxVisibleFraction = Annotated[
    float | None, typer.Option(help="Largest visible share of a protein and of each modality (default 0.75).")
]
ModalityDropout = Annotated[
    float | None, typer.Option(help="Probability that a modality of a protein is hidden whole (default 0).")
]
RoundingName = Annotated[Rounding, typer.Option(help="How Dirichlet shares become whole numbers of visible tokens.")]
ShortfallName = Annotated[
    Shortfall,
    typer.Option(help="Visible tokens that a modality is too short for: shown by the others instead, or lost."),
]

# Proteins and batches.
Epochs = Annotated[int, typer.Option(help="How often each protein is seen.")]
BatchSize = Annotated[int, typer.Option(help="Proteins in a batch.")]
Seed = Annotated[int, typer.Option(help="Of weights, order, masks and the validation split.")]
Exclude = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="IDS", help="File of ids, one a line, that training must not see; also under another id. Repeatable."
    ),
]
ValidationFraction = Annotated[
    float,
    typer.Option(help="Share of the proteins set aside by sequence cluster; 0: the best checkpoint is the latest."),
]
ClustersFile = Annotated[
    Path | None, typer.Option(metavar="TSV", help="Two columns, id and cluster; else MMseqs2's, else by shared 5-mers.")
]
MixingName = Annotated[
    Mixing, typer.Option(help="interleave: one stream a step; sum: all streams each step, losses added (Eq. 12).")
]
Weights = Annotated[
    list[str] | None,
    typer.Option(
        metavar="STREAM=W",
        help="Weight of triplet, seq-str or seq-func (default 1): how often its proteins are seen (interleave), or "
        "the factor of its loss (sum); 0 leaves it out. Repeatable.",
    ),
]

# The machine.
PrecisionName = Annotated[Precision, typer.Option(help="bf16 computes products in bfloat16.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Threads = Annotated[int | None, typer.Option(help="CPU threads; torch's own number if not given.")]
MaxSteps = Annotated[int | None, typer.Option(help="Stop after so many steps in all.")]


def given(**values: Any) -> dict[str, Any]:
    """The values that were given, as plain ones; None is what was not."""
    return {
        name: value.value if isinstance(value, StrEnum) else value
        for name, value in values.items()
        if value is not None
    }


def stream_weights(options: list[str] | None) -> dict[str, float]:
    """What `--weight STREAM=W` says; raises `UsageError` for an unknown stream or no number."""
    weights: dict[str, float] = {}
    for option in options or []:
        stream, equals, value = option.partition("=")
        try:
            weights[stream] = float(value)
        except ValueError as error:
            raise UsageError(f"--weight {option!r}: expected STREAM=NUMBER, such as seq-func=0.5.") from error
        if not equals or stream not in ("triplet", "seq-str", "seq-func"):
            raise UsageError(f"--weight {option!r}: there is no stream {stream!r}. Known: triplet, seq-str, seq-func.")
    return weights


def three_numbers(text: str | None) -> list[float] | None:
    """What `--alpha` says; raises `UsageError` if it is not three numbers."""
    if text is None:
        return None
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != 3:
        raise UsageError(
            f"--alpha {text!r}: expected three numbers for sequence, structure and function, such as 1,2,2."
        )
    return numbers
