"""Figures of an alignment's page.

Legend: N proteins, D width of vectors.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from amma.evaluate.analyses.agreement import Agreement, Of, PairFigures
from amma.evaluate.analyses.alignment_results import TOGETHER
from amma.evaluate.analyses.relation import PAIRS, PRINTED, relations
from amma.evaluate.analyses.vectors import Vectors
from amma.evaluate.report.estimates import Summary
from amma.evaluate.report.section import Figure
from amma.manifests.table import MODALITIES

HEAT_PROTEINS = 48
COLOURS = {"encoders' features": "#2f8f6b", "untrained": "#c8702a", "trained": "#1f5fa8", "shuffled": "#7b8390"}
WORDS = {"seq": "sequence", "str": "structure", "func": "function"}
OUTPUTS = {"lifted": "ℓ outputs", "fused": "fused outputs", "Eq. 14": "vectors of Eq. 14", "projections": "projections"}


@dataclass(frozen=True)
class Drawn:
    """Vectors that relation matrices are drawn of."""

    of: Of
    vectors: Vectors


def name_of(row: Agreement) -> str:
    """Whose vectors, and means of what."""
    return row.of if row.outputs == "features" else f"{row.of}, {OUTPUTS[row.outputs]}"


def pairs_of(row: Agreement) -> list[tuple[str, PairFigures]]:
    """Its figures in the order of the paper's table."""
    return [(pair, row.pairs[pair]) for pair in PAIRS]


def bars(rows: Sequence[Agreement], *, printed: str) -> Figure:
    """Table 1's figure of some rows and of shuffled pairs, beside what the paper prints for its model `printed`."""
    data: list[dict[str, Any]] = []
    for row in rows:
        data.append(_bar(name_of(row), COLOURS[row.of], [of.relation for _, of in pairs_of(row)]))
        if row.of == "trained":
            mixed = [Summary(mean=of.relation_shuffled.mean, sd=None, values=()) for _, of in pairs_of(row)]
            data.append(_bar("trained, shuffled pairs", COLOURS["shuffled"], mixed))
    symbols = {"initial": "diamond-open", printed: "diamond"}
    data += [
        {
            "type": "scatter",
            "mode": "markers",
            "name": f"paper: {name}",
            "x": list(PAIRS),
            "y": [PRINTED[name][pair] for pair in PAIRS],
            "marker": {"symbol": symbol, "size": 11, "color": "#26303c"},
            "hovertemplate": f"paper, {name}<br>%{{x}}: %{{y:.3f}}<extra></extra>",
        }
        for name, symbol in symbols.items()
    ]
    return Figure(
        data=tuple(data),
        layout={
            "barmode": "group",
            "yaxis": {"range": [0, 1.05], "title": {"text": "cosine of relations"}},
            "legend": {"traceorder": "normal"},
        },
        caption="Table 1's figure for each two modalities. What the controls reach, orange and grey, is no merit of "
        "training.",
        height=420,
    )


def _bar(name: str, colour: str, values: Sequence[Summary]) -> dict[str, Any]:
    bar: dict[str, Any] = {
        "type": "bar",
        "name": name,
        "x": list(PAIRS),
        "y": [round(value.mean, 6) for value in values],
        "marker": {"color": colour},
        "hovertemplate": f"{name}<br>%{{x}}: %{{y:.3f}}<extra></extra>",
    }
    if any(value.sd is not None for value in values):
        bar["error_y"] = {"type": "data", "array": [round(value.sd or 0.0, 6) for value in values]}
    return bar


def num_drawn(drawn: Sequence[Drawn]) -> int:
    """Of how many proteins `heat` shows the relations."""
    return min(HEAT_PROTEINS, len(drawn[0].vectors[MODALITIES[0]]))


def heat(drawn: Sequence[Drawn]) -> Figure:
    """Relation matrices side by side, proteins in one order everywhere: along the raw sequence features' first axis."""
    raw_ND = drawn[0].vectors[MODALITIES[0]][:HEAT_PROTEINS].astype(np.float64)
    first_N = np.linalg.svd(raw_ND - raw_ND.mean(axis=0), full_matrices=False)[0][:, 0]
    order_N = np.argsort(first_N * np.sign(first_N[np.argmax(np.abs(first_N))]), kind="stable")
    data: list[dict[str, Any]] = []
    layout: dict[str, Any] = {"margin": {"l": 128, "r": 72, "t": 36, "b": 12}, "annotations": []}
    lowest = 1.0
    gap, size = 0.03, 1 / len(drawn)
    for row, each in enumerate(drawn):
        for column, modality in enumerate(MODALITIES):
            number = row * len(MODALITIES) + column + 1
            suffix = "" if number == 1 else str(number)
            related_NN = relations(each.vectors[modality][:HEAT_PROTEINS][order_N]).round(3)
            lowest = min(lowest, float(related_NN.min()))
            data.append(
                {
                    "type": "heatmap",
                    "z": related_NN.tolist(),
                    "xaxis": f"x{suffix}",
                    "yaxis": f"y{suffix}",
                    "coloraxis": "coloraxis",
                    "hovertemplate": "cosine %{z:.3f}<extra></extra>",
                }
            )
            hidden = {"showticklabels": False, "ticks": "", "showgrid": False}
            left, top = column / 3 + gap / 2, 1 - row * size
            layout[f"xaxis{suffix}"] = {**hidden, "domain": [left, left + 1 / 3 - gap], "anchor": f"y{suffix}"}
            layout[f"yaxis{suffix}"] = {
                **hidden,
                "domain": [max(top - size + gap, 0), top],
                "anchor": f"x{suffix}",
                "autorange": "reversed",
            }
            if row == 0:
                layout["annotations"].append(_heading(left + 1 / 6 - gap / 2, 1.0, WORDS[modality], yanchor="bottom"))
            if column == 0:
                layout["annotations"].append(
                    _heading(0.0, top - size / 2 + gap / 2, each.of, xanchor="right", yanchor="middle")
                )
    layout["coloraxis"] = {"colorscale": "Viridis", "cmin": round(lowest, 3), "cmax": 1, "colorbar": {"thickness": 12}}
    return Figure(
        data=tuple(data),
        layout=layout,
        height=60 + 230 * len(drawn),
        caption="Cosines between proteins: raw features, the untrained model (first seed) and the trained one, "
        "in the outputs of Table 1.",
    )


def _heading(x: float, y: float, text: str, **place: str) -> dict[str, Any]:
    return {
        "x": x,
        "y": y,
        "xref": "paper",
        "yref": "paper",
        "text": text,
        "showarrow": False,
        "xanchor": "center",
        "font": {"size": 13},
        **place,
    }


def trusted(rows: Sequence[Agreement], *, chance: float) -> Figure:
    """Debiased CKA, and recall@5 beside its chance."""
    data: list[dict[str, Any]] = []
    for row in rows:
        name = name_of(row) if row.given == "nothing" else f"{name_of(row)}, {row.given}"
        pattern = {"shape": "/"} if row.given == TOGETHER else {}
        ckas = [Summary(mean=0.0, sd=None, values=()) if of.cka is None else of.cka for _, of in pairs_of(row)]
        bar = _bar(name, COLOURS[row.of], ckas)
        bar["marker"]["pattern"] = pattern
        data.append({**bar, "legendgroup": name})
        recalls = [of.recall.at["5"] for _, of in pairs_of(row) if of.recall is not None]
        if len(recalls) == len(PAIRS):
            bar = _bar(name, COLOURS[row.of], recalls)
            bar["marker"]["pattern"] = pattern
            data.append({**bar, "legendgroup": name, "showlegend": False, "xaxis": "x2", "yaxis": "y2"})
    return Figure(
        data=tuple(data),
        layout={
            "barmode": "group",
            "xaxis": {"domain": [0, 0.46]},
            "xaxis2": {"domain": [0.54, 1], "anchor": "y2"},
            "yaxis": {"title": {"text": "debiased CKA"}},
            "yaxis2": {"title": {"text": "recall@5"}, "anchor": "x2", "rangemode": "tozero"},
            "shapes": [
                {
                    "type": "line",
                    "xref": "x2 domain",
                    "x0": 0,
                    "x1": 1,
                    "yref": "y2",
                    "y0": chance,
                    "y1": chance,
                    "line": {"color": COLOURS["shuffled"], "dash": "dot", "width": 1.5},
                }
            ],
            "margin": {"t": 84},
        },
        caption=f"Left: debiased CKA. Right: recall@5; the dotted line is chance, {chance:.3f}."
        + (" Hatched: all modalities given together." if any(row.given == TOGETHER for row in rows) else ""),
        height=460,
    )
