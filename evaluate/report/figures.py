"""Figures of a report as plotly's JSON: data and layout, nothing that needs a network or a server."""

from typing import Any

from amma.evaluate.report.results import Report, Row

COLOURS = {
    "trained": "#1f5fa8",
    "untrained": "#c8702a",
    "pooled inputs": "#2f8f6b",
    "nearest training sequence": "#8a4f9e",
    "label frequency": "#7b8390",
}
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def pr_figure(report: Report) -> dict[str, Any]:
    """Micro-averaged precision–recall curves, one for each row and seed; the first seed's line is the strong one."""
    traces = [
        _pr_trace(row, number)
        for row in reversed(report.rows)  # the trained model is drawn last, on top
        for number in reversed(range(len(row.runs)))
    ]
    axis = {
        "range": [0, 1.02],
        "showgrid": True,
        "gridcolor": "#e6e9ee",
        "zeroline": False,
        "linecolor": "#9aa3af",
        "ticks": "outside",
        "tickcolor": "#9aa3af",
    }
    return {
        "data": traces,
        "layout": {
            "xaxis": {**axis, "title": {"text": "Recall"}},
            "yaxis": {**axis, "title": {"text": "Precision"}},
            "font": {"family": FONT, "size": 13, "color": "#26303c"},
            "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "traceorder": "reversed"},
            "margin": {"l": 56, "r": 16, "t": 48, "b": 52},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "hovermode": "closest",
            "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": "#9aa3af", "activecolor": COLOURS["trained"]},
            "height": 440,
        },
        "config": {"displaylogo": False, "responsive": True, "modeBarButtonsToRemove": ["select2d", "lasso2d"]},
    }


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
