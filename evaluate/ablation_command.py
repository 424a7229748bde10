"""`amma-eval ablation`: the paper's tables of models and ablations, from finished reports."""

from pathlib import Path
from typing import Annotated

import typer

from amma.evaluate.options import Overwrite
from amma.manifests.console import AsJson, Debug, DryRun, print_json, say


def ablation(
    reports: Annotated[
        list[Path], typer.Argument(metavar="REPORT_DIR...", help="Report folders of amma-eval function.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the tables; new or empty.")],
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Put finished reports into the paper's Tables 2, 3, 4 and 6, with what it printed beside them, and controls.

    A report finds its row by how its model was pretrained. Protocols and readouts are never in one table; reports of
    other labels, splits or encoders are refused. Several seeds of pretraining make one row.
    """
    import time

    from amma.evaluate.analyses.ablation import analyse, read_reports, tabulate
    from amma.evaluate.analyses.ablation_page import TABLES, frame_of, lines_of, plan_lines
    from amma.evaluate.analyses.folder import check_folder, write_folder
    from amma.evaluate.analyses.terminal import tell_result

    started = time.monotonic()
    check_folder(out, overwrite=overwrite)
    finished = read_reports(reports)
    results = tabulate(finished)
    if dry_run:
        if as_json:
            print_json(results.model_dump(mode="json"))
        else:
            print(*plan_lines(results, [str(folder) for folder in reports]), sep="\n")
        say(f"dry run: nothing was written; the tables would go to {out}")
        return
    report = analyse(finished, results, started=started)
    page = write_folder(out, report, {TABLES: lambda path: frame_of(results).to_csv(path, index=False)})
    tell_result(report, lines_of(results), page, as_json=as_json)
