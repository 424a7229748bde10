"""`amma-eval attention`: the paper's Fig. 3, with figures over many proteins and beside controls."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from amma.evaluate.options import AnalysisOut, Bootstrap, Checkpoint, Device, Ids, Overwrite, Store, Threads
from amma.manifests.console import AsJson, Debug, DryRun, say


class CountedTokens(StrEnum):
    """Whose attention counts as a residue's."""

    BOTH = "both"
    SEQ = "seq"
    STR = "str"


class SiteKind(StrEnum):
    """UniProt's feature keys of sites."""

    ACT_SITE = "ACT_SITE"
    BINDING = "BINDING"


def attention(
    checkpoint: Checkpoint,
    store: Store,
    out: AnalysisOut,
    sites: Annotated[
        Path | None,
        typer.Option(metavar="TSV", help="Annotated residues: columns id, start, end (from 1), kind."),
    ] = None,
    kind: Annotated[
        list[SiteKind] | None, typer.Option(help="Kinds of sites that count; may be repeated. [default: all]")
    ] = None,
    ids: Ids = None,
    number: Annotated[int, typer.Option(min=2, help="Held-out proteins to draw, fewer if there are fewer.")] = 200,
    shown: Annotated[
        int,
        typer.Option(min=1, max=6, help="Proteins to draw one by one: the first of --ids, else those with most sites."),
    ] = 4,
    manifest: Annotated[
        Path | None,
        typer.Option(metavar="PARQUET", help="The store's manifest, for structures of the shown proteins."),
    ] = None,
    top: Annotated[
        int | None, typer.Option(min=1, help="Residues to list of each shown protein without --sites. [default: 10]")
    ] = None,
    residue_tokens: Annotated[
        CountedTokens, typer.Option(help="A residue's attention: the sum over both of its tokens, or one of them.")
    ] = CountedTokens.BOTH,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw and of shuffled pairs.")] = 0,
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
    """Show which residues a protein's name attends to, in proteins that pretraining did not see.

    Sequence, structure and name in, nothing masked, last layer. With --sites, how well annotated residues are found;
    beside the model untrained, another protein's name, and position in the chain alone.
    """
    from amma.evaluate.analyses.annotated_sites import annotated_sites
    from amma.evaluate.analyses.attention import analyse_attention
    from amma.evaluate.analyses.attention_page import lines_of
    from amma.evaluate.analyses.attention_proteins import choose
    from amma.evaluate.analyses.attention_results import FEWEST, AttentionConfig
    from amma.evaluate.analyses.folder import check_folder, write_folder
    from amma.evaluate.analyses.subject import choose_held_out, open_analysis
    from amma.evaluate.analyses.terminal import tell_plan, tell_result
    from amma.featurize.store.location import parse_location
    from amma.manifests.errors import UsageError
    from amma.manifests.labels import read_ids
    from amma.manifests.sites import KINDS
    from amma.manifests.table import Manifest
    from amma.train.run.arithmetic import find_device

    if sites is None and kind:
        raise UsageError("--kind says which sites of --sites count; give a table with --sites, or leave it out.")
    if sites is not None and top is not None:
        raise UsageError("with --sites as many residues are listed as are annotated; leave out --top.")
    kinds = tuple(each.value for each in dict.fromkeys(kind)) if kind else KINDS
    config = AttentionConfig.parse(
        {
            "checkpoint": str(checkpoint),
            "store": str(parse_location(store)),
            "ids": str(ids) if ids else None,
            "number": number,
            "shown": shown,
            "seed": seed,
            "sites": str(sites) if sites else None,
            "kinds": kinds,
            **({} if top is None else {"top": top}),
            "residue_tokens": residue_tokens.value,
            "manifest": str(manifest) if manifest else None,
            "untrained_seeds": untrained_seeds,
            "bootstrap": bootstrap,
            "clusters": str(clusters) if clusters else None,
            "device": str(find_device(device)),
        },
        source="the command line",
    )
    check_folder(out, overwrite=overwrite)
    subject = open_analysis(checkpoint, config.store, device=config.device)
    if not subject.trained.model.per_token:
        raise UsageError(
            f"{subject.trained.path} is a {subject.trained.model.config.family} model: it fuses one vector for each "
            "protein and no tokens, so no name attends to residues. Give a model of another family."
        )
    if manifest is not None:
        Manifest(manifest)  # what is wrong with it is said before anything is computed
    listed = read_ids(ids) if ids else None
    annotated = annotated_sites(sites, subject.store, kinds) if sites else None
    wanted = listed
    if annotated is not None:
        wanted = tuple(id for id in (annotated.residues if listed is None else listed) if id in annotated.residues)
    held_out = choose_held_out(subject, number=number, seed=seed, ids=wanted, at_least=FEWEST)
    chosen = choose(subject.store, held_out, annotated)
    if dry_run:
        tell_plan(config, held_out, out, as_json=as_json, num_looked_at=len(chosen.proteins))
        return
    say(held_out.facts.sentence())
    report, files = analyse_attention(config, subject, held_out, chosen, annotated, listed=listed, threads=threads)
    page = write_folder(out, report, files)
    tell_result(report, lines_of(report), page, as_json=as_json)
