import json
import math

import plotly.graph_objects as go
import pytest

from amma.evaluate.report.document import render_document
from amma.evaluate.report.drawing import plotly_json
from amma.evaluate.report.section import Column, Document, Estimate, Figure, Labelled, Section, Table
from amma.evaluate.report.shell import cell_text


def make_document(*, name: str = "P1", with_figure: bool = True) -> Document:
    table = Table(
        columns=(Column(title=name), Column(title="CKA", decimals=3), Column(title="proteins"), Column(title=name)),
        rows=(
            (name, 0.51249, 1200, "b"),
            (Labelled(text="term", note=name), Estimate(mean=0.5, sd=0.02, low=0.4, high=0.6), 3, None),
            ("untrained", None, None, name),
        ),
        note=name,
        strong=(0,),
        caption=name,
    )
    figure = Figure(
        data=({"type": "scatter", "mode": "markers", "name": name, "x": [1, 2], "y": [2, 1], "text": [name, "R&D"]},),
        layout={"xaxis": {"title": {"text": "t-SNE<br>1"}}, "showlegend": True},
        caption=name,
        alt=name,
    )
    return Document(
        kicker=name,
        title=name,
        lead=name,
        random_encoders=True,
        sections=(Section(heading=name, paragraphs=(name,), pieces=(table, figure) if with_figure else (table,)),),
        facts=((name, name),),
    )


def test_a_page_without_a_figure_does_not_carry_plotly() -> None:
    assert len(render_document(make_document(with_figure=False))) < 30_000
    assert "Plotly" in render_document(make_document())


def test_a_document_read_back_from_its_json_gives_the_same_page() -> None:
    document = make_document()
    again = Document.model_validate(json.loads(json.dumps(document.model_dump(mode="json"))))
    assert again == document
    assert render_document(again) == render_document(document)


@pytest.mark.parametrize(
    ("cell", "decimals", "text"),
    [
        (None, 3, "–"),
        (math.nan, 3, "–"),
        (0.51249, 3, "0.512"),
        (0.0, 3, "0.000"),
        (0.0000321, 3, "3.2e-05"),
        (-0.0000321, 3, "-3.2e-05"),
        (0.25, None, "0.25"),
        (1200, None, "1,200"),
        (1, 2, "1.00"),
        ("1200", None, "1200"),
        (Estimate(mean=0.5, sd=0.02), 3, "0.500 ± 0.020"),
        (Estimate(mean=0.5), 2, "0.50"),
        (Labelled(text="1.1.1.1", note="alcohol dehydrogenase"), None, "1.1.1.1"),
    ],
)
def test_a_cell_is_shown_with_its_columns_decimals(cell: object, decimals: int | None, text: str) -> None:
    table = Table.model_validate({"columns": [{"title": "x", "decimals": decimals}], "rows": [[cell]]})
    assert cell_text(table.rows[0][0], table.columns[0]) == text


def test_a_row_that_does_not_fit_its_columns_is_refused() -> None:
    with pytest.raises(ValueError, match="row 0 has 1 cells for 2 columns"):
        Table(columns=(Column(title="a"), Column(title="b")), rows=(("x",),))


def test_what_a_figure_shows_is_text_and_only_our_few_tags_are_left_to_plotly() -> None:
    link = '<a href="https://example.org">x</a>'
    figure = Figure(
        data=(
            {
                "type": "scatter",
                "x": ["<b>bold</b>", 2],
                "y": [1, 2],
                "name": link,
                "customdata": [[link, "R&D"], ["a", "b"]],
                "hovertemplate": f"%{{x}}<br>{link}<b>%{{customdata[0]}}</b><br onclick=1><extra></extra>",
            },
        ),
        layout={"title": {"text": f"H<sub>2</sub>O {link}"}, "annotations": [{"text": f"{link}<i>n</i>"}]},
    )
    drawn = plotly_json(figure)
    go.Figure(data=drawn["data"], layout=drawn["layout"])  # raises for a property plotly does not know
    trace, layout = drawn["data"][0], drawn["layout"]
    escaped = link.replace("<", "&lt;")
    assert trace["x"] == ["&lt;b>bold&lt;/b>", 2]
    assert trace["name"] == escaped
    assert trace["customdata"][0] == [escaped, "R&amp;D"]
    assert trace["hovertemplate"] == ("%{x}<br>" + escaped + "<b>%{customdata[0]}</b>&lt;br onclick=1><extra></extra>")
    assert layout["title"]["text"] == f"H<sub>2</sub>O {escaped}"
    assert layout["annotations"][0]["text"] == f"{escaped}<i>n</i>"
