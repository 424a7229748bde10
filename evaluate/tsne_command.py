"""`amma-eval tsne`: the paper's Fig. 1 and Fig. 4, beside controls and figures that do not depend on the picture."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from amma.evaluate.options import AnalysisOut, Checkpoint, Device, Ids, Overwrite, Store, Threads
from amma.manifests.console import AsJson, Debug, DryRun, say


class PaperFigure(StrEnum):
    """Which of the paper's figures: raw features, or representations."""

    RAW = "1"
    REPRESENTATIONS = "4"


def tsne(
    checkpoint: Checkpoint,
    store: Store,
    out: AnalysisOut,
    figure: Annotated[
        PaperFigure, typer.Option(help="1: raw features. 4: what the model makes of them.")
    ] = PaperFigure.REPRESENTATIONS,
    ids: Ids = None,
    number: Annotated[
        int | None,
        typer.Option(min=5, help="Held-out proteins to draw. [default: 1000 for figure 1, 500 for figure 4]"),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw, of t-SNE and of controls.")] = 0,
    components: Annotated[
        int | None,
        typer.Option(min=2, help="Dimensions that PCA leaves. [default: 100 for figure 1, 500 for figure 4]"),
    ] = None,
    joint_pca: Annotated[
        bool, typer.Option("--joint-pca", help="One PCA for all modalities: separate ones cannot be compared.")
    ] = False,
    perplexity: Annotated[float, typer.Option(min=1, help="Of t-SNE.")] = 200,
    iterations: Annotated[int, typer.Option(min=250, help="Of t-SNE.")] = 2500,
    labels: Annotated[
        Path | None, typer.Option(metavar="TSV", help="A table with a column id, whose labels hovering tells.")
    ] = None,
    label_column: Annotated[str, typer.Option(metavar="NAME", help="The column of --labels that is shown.")] = (
        "ec_class"
    ),
    device: Device = "auto",
    threads: Threads = None,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Draw where the modalities of proteins lie that pretraining did not see, as the paper's Fig. 1 and Fig. 4 do.

    Beside the trained model the same untrained, raw features and random vectors; and how mixed modalities are, in
    figures that do not depend on the picture.
    """
    from amma.evaluate.analyses.folder import check_folder, write_folder
    from amma.evaluate.analyses.subject import choose_held_out, open_analysis
    from amma.evaluate.analyses.terminal import tell_plan, tell_result
    from amma.evaluate.analyses.tsne import COORDINATES, analyse_tsne, read_label_column, write_coordinates
    from amma.evaluate.analyses.tsne_page import lines_of
    from amma.evaluate.analyses.tsne_results import COMPONENTS, FEWEST, NUMBER, TsneConfig
    from amma.featurize.store.location import parse_location
    from amma.manifests.labels import read_ids
    from amma.train.run.arithmetic import find_device

    which = int(figure.value)
    config = TsneConfig.parse(
        {
            "checkpoint": str(checkpoint),
            "store": str(parse_location(store)),
            "figure": which,
            "ids": str(ids) if ids else None,
            "number": NUMBER[which] if number is None else number,
            "seed": seed,
            "components": COMPONENTS[which] if components is None else components,
            "joint_pca": joint_pca,
            "perplexity": perplexity,
            "iterations": iterations,
            "labels": str(labels) if labels else None,
            "label_column": label_column,
            "device": str(find_device(device)),
        },
        source="the command line",
    )
    check_folder(out, overwrite=overwrite)
    subject = open_analysis(checkpoint, config.store, device=config.device)
    if labels:
        read_label_column(labels, label_column)  # what is wrong with it is said before hours of work
    listed = read_ids(ids) if ids else None
    held_out = choose_held_out(subject, number=config.number, seed=seed, ids=listed, at_least=FEWEST)
    if dry_run:
        tell_plan(config, held_out, out, as_json=as_json)
        return
    say(held_out.facts.sentence())
    report, panels, known = analyse_tsne(config, subject, held_out, threads=threads)
    page = write_folder(out, report, {COORDINATES: lambda path: write_coordinates(path, held_out.ids, panels, known)})
    tell_result(report, lines_of(report), page, as_json=as_json)
