"""`amma-eval alignment`: the paper's Table 1, beside controls and figures that tell more."""

from pathlib import Path
from typing import Annotated

import typer

from amma.manifests.console import AsJson, Debug, DryRun, print_json, say


def alignment(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="A run folder of amma-train, a step, or an exported model.")
    ],
    store: Annotated[str, typer.Argument(metavar="STORE", help="A sealed store of the same encoders; s3:// too.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the analysis; new or empty.")],
    ids: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Only these proteins, one id a line. [default: all held out]")
    ] = None,
    number: Annotated[int, typer.Option(min=4, help="Held-out proteins to draw, fewer if there are fewer.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw and of shuffled pairs.")] = 0,
    batch_size: Annotated[
        int, typer.Option(min=2, help="Proteins of a relation matrix of Table 1; the paper does not say.")
    ] = 4,
    untrained_seeds: Annotated[int, typer.Option(min=1, help="Untrained models to average over.")] = 3,
    bootstrap: Annotated[
        int, typer.Option(min=0, metavar="NUMBER", help="Resamples for 95 % intervals; 0: none.")
    ] = 1000,
    clusters: Annotated[
        Path | None,
        typer.Option(metavar="TSV", help="Two columns, id and cluster, resampled together; else each protein is."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads. [default: torch's own choice]")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the analysis in OUT.")] = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Measure how far modalities agree on which proteins are alike, in proteins that pretraining did not see.

    Table 1 of the paper as printed, which an untrained model passes too; so debiased CKA, recall and effective rank
    stand beside it, each with the same model untrained, raw features and shuffled pairs.
    """
    from amma.evaluate.analyses.alignment import analyse_alignment
    from amma.evaluate.analyses.alignment_page import lines_of
    from amma.evaluate.analyses.alignment_results import FEWEST, AlignmentConfig
    from amma.evaluate.analyses.folder import check_folder, write_folder
    from amma.evaluate.analyses.subject import choose_held_out, open_analysis
    from amma.evaluate.analyses.vectors import VECTORS, write_vectors
    from amma.featurize.store.location import parse_location
    from amma.manifests.labels import read_ids
    from amma.train.run.arithmetic import find_device

    config = AlignmentConfig.parse(
        {
            "checkpoint": str(checkpoint),
            "store": str(parse_location(store)),
            "ids": str(ids) if ids else None,
            "number": number,
            "seed": seed,
            "batch_size": batch_size,
            "untrained_seeds": untrained_seeds,
            "bootstrap": bootstrap,
            "clusters": str(clusters) if clusters else None,
            "device": str(find_device(device)),
        },
        source="the command line",
    )
    check_folder(out, overwrite=overwrite)
    subject = open_analysis(checkpoint, config.store, device=config.device)
    listed = read_ids(ids) if ids else None
    held_out = choose_held_out(subject, number=number, seed=seed, ids=listed, at_least=FEWEST)
    if dry_run:
        if as_json:
            print_json({"config": config.model_dump(mode="json"), "proteins": held_out.facts.model_dump(mode="json")})
        else:
            print(held_out.facts.sentence())
        say(f"dry run: nothing was computed; the analysis would go to {out}")
        return
    say(held_out.facts.sentence())
    report, vectors = analyse_alignment(config, subject, held_out, threads=threads)
    page = write_folder(out, report, {VECTORS: lambda path: write_vectors(path, held_out.ids, vectors)})
    if as_json:
        print_json(report.model_dump(mode="json"))
        say(f"report: {page}")
        return
    print(*lines_of(report), sep="\n")
    print(f"report: {page}")
