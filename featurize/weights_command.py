"""`amma-featurize weights`: list, fetch and check published weights."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from amma.manifests.console import AsJson, Debug, print_json, progress, say
from amma.manifests.errors import UsageError, WeightsError


def weights(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAMES", help="Which, as the list calls them. [default: all]")
    ] = None,
    preset: Annotated[str | None, typer.Option(help="Those that a preset of `run` needs.")] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--weights", help="Folder of weights; text encoders go into HF_HOME. [default: $AMMA_CACHE/weights]"
        ),
    ] = None,
    download: Annotated[bool, typer.Option("--download", help="Fetch those that are missing.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Read those that are there, and compare hashes.")] = False,
    accept: Annotated[
        bool,
        typer.Option("--accept", help="Take the hash of those that are named (there or fetched) for the right one."),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what --download would fetch, and stop.")] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """List published weights: which are needed, there or missing; fetch and check them.

    A download that was stopped goes on where it was. The hash that is seen first is remembered in $AMMA_CACHE
    (~/.cache/amma); weights that changed since are refused. AMMA_OFFLINE=1 or HF_HUB_OFFLINE=1 forbid the network.
    """
    from amma.featurize import weights as machine

    if download and not names and preset is None:
        raise UsageError("Say what to download: names of weights, or --preset paper.")
    if accept and not names:
        raise UsageError("Say whose hash to accept: names of weights.")
    if dry_run and not download:
        raise UsageError("--dry-run goes with --download.")
    chosen = machine.select(names or [], preset)
    refused = []
    if download and not dry_run:
        for known in chosen:
            bar = partial(progress, known.name, unit="bytes")
            say(f"{known.name}: {machine.fetch(known, folder, accept=accept, show_progress=bar)}")
    if (verify or accept) and not dry_run:
        for known in chosen:
            try:
                machine.verify(known, folder, accept=accept)
            except WeightsError as error:
                refused.append(error)
    found = machine.report(chosen, folder)
    if dry_run:
        found = machine.WeightsReport([status for status in found.weights if status.path is None])
    if as_json:
        print_json(found.as_json())
    else:
        for line in found.lines():
            typer.echo(line)
    if machine.offline():
        say(f"offline ({machine.offline()} is set): nothing can be fetched")
    if refused:
        raise WeightsError(" ".join(str(error) for error in refused), code=refused[0].code)
