"""`report.html`: one file that needs no network, made from what `report.json` holds and nothing else.

Ids and names are text wherever they appear: the template escapes everything, data for the figures is JSON that
cannot end its element, and the Content-Security-Policy lets only the two scripts run that are in the file, by hash.
"""

import base64
import hashlib
import json
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from amma.evaluate.report.figures import pr_figure
from amma.evaluate.report.results import Report, Summary

TITLES = {
    "ec": "EC number",
    "ec-class": "EC class",
    "go-mf": "GO molecular function",
    "go-bp": "GO biological process",
    "go-cc": "GO cellular component",
}

DRAW = """
for (const holder of document.querySelectorAll("[data-figure]")) {
  const figure = JSON.parse(document.getElementById(holder.dataset.figure).textContent);
  holder.replaceChildren();
  Plotly.newPlot(holder, figure.data, figure.layout, figure.config);
}
"""


def render_html(report: Report) -> str:
    """The whole page."""
    templates = files("amma.evaluate.report") / "templates"
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"figures": _figures, "count": _count, "short": _short}
    template = environment.from_string((templates / "report.html.j2").read_text(encoding="utf-8"))
    plotly_js = get_plotlyjs()
    return template.render(
        report=report,
        title=TITLES.get(report.task.name, report.task.name),
        style=Markup((templates / "report.css").read_text(encoding="utf-8")),
        pr_figure=json_for_script(pr_figure(report)),
        scripts=[Markup(plotly_js), Markup(DRAW)],
        policy=_policy(plotly_js, DRAW),
    )


def _policy(*scripts: str) -> str:
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


def _figures(summary: Summary) -> str:
    """`0.412 ± 0.013`, or the mean alone where there is one value."""
    return f"{summary.mean:.3f}" if summary.sd is None else f"{summary.mean:.3f} ± {summary.sd:.3f}"


def _count(number: int, noun: str, plural: str | None = None) -> str:
    """`1 protein`, `2,000 proteins`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def _short(digest: str) -> str:
    return digest[:12]
