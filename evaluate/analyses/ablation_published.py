"""The figures that the paper prints in its tables 2, 3, 4 and 6 (`paper_tables.json`), and what its rows are called."""

from functools import cache
from importlib.resources import files
from typing import Literal, NamedTuple

from pydantic import model_validator

from amma.evaluate.config import TaskName
from amma.manifests.settings import Settings
from amma.train.model.config import Family

TABLES = "paper_tables.json"
Measure = Literal["fmax", "aupr"]

ROW_OF_FAMILY: dict[Family, str] = {
    "asymmetric": "AMMA",
    "symmetric": "AMMA-symmetric",
    "contrastive": "AMMA-contrastive",
    "no-auxiliary": "AMMA without auxiliary",
}
"""What the paper calls them, the last one in Table 6 only."""
OTHER_MODELS = frozenset({"ESM-1b", "OntoProtein", "GearNet", "SaProt", "ProtST"})
"""Rows of Table 2 that no report of ours can be of."""
PAIRED, UNPAIRED = "paired", "paired + unpaired"
"""Of Table 3."""
ALPHA = (1.0, 2.0, 2.0)
"""Of the paper's model."""

_TASKS = {"EC": TaskName.EC, "GO-MF": TaskName.GO_MF, "GO-CC": TaskName.GO_CC, "GO-BP": TaskName.GO_BP}
_MEASURES: dict[str, Measure] = {"Fmax": "fmax", "AUPR": "aupr"}


class Column(NamedTuple):
    """A figure of a task, by the name that the paper's tables have for it."""

    name: str
    task: TaskName
    measure: Measure


class PublishedTable(Settings):
    """A table as printed, in percent; `means` are columns that are means of others."""

    title: str
    pretraining: str
    columns: tuple[str, ...]
    means: dict[str, tuple[str, ...]]
    rows: dict[str, tuple[float, ...]]

    @model_validator(mode="after")
    def _rows_fit_the_columns(self) -> "PublishedTable":
        if any(len(row) != len(self.columns) for row in self.rows.values()):
            raise ValueError("a row has more or fewer figures than there are columns")
        return self

    def row(self, name: str) -> dict[str, float]:
        """The figures of a row by column; none if the paper has no such row."""
        return dict(zip(self.columns, self.rows.get(name, ()), strict=False))

    @property
    def measured(self) -> tuple[Column, ...]:
        """The columns that are no means of others."""
        return tuple(column(name) for name in self.columns if name not in self.means)


class Published(Settings):
    """All tables, by their number in the paper."""

    source: str
    unit: Literal["percent"]
    runs: str
    protocol: str
    tables: dict[str, PublishedTable]

    @property
    def mark(self) -> str:
        """What stands beside every figure of the paper."""
        return f"paper, {self.runs}, protocol {self.protocol}"


@cache
def published() -> Published:
    """The figures that come with amma."""
    text = (files("amma.evaluate.analyses") / TABLES).read_text(encoding="utf-8")
    return Published.model_validate_json(text)


def column(name: str) -> Column:
    """The task and the measure of a column such as `GO-MF AUPR`."""
    task, measure = name.split()
    return Column(name, _TASKS[task], _MEASURES[measure])


def row_of_alpha(alpha: tuple[float, float, float]) -> str:
    """What Table 4 calls the row of this α, or would."""
    return f"α {','.join(f'{value:g}' for value in alpha)}"
