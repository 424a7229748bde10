"""The page of an ablation: each table of the paper with its own figures beside ours, and controls below."""

from collections.abc import Iterable, Iterator, Sequence

import pandas as pd

from amma.evaluate.analyses.ablation_figures import bars
from amma.evaluate.analyses.ablation_published import published
from amma.evaluate.analyses.ablation_results import (
    CLASSES,
    AblationResults,
    AblationRow,
    AblationSet,
    AblationTable,
)
from amma.evaluate.report.section import Cell, Column, Estimate, Figure, Labelled, Section, Table

DASH = "–"
TABLES = "tables.csv"
PAPER = "paper"


def title_of(table: AblationTable) -> str:
    """What a table is called on the page and in the terminal."""
    return "EC classes (no table of the paper)" if table.table == CLASSES else f"Table {table.table}: {table.title}"


def lead_of(results: AblationResults) -> str:
    """How much is there, and how much of it is better than every control."""
    cells = [better for each in results.sets for better in _against_controls(each)]
    protocols = ", ".join(dict.fromkeys(str(each.protocol) for each in results.sets))
    models = len({report.checkpoint_sha256 for report in results.reports})
    reports = len(results.reports)
    text = (
        f"{reports} {'report' if reports == 1 else 'reports'} of {models} pretrained "
        f"{'model' if models == 1 else 'models'}, protocol {protocols}, all in percent. "
    )
    if cells:
        text += f"{sum(cells)} of {len(cells)} figures of pretrained models are better than every control's. "
    return text + f"Figures of the paper are what it printed ({results.mark}): another protocol is another measurement."


def sections_of(results: AblationResults) -> tuple[Section, ...]:
    """All of the page."""
    tables = [_section(each, table, results) for each in results.sets for table in each.tables]
    return (*tables, _reports(results))


def lines_of(results: AblationResults) -> Iterator[str]:
    """The tables for a terminal: ours, and the paper's in brackets; all in percent."""
    for each in results.sets:
        yield f"{each.name}; percent, in brackets: {results.mark}"
        for table in each.tables:
            for caption, columns in _panels(table):
                yield ""
                yield f"{caption:34}{''.join(f'{column:>19}' for column in columns)}"
                for row in table.rows:
                    cells = "".join(f"{_text(row, column):>19}" for column in columns)
                    yield f"{'  ' if row.kind == 'control' else ''}{row.name}".ljust(34) + cells
            yield from (f"  {note}" for note in table.notes)
        yield ""
        if each.without:
            yield f"no report belongs to table {', '.join(each.without)}"


def plan_lines(results: AblationResults, folders: Sequence[str]) -> Iterator[str]:
    """For a dry run: which report goes where."""
    for folder, report in zip(folders, results.reports, strict=True):
        where = ", ".join(name if name == CLASSES else f"table {name}" for name in report.tables) or "no table"
        yield f"{folder}: {report.task}, {report.row}, protocol {report.protocol} -> {where}"


def frame_of(results: AblationResults) -> pd.DataFrame:
    """A line for each cell: ours, the paper's, or both; in percent."""
    lines = []
    for each in results.sets:
        for table in each.tables:
            for row in table.rows:
                for column in table.columns:
                    score, mean = row.scores.get(column), row.means.get(column)
                    if score is None and mean is None and column not in row.published:
                        continue
                    lines.append(
                        {
                            "protocol": str(each.protocol),
                            "readout": str(each.readout),
                            "tune": each.tune and str(each.tune),
                            "draws": each.draws,
                            "table": table.table,
                            "row": row.name,
                            "kind": row.kind,
                            "about": row.about,
                            "column": column,
                            "mean": score.mean if score else mean,
                            "sd": score.sd if score else None,
                            "over": score.over if score else None,
                            "num_reports": score.num_reports if score else None,
                            results.mark: row.published.get(column),
                        }
                    )
    frame = pd.DataFrame(lines)
    return frame.astype({"draws": "Int64", "num_reports": "Int64"})


def _section(each: AblationSet, table: AblationTable, results: AblationResults) -> Section:
    printed = table.table != CLASSES
    told = f"{each.name[0].upper()}{each.name[1:]}. "
    if printed:
        told += f"The paper's models of this table: {published().tables[table.table].pretraining}."
    pieces: list[Table | Figure] = []
    for caption, columns in _panels(table):
        pieces += [_table(table, caption, columns, results), *bars(table, caption, columns)]
    missing = f"No report belongs to table {', '.join(each.without)}." if each.without else ""
    last = table is each.tables[-1]
    paragraphs = [told, *table.notes, *([missing] if missing and last else [])]
    heading = f"{title_of(table)} · protocol {each.protocol}, readout {each.readout}"
    return Section(heading=heading, paragraphs=tuple(paragraphs), pieces=tuple(pieces))


def _panels(table: AblationTable) -> list[tuple[str, tuple[str, ...]]]:
    """Columns that a page has room for side by side: Table 2 has ten, so Fmax and AUPR are apart."""
    if len(table.columns) <= 5:
        return [(title_of(table), table.columns)]
    measures = ("Fmax", "AUPR")
    return [
        (f"{title_of(table)}, {measure}", tuple(name for name in table.columns if name.endswith(measure)))
        for measure in measures
    ]


def _table(table: AblationTable, caption: str, columns: Sequence[str], results: AblationResults) -> Table:
    printed = table.table != CLASSES
    head = [Column(title="model")]
    for name in columns:
        head += [Column(title=name, decimals=1), *([Column(title=PAPER, decimals=1)] if printed else [])]
    rows = [_cells(row, columns, printed=printed) for row in table.rows]
    strong = tuple(place for place, row in enumerate(table.rows) if row.kind == "ours")
    note = "Percent, exact definition. "
    overs = {score.over for row in table.rows if row.kind == "ours" for score in row.scores.values()}
    if "tunings" in overs:
        note += "± is the standard deviation over the tunings of one pretrained model. "
    if "pretrainings" in overs:
        note += "A model with several seeds of pretraining: mean and ± over these, of each the mean over its tunings. "
    if printed:
        note += (
            f"Columns “{PAPER}”: {results.mark}. Columns that are means over tasks have no ±, and no figure where a "
        )
        note += "task is missing."
    return Table(columns=tuple(head), rows=tuple(rows), note=note.strip(), strong=strong, caption=f"{caption}, percent")


def _cells(row: AblationRow, columns: Sequence[str], *, printed: bool) -> tuple[Cell, ...]:
    cells: list[Cell] = [Labelled(text=row.name, note=row.about)]
    for name in columns:
        score = row.scores.get(name)
        cells.append(row.means.get(name) if score is None else Estimate(mean=score.mean, sd=score.sd))
        if printed:
            cells.append(row.published.get(name))
    return tuple(cells)


def _against_controls(each: AblationSet) -> Iterable[bool]:
    """For each figure of ours, once, whether it is better than the best control of its column, in all its tables."""
    found: dict[tuple[tuple[int, ...], str], bool] = {}
    for table in each.tables:
        scores = [row.scores for row in table.rows if row.kind == "control"]
        for row in table.rows:
            for name, score in row.scores.items() if row.kind == "ours" else ():
                better = all(score.mean > of[name].mean for of in scores if name in of)
                found[row.reports, name] = found.get((row.reports, name), True) and better
    return found.values()


def _text(row: AblationRow, column: str) -> str:
    score, mean, paper = row.scores.get(column), row.means.get(column), row.published.get(column)
    ours = DASH if mean is None else f"{mean:.1f}"
    if score is not None:
        ours = f"{score.mean:.1f}" + ("" if score.sd is None else f" ± {score.sd:.1f}")
    return ours + ("" if paper is None else f" ({paper:.1f})")


def _reports(results: AblationResults) -> Section:
    titles = ("report", "task", "protocol", "tunings", "seed of pretraining", "test proteins", "seen in pretraining")
    rows = [
        (
            Labelled(text=report.row, note=f"sha256 {report.sha256[:12]}, checkpoint {report.checkpoint_sha256[:12]}"),
            str(report.task),
            str(report.protocol),
            report.num_tunings,
            report.pretraining_seed,
            report.num_test,
            report.num_seen,
            ", ".join(report.tables) or "none",
        )
        for report in results.reports
    ]
    table = Table(columns=tuple(Column(title=title) for title in (*titles, "in tables")), rows=tuple(rows))
    return Section(
        heading="The reports",
        paragraphs=("Each has its own page, with intervals, terms, and what pretraining saw of the test proteins.",),
        pieces=(table,),
    )
