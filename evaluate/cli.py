"""`amma-eval`: score a pretrained model on a task and write a report."""

from pathlib import Path
from typing import Annotated, Any

import typer

from amma.evaluate.config import FunctionConfig, Protocol, Readout, TaskName, Tune, Unlabelled
from amma.featurize.store.location import parse_location
from amma.manifests.console import AsJson, Debug, DryRun, new_app, print_json, run_app, say

app = new_app("Score a pretrained model on a task, beside its controls, and write a report.")


@app.callback()
def _commands() -> None:
    """Keep `function` a command of its own while it is the only one."""


@app.command()
def function(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="A run folder of amma-train (its best one), or a step.")
    ],
    store: Annotated[str, typer.Argument(metavar="STORE", help="A sealed store of the same encoders; s3:// too.")],
    report_dir: Annotated[Path, typer.Argument(metavar="REPORT_DIR", help="Folder for the report; new or empty.")],
    task: Annotated[TaskName, typer.Option(help="What to predict.")],
    labels: Annotated[Path, typer.Option(help="Label table: TSV with columns id, ec, ec_class, or DeepFRI's.")],
    splits: Annotated[Path, typer.Option(help="Folder with train.txt, valid.txt and test.txt, one id a line.")],
    split_prefix: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="What the lists' names begin with, as in nrPDB-GO_2019.06.18_train.txt."),
    ] = None,
    unlabelled: Annotated[
        Unlabelled,
        typer.Option(help="Proteins of the label table without a term of this task: negatives, or left out."),
    ] = Unlabelled.KEEP,
    protocol: Annotated[Protocol, typer.Option(help="Tune fusion encoder and head, or the head alone.")] = (
        Protocol.FUSION
    ),
    tune: Annotated[
        Tune | None,
        typer.Option(
            help="What protocol fusion tunes: fusion encoder and all projections, or what B.2 of the paper lists "
            "(not the projection of sequences). [default: all]"
        ),
    ] = None,
    readout: Annotated[Readout, typer.Option(help="How residues become one vector.")] = Readout.MEAN,
    seeds: Annotated[int, typer.Option(min=1, help="Tunings to average over.")] = 3,
    epochs: Annotated[int, typer.Option(min=1, help="At most so many passes over the training split.")] = 50,
    patience: Annotated[
        int, typer.Option(min=1, help="Stop after so many without a better validation Fmax or loss.")
    ] = 5,
    batch_size: Annotated[int, typer.Option(min=1, help="Proteins in a step.")] = 32,
    fusion_lr: Annotated[
        list[float] | None,
        typer.Option(help="Learning rate of the fusion encoder; repeat to try several. [default: 1e-5 and 1e-4]"),
    ] = None,
    head_lr: Annotated[
        list[float] | None,
        typer.Option(help="Learning rate of the head; repeat to try several. [default: 1e-4 and 1e-3]"),
    ] = None,
    bootstrap: Annotated[
        int, typer.Option(min=0, metavar="NUMBER", help="Resamples of the test split for 95 % intervals; 0: none.")
    ] = 1000,
    clusters: Annotated[
        Path | None,
        typer.Option(metavar="TSV", help="Two columns, id and cluster, resampled together; else equal sequences are."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads. [default: torch's own choice]")] = None,
    predictor: Annotated[
        bool,
        typer.Option(
            "--predictor/--no-predictor", help="Keep the tuned model in REPORT_DIR, for amma-eval predict; or do not."
        ),
    ] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the report in REPORT_DIR.")] = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Predict EC numbers or GO terms: tune a checkpoint, compare with the same model untrained and label frequency."""
    finetune: dict[str, Any] = {
        "protocol": protocol,
        "readout": readout,
        "num_seeds": seeds,
        "max_epochs": epochs,
        "patience": patience,
        "batch_size": batch_size,
    }
    # An empty tuple is what the configuration calls "not tuned"; only what was really given is passed on.
    finetune |= {"fusion_lrs": tuple(fusion_lr)} if fusion_lr else {}
    finetune |= {"head_lrs": tuple(head_lr)} if head_lr else {}
    finetune |= {"tune": tune} if tune else {}

    from amma.evaluate.function import evaluate_function
    from amma.evaluate.predictor.folder import FOLDER as PREDICTOR
    from amma.evaluate.predictor.saving import PredictorWriter
    from amma.evaluate.report.folder import check_folder, write_folder
    from amma.evaluate.report.summary import plan_facts, plan_lines, result_lines
    from amma.evaluate.subject import open_subject
    from amma.train.run.arithmetic import find_device

    config = FunctionConfig.parse(
        {
            "checkpoint": str(checkpoint),
            "store": str(parse_location(store)),
            "labels": str(labels),
            "splits": str(splits),
            "split_prefix": split_prefix,
            "task": task,
            "unlabelled": unlabelled,
            "finetune": finetune,
            "bootstrap": bootstrap,
            "clusters": str(clusters) if clusters else None,
            "device": str(find_device(device)),
        },
        source="the command line",
    )
    check_folder(report_dir, overwrite=overwrite)
    subject = open_subject(config)
    if dry_run:
        if as_json:
            print_json(plan_facts(config, subject))
        else:
            print(*plan_lines(config, subject), sep="\n")
        say(f"dry run: nothing was computed; the report would go to {report_dir}")
        return
    for line in plan_lines(config, subject):
        say(line)
    with PredictorWriter(report_dir / PREDICTOR, subject, config.finetune) as writer:
        keep = {"keep": writer.keep} if predictor else {}
        evaluation = evaluate_function(config, subject, threads=threads, **keep)
        page = write_folder(report_dir, evaluation, config, writer if predictor else None)
    if as_json:
        print_json(evaluation.report.model_dump(mode="json"))
        say(f"report: {page}")
    else:
        for line in result_lines(evaluation.report):
            print(line)
        print(f"report: {page}")


def main() -> None:
    """Entry point of `amma-eval`."""
    run_app(app)


if __name__ == "__main__":
    main()
