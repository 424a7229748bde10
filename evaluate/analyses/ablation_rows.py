"""Which reports are which row of which table of the paper, and the figures of each row."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from amma.evaluate.analyses.ablation_published import (
    ALPHA,
    OTHER_MODELS,
    PAIRED,
    ROW_OF_FAMILY,
    UNPAIRED,
    Column,
    PublishedTable,
    row_of_alpha,
)
from amma.evaluate.analyses.ablation_reports import Finished, Setting
from amma.evaluate.analyses.ablation_results import AblationRow, Score
from amma.evaluate.report.results import Row, RowName

CONTROLS: tuple[RowName, ...] = ("untrained", "pooled inputs", "nearest training sequence", "label frequency")
_OF_DECODERS = ("model.decoder_", "model.num_decoder_", "model.hidden_tokens")


@dataclass(frozen=True)
class Member:
    """A report by its place among those given."""

    place: int
    finished: Finished


def members_of(table: str, members: Sequence[Member]) -> list[tuple[str, Member]]:
    """The reports that belong to a table of the paper, each with the name of its row.

    Tables 2 and 3 are of all triplets, 4 and 6 of a subset of them: of reports of both kinds only those of the table's
    are taken, of one kind these.
    """
    found = [(name, each) for each in members if (name := ROWS[table](each.finished)) is not None]
    on_subset = table in ("4", "6")
    fitting = [each for each in found if (each[1].finished.pretraining.subset is not None) is on_subset]
    return fitting or found


def _models(finished: Finished) -> str | None:
    facts = finished.pretraining
    usual = facts.alpha in (None, ALPHA) and facts.began_with is None
    return ROW_OF_FAMILY[facts.family] if usual else None


def _unpaired(finished: Finished) -> str | None:
    facts = finished.pretraining
    if facts.family != "asymmetric" or facts.alpha != ALPHA:
        return None
    return UNPAIRED if facts.num_unpaired else PAIRED


def _alpha(finished: Finished) -> str | None:
    facts = finished.pretraining
    if facts.family != "asymmetric" or facts.alpha is None or facts.began_with is not None:
        return None
    return row_of_alpha(facts.alpha)


def _auxiliary(finished: Finished) -> str | None:
    return _models(finished) if finished.pretraining.family in ("asymmetric", "no-auxiliary") else None


ROWS: dict[str, Callable[[Finished], str | None]] = {"2": _models, "3": _unpaired, "4": _alpha, "6": _auxiliary}
"""For each table the row that a report is of; None if of none."""


def name_of(finished: Finished) -> str:
    """What a model is called where no table of the paper gives it a name."""
    facts = finished.pretraining
    alpha = "" if facts.alpha in (None, ALPHA) else f", {row_of_alpha(facts.alpha or ALPHA)}"
    return f"{ROW_OF_FAMILY[facts.family]}{alpha}" + ("" if facts.began_with is None else ", continued")


def about(members: Sequence[Member]) -> str:
    """What the model of some reports that differ in seeds was pretrained on."""
    facts = [each.finished.pretraining for each in members]
    first = facts[0]
    proteins = [f"{_range([each.num_triplets for each in facts])} triplets"] if first.num_triplets else []
    pairs = [each.num_unpaired for each in facts]
    proteins += [f"{_range(pairs)} unpaired"] if any(pairs) else []
    seeds = len({each.finished.seeds for each in members})
    parts = [
        " + ".join(proteins),
        *(["a subset"] if first.subset is not None else []),
        *(["after another model"] if first.began_with is not None else []),
        f"{first.epochs} epochs",
        f"preset {first.preset}" if first.preset else f"{first.num_parameters / 1e6:.1f}M parameters",
        *([f"{seeds} seeds of pretraining"] if seeds > 1 else []),
    ]
    return ", ".join(parts)


def _range(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"


def rows_of(named: Sequence[tuple[str, Member]], columns: Sequence[Column], table: PublishedTable) -> list[AblationRow]:
    """AMMA's rows in the paper's order, ours that it lacks as they come, other models as printed, then controls."""
    by_name: dict[str, dict[Setting, list[Member]]] = {}
    for name, each in named:
        by_name.setdefault(name, {}).setdefault(each.finished.setting, []).append(each)
    others = [name for name in table.rows if name in OTHER_MODELS]
    order = [name for name in table.rows if name not in OTHER_MODELS]
    order += [name for name in by_name if name not in table.rows]
    rows = []
    for name in order:
        rows += [_row(name, of, columns, table) for of in by_name.get(name, {}).values()] or [_as_printed(name, table)]
    rows += [_as_printed(name, table) for name in others]
    return [*rows, *controls([each for _, each in named], columns, table.means)]


def _as_printed(name: str, table: PublishedTable) -> AblationRow:
    about = "as the paper has it" if name in OTHER_MODELS else "no report of ours"
    return AblationRow(
        name=name, kind="published", about=about, reports=(), scores={}, means={}, published=table.row(name)
    )


def _row(name: str, members: Sequence[Member], columns: Sequence[Column], table: PublishedTable) -> AblationRow:
    scores = {}
    for column in columns:
        reports = [each.finished.report for each in members if each.finished.report.task.name == column.task]
        if len(reports) > 1:
            means = [_values(report.row("trained"), column) for report in reports]
            scores[column.name] = Score.of(
                [fmean(values) for values in means], over="pretrainings", num_reports=len(reports)
            )
        elif reports:
            values = _values(reports[0].row("trained"), column)
            scores[column.name] = Score.of(values, over="tunings", num_reports=1)
    return AblationRow(
        name=name,
        kind="ours",
        about=about(members),
        reports=tuple(each.place for each in members),
        scores=scores,
        means=means_of(scores, table.means),
        published=table.row(name),
    )


def _values(row: Row, column: Column) -> list[float]:
    summary = row.fmax if column.measure == "fmax" else row.aupr
    return list(summary.values)


def means_of(scores: dict[str, Score], means: dict[str, tuple[str, ...]]) -> dict[str, float]:
    """The columns that are means of others, of which none may be missing."""
    return {
        name: fmean(scores[part].mean for part in parts)
        for name, parts in means.items()
        if all(part in scores for part in parts)
    }


def controls(
    members: Sequence[Member], columns: Sequence[Column], means: dict[str, tuple[str, ...]]
) -> Iterator[AblationRow]:
    """What these reports hold beside their models; the untrained model once for each architecture that is tuned."""
    for name in CONTROLS:
        groups: dict[object, list[Member]] = {}
        for each in members:
            groups.setdefault(_architecture(each.finished) if name == "untrained" else None, []).append(each)
        for of in groups.values():
            scores = {column.name: score for column in columns if (score := _control(name, of, column)) is not None}
            yield AblationRow(
                name=_name_of_control(name, of),
                kind="control",
                about=_untrained(of) if name == "untrained" else "control",
                reports=tuple(each.place for each in of),
                scores=scores,
                means=means_of(scores, means),
                published={},
            )


def _name_of_control(name: RowName, members: Sequence[Member]) -> str:
    contrastive = members[0].finished.pretraining.family == "contrastive"
    return f"{name}, contrastive" if name == "untrained" and contrastive else name


def _control(name: RowName, members: Sequence[Member], column: Column) -> Score | None:
    """Mean over reports of each tuning that all have, so that what is the same in every report counts once."""
    found = [
        _values(each.finished.report.row(name), column)
        for each in members
        if each.finished.report.task.name == column.task
    ]
    if not found:
        return None
    tunings = [fmean(values) for values in zip(*found, strict=False)]
    return Score.of(tunings, over="tunings", num_reports=len(found))


def _architecture(finished: Finished) -> object:
    """What is tuned of a model: families that mask differ in their decoders only, which are not."""
    facts = finished.pretraining
    sizes = {key: value for key, value in facts.settings.items() if key.startswith("model.")}
    sizes = {key: value for key, value in sizes.items() if not key.startswith(_OF_DECODERS) and key != "model.family"}
    return facts.family == "contrastive", tuple(sorted(sizes.items()))


def _untrained(members: Sequence[Member]) -> str:
    presets = sorted({each.finished.pretraining.preset or "sizes of no preset" for each in members})
    return f"control: the same architecture, {', '.join(presets)}"
