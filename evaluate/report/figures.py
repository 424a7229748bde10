"""The figures of a function report."""

from typing import Any

from amma.evaluate.report.results import Report, Row
from amma.evaluate.report.section import Figure

COLOURS = {
    "trained": "#1f5fa8",
    "untrained": "#c8702a",
    "pooled inputs": "#2f8f6b",
    "nearest training sequence": "#8a4f9e",
    "label frequency": "#7b8390",
}


def pr_figure(report: Report) -> Figure:
    """Micro-averaged precision–recall curves, one for each row and seed; the first seed's line is the strong one."""
    traces = tuple(
        _pr_trace(row, number)
        for row in reversed(report.rows)  # the trained model is drawn last, on top
        for number in reversed(range(len(row.runs)))
    )
    return Figure(
        data=traces,
        layout={
            "xaxis": {"range": [0, 1.02], "title": {"text": "Recall"}},
            "yaxis": {"range": [0, 1.02], "title": {"text": "Precision"}},
            "legend": {"traceorder": "reversed"},
        },
        caption=(
            "Micro-averaged over all pairs; the area below a curve is its AUPR. Strong lines are seed 0, pale ones the "
            "other seeds."
        ),
        alt="Precision against recall. AUPR: "
        + ", ".join(f"{row.name} {row.aupr.mean:.3f}" for row in report.rows)
        + ".",
    )


def _pr_trace(row: Row, number: int) -> dict[str, Any]:
    run = row.runs[number]
    seed = "" if run.seed is None else f", seed {run.seed}"
    curve = run.curve
    return {
        "type": "scatter",
        "mode": "lines",
        "name": f"{row.name} (AUPR {row.aupr.mean:.3f})",
        "legendgroup": row.name,
        "showlegend": number == 0,
        # The step at each threshold reaches back to the recall before it: the area below is the average precision.
        "x": [0.0, *curve.recall],
        "y": [*curve.precision[:1], *curve.precision] if curve.precision else [0.0],
        "line": {
            "shape": "vh",
            "color": COLOURS[row.name],
            "width": 2.4 if number == 0 else 1.2,
            "dash": "dot" if run.seed is None else "solid",
        },
        "opacity": 1.0 if number == 0 else 0.4,
        "hovertemplate": f"{row.name}{seed}<br>recall %{{x:.3f}}<br>precision %{{y:.3f}}<extra></extra>",
    }
