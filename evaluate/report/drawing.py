"""A figure as plotly draws it: our look, and no markup from what is shown.

plotly takes a few HTML tags in its texts, links among them, and so a protein's name could become one. Entities are
shown as what they stand for, which is how a text stays a text.
"""

import re
from typing import Any

from amma.evaluate.report.section import Figure

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
INK, SOFT, GRID, ACCENT = "#26303c", "#9aa3af", "#e6e9ee", "#1f5fa8"
PALETTE = ("#1f5fa8", "#c8702a", "#2f8f6b", "#8a4f9e", "#7b8390", "#b23a48", "#5f8fc9", "#a58a2d")

_AXIS = {
    "showgrid": True,
    "gridcolor": GRID,
    "zeroline": False,
    "linecolor": SOFT,
    "ticks": "outside",
    "tickcolor": SOFT,
    "automargin": True,
}
_SCENE_AXIS = {"gridcolor": GRID, "backgroundcolor": "rgba(0,0,0,0)", "zeroline": False}
TEMPLATE = {
    "layout": {
        "font": {"family": FONT, "size": 13, "color": INK},
        "colorway": list(PALETTE),
        "xaxis": _AXIS,
        "yaxis": _AXIS,
        "scene": {"xaxis": _SCENE_AXIS, "yaxis": _SCENE_AXIS, "zaxis": _SCENE_AXIS},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        "margin": {"l": 56, "r": 16, "t": 48, "b": 52},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "hovermode": "closest",
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": SOFT, "activecolor": ACCENT},
        "colorscale": {"sequential": "Viridis"},
    }
}
CONFIG = {"displaylogo": False, "responsive": True, "modeBarButtonsToRemove": ["select2d", "lasso2d"]}

# Names are the words of a figure's author, but they may be made of ids; everything in a list is data.
_TEXTS = {"name", "legendgroup"}
_NO_TAG_OF_OURS = re.compile(r"<(?!/?(?:b|i|sub|sup|extra)>|br ?/?>)")


def plotly_json(figure: Figure) -> dict[str, Any]:
    """`data`, `layout` and `config` for `Plotly.newPlot`; what the figure's layout says goes before our look."""
    return {
        "data": [_safe(trace, in_list=False) for trace in figure.data],
        "layout": {"template": TEMPLATE, "height": figure.height, **_safe(figure.layout, in_list=False)},
        "config": CONFIG,
    }


def _safe(value: Any, *, in_list: bool, key: str = "") -> Any:
    """The same, its texts without a tag but those few that layout and templates may use."""
    match value:
        case str():
            return _plain(value) if in_list or key in _TEXTS else _NO_TAG_OF_OURS.sub("&lt;", value)
        case dict():
            # Annotations, shapes and traces come in lists too; their own keys say what is a text.
            return {name: _safe(each, in_list=False, key=name) for name, each in value.items()}
        case list() | tuple():
            return [_safe(each, in_list=True) for each in value]
        case _:
            return value


def _plain(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")
