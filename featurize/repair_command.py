"""The command `amma-featurize repair`."""

from pathlib import Path
from typing import Annotated

import typer

from amma.featurize.options import EncodingOptions, Source, takes_encoding
from amma.manifests.console import AsJson, Debug, DryRun, print_json, progress


@takes_encoding
def repair(
    store: Annotated[Path, typer.Argument(metavar="STORE", help="Folder of a damaged feature store.")],
    source: Source,
    encoding: EncodingOptions,
    as_json: AsJson = False,
    dry_run: DryRun = False,
    debug: Debug = False,
) -> None:
    """Make what is damaged in STORE again, from the INPUT and the encoders it was made of.

    Every file is checked; only the units that are damaged are encoded, and only what is byte for byte what it was is
    put in place. Stopped, the same command goes on. Exit 1 if anything is left that is not as it should be. Settings
    are those of STORE; they matter only where its plan.json is lost.
    """
    from amma.featurize.replay import ReplayOrigin
    from amma.featurize.source import opened_manifest
    from amma.featurize.store.repair import repair_store

    settings = encoding.settings()
    encoders = encoding.recipe(store).build()
    with opened_manifest(
        source, store, structures=encoding.structures, descriptions=encoding.descriptions, dry_run=dry_run
    ) as opened:
        done = repair_store(
            store,
            ReplayOrigin(opened[0], encoders),
            settings,
            dry_run=dry_run,
            verifying=lambda total: progress("verify", total, unit="bytes"),
            encoding=lambda total: progress("repair", total, unit="residues and tokens"),
        )
    if as_json:
        print_json(done.as_json())
    else:
        for line in done.lines():
            typer.echo(line)
    if not done.is_whole:
        raise typer.Exit(1)
