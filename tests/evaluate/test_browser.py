"""Pages in the system's Chromium, without a network: drawn, sorted, printed, and nothing from outside acts."""

import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from amma.evaluate.report.document import render_document
from amma.evaluate.report.page import render_html
from amma.evaluate.report.results import Report
from amma.evaluate.report.section import Column, Document, Estimate, Figure, Labelled, Section, Table

MakeReport = Callable[..., Report]

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine (apt-get install chromium)")

PATTERNS = (
    "<script>window.pwned=1</script>",
    "</script><script>window.pwned=1</script>",
    '"><img src=x onerror=window.pwned=1>',
    "' onmouseover='window.pwned=1",
    "<svg/onload=window.pwned=1>",
    "javascript:window.pwned=1",
    "<a href=javascript:window.pwned=1>x</a>",
    "<!--",
    "-->",
    "]]>",
    "</title><iframe src=//example.org>",
    "</style><link rel=stylesheet href=//example.org>",
    "<base href=//example.org>",
    "<meta http-equiv=refresh content=0;url=//example.org>",
    "<form action=//example.org><button>x",
    "{{ 7 * 7 }}",
    "&lt;img src=x onerror=window.pwned=1&gt;",
    "\u2028\u2029\u202e",
    "=HYPERLINK(1)",
    "%{customdata}",
)
HOSTILE = tuple(f"{pattern}{number}" for number in range(5) for pattern in PATTERNS)
SLOW = ("Canvas2D: Multiple readback", "[.WebGL")
ACTIVE = "script, iframe, object, embed, link, img, base, form, meta, a, style"


class Visit:
    """A page opened from a file in a browser that has no network, and all that it did."""

    def __init__(self, browser: Any, file: Path, width: int = 1280) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, offline=True)
        self.page = self.context.new_page()
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.dialogs: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self._hear(message))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.dialogs.append(dialog.message), dialog.dismiss()))
        self.page.goto(file.as_uri())
        self.page.wait_for_function(
            "() => [...document.querySelectorAll('[data-figure]')].every(f => f.querySelector('svg.main-svg'))"
        )

    def _hear(self, message: Any) -> None:
        # What software that draws for lack of a graphics card says of its speed is no fault of the page.
        if message.type in ("error", "warning") and not message.text.startswith(SLOW):
            self.complaints.append(message.text)

    def run(self, code: str) -> Any:
        return self.page.evaluate(code)

    def elements(self) -> dict[str, int]:
        """How many there are of every element that could act, and of attributes that could."""
        counted: dict[str, int] = self.run(
            f"""() => {{
              const counts = {{}};
              const count = (key) => counts[key] = (counts[key] ?? 0) + 1;
              document.querySelectorAll("{ACTIVE}").forEach((each) => count(each.tagName.toLowerCase()));
              for (const each of document.querySelectorAll("*")) for (const {{name, value}} of each.attributes)
                if (name.startsWith("on") || ["href", "src", "action", "formaction", "xlink:href"].includes(name))
                  count(`${{each.tagName}}.${{name}}`);
              return counts;
            }}"""
        )
        return counted


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    options = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=options)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Visit]]:
    visits: list[Visit] = []

    def open_page(html: str, width: int = 1280) -> Visit:
        file = tmp_path / f"page-{len(visits)}.html"
        file.write_text(html, encoding="utf-8")
        visits.append(Visit(browser, file, width))
        return visits[-1]

    yield open_page
    for each in visits:
        each.context.close()


def document(names: tuple[str, ...]) -> Document:
    """A table of every kind of cell, a flat and a spatial figure, all of them naming `names`."""
    table = Table(
        columns=(Column(title="Id"), Column(title="Score", decimals=3), Column(title="Said")),
        rows=tuple(
            (Labelled(text=name, note=name), None if place == 3 else ((place * 7) % 11) / 10, name)
            for place, name in enumerate(names)
        ),
        caption=names[0],
        note=names[0],
    )
    spread = {
        "x": list(range(len(names))),
        "y": list(range(len(names))),
        "text": list(names),
        "customdata": list(names),
    }
    flat = {"type": "scatter", "mode": "markers+text", "name": names[0], "hovertemplate": "%{customdata}", **spread}
    spatial = {"type": "scatter3d", "mode": "lines+markers", "name": names[0], **spread, "z": list(range(len(names)))}
    return Document(
        kicker=names[0],
        title=names[0],
        lead=names[0],
        random_encoders=True,
        sections=(
            Section(
                heading=names[0],
                paragraphs=names,
                pieces=(table, Figure(data=(flat,), caption=names[0], alt=names[0]), Figure(data=(spatial,))),
            ),
        ),
        facts=tuple((name, name) for name in names[:4]),
    )


def harmless(number: int) -> tuple[str, ...]:
    return tuple(f"P{place:05d}" for place in range(number))


@pytest.mark.parametrize("width", [1280, 390])
def test_a_report_is_drawn_without_a_complaint_or_a_request(
    make_report: MakeReport, visit: Callable[..., Visit], width: int
) -> None:
    seen = visit(render_html(make_report()), width)
    assert seen.complaints == []
    assert len(seen.requests) == 1  # the file itself
    assert seen.run("() => performance.getEntriesByType('resource').length") == 0
    assert seen.run("() => document.querySelectorAll('.js-plotly-plot svg.main-svg').length") > 0
    assert seen.run("() => document.documentElement.scrollWidth <= innerWidth")
    levels = seen.run("() => [...document.querySelectorAll('h1, h2, h3')].map(h => Number(h.tagName[1]))")
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_a_document_draws_flat_and_spatial_figures_without_a_complaint_or_a_request(
    visit: Callable[..., Visit],
) -> None:
    seen = visit(render_document(document(harmless(12))))
    assert seen.complaints == []
    assert len(seen.requests) == 1
    assert seen.run("() => document.querySelectorAll('.js-plotly-plot').length") == 2
    assert seen.run("() => document.querySelector('.js-plotly-plot canvas') !== null")


def test_a_hundred_hostile_names_stay_text(make_report: MakeReport, visit: Callable[..., Visit]) -> None:
    assert len(HOSTILE) == len(set(HOSTILE)) == 100
    for make in (
        lambda names: render_html(make_report(names=names, task=names[0], path=names[0])),
        lambda names: render_document(document(names)),
    ):
        plain, attacked = visit(make(harmless(len(HOSTILE)))), visit(make(HOSTILE))
        attacked.page.mouse.move(300, 400)
        assert attacked.elements() == plain.elements()
        assert attacked.run("() => window.pwned") is None
        assert attacked.dialogs == []
        assert len(attacked.requests) == 1
        text = attacked.run("() => document.body.textContent")
        for name in HOSTILE:
            assert name in text


def column(seen: Visit, number: int) -> list[str]:
    texts: list[str] = seen.run(
        f"() => [...document.querySelector('table').tBodies[0].rows].map(r => r.cells[{number}].textContent.trim())"
    )
    return texts


def test_tables_sort_by_their_headers_with_missing_values_last(visit: Callable[..., Visit]) -> None:
    cells = [0.5, None, 12.0, -3.25, 0.5, 100.0, None, 1e-9]
    rows = tuple(
        (f"row {place}", None if value is None else Estimate(mean=value, sd=0.1), value)
        for place, value in enumerate(cells)
    )
    columns = (Column(title="Name"), Column(title="Mean", decimals=2), Column(title="Value", decimals=2))
    section = Section(heading="One", pieces=(Table(columns=columns, rows=rows),))
    page = Document(kicker="k", title="t", lead="l", random_encoders=False, sections=(section,))
    seen = visit(render_document(page))
    original = column(seen, 0)
    known = [place for place, value in enumerate(cells) if value is not None]
    missing = ["row 1", "row 6"]

    def places(order: list[int]) -> list[str]:
        return [f"row {place}" for place in order] + missing

    for number in (1, 2):
        button = seen.page.locator("table thead th").nth(number).locator("button")
        button.click()
        assert column(seen, 0) == places(sorted(known, key=lambda place: (-cells[place], place)))
        assert seen.page.locator("table thead th").nth(number).get_attribute("aria-sort") == "descending"
        button.press("Enter")
        assert column(seen, 0) == places(sorted(known, key=lambda place: (cells[place], place)))
        assert seen.page.locator("table thead th").nth(number).get_attribute("aria-sort") == "ascending"
        button.press("Space")
        assert column(seen, 0) == original
        assert seen.page.locator("table thead th").nth(number).get_attribute("aria-sort") is None
    name = seen.page.locator("table thead th").first.locator("button")
    name.click()
    assert column(seen, 0) == sorted(original)
    assert seen.complaints == []


def test_every_table_of_a_report_sorts_each_column(make_report: MakeReport, visit: Callable[..., Visit]) -> None:
    seen = visit(render_html(make_report()))
    faults = seen.run(
        """() => {
          const faults = [];
          document.querySelectorAll("table[data-sortable]").forEach((table, which) => {
            [...table.tHead.rows[0].cells].forEach((header, column) => {
              if (!header.classList.contains("number")) return;
              header.querySelector("button").click();
              const values = [...table.tBodies[0].rows].map((row) => row.cells[column].dataset.value);
              const known = values.filter((value) => value !== undefined).map(Number);
              const first = values.indexOf(undefined);
              const falls = known.every((value, place) => place === 0 || known[place - 1] >= value);
              if (!falls || (first >= 0 && first !== known.length)) faults.push([which, column, values]);
            });
          });
          return faults;
        }"""
    )
    assert faults == []
    assert seen.run("() => document.querySelectorAll('table[data-sortable]').length") > 3


def test_a_long_table_shows_its_first_rows_is_searched_and_printed_whole(visit: Callable[..., Visit]) -> None:
    rows = tuple((f"term {place:03d}", place) for place in range(90))
    table = Table(columns=(Column(title="Term"), Column(title="Number")), rows=rows, first=20)
    page = Document(
        kicker="k", title="t", lead="l", random_encoders=False, sections=(Section(heading="One", pieces=(table,)),)
    )
    seen = visit(render_document(page))
    visible = "() => [...document.querySelectorAll('tbody tr')].filter(r => r.offsetHeight > 0).length"
    assert seen.run(visible) == 20
    seen.page.locator("input[type=search]").fill("TERM 07")
    assert seen.run(visible) == 10
    seen.page.locator("input[type=search]").fill("")
    seen.page.get_by_role("button", name="Show all 90").click()
    assert seen.run(visible) == 90
    seen.page.get_by_role("button", name="Show 20").click()
    assert seen.run(visible) == 20
    seen.page.emulate_media(media="print")
    assert seen.run(visible) == 90


def test_a_report_prints_on_a_few_sheets_with_nothing_folded_away(
    make_report: MakeReport, visit: Callable[..., Visit]
) -> None:
    seen = visit(render_html(make_report()))
    assert seen.run("() => document.querySelectorAll('details:not([open])').length") > 0
    seen.run(
        """() => addEventListener("beforeprint", () => queueMicrotask(() => {
          window.opened = document.querySelectorAll("details:not([open])").length;
        }))"""
    )
    sheets = seen.page.pdf(format="A4").count(b"/Type /Page\n")
    assert 4 <= sheets <= 30
    assert seen.run("() => window.opened") == 0
    assert seen.complaints == []
