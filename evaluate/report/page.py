"""`report.html` of `amma-eval function`: made from what `report.json` holds and nothing else."""

from amma.evaluate.report.estimates import Summary
from amma.evaluate.report.figures import pr_figure
from amma.evaluate.report.page_details import by_term, calibration, extremes, included, vocabulary
from amma.evaluate.report.page_rows import by_identity, by_length, differences, results_table, variants, verdict
from amma.evaluate.report.results import Report
from amma.evaluate.report.shell import pieces_of, render

TITLES = {
    "ec": "EC number",
    "ec-class": "EC class",
    "go-mf": "GO molecular function",
    "go-bp": "GO biological process",
    "go-cc": "GO cellular component",
}


def render_html(report: Report) -> str:
    """The whole page."""
    figure = pr_figure(report)
    sections = {
        "differences": differences(report),
        "variants": variants(report),
        "by_identity": by_identity(report),
        "by_length": by_length(report),
        "by_term": by_term(report),
        "calibration": calibration(report),
        "extremes": extremes(report),
        "vocabulary": vocabulary(report),
    }
    analyses = included(report)
    return render(
        "report.html.j2",
        [figure, *pieces_of([*sections.values(), *analyses])],
        report=report,
        title=TITLES.get(report.task.name, report.task.name),
        verdict=verdict(report),
        results=results_table(report),
        pr_figure=figure,
        sections=sections,
        analyses=analyses,
        figures=_figures,
    )


def _figures(summary: Summary) -> str:
    """`0.412 ± 0.013`, or the mean alone where there is one value."""
    return f"{summary.mean:.3f}" if summary.sd is None else f"{summary.mean:.3f} ± {summary.sd:.3f}"
