"""`amma-featurize push`: copy a sealed store into a bucket."""

from pathlib import Path
from typing import Annotated

import typer

from amma.manifests.console import AsJson, Debug, DryRun, print_json, progress, say


def push(
    store: Annotated[Path, typer.Argument(metavar="STORE", help="Folder of a sealed feature store.")],
    address: Annotated[str, typer.Argument(metavar="s3://BUCKET/PREFIX", help="Where it goes; empty, or begun.")],
    dry_run: DryRun = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Copy a sealed store to S3, its seal last; killed, the same command goes on.

    Every object is compared by its hash when it is there; what is there already is not sent again. Credentials and
    endpoint come from the environment (AWS_ACCESS_KEY_ID, AWS_PROFILE, AWS_ENDPOINT_URL) or ~/.aws. Training,
    evaluation, `inspect`, `export` and `verify` take the address in place of a folder.
    """
    from amma.featurize.store.push import push_store

    pushed = push_store(store, address, dry_run=dry_run, progress=lambda total: progress("push", total, unit="bytes"))
    if as_json:
        print_json(pushed.as_json())
    else:
        typer.echo("\n".join(pushed.lines()))
    if dry_run:
        say(f"dry run: nothing was sent to {address}")
