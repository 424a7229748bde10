"""The options that decide a run, each declared once: its text, its default, and which setting it gives.

`pretrain` and `plan` take all of them (`amma.train.chosen`); a test holds that every setting of a run has one, and that
the defaults shown here are those of the settings.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from amma.manifests.errors import UsageError


class Family(StrEnum):
    """What each decoder sees of the fused tokens; or vectors that are contrasted, and no decoders."""

    ASYMMETRIC = "asymmetric"
    SYMMETRIC = "symmetric"
    NO_AUXILIARY = "no-auxiliary"
    CONTRASTIVE = "contrastive"


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


def stream_weights(options: list[str]) -> dict[str, float]:
    """What `--weight STREAM=W` says; raises `UsageError` for an unknown stream or no number."""
    weights: dict[str, float] = {}
    for option in options:
        stream, equals, value = option.partition("=")
        try:
            weights[stream] = float(value)
        except ValueError as error:
            raise UsageError(f"--weight {option!r}: expected STREAM=NUMBER, such as seq-func=0.5.") from error
        if not equals or stream not in ("triplet", "seq-str", "seq-func"):
            raise UsageError(f"--weight {option!r}: there is no stream {stream!r}. Known: triplet, seq-str, seq-func.")
    return weights


def three_numbers(text: str) -> list[float]:
    """What `--alpha` says; raises `UsageError` if it is not three numbers."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != 3:
        raise UsageError(
            f"--alpha {text!r}: expected three numbers for sequence, structure and function, such as 1,2,2."
        )
    return numbers


@dataclass(frozen=True)
class Key:
    """The setting that an option gives, by its dotted name in recipes, and how what was typed is read."""

    name: str
    read: Callable[[Any], Any] | None = None


class RunOptions:
    """A table: each attribute is an option of the same name, with its default."""

    # Where settings come from.
    recipe: Annotated[
        str | None,
        Key("recipe"),
        typer.Option(
            metavar="NAME|FILE",
            help="Settings by a name that `amma-train recipes` lists, or from a TOML file (a run's config.toml). "
            "Other options replace its values; --exclude adds to them.",
        ),
    ] = None
    preset: Annotated[
        str, Key("preset"), typer.Option(help="Model size: paper, paper-text-51m, uniform-768 or tiny.")
    ] = "paper"

    # The model.
    family: Annotated[
        Family,
        Key("model.family"),
        typer.Option(
            help="asymmetric: structure from sequence and function, function from sequence and structure; symmetric: "
            "each from itself (Eq. 13); no-auxiliary: all from the sequence (Eq. 17); contrastive: one vector a "
            "modality, nothing masked or rebuilt (Eq. 14-16)."
        ),
    ] = Family.ASYMMETRIC
    width: Annotated[
        int | None, Key("model.width"), typer.Option(help="D, of the fusion encoder; the preset's if not given.")
    ] = None
    ffn: Annotated[int | None, Key("model.ffn"), typer.Option(help="Hidden width of its feed-forward layers.")] = None
    layers: Annotated[int | None, Key("model.num_fusion_layers"), typer.Option(help="Layers of it.")] = None
    heads: Annotated[int | None, Key("model.num_heads"), typer.Option(help="Attention heads of it.")] = None
    decoder_width: Annotated[int | None, Key("model.decoder_width"), typer.Option(help="Width of the decoders.")] = None
    decoder_ffn: Annotated[
        int | None, Key("model.decoder_ffn"), typer.Option(help="Hidden width of their feed-forward layers.")
    ] = None
    decoder_layers: Annotated[
        int | None, Key("model.num_decoder_layers"), typer.Option(help="Layers of each decoder.")
    ] = None
    decoder_heads: Annotated[
        int | None, Key("model.num_decoder_heads"), typer.Option(help="Attention heads of the decoders.")
    ] = None
    projection_hidden: Annotated[
        int | None,
        Key("model.projection_hidden"),
        typer.Option(metavar="WIDTH", help="Hidden width of the two-layer projections; D if not given."),
    ] = None
    positions: Annotated[
        Positions,
        Key("model.positions"),
        typer.Option(help="Positions in the fusion encoder; the decoders have their own switch."),
    ] = Positions.SINCOS
    modality_vectors: Annotated[
        bool,
        Key("model.modality_vectors"),
        typer.Option(help="Learned vectors that tell modalities apart, in the encoder and in the decoders."),
    ] = True
    decoder_positions: Annotated[
        bool,
        Key("model.decoder_positions"),
        typer.Option(
            help="Add positions and modality vectors again before each decoder; without them hidden tokens decode "
            "alike."
        ),
    ] = True
    hidden_tokens: Annotated[
        HiddenTokens,
        Key("model.hidden_tokens"),
        typer.Option(help="What decoders get in place of hidden tokens: zeros, or a learned vector for each modality."),
    ] = HiddenTokens.ZEROS
    global_token: Annotated[
        bool,
        Key("model.global_token"),
        typer.Option(help="Give every protein a learned token in the fusion encoder, always visible."),
    ] = False
    init_from: Annotated[
        Path | None,
        Key("init_from"),
        typer.Option(metavar="CHECKPOINT", help="Begin with its weights and standardiser; the schedule begins anew."),
    ] = None

    # Masks and loss.
    visible_tokens: Annotated[
        int | None,
        Key("mask.visible_tokens"),
        typer.Option(help="Tokens of a protein that the encoder sees; the preset's if not given."),
    ] = None
    alpha: Annotated[
        str,
        Key("mask.alpha", three_numbers),
        typer.Option(metavar="SEQ,STR,FUNC", help="Dirichlet concentrations of the mask."),
    ] = "1,2,2"
    rounding: Annotated[
        Rounding,
        Key("mask.rounding"),
        typer.Option(help="How Dirichlet shares become whole numbers of visible tokens."),
    ] = Rounding.LARGEST_REMAINDER
    shortfall: Annotated[
        Shortfall,
        Key("mask.shortfall"),
        typer.Option(help="Visible tokens that a modality is too short for: shown by the others instead, or lost."),
    ] = Shortfall.REDISTRIBUTE
    max_visible_fraction: Annotated[
        float,
        Key("mask.max_visible_fraction"),
        typer.Option(help="Largest visible share of a protein and of each modality."),
    ] = 0.75
    modality_dropout: Annotated[
        float,
        Key("mask.modality_dropout"),
        typer.Option(help="Probability that a modality of a protein is hidden whole."),
    ] = 0.0
    loss_on: Annotated[LossOn, Key("objective.loss_on"), typer.Option(help="Tokens that the loss counts.")] = LossOn.ALL
    targets: Annotated[
        Targets, Key("objective.targets"), typer.Option(help="Scale of the error; raw is the paper's letter.")
    ] = Targets.STANDARDISED
    temperature: Annotated[
        float,
        Key("objective.temperature"),
        typer.Option(help="Of family contrastive: what similarities are divided by."),
    ] = 0.07
    normalise: Annotated[
        bool,
        Key("objective.normalise"),
        typer.Option(help="Of family contrastive: similarities are cosines, else inner products."),
    ] = True

    # The optimizer.
    lr: Annotated[float, Key("optimizer.lr"), typer.Option(help="Learning rate of AdamW.")] = 1e-4
    weight_decay: Annotated[
        float, Key("optimizer.weight_decay"), typer.Option(help="Weight decay, on matrices only.")
    ] = 0.05
    lr_step_epochs: Annotated[
        int, Key("optimizer.lr_step_epochs"), typer.Option(help="Epochs after which the learning rate drops.")
    ] = 3
    lr_gamma: Annotated[
        float, Key("optimizer.lr_gamma"), typer.Option(help="Factor by which it drops; 1 keeps it.")
    ] = 0.5
    clip: Annotated[
        float, Key("optimizer.clip"), typer.Option(help="Largest norm of the gradient; 0 for no limit.")
    ] = 1.0

    # Proteins and batches.
    epochs: Annotated[int, Key("epochs"), typer.Option(help="How often each protein is seen.")] = 10
    max_steps: Annotated[int | None, Key("max_steps"), typer.Option(help="Stop after so many steps in all.")] = None
    batch_size: Annotated[
        int, Key("mix.batch_size"), typer.Option(help="Proteins in a batch; contrastive needs many, such as 256.")
    ] = 4
    seed: Annotated[int, Key("seed"), typer.Option(help="Of weights, order, masks and the validation split.")] = 0
    exclude: Annotated[
        list[Path] | None,
        Key("exclude"),
        typer.Option(
            metavar="IDS",
            help="File of ids, one a line, that training must not see; also under another id. Repeatable.",
        ),
    ] = None
    subset: Annotated[
        int | None,
        Key("subset"),
        typer.Option(metavar="N", help="Train on N triplets only, of those neither excluded nor set aside."),
    ] = None
    subset_seed: Annotated[int, Key("subset_seed"), typer.Option(help="Which N they are.")] = 0
    validation_fraction: Annotated[
        float,
        Key("validation_fraction"),
        typer.Option(help="Share of the proteins set aside by sequence cluster; 0: the best checkpoint is the latest."),
    ] = 0.05
    clusters: Annotated[
        Path | None,
        Key("clusters"),
        typer.Option(metavar="TSV", help="Two columns, id and cluster; else MMseqs2's, else by shared 5-mers."),
    ] = None
    mixing: Annotated[
        Mixing,
        Key("mix.mixing"),
        typer.Option(help="interleave: one stream a step; sum: all streams each step, losses added (Eq. 12)."),
    ] = Mixing.INTERLEAVE
    weight: Annotated[
        list[str] | None,
        Key("mix.weights", stream_weights),
        typer.Option(
            metavar="STREAM=W",
            help="Weight of triplet, seq-str or seq-func (default 1): how often its proteins are seen (interleave), or "
            "the factor of its loss (sum); 0 leaves it out. Repeatable.",
        ),
    ] = None
    shuffle_block: Annotated[
        int,
        Key("mix.shuffle_block"),
        typer.Option(
            metavar="UNITS",
            help="Draw so many of a store's units before the next, in random order and shuffled inside: for stores "
            "behind a network. 0 shuffles all proteins.",
        ),
    ] = 0

    # The machine.
    precision: Annotated[Precision, Key("precision"), typer.Option(help="bf16 computes products in bfloat16.")] = (
        Precision.FP32
    )
    compile: Annotated[
        bool,
        Key("compile"),
        typer.Option(
            "--compile", help="Compile what layers do to each row (torch.compile); the first step waits for it."
        ),
    ] = False
    checkpoint_activations: Annotated[
        bool,
        Key("checkpoint_activations"),
        typer.Option(
            "--checkpoint-activations", help="Compute layers anew for the backward pass: less memory, more time."
        ),
    ] = False
    device: Annotated[str, Key("device"), typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto"
    threads: Annotated[
        int | None, Key("threads"), typer.Option(help="CPU threads; torch's own number if not given.")
    ] = None
    accumulate: Annotated[
        int,
        Key("accumulate"),
        typer.Option(
            metavar="PARTS",
            help="Take each step in so many batches one after the other, where memory is short; the same step.",
        ),
    ] = 1
    rank_timeout: Annotated[
        int,
        Key("rank_timeout"),
        typer.Option(metavar="SECONDS", help="With torchrun: a process that is silent for so long counts as dead."),
    ] = 60
    checkpoint_every: Annotated[
        int, Key("checkpoint_every"), typer.Option(metavar="STEPS", help="Besides at the end of each epoch.")
    ] = 1000
    log_every: Annotated[
        int, Key("log_every"), typer.Option(metavar="STEPS", help="Steps from one line of log.jsonl to the next.")
    ] = 1
    tensorboard: Annotated[
        bool, Key("tensorboard"), typer.Option(help="Write what log.jsonl has for TensorBoard as well.")
    ] = False
