"""Figures of an attention's page.

Attention is drawn over its mean over the protein's residues: 1 is what each would get of evenly spread attention.

Legend: L residues of one protein, R residues with a Cα.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float64

from amma.evaluate.analyses.attention_proteins import Looked
from amma.evaluate.analyses.attention_results import AttentionResults, MeanFigure, RowOf
from amma.evaluate.analyses.attention_structure import Trace
from amma.evaluate.analyses.residue_attention import times_mean
from amma.evaluate.report.section import Figure

COLOURS: dict[RowOf, str] = {
    "trained": "#1f5fa8",
    "untrained": "#c8702a",
    "shuffled pairs": "#7b8390",
    "position only": "#2f8f6b",
    "chance": "#26303c",
}
RING = "#b23a48"
DECIMALS = 4


def bars(results: AttentionResults) -> Figure:
    """Precision among the k highest, for each kind of scores, with its interval."""
    rows = [row for row in results.rows if row.of != "chance"]
    low, high = zip(*(_errors(row.precision) for row in rows), strict=True)
    chance = results.chance or 0.0
    return Figure(
        data=(
            {
                "type": "bar",
                "name": "precision@k",
                "x": [row.of for row in rows],
                "y": [round(row.precision.value.mean, DECIMALS) for row in rows],
                "marker": {"color": [COLOURS[row.of] for row in rows]},
                "error_y": {"type": "data", "symmetric": False, "array": list(high), "arrayminus": list(low)},
                "hovertemplate": "%{x}: %{y:.3f}<extra></extra>",
                "width": 0.5,
            },
        ),
        layout={
            "yaxis": {"title": {"text": "precision@k"}, "rangemode": "tozero"},
            "showlegend": False,
            "shapes": [_level(chance)],
        },
        caption=f"Share of annotated residues among the k attended to most; the dotted line is chance, {chance:.3f}.",
        height=340,
    )


def _errors(of: MeanFigure) -> tuple[float, float]:
    if of.interval is None:
        return 0.0, 0.0
    mean = of.value.mean
    return round(mean - of.interval.low, DECIMALS), round(of.interval.high - mean, DECIMALS)


def _level(at: float) -> dict[str, Any]:
    return {
        "type": "line",
        "xref": "paper",
        "x0": 0,
        "x1": 1,
        "y0": at,
        "y1": at,
        "line": {"color": COLOURS["shuffled pairs"], "dash": "dot", "width": 1.5},
    }


def along_the_chain(protein: Looked, attention: Mapping[RowOf, Float64[np.ndarray, " L"]]) -> Figure:
    """Attention to each residue, trained beside its controls, annotated residues marked."""
    scaled = {of: times_mean(of_L).round(DECIMALS) for of, of_L in attention.items()}
    length = len(scaled["trained"])
    labels = [f"{letter}{place}" for place, letter in enumerate(protein.sequence[:length], start=1)]
    data: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": of,
            "x": list(range(1, length + 1)),
            "y": scaled[of].tolist(),
            "text": labels,
            "line": {"color": COLOURS[of], "width": 2 if of == "trained" else 1.2},
            "opacity": 1 if of == "trained" else 0.75,
            "hovertemplate": f"%{{text}}<br>{of}: %{{y:.2f}}<extra></extra>",
        }
        for of in ("shuffled pairs", "untrained", "trained")
    ]
    if protein.annotated_L is not None:
        places = np.flatnonzero(protein.annotated_L)
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": "annotated",
                "x": (places + 1).tolist(),
                "y": scaled["trained"][places].tolist(),
                "text": [labels[place] for place in places],
                "marker": {"symbol": "diamond", "size": 9, "color": RING, "line": {"width": 1, "color": "#ffffff"}},
                "hovertemplate": "%{text}, annotated<br>%{y:.2f}<extra></extra>",
            }
        )
    return Figure(
        data=tuple(data),
        layout={
            "xaxis": {"title": {"text": "residue"}},
            "yaxis": {"title": {"text": "attention over its mean"}, "rangemode": "tozero"},
            "legend": {"traceorder": "reversed"},
            "shapes": [_level(1.0)],
        },
        caption="Attention of the name's tokens to each residue, over its mean; the dotted line is what each residue "
        "would get of evenly spread attention. Untrained: first seed; shuffled pairs: the first other protein's name.",
        height=360,
        alt=f"Attention along {length} residues: trained, untrained, shuffled pairs.",
    )


def in_space(protein: Looked, attention: Mapping[RowOf, Float64[np.ndarray, " L"]], trace: Trace) -> Figure:
    """The Cα trace coloured by attention, trained beside untrained on one scale, annotated residues ringed."""
    shown: tuple[RowOf, ...] = ("trained", "untrained")
    scaled = {of: times_mean(attention[of]).round(DECIMALS) for of in shown}
    length = len(scaled["trained"])
    kept = trace.residue < length
    residue_R, ca_R3 = trace.residue[kept], trace.ca[kept].round(3)
    data: list[dict[str, Any]] = []
    layout: dict[str, Any] = {
        "annotations": [],
        "margin": {"l": 0, "r": 64, "t": 40, "b": 0},
        "showlegend": False,
        "coloraxis": {
            "colorscale": "Viridis",
            "cmin": 0,
            "cmax": max(float(of_L.max()) for of_L in scaled.values()),
            "colorbar": {"thickness": 12, "title": {"text": "over mean"}},
        },
    }
    for number, of in enumerate(shown):
        scene = "scene" if number == 0 else f"scene{number + 1}"
        data.append(_trace(protein, residue_R, ca_R3, scaled[of], of, scene))
        if protein.annotated_L is not None:
            ringed = protein.annotated_L[residue_R]
            data.append(_rings(ca_R3[ringed], [_label(protein, r) for r in residue_R[ringed].tolist()], scene))
        left = number * 0.5
        hidden = {"visible": False}
        layout[scene] = {
            "domain": {"x": [left, left + 0.49], "y": [0, 1]},
            "xaxis": hidden,
            "yaxis": hidden,
            "zaxis": hidden,
            "aspectmode": "data",
            "camera": {"eye": {"x": 1.1, "y": 1.1, "z": 0.8}},
        }
        layout["annotations"].append(
            {
                "x": left + 0.245,
                "y": 1.0,
                "xref": "paper",
                "yref": "paper",
                "text": of,
                "showarrow": False,
                "xanchor": "center",
                "yanchor": "bottom",
            }
        )
    ringed_too = "; annotated residues are ringed in red" if protein.annotated_L is not None else ""
    return Figure(
        data=tuple(data),
        layout=layout,
        caption=f"The Cα trace, coloured by attention over its mean on one scale for both{ringed_too}. Turn it with "
        "the mouse.",
        height=460,
        alt=f"Two views of {len(residue_R)} residues in space, trained and untrained.",
    )


def _label(protein: Looked, residue: int) -> str:
    return f"{protein.sequence[residue]}{residue + 1}"


def _trace(
    protein: Looked,
    residue_R: np.ndarray,
    ca_R3: np.ndarray,
    scaled_L: Float64[np.ndarray, " L"],
    of: RowOf,
    scene: str,
) -> dict[str, Any]:
    """One line with a break wherever residues are missing."""
    points: list[list[float | None]] = []
    colours: list[float] = []
    labels: list[str] = []
    for place, residue in enumerate(residue_R.tolist()):
        if place and residue != residue_R[place - 1] + 1:
            points.append([None] * 3)
            colours.append(0.0)
            labels.append("")
        points.append(ca_R3[place].astype(np.float64).round(3).tolist())
        colours.append(float(scaled_L[residue]))
        labels.append(_label(protein, residue))
    x, y, z = (list(axis) for axis in zip(*points, strict=True))
    return {
        "type": "scatter3d",
        "mode": "lines+markers",
        "name": of,
        "scene": scene,
        "x": x,
        "y": y,
        "z": z,
        "text": labels,
        "line": {"color": colours, "coloraxis": "coloraxis", "width": 7},
        "marker": {"color": colours, "coloraxis": "coloraxis", "size": 3.5},
        "customdata": colours,
        "hovertemplate": f"%{{text}}<br>{of}: %{{customdata:.2f}}<extra></extra>",
    }


def _rings(ca_R3: np.ndarray, labels: list[str], scene: str) -> dict[str, Any]:
    x, y, z = (axis.astype(np.float64).round(3).tolist() for axis in ca_R3.T)
    return {
        "type": "scatter3d",
        "mode": "markers",
        "name": "annotated",
        "scene": scene,
        "x": x,
        "y": y,
        "z": z,
        "text": labels,
        "marker": {"symbol": "circle-open", "size": 11, "color": RING, "line": {"width": 3, "color": RING}},
        "hovertemplate": "%{text}, annotated<extra></extra>",
    }
