"""Bars of a table of ablations: ours beside the paper's, and controls."""

from collections.abc import Iterator, Sequence
from typing import Any

from amma.evaluate.analyses.ablation_results import AblationRow, AblationTable
from amma.evaluate.report.drawing import PALETTE
from amma.evaluate.report.section import Figure

GREYS = ("#3f4650", "#5f6772", "#7f8894", "#a2a9b3", "#c9ced6")


def bars(table: AblationTable, caption: str, columns: Sequence[str]) -> Iterator[Figure]:
    """One figure of the columns that we have figures for; none if there is no such column."""
    known = [name for name in columns if any(_ours(row, name) is not None for row in table.rows)]
    if not known:
        return
    data: list[dict[str, Any]] = []
    rows = [row for row in table.rows if row.kind == "ours"]
    names = _names(rows)
    for place, (row, name) in enumerate(zip(rows, names, strict=True)):
        colour = PALETTE[place % len(PALETTE)]
        data.append(_bar(name, colour, row, known))
        if any(column in row.published for column in known):
            data.append(
                {
                    "type": "bar",
                    "name": f"{name}, paper",
                    "x": known,
                    "y": [row.published.get(column) for column in known],
                    "marker": {"color": colour, "opacity": 0.45, "pattern": {"shape": "/"}},
                    "hovertemplate": "%{fullData.name}<br>%{x}: %{y:.1f}<extra></extra>",
                }
            )
    controls = [row for row in table.rows if row.kind == "control"]
    for place, (row, name) in enumerate(zip(controls, _names(controls), strict=True)):
        data.append(_bar(name, GREYS[place % len(GREYS)], row, known))
    paper = any("pattern" in bar["marker"] for bar in data)
    yield Figure(
        data=tuple(data),
        layout={
            "barmode": "group",
            "xaxis": {"showgrid": False},
            "yaxis": {"title": {"text": "percent"}, "rangemode": "tozero"},
            "legend": {"traceorder": "normal"},
        },
        caption=("Hatched: the paper's figure, of another protocol unless ours is protocol paper. " if paper else "")
        + "Grey: controls.",
        alt=f"Bars of {caption}: " + "; ".join(_told(row, name, known) for row, name in zip(rows, names, strict=True)),
        height=420 + 14 * len(data),
    )


def _names(rows: Sequence[AblationRow]) -> list[str]:
    """Names that tell rows apart: with what they were pretrained on where the name alone does not."""
    names = [row.name for row in rows]
    return [row.name if names.count(row.name) == 1 else f"{row.name} ({row.about})" for row in rows]


def _bar(name: str, colour: str, row: AblationRow, columns: Sequence[str]) -> dict[str, Any]:
    bar: dict[str, Any] = {
        "type": "bar",
        "name": name,
        "x": list(columns),
        "y": [_ours(row, column) for column in columns],
        "marker": {"color": colour},
        "hovertemplate": "%{fullData.name}<br>%{x}: %{y:.1f}<extra></extra>",
    }
    sds = [row.scores[column].sd if column in row.scores else None for column in columns]
    if any(sd is not None for sd in sds):
        bar["error_y"] = {"type": "data", "array": [sd or 0.0 for sd in sds]}
    return bar


def _ours(row: AblationRow, column: str) -> float | None:
    score = row.scores.get(column)
    value = row.means.get(column) if score is None else score.mean
    return None if value is None else round(value, 4)


def _told(row: AblationRow, name: str, columns: Sequence[str]) -> str:
    parts = []
    for column in columns:
        value, paper = _ours(row, column), row.published.get(column)
        if value is not None:
            parts.append(f"{column} {value:.1f}" + ("" if paper is None else f", paper {paper:.1f}"))
    return f"{name}: {'; '.join(parts)}"
