"""A comparison for readers: lines for a terminal, and a page."""

from collections.abc import Sequence

from amma.evaluate.comparison.results import Comparison, ProteinPair, SideFacts, TermPair, Wins
from amma.evaluate.report.estimates import Difference, Summary
from amma.evaluate.report.section import Column, Document, Estimate, Figure, Labelled, Section, Table

HASH = 12
"""Characters of a hash that tell two apart."""
FIRST = 20
"""Rows of a table that are shown before a reader asks for more."""
ACROSS = "the two were tuned by different protocols: a difference says nothing about which pretrained model is better"
RANDOM = "random encoders: these figures show that the pipeline runs, not what the method can do"


def lines_of(found: Comparison) -> list[str]:
    """What is to be said on a terminal."""
    rows = [
        ("", "Fmax", "AUPR"),
        *(
            (f"{letter}  {path}", _summary(side.fmax), _summary(side.aupr))
            for letter, path, side in (
                ("A", found.provenance.a, found.a),
                ("B", found.provenance.b, found.b),
            )
        ),
        ("A - B", _difference(found.fmax), _difference(found.aupr)),
        ("p, bootstrap", f"{found.fmax.p_bootstrap:.3g}", f"{found.aupr.p_bootstrap:.3g}"),
        ("p, swaps", f"{found.fmax.p_swap:.3g}", f"{found.aupr.p_swap:.3g}"),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [
        f"{found.task}: {found.num_proteins} test proteins{_left_out(found)}",
        "",
        *("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows),
        "",
        f"[95% intervals over {found.num_resamples} resamples of {found.clusters.num_clusters} clusters "
        f"({found.clusters.origin})]",
        f"terms        A ahead {found.term_wins.a}, B ahead {found.term_wins.b}, ties {found.term_wins.ties} "
        "(average precision)",
        f"proteins     A ahead {found.protein_wins.a}, B ahead {found.protein_wins.b}, ties {found.protein_wins.ties} "
        "(F at the validation threshold)",
    ]
    if found.others:
        lines.append("they differ in  " + ", ".join(found.others))
    lines += [f"WARNING: {ACROSS}"] * found.across_protocols
    lines += [RANDOM] * (found.a.random_encoders or found.b.random_encoders)
    return lines


def document_of(found: Comparison) -> Document:
    """The page."""
    return Document(
        kicker="AMMA · comparison",
        title=f"Two models on {found.task}",
        lead=_lead(found),
        random_encoders=found.a.random_encoders or found.b.random_encoders,
        sections=(
            Section(heading="Figures", paragraphs=tuple(_paragraphs(found)), pieces=(_figures(found),)),
            Section(
                heading="Terms",
                paragraphs=(
                    f"Average precision of ranking the test proteins by their score for a term, mean over seeds: "
                    f"{_counted(found.term_wins)}. The terms with the largest differences come first.",
                ),
                pieces=(_scatter(found.terms), _terms(found.terms)),
            ),
            Section(
                heading="Proteins",
                paragraphs=(
                    "F of a protein's terms at the threshold where each model's F is largest on validation, mean over "
                    f"seeds: {_counted(found.protein_wins)}. Proteins without a true term are left out.",
                ),
                pieces=(_proteins(found.proteins),),
            ),
            Section(heading="Where the two differ", pieces=(_others(found),)),
        ),
        facts=tuple(_facts(found)),
    )


def _lead(found: Comparison) -> str:
    low, high = found.fmax.interval.low, found.fmax.interval.high
    which = "higher" if found.fmax.difference > 0 else "lower"
    if low <= 0 <= high:
        judged = "The interval holds zero: these test proteins do not tell the two apart."
    else:
        judged = "The interval does not hold zero."
    return (
        f"On {found.num_proteins} test proteins A's Fmax is {abs(found.fmax.difference):.4f} {which} than B's "
        f"[{low:+.4f}, {high:+.4f}], p {found.fmax.p_bootstrap:.3g} by bootstrap and {found.fmax.p_swap:.3g} by swaps. "
        f"{judged}"
    )


def _paragraphs(found: Comparison) -> list[str]:
    paragraphs = [
        f"Both models are scored on the same proteins{_left_out(found)}. Differences are A less B; intervals are the "
        f"middle 95 % of {found.num_resamples} resamples of {found.clusters.num_clusters} clusters "
        f"({found.clusters.origin}), the same for both. Of the two p one is from these resamples, the other from "
        "exchanging the scores of the two for whole clusters at random."
    ]
    if found.across_protocols:
        paragraphs.append(f"Beware: {ACROSS}.")
    return paragraphs


def _figures(found: Comparison) -> Table:
    def side(letter: str, path: str, facts: SideFacts) -> tuple[Labelled, Estimate, Estimate]:
        seeds = "1 seed" if facts.num_seeds == 1 else f"{facts.num_seeds} seeds"
        note = f"{path}, protocol {facts.protocol}, {seeds}"
        return (Labelled(text=letter, note=note), _estimate(facts.fmax), _estimate(facts.aupr))

    def difference(value: Difference) -> Estimate:
        return Estimate(mean=value.difference, low=value.interval.low, high=value.interval.high)

    return Table(
        columns=(Column(title="Model"), Column(title="Fmax", decimals=4), Column(title="AUPR", decimals=4)),
        rows=(
            side("A", found.provenance.a, found.a),
            side("B", found.provenance.b, found.b),
            ("A - B", difference(found.fmax), difference(found.aupr)),
            ("p, bootstrap", found.fmax.p_bootstrap, found.aupr.p_bootstrap),
            ("p, swaps", found.fmax.p_swap, found.aupr.p_swap),
        ),
        strong=(2,),
    )


def _scatter(terms: Sequence[TermPair]) -> Figure:
    known = [each for each in terms if each.a is not None and each.b is not None]
    return Figure(
        data=(
            {
                "type": "scatter",
                "mode": "markers",
                "x": [each.b for each in known],
                "y": [each.a for each in known],
                "customdata": [[each.term, each.name or "", each.num_test] for each in known],
                "hovertemplate": "%{customdata[0]} %{customdata[1]}<br>%{customdata[2]} test proteins"
                "<br>A %{y:.3f}, B %{x:.3f}<extra></extra>",
                "marker": {"size": [4 + min(each.num_test, 100) ** 0.5 * 2 for each in known], "opacity": 0.6},
            },
        ),
        layout={
            "xaxis": {"title": {"text": "average precision, B"}, "range": [-0.03, 1.03]},
            "yaxis": {"title": {"text": "average precision, A"}, "range": [-0.03, 1.03]},
            "shapes": [{"type": "line", "x0": 0, "y0": 0, "x1": 1, "y1": 1, "line": {"width": 1, "dash": "dot"}}],
            "showlegend": False,
        },
        caption="Each point is a term, larger with more test proteins. Above the line A is ahead, below it B.",
        alt=f"Average precision of {len(known)} terms by both models.",
        height=460,
    )


def _terms(terms: Sequence[TermPair]) -> Table:
    known = [(each, each.a, each.b) for each in terms if each.a is not None and each.b is not None]
    known.sort(key=lambda row: (-abs(row[1] - row[2]), row[0].term))
    return Table(
        columns=(
            Column(title="Term"),
            Column(title="Test proteins"),
            Column(title="A", decimals=3),
            Column(title="B", decimals=3),
            Column(title="A - B", decimals=3),
        ),
        rows=tuple(
            (Labelled(text=each.term, note=each.name or ""), each.num_test, a, b, a - b) for each, a, b in known
        ),
        note=f"{len(terms) - len(known)} terms that no test protein has are left out."
        if len(known) < len(terms)
        else "",
        first=FIRST,
    )


def _proteins(proteins: Sequence[ProteinPair]) -> Table:
    ordered = sorted(proteins, key=lambda each: (-abs(each.a - each.b), each.id))
    return Table(
        columns=(
            Column(title="Protein"),
            Column(title="True terms"),
            Column(title="A", decimals=3),
            Column(title="B", decimals=3),
            Column(title="A - B", decimals=3),
        ),
        rows=tuple((each.id, each.num_terms, each.a, each.b, each.a - each.b) for each in ordered),
        first=FIRST,
    )


def _others(found: Comparison) -> Table:
    return Table(
        columns=(Column(title="Setting"), Column(title="A"), Column(title="B")),
        rows=tuple((key, _short(a), _short(b)) for key, (a, b) in found.others.items()),
        note="" if found.others else "In nothing: they are of the same model and store, tuned alike.",
    )


def _short(value: object) -> str:
    """A setting as text; of a hash its beginning, the rest is in `compare.json`."""
    text = str(value)
    return f"{text[:HASH]}…" if len(text) == 64 else text


def _facts(found: Comparison) -> list[tuple[str, str]]:
    provenance = found.provenance
    return [
        ("A", f"{provenance.a}, report.json sha256 {found.a.report_sha256}"),
        ("B", f"{provenance.b}, report.json sha256 {found.b.report_sha256}"),
        ("Clusters", f"{provenance.clusters or 'none'}, sha256 {found.clusters.sha256 or '-'}"),
        ("Finished", f"{provenance.finished}, after {provenance.seconds:g} s"),
        ("Versions", ", ".join(f"{name} {number}" for name, number in provenance.versions.items())),
        ("Platform", provenance.platform),
    ]


def _left_out(found: Comparison) -> str:
    if not (found.a.num_only_here or found.b.num_only_here):
        return ""
    return f" that both have ({found.a.num_only_here} only in A and {found.b.num_only_here} only in B are left out)"


def _counted(wins: Wins) -> str:
    return f"A is ahead in {wins.a}, B in {wins.b}, and {wins.ties} are ties"


def _summary(summary: Summary) -> str:
    return f"{summary.mean:.4f}" if summary.sd is None else f"{summary.mean:.4f} ± {summary.sd:.4f}"


def _difference(value: Difference) -> str:
    return f"{value.difference:+.4f} [{value.interval.low:+.4f}, {value.interval.high:+.4f}]"


def _estimate(summary: Summary) -> Estimate:
    return Estimate(mean=summary.mean, sd=summary.sd)
