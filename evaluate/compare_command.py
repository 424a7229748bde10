"""`amma-eval compare`: two reports of the same task and test proteins."""

from pathlib import Path
from typing import Annotated

import typer

from amma.evaluate.options import Overwrite
from amma.manifests.console import AsJson, Debug, print_json, say


def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="A report folder of amma-eval function.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another one; what A has more than B is told.")],
    out: Annotated[
        Path | None, typer.Argument(metavar="[OUT]", help="Folder for compare.html and compare.json; new or empty.")
    ] = None,
    clusters: Annotated[
        Path | None,
        typer.Option(
            metavar="TSV",
            help="Two columns, id and cluster, resampled together. [default: those of both reports, else none]",
        ),
    ] = None,
    bootstrap: Annotated[int, typer.Option(min=1, metavar="NUMBER", help="Resamples, and swaps, of clusters.")] = 1000,
    common: Annotated[
        bool, typer.Option("--common", help="Where test proteins differ, compare on those that both have.")
    ] = False,
    across_protocols: Annotated[
        bool, typer.Option("--across-protocols", help="Compare although the protocols differ.")
    ] = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Compare two reports: differences in Fmax and AUPR with paired intervals and p, terms and proteins won and lost.

    Both must be of the same labels, splits and terms; figures are computed from their predictions.parquet.
    """
    from amma.evaluate.compare import compare_reports
    from amma.evaluate.comparison.folder import check_out, write_comparison
    from amma.evaluate.comparison.page import lines_of

    if out is not None:
        check_out(out, overwrite=overwrite)
    found = compare_reports(
        a, b, clusters=clusters, num_resamples=bootstrap, common=common, across_protocols=across_protocols
    )
    page = None if out is None else write_comparison(out, found)
    if as_json:
        print_json(found.model_dump(mode="json"))
        if page is not None:
            say(f"page: {page}")
        return
    print(*lines_of(found), sep="\n")
    if page is not None:
        print(f"page: {page}")
