"""What the four commands share on a terminal: one-line errors, progress, JSON, exit codes.

Results go to stdout, progress and messages to stderr. Exit codes: 0 done (perhaps with quarantined records), 1 bad
data, 2 misuse, 3 quarantined records under ``--strict``.
"""

import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Protocol, runtime_checkable

import typer

from amma.manifests.errors import AmmaError

EXIT_QUARANTINED = 3
_show_traceback = False
_silent = False


def _set_debug(value: bool) -> bool:
    global _show_traceback
    _show_traceback = _show_traceback or value
    return value


Debug = Annotated[
    bool,
    typer.Option("--debug", callback=_set_debug, help="Show the traceback of an error.", expose_value=True),
]
Strict = Annotated[bool, typer.Option("--strict", help="Exit with 3 if any record was quarantined.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check the inputs and print the plan; write nothing.")]


def new_app(help_text: str) -> typer.Typer:
    """A typer application with this project's conventions; a bare call prints the help."""
    return typer.Typer(help=help_text, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)


def run_app(app: typer.Typer) -> None:
    """Run a command; an `AmmaError` becomes one line on stderr and its exit code."""
    logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stderr)
    # Read by libgomp when torch is loaded: threads that wait spin only briefly, then sleep. On a machine whose
    # processors are all taken, spinning makes a step several times as long.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    try:
        app()
    except AmmaError as error:
        if _show_traceback:
            raise
        print(f"error {error.code}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("interrupted; what was committed is safe, run the same command again to go on", file=sys.stderr)
        sys.exit(130)


@contextmanager
def silence() -> Iterator[None]:
    """Say nothing and show no progress meanwhile: where one of several processes speaks for all."""
    global _silent
    before, _silent = _silent, True
    try:
        yield
    finally:
        _silent = before


def say(message: str) -> None:
    """Print a message for the person watching, on stderr."""
    if not _silent:
        print(message, file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    """Print a result for programs on stdout."""
    print(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False))


def exit_for_quarantine(count: int, *, strict: bool) -> None:
    """End with code 3 if records were quarantined and ``--strict`` was given."""
    if strict and count:
        raise typer.Exit(EXIT_QUARANTINED)


@runtime_checkable
class Advance(Protocol):
    """Moves a progress display on by `n`; a `note` stands beside it until there is another."""

    def __call__(self, n: int, note: str | None = None) -> None:
        """Move on."""


@contextmanager
def progress(label: str, total: int, *, unit: str = "") -> Iterator[Advance]:
    """Give a function that advances a progress display by `n`.

    On a terminal a bar with the time left; elsewhere (a log file, a cluster job) a plain line every ten seconds
    and one at the end.
    """
    if sys.stderr.isatty() and not _silent:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit))
        beside = TextColumn("{task.fields[note]}")
        with Progress(*columns, TimeRemainingColumn(), beside, console=Console(stderr=True)) as bar:
            task = bar.add_task(label, total=total, note="")

            def move(n: int, note: str | None = None) -> None:
                bar.advance(task, n)
                if note is not None:
                    bar.update(task, note=note)

            yield move
        return

    done = 0
    beside_it = ""
    started = last_line = time.monotonic()

    def line() -> str:
        seconds = time.monotonic() - started
        left = f", {seconds / done * (total - done):.0f} s left" if 0 < done < total else ""
        noted = f"; {beside_it}" if beside_it else ""
        return f"{label}: {done}/{total} {unit} in {seconds:.0f} s{left}{noted}".replace("  ", " ")

    def advance(n: int, note: str | None = None) -> None:
        nonlocal done, last_line, beside_it
        done += n
        beside_it = beside_it if note is None else note
        now = time.monotonic()
        if now - last_line >= 10:
            last_line = now
            say(line())

    yield advance
    say(line())
