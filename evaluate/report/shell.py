"""What every page of ours is made in: one file that needs no network, and in which nothing from outside can act.

Templates escape everything, data is JSON that cannot end its element, and the Content-Security-Policy lets only those
scripts run that are in the file, by hash.
"""

import base64
import hashlib
import itertools
import json
import math
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from amma.evaluate.report.drawing import plotly_json
from amma.evaluate.report.section import Cell, Column, Estimate, Figure, Section, Table

DASH = "–"


def render(template: str, pieces: Sequence[Table | Figure], **values: Any) -> str:
    """The page of a template, which shows `pieces` (they decide which scripts it holds) and `values`."""
    scripts = _scripts(pieces)
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, loader=FunctionLoader(_source)
    )
    environment.filters |= {
        "cell": cell_text,
        "count": _count,
        "plotly": lambda figure: json_for_script(plotly_json(figure)),
        "short": lambda digest: digest[:12],
        "sort_value": _sort_value,
    }
    environment.tests |= {
        "figure": lambda piece: isinstance(piece, Figure),
        "labelled": lambda cell: hasattr(cell, "note"),
        "estimate": lambda cell: isinstance(cell, Estimate),
        "missing": lambda cell: cell_text(cell) == DASH,
    }
    numbers = itertools.count(1)
    environment.globals |= {"fresh_id": lambda: f"data-{next(numbers)}", "numeric_columns": _numeric_columns}
    return environment.get_template(template).render(
        style=Markup(_source("report.css")),
        scripts=[Markup(script) for script in scripts],
        policy=_policy(scripts),
        **values,
    )


def pieces_of(sections: Sequence[Section]) -> list[Table | Figure]:
    """All pieces of some sections."""
    return [piece for section in sections for piece in section.pieces]


def _source(name: str) -> str:
    return (files("amma.evaluate.report") / "templates" / name).read_text(encoding="utf-8")


def _scripts(pieces: Sequence[Table | Figure]) -> list[str]:
    """Ours for tables and paper, and what draws the pieces. plotly is megabytes: only where there is a figure."""
    scripts = [_source("page.js")]
    if any(isinstance(piece, Figure) for piece in pieces):
        scripts += [get_plotlyjs(), _source("figures.js")]
    return scripts


def _policy(scripts: Sequence[str]) -> str:
    """Nothing may be loaded from anywhere, and only these scripts may run; plotly sets styles as it draws."""
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def json_for_script(value: Any) -> Markup:
    """JSON for a script element of type application/json: no character in it can end the element."""
    text = json.dumps(value, allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def cell_text(cell: Cell, column: Column | None = None) -> str:
    """What a cell shows, in its column if that says how many decimals; an interval or a note is shown beside it."""
    decimals = column.decimals if column else None
    match cell:
        case None:
            return DASH
        case Estimate(mean=mean, sd=sd):
            places = 3 if decimals is None else decimals
            return _number(mean, places) + ("" if sd is None else f" ± {sd:.{places}f}")
        case int():
            return f"{cell:,}" if not decimals else _number(cell, decimals)
        case float():
            return _number(cell, decimals)
        case str():
            return cell
        case _:
            return cell.text


def _number(value: int | float, decimals: int | None) -> str:
    """Rounded; what would round to zero but is not is shown as a power of ten."""
    if not math.isfinite(value):
        return DASH
    if decimals is None:
        return f"{value:g}"
    if value and abs(value) < 0.5 * 10**-decimals:
        return f"{value:.1e}"
    return f"{value:.{decimals}f}"


def _sort_value(cell: Cell) -> int | float | None:
    """What a cell of numbers is sorted by; None: missing, and last."""
    value = cell.mean if isinstance(cell, Estimate) else cell
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def _numeric_columns(table: Table) -> list[bool]:
    """Whether each column holds numbers; one that holds nothing at all does if it says its decimals."""
    numeric = []
    for place, column in enumerate(table.columns):
        held = [row[place] for row in table.rows if row[place] is not None]
        numbers = all(isinstance(cell, int | float | Estimate) for cell in held)
        numeric.append(column.decimals is not None or (bool(held) and numbers))
    return numeric


def _count(number: int, noun: str, plural: str | None = None) -> str:
    """`1 protein`, `2,000 proteins`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
