"""`amma-train`: pretrain a model from feature stores, and look at checkpoints."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from amma.manifests.console import AsJson, Debug, DryRun, new_app, print_json, run_app, say
from amma.manifests.errors import UsageError

app = new_app("Pretrain AMMA from feature stores.")


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


class Family(StrEnum):
    """What each decoder sees of the fused tokens."""

    ASYMMETRIC = "asymmetric"
    SYMMETRIC = "symmetric"
    NO_AUXILIARY = "no-auxiliary"


@app.callback()
def _commands() -> None:
    """Sub-commands stay sub-commands, however few there are."""


@app.command()
def pretrain(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="STORE [STORE...] RUN_DIR",
            help="Sealed stores with equal fingerprints, then the folder of the run: new, or one to go on with.",
            show_default=False,
        ),
    ],
    preset: Annotated[str, typer.Option(help="Model size: paper, paper-text-51m, uniform-768 or tiny.")] = "paper",
    family: Annotated[
        Family,
        typer.Option(
            help="asymmetric: structure from sequence and function, function from sequence and structure; symmetric: "
            "each from itself (Eq. 13); no-auxiliary: all from the sequence (Eq. 17)."
        ),
    ] = Family.ASYMMETRIC,
    init_from: Annotated[
        Path | None,
        typer.Option(metavar="CHECKPOINT", help="Begin with its weights and standardiser; the schedule begins anew."),
    ] = None,
    epochs: Annotated[int, typer.Option(help="How often each protein is seen.")] = 10,
    batch_size: Annotated[int, typer.Option(help="Proteins in a batch.")] = 4,
    lr: Annotated[float, typer.Option(help="Learning rate of AdamW.")] = 1e-4,
    weight_decay: Annotated[float, typer.Option(help="Weight decay, on matrices only.")] = 0.05,
    lr_step_epochs: Annotated[int, typer.Option(help="Epochs after which the learning rate drops.")] = 3,
    lr_gamma: Annotated[float, typer.Option(help="Factor by which it drops; 1 keeps it.")] = 0.5,
    clip: Annotated[float, typer.Option(help="Largest norm of the gradient; 0 for no limit.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of weights, order, masks and the validation split.")] = 0,
    exclude: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="IDS",
            help="File of ids, one a line, that training must not see; also under another id. Repeatable.",
        ),
    ] = None,
    validation_fraction: Annotated[
        float,
        typer.Option(help="Share of the proteins set aside by sequence cluster; 0: the best checkpoint is the latest."),
    ] = 0.05,
    clusters: Annotated[
        Path | None, typer.Option(metavar="TSV", help="Two columns, id and cluster; else clusters by shared 5-mers.")
    ] = None,
    mixing: Annotated[
        Mixing, typer.Option(help="interleave: one stream a step; sum: all streams each step, losses added (Eq. 12).")
    ] = Mixing.INTERLEAVE,
    weight: Annotated[
        list[str] | None,
        typer.Option(
            metavar="STREAM=W",
            help="Weight of triplet, seq-str or seq-func (default 1): how often its proteins are seen (interleave), or "
            "the factor of its loss (sum); 0 leaves it out. Repeatable.",
        ),
    ] = None,
    visible_tokens: Annotated[
        int | None, typer.Option(help="Tokens of a protein that the encoder sees; the preset's if not given.")
    ] = None,
    alpha: Annotated[
        str | None, typer.Option(metavar="SEQ,STR,FUNC", help="Dirichlet concentrations of the mask (default 1,2,2).")
    ] = None,
    max_visible_fraction: Annotated[
        float | None, typer.Option(help="Largest visible share of a protein and of each modality (default 0.75).")
    ] = None,
    modality_dropout: Annotated[
        float | None, typer.Option(help="Probability that a modality of a protein is hidden whole (default 0).")
    ] = None,
    loss_on: Annotated[LossOn, typer.Option(help="Tokens that the loss counts.")] = LossOn.ALL,
    targets: Annotated[
        Targets, typer.Option(help="Scale of the error; raw is the paper's letter.")
    ] = Targets.STANDARDISED,
    checkpoint_every: Annotated[int, typer.Option(metavar="STEPS", help="Besides at the end of each epoch.")] = 1000,
    log_every: Annotated[int, typer.Option(metavar="STEPS", help="Steps from one line of log.jsonl to the next.")] = 1,
    precision: Annotated[Precision, typer.Option(help="bf16 computes products in bfloat16.")] = Precision.FP32,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads; torch's own number if not given.")] = None,
    max_steps: Annotated[int | None, typer.Option(help="Stop after so many steps in all.")] = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Pretrain a model; the same command again goes on where it stopped.

    On SIGTERM or Ctrl-C the step is finished and saved.
    """
    from amma.train.run.config import RunConfig

    if len(paths) < 2:
        raise UsageError(f"expected STORE [STORE...] RUN_DIR, got only {paths[0]}. Name the run's folder last.")
    *stores, run_dir = paths
    mask = {
        "visible_tokens": visible_tokens,
        "alpha": _three_numbers(alpha),
        "max_visible_fraction": max_visible_fraction,
        "modality_dropout": modality_dropout,
    }
    config = RunConfig.from_preset(
        preset,
        family=family.value,
        mask={name: value for name, value in mask.items() if value is not None},
        values={
            "stores": stores,
            "objective": {"loss_on": loss_on.value, "targets": targets.value},
            "optimizer": {
                "lr": lr,
                "weight_decay": weight_decay,
                "lr_step_epochs": lr_step_epochs,
                "lr_gamma": lr_gamma,
                "clip": clip,
            },
            "mix": {"mixing": mixing.value, "weights": _weights(weight or []), "batch_size": batch_size},
            "epochs": epochs,
            "seed": seed,
            "exclude": exclude or [],
            "validation_fraction": validation_fraction,
            "clusters": clusters,
            "init_from": init_from,
            "precision": precision.value,
            "device": device,
            "threads": threads,
            "max_steps": max_steps,
            "checkpoint_every": checkpoint_every,
            "log_every": log_every,
        },
    )
    if dry_run:
        from amma.train.run.preview import preview

        _print(preview(config, run_dir), as_json=as_json)
        return
    from amma.train.run.loop import pretrain as train

    outcome = train(config, run_dir)
    if outcome.exit_code:
        say(f"stopped at step {outcome.step} of {outcome.last_step}; the same command goes on from there")
    if outcome.checkpoint is not None:
        from amma.train.run.checkpoint import read_state

        state = read_state(outcome.checkpoint, files=())
        _print(
            {
                "run": str(run_dir),
                "checkpoint": str(outcome.checkpoint),
                "step": outcome.step,
                "last_step": outcome.last_step,
                "best": state["best"],
                "random_encoders": state["random_weights"],
            },
            as_json=as_json,
        )
    raise typer.Exit(outcome.exit_code)


@app.command()
def plan(
    stores: Annotated[
        list[Path],
        typer.Argument(metavar="STORE [STORE...]", help="Sealed stores with equal fingerprints.", show_default=False),
    ],
    preset: Annotated[str, typer.Option(help="Model size: paper, paper-text-51m, uniform-768 or tiny.")] = "paper",
    family: Annotated[Family, typer.Option(help="What each decoder sees.")] = Family.ASYMMETRIC,
    epochs: Annotated[int, typer.Option(help="How often each protein is seen.")] = 10,
    batch_size: Annotated[int, typer.Option(help="Proteins in a batch.")] = 4,
    seed: Annotated[int, typer.Option(help="Of order, masks and the validation split.")] = 0,
    exclude: Annotated[
        list[Path] | None, typer.Option(metavar="IDS", help="File of ids that training must not see. Repeatable.")
    ] = None,
    validation_fraction: Annotated[float, typer.Option(help="Share of the proteins set aside.")] = 0.05,
    clusters: Annotated[Path | None, typer.Option(metavar="TSV", help="Two columns, id and cluster.")] = None,
    mixing: Annotated[Mixing, typer.Option(help="One stream a step, or all streams each step.")] = Mixing.INTERLEAVE,
    weight: Annotated[
        list[str] | None, typer.Option(metavar="STREAM=W", help="Weight of a stream (default 1). Repeatable.")
    ] = None,
    visible_tokens: Annotated[int | None, typer.Option(help="Tokens of a protein that the encoder sees.")] = None,
    precision: Annotated[Precision, typer.Option(help="bf16 computes products in bfloat16.")] = Precision.FP32,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads; torch's own number if not given.")] = None,
    max_steps: Annotated[int | None, typer.Option(help="Stop after so many steps in all.")] = None,
    measure: Annotated[
        int, typer.Option(min=0, metavar="STEPS", help="Steps to take here for time and activations; 0: none.")
    ] = 3,
    step_seconds: Annotated[
        float | None, typer.Option(min=0, help="Seconds of a step, measured elsewhere, to work out the hours from.")
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Show what a run would need: parameters, memory, steps, hours, and the mix of streams. Writes nothing."""
    from amma.train.run.config import RunConfig

    config = RunConfig.from_preset(
        preset,
        family=family.value,
        mask={} if visible_tokens is None else {"visible_tokens": visible_tokens},
        values={
            "stores": stores,
            "mix": {"mixing": mixing.value, "weights": _weights(weight or []), "batch_size": batch_size},
            "epochs": epochs,
            "seed": seed,
            "exclude": exclude or [],
            "validation_fraction": validation_fraction,
            "clusters": clusters,
            "precision": precision.value,
            "device": device,
            "threads": threads,
            "max_steps": max_steps,
        },
    )
    from amma.train.run.plan import plan as plan_run

    _print(plan_run(config, measure=measure, step_seconds=step_seconds), as_json=as_json)


@app.command()
def inspect(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A run folder, or one of its checkpoints.")],
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Show a checkpoint: step, epoch, errors, settings; of a run folder its best one."""
    from amma.train.run.checkpoint import describe_checkpoint

    _print(describe_checkpoint(checkpoint), as_json=as_json)


def _weights(options: list[str]) -> dict[str, float]:
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


def _three_numbers(text: str | None) -> list[float] | None:
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


def _print(result: dict[str, Any], *, as_json: bool) -> None:
    """The result on stdout: JSON, or a line a value with nested keys dotted."""
    if as_json:
        print_json(result)
        return

    def lines(value: dict[str, Any], at: str) -> None:
        for key, item in value.items():
            if isinstance(item, dict) and item:
                lines(item, f"{at}{key}.")
            elif isinstance(item, float):
                print(f"{at}{key}: {item:.6g}")
            else:
                print(f"{at}{key}: {item}")

    lines(result, "")


def main() -> None:
    """Entry point of `amma-train`."""
    run_app(app)
