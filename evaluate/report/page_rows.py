"""Parts of a function report's page that set its rows beside each other: results, differences, variants, slices."""

from collections.abc import Sequence
from typing import Literal

from amma.evaluate.report.estimates import Difference, Interval, Summary
from amma.evaluate.report.figures import slices_figure
from amma.evaluate.report.results import Report
from amma.evaluate.report.section import Cell, Column, Estimate, Labelled, Section, Table
from amma.evaluate.report.slice_results import Slice, SliceFigures

CERTAIN = 0.05
"""Both p-values of a difference are at most this: the two are said to differ."""

_IN_A_SENTENCE = {
    "untrained": "the same architecture without pretraining",
    "pooled inputs": "the encoders' own features pooled",
    "nearest training sequence": "the nearest training sequences",
    "label frequency": "label frequency alone",
}
_METRICS: tuple[tuple[Literal["fmax", "aupr"], str], ...] = (("fmax", "Fmax"), ("aupr", "AUPR"))


def estimate(summary: Summary | None, interval: Interval | None = None) -> Estimate | None:
    """A figure over seeds as a cell, with its interval if there is one."""
    if summary is None:
        return None
    low, high = (None, None) if interval is None else (interval.low, interval.high)
    return Estimate(mean=summary.mean, sd=summary.sd, low=low, high=high)


def listed(words: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def verdict(report: Report) -> str:
    """What tells the trained model from the other rows, in one sentence, by the paired tests."""
    if not report.paired:
        return "No resamples were asked for: nothing here says which of the differences could be chance."
    fmax, aupr = (_stands(report, metric) for metric, _ in _METRICS)
    where = f"In Fmax and in AUPR, the trained model is {fmax}" if fmax == aupr else ""
    return (
        where or f"In Fmax, the trained model is {fmax}; in AUPR it is {aupr}"
    ) + f" (tests on the same proteins, both p at most {CERTAIN:g})."


def _stands(report: Report, metric: Literal["fmax", "aupr"]) -> str:
    found: dict[str, list[str]] = {"better than": [], "worse than": [], "not to be told from": []}
    for pair in report.paired:
        found[_relation(getattr(pair, metric))].append(_IN_A_SENTENCE[pair.against])
    return ", ".join(f"{relation} {listed(names)}" for relation, names in found.items() if names)


def _relation(difference: Difference) -> str:
    if max(difference.p_bootstrap, difference.p_swap) > CERTAIN:
        return "not to be told from"
    return "better than" if difference.difference > 0 else "worse than"


def results_table(report: Report) -> Table:
    """The exact figures of every row."""
    return Table(
        columns=(
            Column(title="Model"),
            Column(title="Fmax", decimals=3),
            Column(title="AUPR", decimals=3),
            Column(title="macro AUPR", decimals=3),
            Column(title="F at validation threshold", decimals=3),
            Column(title="Seeds"),
        ),
        rows=tuple(
            (
                Labelled(text=row.name, note=row.meaning),
                estimate(row.fmax, row.fmax_interval),
                estimate(row.aupr, row.aupr_interval),
                estimate(row.macro_aupr),
                estimate(row.f_at_threshold),
                len(row.runs) if row.trials else None,
            )
            for row in report.rows
        ),
        strong=_trained(report),
    )


def differences(report: Report) -> Section:
    """The trained model less each other row, with what the paired tests say."""
    if not report.paired:
        return Section(heading="What could be chance", paragraphs=(verdict(report),))
    columns = [Column(title="Trained less …")]
    for _, name in _METRICS:
        columns += [
            Column(title=f"{name}: difference", decimals=4),
            Column(title="p, resamples", decimals=3),
            Column(title="p, swaps", decimals=3),
        ]
    rows = []
    for pair in report.paired:
        cells: list[Cell] = [pair.against]
        for each in (pair.fmax, pair.aupr):
            gained = Estimate(mean=each.difference, low=each.interval.low, high=each.interval.high)
            cells += [gained, each.p_bootstrap, each.p_swap]
        rows.append(tuple(cells))
    note = (
        "Means over seeds on the same test proteins; the interval below each difference is that of the same resamples. "
        "Both p are two-sided and ask whether there is no difference: from the resamples, and from exchanging the "
        "scores of the two for whole clusters at random. They are not corrected for there being several of them. They "
        "tell whether other proteins could turn the difference around, not whether another training would."
    )
    return Section(
        heading="What could be chance",
        pieces=(Table(columns=tuple(columns), rows=tuple(rows), note=note),),
    )


def variants(report: Report) -> Section:
    """The same scores with other definitions of the figures, each by its name."""
    paragraphs = (
        "Papers publish Fmax under several definitions; figures of different ones must not stand in one column. "
        "Everything above is exact.",
    )
    return Section(
        heading="The same scores, by other definitions",
        paragraphs=paragraphs,
        pieces=(_definitions(report), *_cafa(report)),
    )


def _definitions(report: Report) -> Table:
    titles = ("Fmax, exact", "… labelled only", "… torchdrug", "AUPR, exact", "… labelled only", "… torchdrug")
    terms = {row.num_macro_terms for row in report.rows}
    return Table(
        columns=(Column(title="Model"), *(Column(title=title, decimals=3) for title in titles)),
        rows=tuple(
            (
                row.name,
                estimate(row.fmax),
                estimate(row.labelled_fmax),
                estimate(row.fmax_torchdrug),
                estimate(row.aupr),
                estimate(row.labelled_aupr),
                estimate(row.aupr_torchdrug),
            )
            for row in report.rows
        ),
        strong=_trained(report),
        caption="Exact, over labelled proteins only, and as torchdrug computes them",
        note=(
            f"Labelled only: without the {report.task.test.num_unlabelled:,} test proteins that have no true term. "
            "torchdrug 0.2.1 counts equal scores one after the other, in an order that carries no meaning: without "
            "ties its figures are the exact ones, a control that gives many proteins the same score may get any number "
            "(a dash: undefined). Set these, not the exact ones, beside figures that were published with torchdrug. "
            f"macro AUPR, above, is the mean over the {listed(sorted(f'{number:,}' for number in terms))} terms that "
            "some test protein has, each weighing the same."
        ),
    )


def _cafa(report: Report) -> tuple[Table, ...]:
    """Nothing without an ontology: the section on terms says so."""
    facts = report.cafa
    if facts is None:
        return ()
    rows = [
        (
            row.name,
            estimate(row.cafa.fmax),
            estimate(row.cafa.tau),
            estimate(row.cafa.weighted_fmax),
            estimate(row.cafa.s_min),
        )
        for row in report.rows
        if row.cafa is not None
    ]
    return (
        Table(
            columns=(
                Column(title="Model"),
                Column(title="Fmax, CAFA", decimals=3),
                Column(title="at threshold", decimals=2),
                Column(title="weighted Fmax", decimals=3),
                Column(title="S_min, bits", decimals=3),
            ),
            rows=tuple(rows),
            strong=_trained(report),
            caption="CAFA's figures: terms propagated along the ontology",
            note=(
                f"Over the {facts.num_proteins:,} of {report.task.test.num_proteins:,} test proteins that have a term "
                f"of the ontology, and {facts.num_terms:,} terms: those of the task and all above them without the "
                f"root; {facts.num_informative:,} of these are informative in training. Thresholds are a grid with "
                f"steps of {facts.tau_step:g}. Weighted: each term counts by its information accretion in training. "
                "S_min is the smallest semantic distance, less is better. Never compare these with exact figures."
            ),
        ),
    )


def by_identity(report: Report) -> Section:
    """Figures of the test proteins that are unlike training, and of those that are less so."""
    facts = report.identity
    alone = sum(each.training is None for each in facts.nearest)
    names = [f"below {100 * each.below:g} %" if each.below is not None else "all" for each in facts.slices]
    paragraphs = (
        "Each line holds the proteins of the lines above it. Identity is the number of equal residues in an alignment "
        f"with a training protein over the shorter length (slices by: {facts.method}). For {alone:,} of "
        f"{len(facts.nearest):,} test proteins no alignment was found ({facts.nearest_method}); they count as 0 %.",
    )
    heading = "By identity to the nearest training protein"
    return _slices(
        report, heading, paragraphs, "Identity", names, facts.slices, [row.by_identity for row in report.rows]
    )


def by_length(report: Report) -> Section:
    """Figures of short and of long test proteins."""
    names = [_residues(each) for each in report.lengths]
    figures = [row.by_length for row in report.rows]
    return _slices(report, "By length", (), "Residues", names, report.lengths, figures)


def _residues(part: Slice) -> str:
    match part.at_least, part.below:
        case None, None:
            return "all"
        case None, below:
            return f"under {below:,g}"
        case at_least, None:
            return f"{at_least:,g} and more"
        case at_least, below:
            return f"{at_least:,g} – {below - 1:,g}"


def _slices(
    report: Report,
    heading: str,
    paragraphs: tuple[str, ...],
    first: str,
    names: Sequence[str],
    slices: Sequence[Slice],
    figures: Sequence[Sequence[SliceFigures]],
) -> Section:
    """A table of each figure; of the first one a drawing too."""
    columns = (
        Column(title=first),
        Column(title="Proteins"),
        Column(title="without label"),
        *(Column(title=row.name, decimals=3) for row in report.rows),
    )
    tables = [
        Table(
            columns=columns,
            rows=tuple(
                (
                    name,
                    part.num_proteins,
                    part.num_unlabelled,
                    *(estimate(getattr(of_row[place], metric)) for of_row in figures),
                )
                for place, (name, part) in enumerate(zip(names, slices, strict=True))
            ),
            caption=f"{title} ({heading[0].lower()}{heading[1:]})",
            note="A dash: none of these proteins has a label." if place else "",
        )
        for place, (metric, title) in enumerate(_METRICS)
    ]
    drawn = slices_figure(report, heading, names, figures)
    return Section(heading=heading, paragraphs=paragraphs, pieces=(drawn, *tables))


def _trained(report: Report) -> tuple[int, ...]:
    return tuple(place for place, row in enumerate(report.rows) if row.name == "trained")
