"""`amma-eval attention`: the paper's Fig. 3, with figures over many proteins and beside controls."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from amma.manifests.console import AsJson, Debug, DryRun, print_json, say


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
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="A run folder of amma-train, a step, or an exported model.")
    ],
    store: Annotated[str, typer.Argument(metavar="STORE", help="A sealed store of the same encoders; s3:// too.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the analysis; new or empty.")],
    sites: Annotated[
        Path | None,
        typer.Option(metavar="TSV", help="Annotated residues: columns id, start, end (from 1), kind."),
    ] = None,
    kind: Annotated[
        list[SiteKind] | None, typer.Option(help="Kinds of sites that count; may be repeated. [default: all]")
    ] = None,
    ids: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Only these proteins, one id a line. [default: all held out]")
    ] = None,
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
        if as_json:
            print_json(
                {
                    "config": config.model_dump(mode="json"),
                    "proteins": held_out.facts.model_dump(mode="json"),
                    "num_looked_at": len(chosen.proteins),
                }
            )
        else:
            print(held_out.facts.sentence())
            print(f"{len(chosen.proteins):,} of them can be looked at")
        say(f"dry run: nothing was computed; the analysis would go to {out}")
        return
    say(held_out.facts.sentence())
    report, files = analyse_attention(config, subject, held_out, chosen, annotated, listed=listed, threads=threads)
    page = write_folder(out, report, files)
    if as_json:
        print_json(report.model_dump(mode="json"))
        say(f"report: {page}")
        return
    print(*lines_of(report), sep="\n")
    print(f"report: {page}")
