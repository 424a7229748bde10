"""The figures of a function report."""

from collections.abc import Sequence
from typing import Any

from amma.evaluate.report.results import Report, Row
from amma.evaluate.report.section import Figure
from amma.evaluate.report.slice_results import SliceFigures

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


def slices_figure(
    report: Report,
    heading: str,
    names: Sequence[str],
    figures: Sequence[Sequence[SliceFigures]],
) -> Figure:
    """Fmax of every row in each slice; bars are the standard deviation over seeds."""
    places = range(len(names))
    traces = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": row.name,
            "x": [place for place in places if of_row[place].fmax is not None],
            "y": [slice_.fmax.mean for slice_ in of_row if slice_.fmax is not None],
            "error_y": {
                "type": "data",
                "array": [slice_.fmax.sd or 0.0 for slice_ in of_row if slice_.fmax is not None],
                "thickness": 1.2,
                "width": 3,
            },
            "line": {
                "color": COLOURS[row.name],
                "width": 2.4 if row.name == "trained" else 1.4,
                "dash": "solid" if row.trials else "dot",
            },
            "hovertemplate": f"{row.name}<br>Fmax %{{y:.3f}}<extra></extra>",
        }
        for row, of_row in zip(report.rows, figures, strict=True)
    ]
    return Figure(
        data=tuple(reversed(traces)),
        layout={
            "xaxis": {"tickmode": "array", "tickvals": list(places), "ticktext": list(names), "showgrid": False},
            "yaxis": {"title": {"text": "Fmax"}, "rangemode": "tozero"},
            "legend": {"traceorder": "reversed"},
        },
        caption=f"Fmax {heading[0].lower()}{heading[1:]}; bars are the standard deviation over seeds.",
        height=360,
        alt=f"Lines of Fmax {heading[0].lower()}{heading[1:]}, one for each model; the numbers are in the table below.",
    )


def reliability_figure(report: Report) -> Figure:
    """How often what was said came true, against how likely it was said to be; a line for each seed."""
    traces: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": "said is true",
            "x": [0, 1],
            "y": [0, 1],
            "line": {"color": "#9aa3af", "width": 1, "dash": "dot"},
            "hoverinfo": "skip",
        }
    ]
    for run in report.calibration.runs:
        for name, reliability, colour in (
            ("before", run.before, COLOURS["untrained"]),
            ("after", run.after, COLOURS["trained"]),
        ):
            held = [each for each in reliability.bins if each.count]
            traces.append(
                {
                    "type": "scatter",
                    "mode": "lines+markers",
                    "name": name,
                    "legendgroup": name,
                    "showlegend": run is report.calibration.runs[0],
                    "x": [each.predicted for each in held],
                    "y": [each.observed for each in held],
                    "customdata": [each.count for each in held],
                    "line": {"color": colour, "width": 1.6},
                    "hovertemplate": f"{name}, seed {run.seed}<br>said %{{x:.3f}}<br>true %{{y:.3f}}"
                    "<br>%{customdata:,} pairs<extra></extra>",
                }
            )
    facts = report.calibration
    return Figure(
        data=tuple(traces),
        layout={
            "xaxis": {"range": [0, 1.02], "title": {"text": "Mean probability of a bin"}},
            "yaxis": {"range": [0, 1.02], "title": {"text": "Share that is true"}},
        },
        caption="Test pairs in ten bins of equal width, a line for each seed; hovering tells how many pairs a bin has.",
        height=400,
        alt=f"Reliability diagram. Expected calibration error {facts.ece_before.mean:.4f} before and "
        f"{facts.ece_after.mean:.4f} after the calibration.",
    )
