"""`amma-featurize recode`: the numbers of a sealed store in fewer bytes."""

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from amma.manifests.console import AsJson, Debug, DryRun, print_json, progress, say
from amma.manifests.errors import UsageError


def recode(
    store: Annotated[str, typer.Argument(metavar="STORE", help="Folder of a sealed feature store, or s3://…")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of the new store; new, or one to go on with.")],
    int8: Annotated[bool, typer.Option("--int8", help="One byte a number, one scale and offset a channel.")] = False,
    like: Annotated[
        str | None,
        typer.Option(metavar="STORE", help="Take the scales of this int8 store, to be read together with it."),
    ] = None,
    max_error: Annotated[
        float, typer.Option(min=0, help="Largest error of a channel: its RMS in units of the channel's σ.")
    ] = 0.05,
    repair: Annotated[
        bool, typer.Option("--repair", help="Check OUT, and make what is damaged again; to the byte, or not at all.")
    ] = False,
    threads: Annotated[int, typer.Option(min=1, help="Threads; they do not change the result.")] = 2,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Write a sealed store anew, as int8: half the bytes of float16.

    Each channel's codes span what it holds anywhere in the store. Its error is measured over all rows, kept in the new
    store, and nothing is written if it is above the bound. Killed, the same command goes on. For training and
    evaluation it is a store of its own: it mixes only with int8 stores of the same scales (--like), and a model that
    was trained on it is evaluated on such.
    """
    if not int8:
        raise UsageError("say what the numbers are to become: --int8")
    from amma.featurize.recode import Recoded, recode_store, repair_recoded
    from amma.featurize.store.location import parse_location
    from amma.featurize.store.reader import FeatureStore
    from amma.featurize.store.repair import Repair

    with ExitStack() as stack:
        source = stack.enter_context(FeatureStore(parse_location(store)))
        common: dict[str, Any] = {
            "like": None if like is None else stack.enter_context(FeatureStore(parse_location(like))),
            "dry_run": dry_run,
            "threads": threads,
            "show": lambda label, total: progress(label, total),
        }
        done: Recoded | Repair
        if repair:
            done = repair_recoded(source, out, **common)
        else:
            done = recode_store(source, out, max_error=max_error, **common)
    if as_json:
        print_json(done.as_json())
    else:
        typer.echo("\n".join(done.lines()))
    if dry_run:
        say(f"dry run: nothing was written to {out}")
    if isinstance(done, Repair) and not done.is_whole:
        raise typer.Exit(1)
