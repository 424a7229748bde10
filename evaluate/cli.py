"""`amma-eval`: score a pretrained model on a task and write a report."""

from pathlib import Path
from typing import Annotated, Any

import typer

from amma.evaluate.ablation_command import ablation
from amma.evaluate.alignment_command import alignment
from amma.evaluate.attention_command import attention
from amma.evaluate.compare_command import compare
from amma.evaluate.config import (
    FunctionConfig,
    Optimizer,
    Precision,
    Protocol,
    Readout,
    SearchTool,
    TaskName,
    Tune,
    Unlabelled,
    Visible,
)
from amma.evaluate.options import Bootstrap, Checkpoint, Device, Overwrite, Store, Threads
from amma.evaluate.predict_command import predict
from amma.evaluate.tsne_command import tsne
from amma.featurize.store.location import parse_location
from amma.manifests.console import AsJson, Debug, DryRun, new_app, print_json, run_app, say

app = new_app("Score a pretrained model on a task, beside its controls, and write a report.")


@app.callback()
def _commands() -> None:
    """Keep `function` a command of its own while it is the only one."""


@app.command()
def function(
    checkpoint: Checkpoint,
    store: Store,
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
    protocol: Annotated[
        Protocol,
        typer.Option(help="Tune fusion encoder and head, the head alone, or, as the paper, the sequence encoder too."),
    ] = Protocol.FUSION,
    tune: Annotated[
        Tune | None,
        typer.Option(
            help="What is tuned of the model: fusion encoder and all projections, or what B.2 of the paper lists "
            "(not the projection of sequences). [default: all; with protocol paper: paper]"
        ),
    ] = None,
    readout: Annotated[Readout, typer.Option(help="How residues become one vector.")] = Readout.MEAN,
    visible: Annotated[
        Visible,
        typer.Option(
            help="What the model sees of a protein: everything, or what masks of its pretraining show, one after the "
            "other; the vector is the mean over them."
        ),
    ] = Visible.ALL,
    draws: Annotated[
        int | None, typer.Option(min=1, help="With visible draws: so many masks a protein. [default: 4]")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Tunings to average over.")] = 3,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1, help="At most so many passes over the training split. [default: 50; paper: 100 for EC, 50 for GO]"
        ),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            min=1, help="Stop after so many without a better validation Fmax or loss. [default: 5; paper: all epochs]"
        ),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Proteins in a step. [default: 32; paper: 1, 4 for GO-BP]")
    ] = None,
    fusion_lr: Annotated[
        list[float] | None,
        typer.Option(
            help="Learning rate of the fusion encoder, and of the sequence encoder where that is tuned; repeat to try "
            "several. [default: 1e-5 and 1e-4; paper: 1e-5]"
        ),
    ] = None,
    head_lr: Annotated[
        list[float] | None,
        typer.Option(help="Learning rate of the head; repeat to try several. [default: 1e-4 and 1e-3; paper: 1e-4]"),
    ] = None,
    optimizer: Annotated[
        Optimizer | None,
        typer.Option(help="What makes steps of gradients. [default: adamw; paper: adam for GO-MF and GO-CC]"),
    ] = None,
    lr_decay: Annotated[
        float | None,
        typer.Option(
            metavar="FACTOR", help="Multiply learning rates by it after each epoch. [default: 1; paper: 0.95]"
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="With protocol paper: encoders of the store, paper or tiny. [default: tiny if they are random]"
        ),
    ] = None,
    seq_encoder: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="With protocol paper: the store's sequence encoder, if not the preset's."),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="With protocol paper: folder with the weights of the sequence encoder.")
    ] = None,
    precision: Annotated[
        Precision | None,
        typer.Option(help="With protocol paper: what the sequence encoder multiplies in. [default: bf16 on a GPU]"),
    ] = None,
    recompute: Annotated[
        bool,
        typer.Option(
            "--recompute", help="With protocol paper: less memory for more time, by computing activations twice."
        ),
    ] = False,
    bootstrap: Bootstrap = 1000,
    clusters: Annotated[
        Path | None,
        typer.Option(metavar="TSV", help="Two columns, id and cluster, resampled together; else equal sequences are."),
    ] = None,
    ontology: Annotated[
        Path | None,
        typer.Option(
            metavar="OBO", help="Ontology of GO terms: their names, and CAFA's figures; EC numbers need none."
        ),
    ] = None,
    term_names: Annotated[
        Path | None, typer.Option(metavar="TSV", help="Two columns, term and name; goes before all other names.")
    ] = None,
    cafa_tau_step: Annotated[
        float | None, typer.Option(help="Step of the thresholds of CAFA's figures. [default: 0.01]")
    ] = None,
    identity_cutoffs: Annotated[
        Path | None,
        typer.Option(
            metavar="CSV", help="DeepFRI's list of test proteins per identity cut-off; else training is searched."
        ),
    ] = None,
    quarantine: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="quarantine.jsonl of a manifest: why proteins are not there. Repeatable."),
    ] = None,
    include: Annotated[
        list[Path] | None,
        typer.Option(metavar="FOLDER", help="A finished analysis to show in the report; repeatable."),
    ] = None,
    search: Annotated[
        SearchTool,
        typer.Option(
            help="What finds the nearest sequences: MMseqs2, DIAMOND, or our own search by shared 3-mers; auto: the "
            "first of them that is installed."
        ),
    ] = SearchTool.AUTO,
    device: Device = "auto",
    threads: Threads = None,
    predictor: Annotated[
        bool,
        typer.Option(
            "--predictor/--no-predictor", help="Keep the tuned model in REPORT_DIR, for amma-eval predict; or do not."
        ),
    ] = True,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Predict EC numbers or GO terms: tune a checkpoint, compare with the same model untrained and label frequency."""
    # Only what was really given is passed on: what is not depends on protocol and task.
    given: dict[str, Any] = {
        "draws": draws,
        "tune": tune,
        "max_epochs": epochs,
        "patience": patience,
        "batch_size": batch_size,
        "fusion_lrs": tuple(fusion_lr or ()),
        "head_lrs": tuple(head_lr or ()),
        "optimizer": optimizer,
        "lr_decay": lr_decay,
        "precision": precision,
    }
    finetune = {"protocol": protocol, "readout": readout, "visible": visible, "num_seeds": seeds}
    # Nothing and an empty tuple are not given; 0 is, and is refused.
    finetune |= {name: value for name, value in given.items() if value is not None and value != ()}

    from amma.evaluate.function import evaluate_function
    from amma.evaluate.predictor.folder import FOLDER as PREDICTOR
    from amma.evaluate.predictor.saving import PredictorWriter
    from amma.evaluate.report.folder import check_folder, write_folder
    from amma.evaluate.report.summary import plan_facts, plan_lines, result_lines
    from amma.evaluate.subject import open_subject
    from amma.evaluate.tuning.kept import remove_tunings
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
            "ontology": str(ontology) if ontology else None,
            "term_names": str(term_names) if term_names else None,
            "identity_cutoffs": str(identity_cutoffs) if identity_cutoffs else None,
            "quarantines": tuple(map(str, quarantine or ())),
            "include": tuple(map(str, include or ())),
            **({} if cafa_tau_step is None else {"cafa_tau_step": cafa_tau_step}),
            "search": search,
            "device": str(find_device(device)),
            "preset": preset,
            "seq_encoder": seq_encoder,
            "weights": str(weights) if weights else None,
            "recompute": recompute,
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
        evaluation = evaluate_function(config, subject, threads=threads, report_dir=report_dir, anew=overwrite, **keep)
        page = write_folder(report_dir, evaluation, config, writer if predictor else None)
    remove_tunings(report_dir)
    if as_json:
        print_json(evaluation.report.model_dump(mode="json"))
        say(f"report: {page}")
    else:
        for line in result_lines(evaluation.report):
            print(line)
        print(f"report: {page}")


app.command()(compare)
app.command()(predict)
app.command()(alignment)
app.command()(tsne)
app.command()(attention)
app.command()(ablation)


def main() -> None:
    """Entry point of `amma-eval`."""
    run_app(app)


if __name__ == "__main__":
    main()
