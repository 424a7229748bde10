"""`amma-featurize`: turn proteins into a feature store, and look after it."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from amma.featurize.options import (
    EncodingOptions,
    PartOption,
    Quarantine,
    Scheduler,
    Source,
    View,
    WorkerResource,
    Workers,
    chosen_crew,
    takes_encoding,
)
from amma.featurize.push_command import push
from amma.featurize.recode_command import recode
from amma.featurize.repair_command import repair
from amma.featurize.weights_command import weights as weights_command
from amma.manifests.console import (
    AsJson,
    Debug,
    DryRun,
    Strict,
    exit_for_quarantine,
    new_app,
    print_json,
    progress,
    run_app,
    say,
)
from amma.manifests.errors import UsageError

app = new_app("Run the frozen encoders once, into a sealed feature store that training reads.")

Store = Annotated[Path, typer.Argument(metavar="STORE", help="Folder of a feature store.")]
AnyStore = Annotated[str, typer.Argument(metavar="STORE", help="Folder of a feature store, or s3://BUCKET/PREFIX.")]


class ExportFormat(StrEnum):
    """What other tools read."""

    H5 = "h5"
    NPY = "npy"
    PARQUET = "parquet"


class Pool(StrEnum):
    """How a protein's rows become one vector."""

    MEAN = "mean"


@app.command()
@takes_encoding
def run(
    source: Source,
    store: Annotated[Path, typer.Argument(metavar="STORE", help="Folder to begin, or to go on with.")],
    encoding: EncodingOptions,
    quarantine: Quarantine = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    worker_resource: WorkerResource = None,
    part: PartOption = None,
    dry_run: DryRun = False,
    strict: Strict = False,
    debug: Debug = False,
) -> None:
    """Encode the proteins of INPUT into STORE.

    Killed or stopped, the same command goes on where it was; the finished store is the same to the byte, for any
    number of workers and parts. A store keeps the settings it was begun with, so they need not be repeated. FASTA and
    PDB are built into a manifest first, which lies beside STORE.
    """
    from amma.featurize.run import featurize, featurize_part, preview_run
    from amma.featurize.source import opened_manifest
    from amma.featurize.store.disk import human
    from amma.featurize.store.filling import write_here
    from amma.featurize.store.parts import Part
    from amma.featurize.workers.cluster import ClusterWriter
    from amma.manifests.labels import read_ids

    settings = encoding.settings()
    crew = chosen_crew(workers=workers, scheduler=scheduler, worker_resource=worker_resource)
    share = None if part is None else Part.parse(part)
    if share is not None and source.suffix != ".parquet":
        raise UsageError(f"{source} is no manifest, and parts would each build one. Run amma-manifest build first.")
    set_aside = () if quarantine is None else read_ids(quarantine)
    recipe = encoding.recipe(store)
    encoders = recipe.build()
    with opened_manifest(
        source, store, structures=encoding.structures, descriptions=encoding.descriptions, dry_run=dry_run
    ) as opened:
        manifest, num_unusable = opened
        if dry_run:
            plan = preview_run(manifest, store, encoders, settings, set_aside=set_aside)
            rows = ", ".join(f"{count} {modality}" for modality, count in plan.header.rows.items())
            typer.echo(f"proteins     {plan.header.num_proteins} ({_kinds(plan.header.kinds)})")
            typer.echo(f"rows         {rows}")
            typer.echo(f"units        {plan.header.num_units}, {plan.committed} of them committed")
            if share is not None:
                own = share.units(plan.header.num_units)
                typer.echo(f"part         {share}: {len(own)} units from {own.start}")
            typer.echo(f"workers      {crew or 'this process'}, {plan.header.settings.threads} threads each")
            typer.echo(f"still needs  {human(plan.needed)}; {human(plan.free)} are free")
            say(f"dry run: {store} is sealed" if plan.sealed else f"dry run: nothing was written to {store}")
            return
        write = write_here if crew is None else ClusterWriter(crew, manifest.path, recipe)
        common: dict[str, Any] = {"set_aside": set_aside, "write_units": write, "show_progress": True}
        if share is not None:
            filled = featurize_part(manifest, store, encoders, share, settings, **common)
            for line in filled.lines(store):
                typer.echo(line)
            exit_for_quarantine(filled.num_rejected, strict=strict)
            return
        outcome = featurize(manifest, store, encoders, settings, **common)
    done = "was sealed already" if outcome.was_sealed else "sealed"
    say(f"{store}: {done}{' (random encoders)' if outcome.header.random_weights else ''}")
    typer.echo(f"proteins     {outcome.header.num_proteins} ({_kinds(outcome.header.kinds)} planned)")
    typer.echo(f"quarantined  {outcome.num_rejected} while encoding, {num_unusable} before")
    typer.echo(f"root         {outcome.root}")
    exit_for_quarantine(outcome.num_rejected + num_unusable, strict=strict)


@app.command()
def seal(store: Store, strict: Strict = False, debug: Debug = False) -> None:
    """Seal a store whose parts are all there; names the units that are missing otherwise."""
    from amma.featurize.workers.part import seal_parts

    outcome = seal_parts(store)
    say(f"{store}: {'was sealed already' if outcome.was_sealed else 'sealed'}")
    typer.echo(f"proteins     {outcome.header.num_proteins} ({_kinds(outcome.header.kinds)} planned)")
    typer.echo(f"quarantined  {outcome.num_rejected} while encoding")
    typer.echo(f"root         {outcome.root}")
    exit_for_quarantine(outcome.num_rejected, strict=strict)


@app.command()
def status(store: Store, as_json: AsJson = False, debug: Debug = False) -> None:
    """Say how many units and proteins are safe, and whether the store is sealed."""
    from amma.featurize.store.status import status as read_status

    _show(read_status(store), as_json=as_json)


@app.command()
def verify(
    store: AnyStore,
    quick: Annotated[bool, typer.Option("--quick", help="Check sizes, metadata and ledger, not the features.")] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Check every file against its hash and every protein against its checksum; exit 1 if anything is wrong."""
    from amma.featurize.store.location import parse_location
    from amma.featurize.store.remote_verify import verify_remote
    from amma.featurize.store.verify import verify_store

    def show(total: int) -> Any:
        return progress("verify", total, unit="bytes")

    place = parse_location(store)
    if isinstance(place, Path):
        found = verify_store(place, quick=quick, progress=show)
    else:
        found = verify_remote(place, quick=quick, progress=show)
    _show(found, as_json=as_json)
    if found.findings:
        raise typer.Exit(1)


app.command()(repair)


@app.command()
def inspect(store: AnyStore, as_json: AsJson = False, debug: Debug = False) -> None:
    """Describe what is in a store: kinds, lengths, encoders, how the channels are distributed."""
    from amma.featurize.store.inspection import inspect_store
    from amma.featurize.store.location import parse_location

    _show(inspect_store(parse_location(store)), as_json=as_json)


@app.command()
def export(
    store: AnyStore,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder (h5, npy) or file (parquet) to write.")],
    format: Annotated[ExportFormat, typer.Option(help="h5: a dataset an id; npy: a file an id; parquet: one table.")],
    pool: Annotated[
        Pool | None, typer.Option(help="One vector a protein, the mean over its rows. [default: all rows]")
    ] = None,
    modality: Annotated[
        list[View] | None, typer.Option(help="seq, str or func; repeatable. [default: all three]")
    ] = None,
    ids: Annotated[Path | None, typer.Option(help="File of the ids to export, one a line. [default: all]")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is at OUT.")] = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Write features in a format of other tools; OUT appears when it is whole."""
    from amma.featurize.export.run import export_store
    from amma.featurize.store.location import parse_location
    from amma.featurize.store.reader import FeatureStore
    from amma.manifests.labels import read_ids
    from amma.manifests.table import MODALITIES

    with FeatureStore(parse_location(store)) as opened:
        exported = export_store(
            opened,
            out,
            format=format.value,
            pooled=pool is not None,
            modalities=tuple(each for each in MODALITIES if modality is None or View(each) in modality),
            ids=None if ids is None else read_ids(ids),
            overwrite=overwrite,
            dry_run=dry_run,
        )
    _show(exported, as_json=as_json)
    if dry_run:
        say(f"dry run: nothing was written to {out}")


def _show(result: Any, *, as_json: bool) -> None:
    if as_json:
        print_json(result.as_json())
        return
    for line in result.lines():
        typer.echo(line)


def _kinds(kinds: dict[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))


app.command("push")(push)
app.command("recode")(recode)
app.command("weights")(weights_command)


def main() -> None:
    """Entry point of `amma-featurize`."""
    run_app(app)


if __name__ == "__main__":
    main()
