"""`amma-train`: pretrain a model from feature stores, and look at checkpoints."""

from pathlib import Path
from typing import Annotated, Any

import typer

from amma.manifests.console import AsJson, Debug, DryRun, new_app, print_json, run_app
from amma.manifests.errors import UsageError
from amma.train.chosen import Chosen, takes_run_options
from amma.train.embed_command import embed
from amma.train.export_command import export
from amma.train.recipes_command import recipes

app = new_app("Pretrain AMMA from feature stores.")


@app.callback()
def _commands() -> None:
    """Sub-commands stay sub-commands, however few there are."""


@app.command()
@takes_run_options
def pretrain(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="STORE [STORE...] RUN_DIR",
            help="Sealed stores with equal fingerprints (s3:// too), unless the recipe names them; then the folder of "
            "the run, new or to go on with.",
            show_default=False,
        ),
    ],
    chosen: Chosen,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Pretrain a model; the same command again goes on where it stopped.

    On SIGTERM or Ctrl-C the step is finished and saved.
    """
    from amma.train.run.recipe import resolve

    if len(paths) < 2 and "recipe" not in chosen:
        raise UsageError(f"expected STORE [STORE...] RUN_DIR, got only {paths[0]}. Name the run's folder last.")
    config, run_dir = resolve(chosen, stores=paths[:-1]), Path(paths[-1])
    if dry_run:
        from amma.train.run.preview import preview

        _print(preview(config, run_dir), as_json=as_json)
        return
    from amma.train.run.loop import pretrain as train

    outcome = train(config, run_dir)
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
@takes_run_options
def plan(
    chosen: Chosen,
    stores: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="STORE [STORE...]",
            help="Sealed stores with equal fingerprints, unless the recipe names them.",
            show_default=False,
        ),
    ] = None,
    measure: Annotated[
        int, typer.Option(min=0, metavar="STEPS", help="Steps to take here for time and activations; 0: none.")
    ] = 3,
    step_seconds: Annotated[
        float | None, typer.Option(min=0, help="Seconds of a step, measured elsewhere, to work out the hours from.")
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Show what a run would need: parameters, memory, steps, hours, and the mix of streams. Writes nothing.

    It takes the options of `pretrain`, so that one word makes a plan of a run.
    """
    from amma.train.run.recipe import resolve

    config = resolve(chosen, stores=stores or [], require=False)
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


app.command("embed")(embed)
app.command("export")(export)
app.command("recipes")(recipes)


def main() -> None:
    """Entry point of `amma-train`."""
    run_app(app)
