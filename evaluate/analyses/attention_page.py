"""The page of an attention analysis: whether annotated residues are found, where attention goes, single proteins."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from amma.evaluate.analyses.attention_figures import along_the_chain, bars, in_space
from amma.evaluate.analyses.attention_proteins import Looked, Scores
from amma.evaluate.analyses.attention_results import (
    AttentionConfig,
    AttentionReport,
    AttentionResults,
    Margin,
    MeanFigure,
    RowOf,
)
from amma.evaluate.analyses.attention_structure import Trace
from amma.evaluate.analyses.residue_attention import times_mean
from amma.evaluate.analyses.subject import HeldOutFacts
from amma.evaluate.report.section import Cell, Column, Estimate, Figure, Section, Table
from amma.manifests.table import MODALITIES

WORDS = {"seq": "sequence", "str": "structure", "func": "the name itself"}
TOKENS = {
    "both": "the sum over its sequence and structure token",
    "seq": "that of its sequence token alone",
    "str": "that of its structure token alone (0 where it has none)",
}
FIRST_ROWS = 20


def lead_of(results: AttentionResults) -> str:
    """What the figures say, in a few sentences."""
    trained = results.focus_of("trained")
    untrained, shuffled = results.focus_of("untrained"), results.focus_of("shuffled pairs")
    where = (
        f"The trained model's attention is {_is_even(trained.evenness.mean)} over residues (evenness "
        f"{trained.evenness.mean:.2f}, untrained {untrained.evenness.mean:.2f}; 1 is the same for all)"
    )
    if shuffled.like_trained is not None:
        where += (
            f", and asked by another protein's name it correlates {shuffled.like_trained.mean:.2f} with that asked by "
            "its own"
        )
    if not results.rows or results.chance is None:
        return (
            "No table of sites was given (--sites), so this shows attention alone and cannot say whether it finds "
            f"anything. {where}."
        )
    rows = {row.of: f"{row.precision.value.mean:.3f}" for row in results.rows}
    return (
        "Of the k residues that a protein's name attends to most, k being how many are annotated, "
        f"{rows['trained']} are annotated (mean over {len(results.proteins):,} proteins). Untrained it is "
        f"{rows['untrained']}, with another protein's name {rows['shuffled pairs']}, by position in the chain alone "
        f"{rows['position only']}; chance is {results.chance:.3f}. {_verdict(results)} {where}."
    )


def _is_even(value: float) -> str:
    return "nearly even" if value > 0.95 else "uneven"


def _verdict(results: AttentionResults) -> str:
    """Which controls the trained model is above, by the interval of the difference."""
    above: list[str] = []
    not_above: list[str] = []
    for row in results.rows:
        margin = row.trained_minus.get("precision")
        if margin is not None and margin.interval is not None:
            (above if margin.interval.low > 0 else not_above).append(row.of)
    if not above and not not_above:
        return "No intervals were asked for."
    parts = [f"above {', '.join(above)}"] if above else []
    parts += [f"not above {', '.join(not_above)}"] if not_above else []
    return f"By the intervals of the differences, the trained model is {', and '.join(parts)}."


def lines_of(report: AttentionReport) -> Iterator[str]:
    """The short table that ends a command."""
    results = report.results
    if report.inputs.random_encoders:
        yield "random encoders: these figures show the machinery, not what proteins have in common"
    if results.rows:
        yield f"{'':24}{'precision@k':>12}{'AP':>9}{'AUROC':>9}"
        for row in results.rows:
            values = (row.precision, row.average_precision, row.auroc)
            yield f"{row.of:24}{values[0].value.mean:12.3f}" + "".join(f"{of.value.mean:9.3f}" for of in values[1:])
    else:
        yield "no table of sites (--sites): attention alone, which cannot say whether it finds anything"
    yield f"{'attention to':24}{'sequence':>12}{'structure':>11}{'name':>8}{'evenness':>10}{'like trained':>14}"
    for focus in results.focus:
        shares = [focus.shares[modality].mean for modality in MODALITIES]
        alike = "–" if focus.like_trained is None else f"{focus.like_trained.mean:.3f}"
        yield (f"{focus.of:24}{shares[0]:12.3f}{shares[1]:11.3f}{shares[2]:8.3f}{focus.evenness.mean:10.3f}{alike:>14}")
    if results.left_out:
        yield f"left out: {len(results.left_out)} proteins, the first {results.left_out[0].reason}"
    for each in results.without_structure:
        yield f"no structure of {each.id!r}: {each.code}: {each.reason}"


def sections_of(
    config: AttentionConfig,
    results: AttentionResults,
    facts: HeldOutFacts,
    proteins: Sequence[Looked],
    scores: Mapping[RowOf, Sequence[Scores]],
    shown: Sequence[int],
    traces: Mapping[int, Trace],
) -> tuple[Section, ...]:
    """All of the page."""
    sections = [_how(results)]
    if results.rows:
        sections.append(_found(results))
    sections.append(_focus(results))
    for place in shown:
        first = {of: seeds[0][place] for of, seeds in scores.items()}
        sections.append(_one(config, results, proteins[place], first, traces.get(place)))
    if results.rows:
        sections.append(_everyone(results))
    sections.append(Section(heading="Who was looked at", paragraphs=tuple(_who(results, facts))))
    return tuple(sections)


def _how(results: AttentionResults) -> Section:
    return Section(
        heading="What is shown",
        paragraphs=(
            "As in Fig. 3 of the paper, the model is given a protein's sequence, its structure and the tokens of its "
            f"name, nothing masked. In the last of the fusion encoder's {results.layer} layers the name's tokens ask; "
            f"the mean over them and over {results.num_heads} heads is taken. A residue's attention is "
            f"{TOKENS[results.residue_tokens]}.",
            "The paper's figure shows single proteins. Here figures are over many, beside those of the same model "
            "untrained, the trained one given another protein's name, and position in the chain alone (the mean "
            "attention at that place of the other proteins). Attention is not proof of what a model uses; less so "
            "where a control looks the same.",
        ),
    )


def _found(results: AttentionResults) -> Section:
    columns = (
        Column(title="residues ranked by"),
        Column(title="precision@k", decimals=3),
        Column(title="trained has more", decimals=3),
        Column(title="average precision", decimals=3),
        Column(title="AUROC", decimals=3),
    )
    rows: list[tuple[Cell, ...]] = [
        (
            row.of,
            _estimate(row.precision),
            _margin(row.trained_minus.get("precision")),
            _estimate(row.average_precision),
            _estimate(row.auroc),
        )
        for row in results.rows
    ]
    intervals = (
        f" Intervals: 95 % over {results.num_resamples:,} resamples of {results.num_clusters:,} clusters "
        f"({results.clusters})."
        if results.num_resamples
        else ""
    )
    kinds = "" if results.sites is None else " or ".join(results.sites.kinds)
    return Section(
        heading="Whether the residues attended to most are the annotated ones",
        paragraphs=(
            f"Annotated are sites of kind {kinds}. k is the number of a protein's annotated residues: precision@k is "
            "the share of annotated ones among the k with most attention, and chance is what "
            "residues in random order give: for average precision that is more than k over the length of the chain. "
            "Means over proteins.",
        ),
        pieces=(
            Table(
                columns=columns,
                rows=tuple(rows),
                strong=(0,),
                note="Untrained: mean ± standard deviation over seeds; shuffled pairs: over "
                f"{results.num_shuffles} other names.{intervals}",
            ),
            bars(results),
        ),
    )


def _focus(results: AttentionResults) -> Section:
    columns = [Column(title="attention of")]
    columns += [Column(title=f"to {WORDS[modality]}", decimals=3) for modality in MODALITIES]
    columns += [Column(title="evenness", decimals=3), Column(title="like trained", decimals=3)]
    rows: list[tuple[Cell, ...]] = []
    for row in results.focus:
        shares = [_summary(row.shares[modality].mean, row.shares[modality].sd) for modality in MODALITIES]
        alike = None if row.like_trained is None else _summary(row.like_trained.mean, row.like_trained.sd)
        rows.append((row.of, *shares, _summary(row.evenness.mean, row.evenness.sd), alike))
    return Section(
        heading="Where the name's attention goes",
        paragraphs=(
            "Shares of all attention of the name's tokens. Evenness is of the residues: 1 if all get the same, one "
            "over their number if a single one gets all. Like trained: the correlation over a protein's residues with "
            "what its own name attends to in the trained model. Where it is near 1 for shuffled pairs, the name does "
            "not decide what is attended to, and what is found is nothing that the name tells.",
        ),
        pieces=(Table(columns=tuple(columns), rows=tuple(rows), strong=(0,)),),
    )


def _one(
    config: AttentionConfig,
    results: AttentionResults,
    protein: Looked,
    first: Mapping[RowOf, np.ndarray],
    trace: Trace | None,
) -> Section:
    figures = next(each for each in results.proteins if each.id == protein.id)
    scaled = {of: times_mean(of_L) for of, of_L in first.items()}
    number = protein.num_annotated or config.top
    order = np.argsort(-first["trained"], kind="stable")[:number].tolist()
    columns = [Column(title="residue"), Column(title="trained", decimals=2), Column(title="untrained", decimals=2)]
    columns += [Column(title="shuffled pairs", decimals=2)]
    if protein.annotated_L is not None:
        columns.append(Column(title="annotated"))
    rows: list[tuple[Cell, ...]] = []
    for place in order:
        cells = [float(scaled[of][place]) for of in ("trained", "untrained", "shuffled pairs")]
        annotated = () if protein.annotated_L is None else ("yes" if protein.annotated_L[place] else "–",)
        rows.append((f"{protein.sequence[place]}{place + 1}", *cells, *annotated))
    pieces: list[Figure | Table] = [along_the_chain(protein, first)]
    if trace is not None:
        pieces.append(in_space(protein, first, trace))
    caption = f"The {len(order)} residues attended to most; attention over its mean."
    pieces.append(Table(columns=tuple(columns), rows=tuple(rows), caption=caption, first=FIRST_ROWS))
    return Section(heading=protein.id, paragraphs=tuple(_about(results, figures.id)), pieces=tuple(pieces))


def _about(results: AttentionResults, id: str) -> Iterator[str]:
    of = next(each for each in results.proteins if each.id == id)
    words = f"{of.num_residues:,} residues, {of.num_name_tokens} tokens of its name."
    if of.precision:
        words += (
            f" {of.num_annotated} annotated residues; among as many attended to most, {of.precision['trained']:.2f} "
            f"are annotated (untrained {of.precision['untrained']:.2f}, another name "
            f"{of.precision['shuffled pairs']:.2f}, position {of.precision['position only']:.2f}, chance "
            f"{of.precision['chance']:.2f})."
        )
    if of.num_beyond:
        words += f" {of.num_beyond} annotated residues lie beyond what the encoder was given."
    yield words
    if of.structure is not None:
        yield (
            f"{of.structure} has the trained model's attention as B-factors, 100 for the residue attended to most; "
            "0 are residues without a row in the model, other chains and ligands."
        )
    for each in results.without_structure:
        if each.id == id:
            yield f"Its structure is not here: {each.reason} ({each.code})."


def _everyone(results: AttentionResults) -> Section:
    kinds: tuple[RowOf, ...] = ("trained", "untrained", "shuffled pairs", "position only", "chance")
    columns = [Column(title="protein"), Column(title="residues"), Column(title="annotated")]
    columns += [Column(title=f"precision@k, {of}", decimals=2) for of in kinds]
    columns += [Column(title="AUROC, trained", decimals=2)]
    rows: list[tuple[Cell, ...]] = [
        (
            of.id,
            of.num_residues,
            of.num_annotated,
            *(of.precision[kind] for kind in kinds),
            of.auroc["trained"],
        )
        for of in results.proteins
    ]
    return Section(heading="Every protein", pieces=(Table(columns=tuple(columns), rows=tuple(rows), first=FIRST_ROWS),))


def _who(results: AttentionResults, facts: HeldOutFacts) -> Iterator[str]:
    yield facts.sentence()
    if results.left_out:
        names = ", ".join(each.id for each in results.left_out[:FIRST_ROWS])
        yield (
            f"{len(results.left_out):,} of them could not be looked at, having no name, or no residue with a token to "
            f"tell from others: {names}{', …' if len(results.left_out) > FIRST_ROWS else ''}."
        )
    if results.sites is not None:
        of = results.sites
        yield (
            f"The table of sites has {of.num_proteins:,} proteins of the store; {of.num_elsewhere:,} of its rows are "
            f"of other proteins, {of.num_rejected:,} could not be used"
            + (f" ({'; '.join(of.reasons)})." if of.reasons else ".")
        )
        yield "Proteins were drawn from those that have such a site."
    yield (
        "Single proteins above are the first of the list of ids, without one those with most annotated residues, and "
        "without sites those drawn first; never those that went best."
    )


def _estimate(of: MeanFigure) -> Estimate:
    bounds = {} if of.interval is None else {"low": of.interval.low, "high": of.interval.high}
    return Estimate(mean=of.value.mean, sd=of.value.sd, **bounds)


def _margin(of: Margin | None) -> Estimate | None:
    if of is None:
        return None
    bounds = {} if of.interval is None else {"low": of.interval.low, "high": of.interval.high}
    return Estimate(mean=of.difference, **bounds)


def _summary(mean: float, sd: float | None) -> Estimate:
    return Estimate(mean=mean, sd=sd)
