"""`amma-train`: pretrain a model from feature stores, and look at checkpoints."""

from pathlib import Path
from typing import Annotated, Any

import typer

from amma.manifests.console import AsJson, Debug, DryRun, new_app, print_json, run_app, say
from amma.manifests.errors import UsageError
from amma.train import options
from amma.train.options import given, stream_weights, three_numbers

app = new_app("Pretrain AMMA from feature stores.")


@app.callback()
def _commands() -> None:
    """Sub-commands stay sub-commands, however few there are."""


@app.command()
def pretrain(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="STORE [STORE...] RUN_DIR",
            help="Sealed stores with equal fingerprints (s3:// too), then the folder of the run, new or to go on with.",
            show_default=False,
        ),
    ],
    preset: options.PresetName = "paper",
    family: options.FamilyName = options.Family.ASYMMETRIC,
    heads: options.Heads = None,
    decoder_heads: options.DecoderHeads = None,
    projection_hidden: options.ProjectionHidden = None,
    positions: options.PositionsName = options.Positions.SINCOS,
    modality_vectors: options.ModalityVectors = True,
    decoder_positions: options.DecoderPositions = True,
    hidden_tokens: options.HiddenTokensName = options.HiddenTokens.ZEROS,
    global_token: options.GlobalToken = False,
    init_from: Annotated[
        Path | None,
        typer.Option(metavar="CHECKPOINT", help="Begin with its weights and standardiser; the schedule begins anew."),
    ] = None,
    epochs: options.Epochs = 10,
    batch_size: options.BatchSize = 4,
    lr: Annotated[float, typer.Option(help="Learning rate of AdamW.")] = 1e-4,
    weight_decay: Annotated[float, typer.Option(help="Weight decay, on matrices only.")] = 0.05,
    lr_step_epochs: Annotated[int, typer.Option(help="Epochs after which the learning rate drops.")] = 3,
    lr_gamma: Annotated[float, typer.Option(help="Factor by which it drops; 1 keeps it.")] = 0.5,
    clip: Annotated[float, typer.Option(help="Largest norm of the gradient; 0 for no limit.")] = 1.0,
    seed: options.Seed = 0,
    exclude: options.Exclude = None,
    validation_fraction: options.ValidationFraction = 0.05,
    clusters: options.ClustersFile = None,
    mixing: options.MixingName = options.Mixing.INTERLEAVE,
    weight: options.Weights = None,
    visible_tokens: options.VisibleTokens = None,
    alpha: options.Alpha = None,
    rounding: options.RoundingName = options.Rounding.LARGEST_REMAINDER,
    shortfall: options.ShortfallName = options.Shortfall.REDISTRIBUTE,
    max_visible_fraction: options.MaxVisibleFraction = None,
    modality_dropout: options.ModalityDropout = None,
    loss_on: Annotated[options.LossOn, typer.Option(help="Tokens that the loss counts.")] = options.LossOn.ALL,
    targets: Annotated[
        options.Targets, typer.Option(help="Scale of the error; raw is the paper's letter.")
    ] = options.Targets.STANDARDISED,
    shuffle_block: Annotated[
        int,
        typer.Option(
            metavar="UNITS",
            help="Draw so many of a store's units before the next, in random order and shuffled inside: for stores "
            "behind a network. 0 shuffles all proteins.",
        ),
    ] = 0,
    checkpoint_every: Annotated[int, typer.Option(metavar="STEPS", help="Besides at the end of each epoch.")] = 1000,
    log_every: Annotated[int, typer.Option(metavar="STEPS", help="Steps from one line of log.jsonl to the next.")] = 1,
    precision: options.PrecisionName = options.Precision.FP32,
    device: options.Device = "auto",
    threads: options.Threads = None,
    max_steps: options.MaxSteps = None,
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
    stores, run_dir = paths[:-1], Path(paths[-1])
    config = RunConfig.from_preset(
        preset,
        model=given(
            family=family,
            num_heads=heads,
            num_decoder_heads=decoder_heads,
            projection_hidden=projection_hidden,
            positions=positions,
            modality_vectors=modality_vectors,
            decoder_positions=decoder_positions,
            hidden_tokens=hidden_tokens,
            global_token=global_token,
        ),
        mask=given(
            visible_tokens=visible_tokens,
            alpha=three_numbers(alpha),
            rounding=rounding,
            shortfall=shortfall,
            max_visible_fraction=max_visible_fraction,
            modality_dropout=modality_dropout,
        ),
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
            "mix": {
                "mixing": mixing.value,
                "weights": stream_weights(weight),
                "batch_size": batch_size,
                "shuffle_block": shuffle_block,
            },
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
        list[str],
        typer.Argument(metavar="STORE [STORE...]", help="Sealed stores with equal fingerprints.", show_default=False),
    ],
    preset: options.PresetName = "paper",
    family: options.FamilyName = options.Family.ASYMMETRIC,
    heads: options.Heads = None,
    decoder_heads: options.DecoderHeads = None,
    projection_hidden: options.ProjectionHidden = None,
    positions: options.PositionsName = options.Positions.SINCOS,
    modality_vectors: options.ModalityVectors = True,
    decoder_positions: options.DecoderPositions = True,
    hidden_tokens: options.HiddenTokensName = options.HiddenTokens.ZEROS,
    global_token: options.GlobalToken = False,
    epochs: options.Epochs = 10,
    batch_size: options.BatchSize = 4,
    seed: options.Seed = 0,
    exclude: options.Exclude = None,
    validation_fraction: options.ValidationFraction = 0.05,
    clusters: options.ClustersFile = None,
    mixing: options.MixingName = options.Mixing.INTERLEAVE,
    weight: options.Weights = None,
    visible_tokens: options.VisibleTokens = None,
    shortfall: options.ShortfallName = options.Shortfall.REDISTRIBUTE,
    precision: options.PrecisionName = options.Precision.FP32,
    device: options.Device = "auto",
    threads: options.Threads = None,
    max_steps: options.MaxSteps = None,
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
        model=given(
            family=family,
            num_heads=heads,
            num_decoder_heads=decoder_heads,
            projection_hidden=projection_hidden,
            positions=positions,
            modality_vectors=modality_vectors,
            decoder_positions=decoder_positions,
            hidden_tokens=hidden_tokens,
            global_token=global_token,
        ),
        mask=given(visible_tokens=visible_tokens, shortfall=shortfall),
        values={
            "stores": stores,
            "mix": {"mixing": mixing.value, "weights": stream_weights(weight), "batch_size": batch_size},
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
