"""Pieces of a page as plain values: what an analysis shows is in its `report.json`, and its page is drawn from that.

Every text is text: whoever draws a piece escapes it.
"""

from typing import Annotated, Any

from pydantic import Field, model_validator

from amma.manifests.settings import Settings


class Estimate(Settings):
    """A cell: a mean, what it varies by over seeds, and an interval; what is not known is left out. Sorts by mean."""

    mean: float
    sd: float | None = None
    low: float | None = None
    high: float | None = None


class Labelled(Settings):
    """A cell: a text with a smaller one below it, such as a term and its name. Sorts by the text."""

    text: str
    note: str


Cell = str | int | float | None | Estimate | Labelled


class Column(Settings):
    """A column: its title, and how many decimals its numbers are shown with (None: it holds text or counts)."""

    title: str
    decimals: Annotated[int, Field(ge=0, le=9)] | None = None


class Table(Settings):
    """Rows of cells, the first of each names it; numbers are not rounded here, None is shown as a dash.

    `strong` rows, by place, stand out. Readers sort by the header of a column. If there are more than `first` rows, a
    page shows these, and the others when asked or searched for.
    """

    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    strong: tuple[int, ...] = ()
    caption: str = ""
    first: Annotated[int, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _rows_fit_the_columns(self) -> "Table":
        for place, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise ValueError(f"row {place} has {len(row)} cells for {len(self.columns)} columns")
        return self


class Figure(Settings):
    """A figure as plotly's JSON (`data` and `layout`), its caption and its height in pixels.

    `data`'s names and the strings in lists (`text`, `x`, `customdata`, tick labels) are shown as they stand. Templates,
    titles and annotations may use <br>, <b>, <i>, <sub> and <sup>: put no id or name into them; a template can take
    those from `customdata`. `alt` says in words what is to be seen, for who cannot see it (none: the caption does).
    """

    data: tuple[dict[str, Any], ...]
    layout: dict[str, Any] = Field(default_factory=dict)
    caption: str = ""
    height: Annotated[int, Field(gt=0)] = 440
    alt: str = ""


class Section(Settings):
    """A heading, paragraphs, then pieces in their order."""

    heading: str
    paragraphs: tuple[str, ...] = ()
    pieces: tuple[Table | Figure, ...] = ()


class Document(Settings):
    """A whole page: what it is, what it says in a sentence or two, and its sections. `facts` end it: provenance."""

    kicker: str
    title: str
    lead: str
    random_encoders: bool
    sections: tuple[Section, ...]
    facts: tuple[tuple[str, str], ...] = ()
