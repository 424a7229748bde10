"""`amma-eval alignment`: the paper's Table 1, beside controls and figures that tell more."""

from pathlib import Path
from typing import Annotated

import typer

from amma.evaluate.options import AnalysisOut, Bootstrap, Checkpoint, Device, Ids, Overwrite, Store, Threads
from amma.manifests.console import AsJson, Debug, DryRun, say


def alignment(
    checkpoint: Checkpoint,
    store: Store,
    out: AnalysisOut,
    ids: Ids = None,
    number: Annotated[int, typer.Option(min=4, help="Held-out proteins to draw, fewer if there are fewer.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw and of shuffled pairs.")] = 0,
    batch_size: Annotated[
        int, typer.Option(min=2, help="Proteins of a relation matrix of Table 1; the paper does not say.")
    ] = 4,
    untrained_seeds: Annotated[int, typer.Option(min=1, help="Untrained models to average over.")] = 3,
    bootstrap: Bootstrap = 1000,
    clusters: Annotated[
        Path | None,
        typer.Option(metavar="TSV", help="Two columns, id and cluster, resampled together; else each protein is."),
    ] = None,
    device: Device = "auto",
    threads: Threads = None,
    overwrite: Overwrite = False,
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
    from amma.evaluate.analyses.terminal import tell_plan, tell_result
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
        tell_plan(config, held_out, out, as_json=as_json)
        return
    say(held_out.facts.sentence())
    report, vectors = analyse_alignment(config, subject, held_out, threads=threads)
    page = write_folder(out, report, {VECTORS: lambda path: write_vectors(path, held_out.ids, vectors)})
    tell_result(report, lines_of(report), page, as_json=as_json)
