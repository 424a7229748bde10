"""The page of an alignment: the paper's table beside its controls, then figures that can tell models apart."""

from collections.abc import Iterator, Sequence

from amma.evaluate.analyses.agreement import NUM_SHUFFLES, Agreement, Given, Of, Outputs, PairFigures, Shuffled
from amma.evaluate.analyses.alignment_figures import Drawn, bars, heat, name_of, num_drawn, pairs_of, trusted
from amma.evaluate.analyses.alignment_results import ALONE, APART, TOGETHER, AlignmentReport, AlignmentResults
from amma.evaluate.analyses.relation import PAIRS, PRINTED, num_batches
from amma.evaluate.analyses.subject import HeldOutFacts
from amma.evaluate.report.estimates import Interval, Summary
from amma.evaluate.report.section import Cell, Column, Estimate, Labelled, Section, Table
from amma.manifests.table import MODALITIES

DASH = "–"
FAMILY_COLUMN = {"asymmetric": "AMMA", "contrastive": "contrastive"}
"""Which of the paper's models a checkpoint of each family is; of the others Table 1 has none."""


_MIXED = (
    "Given together, tokens of all modalities attend to each other in the encoder, and vectors agree because they have "
    "seen each other, also in a model with random weights. Each modality alone is the fair question, and a hard one "
    "for a masked model, which seldom meets a modality alone."
)
_NEVER_MIXED = (
    "In this model no modality sees another: what agreement there is comes from the encoders' features and from "
    "training."
)

Wanted = tuple[tuple[Of, Given, Outputs], ...]


def lead_of(results: AlignmentResults) -> str:
    """What the figures say, in a few sentences."""
    trained, untrained = (results.row(of, results.given, results.outputs) for of in ("trained", "untrained"))
    if trained is None or untrained is None:
        raise ValueError("an alignment has rows of the trained and of the untrained model")
    given = ALONE if results.row("trained", ALONE, results.comparable) else results.given
    ours, theirs = (results.row(of, given, results.comparable) for of in ("trained", "untrained"))
    found = " and ".join(f"{row.of} {_range(_recall_at_5(row))}" for row in (ours, theirs) if row is not None)
    chance = results.chance["5"]
    return (
        f"In the measure of the paper's Table 1 the trained model reaches "
        f"{_range(trained.pairs[pair].relation.mean for pair in PAIRS)}; the same model untrained reaches "
        f"{_range(untrained.pairs[pair].relation.mean for pair in PAIRS)}, and the trained one with every protein "
        f"paired with another one {_range(trained.pairs[pair].relation_shuffled.mean for pair in PAIRS)}. What "
        "controls reach as well is no evidence of alignment. How often a protein is found by another of its "
        f"modalities among the five nearest ({given}; chance {chance:.3f}): {found}."
    )


def lines_of(report: AlignmentReport) -> Iterator[str]:
    """The short table that ends a command."""
    results = report.results
    head = [f"{pair:>9}" for pair in PAIRS]
    if report.inputs.random_encoders:
        yield "random encoders: these figures show the machinery, not what proteins have in common"
    yield f"{'Table 1: cosine of relations':64}{''.join(head)}"
    for row in _table_one_rows(results):
        yield _line(row, [of.relation.mean for _, of in pairs_of(row)])
        if row.of == "trained" and row.given != "nothing":
            shuffled = "".join(f"{of.relation_shuffled.mean:9.3f}" for _, of in pairs_of(row))
            yield f"{f'trained, shuffled pairs ({row.given})':64}{shuffled}"
    yield f"{'debiased CKA':64}{''.join(head)}"
    for row in _trusted_rows(results):
        yield _line(row, [None if of.cka is None else of.cka.mean for _, of in pairs_of(row)])
    chance = results.chance["5"]
    yield f"{f'recall@5, chance {chance:.3f}':64}{''.join(head)}"
    for row in _trusted_rows(results):
        if not row.separate_maps:
            yield _line(row, list(_recall_at_5(row)))


def _line(row: Agreement, values: Sequence[float | None]) -> str:
    name = name_of(row) if row.given == "nothing" else f"{name_of(row)} ({row.given})"
    return f"{name:64}{''.join(f'{DASH:>9}' if value is None else f'{value:9.3f}' for value in values)}"


def _recall_at_5(row: Agreement) -> Iterator[float]:
    return (of.recall.at["5"].mean for _, of in pairs_of(row) if of.recall is not None)


def sections_of(results: AlignmentResults, facts: HeldOutFacts, drawn: Sequence[Drawn]) -> tuple[Section, ...]:
    """All of the page."""
    return (
        _table_one(results),
        _relations(drawn),
        _trusted(results),
        _collapse(results),
        _batch_sizes(results),
        Section(heading="Who was looked at", paragraphs=(facts.sentence(),)),
    )


def _table_one(results: AlignmentResults) -> Section:
    columns = [Column(title="vectors")]
    for pair in PAIRS:
        columns += [Column(title=pair, decimals=3), Column(title="paper", decimals=3)]
    rows: list[tuple[Cell, ...]] = []
    strong = []
    for row in _table_one_rows(results):
        trained = row.of == "trained" and row.given != "nothing"
        if trained and row.given == results.given:
            strong.append(len(rows))
        printed = _printed(row, results.family)
        cells = [(_estimate(of.relation, of.relation_interval), printed.get(pair)) for pair, of in pairs_of(row)]
        rows.append((_label(row), *(cell for both in cells for cell in both)))
        if trained:
            mixed = [(_shuffled(of.relation_shuffled), None) for _, of in pairs_of(row)]
            rows.append((_mixed_label(row), *(cell for both in mixed for cell in both)))
    batches = num_batches(_num_proteins(results), results.batch_size)
    note = (
        f"Mean over {batches:,} batches of {results.batch_size} proteins. Untrained: mean ± standard deviation over "
        f"{_untrained_seeds(results)} seeds; shuffled pairs: over {NUM_SHUFFLES} random pairings. "
        f"{_intervals(results, 'batches')}Paper: {', '.join(PRINTED)} of Table 1, arXiv 2405.06663."
    )
    return Section(
        heading="Table 1 of the paper, beside its controls",
        paragraphs=(
            "Each protein has one vector for each modality: the mean over its tokens, nothing masked. Vectors are "
            "divided by their lengths, R = z zᵀ holds the cosine of every two proteins of a batch, and the figure is "
            "the cosine of the flattened R of two modalities.",
            "The measure cannot tell agreement from sameness. If all vectors of a modality point into one direction, "
            "its R is full of ones, and two such R agree perfectly whichever protein is which. In small batches the "
            "ones on the diagonal add to it. So the model has to be held against the same model untrained, which "
            f"already gives {_untrained(results)} here, and against pairs of different proteins.",
            "The paper leaves open whether “initial” is measured before or after the projections; both are here.",
        ),
        pieces=(
            Table(columns=tuple(columns), rows=tuple(rows), note=note, strong=tuple(strong)),
            bars(
                [row for row in _table_one_rows(results) if _is_shown(row)],
                printed=FAMILY_COLUMN.get(results.family, "AMMA"),
            ),
        ),
    )


def _untrained(results: AlignmentResults) -> str:
    row = results.row("untrained", results.given, results.outputs)
    return DASH if row is None else _range(of.relation.mean for _, of in pairs_of(row))


def _num_proteins(results: AlignmentResults) -> int:
    """How many proteins took part: the largest batch is of all of them."""
    return max(results.batch_sizes)


def _those_there(results: AlignmentResults, wanted: Wanted) -> Iterator[Agreement]:
    for of, given, outputs in wanted:
        row = results.row(of, given, outputs)
        if row is not None:
            yield row


def _table_one_rows(results: AlignmentResults) -> Iterator[Agreement]:
    wanted: Wanted = (
        ("encoders' features", "nothing", "features"),
        ("untrained", "nothing", "projections"),
        ("trained", "nothing", "projections"),
        ("untrained", results.given, results.outputs),
        ("trained", results.given, results.outputs),
        ("untrained", ALONE, results.outputs),
        ("trained", ALONE, results.outputs),
    )
    yield from _those_there(results, wanted)


def _is_shown(row: Agreement) -> bool:
    """Whether it is among the few that a figure shows and batch sizes are compared for."""
    return row.given != ALONE and row.outputs != "projections"


def _printed(row: Agreement, family: str) -> dict[str, float]:
    if row.of == "encoders' features" or (row.of, row.outputs) == ("untrained", "projections"):
        return PRINTED["initial"]
    if row.of == "trained" and row.given in (TOGETHER, APART) and family in FAMILY_COLUMN:
        return PRINTED[FAMILY_COLUMN[family]]
    return {}


def _relations(drawn: Sequence[Drawn]) -> Section:
    return Section(
        heading="The relation matrices themselves",
        paragraphs=(
            f"R of {num_drawn(drawn)} of the proteins, in the same order everywhere, on one colour scale. Where a "
            "matrix is of one colour, all proteins are alike to the model, and flattened matrices agree because there "
            "is nothing to differ in.",
        ),
        pieces=(heat(drawn),),
    )


def _trusted(results: AlignmentResults) -> Section:
    columns = (Column(title="vectors"), *(Column(title=pair, decimals=3) for pair in PAIRS))
    ckas: list[tuple[Cell, ...]] = []
    for row in _trusted_rows(results):
        ckas.append((_label(row), *(None if of.cka is None else _estimate(of.cka, None) for _, of in pairs_of(row))))
        if row.of == "trained":
            mixed = [None if of.cka_shuffled is None else _shuffled(of.cka_shuffled) for _, of in pairs_of(row)]
            ckas.append((_mixed_label(row), *mixed))
    recalls: list[tuple[Cell, ...]] = []
    for k, chance in results.chance.items():
        compared = [row for row in _trusted_rows(results) if not row.separate_maps]
        recalls += [(_label(row), int(k), *(_recall(of, k) for _, of in pairs_of(row))) for row in compared]
        recalls.append(("shuffled pairs", int(k), *(chance for _ in PAIRS)))
    note = (
        "Recall is the mean of both ways, by cosine after each modality's mean was subtracted; with shuffled pairs it "
        "is k/N on average. Raw features are not compared: each modality has axes of its own. "
        + _intervals(results, f"{results.num_clusters:,} clusters ({results.clusters})")
    )
    return Section(
        heading="Figures that can tell models apart",
        paragraphs=(
            "Debiased CKA is 0 for vectors that have nothing to do with each other, whatever their number and width, "
            "and 1 for vectors that are equal up to turn and scale. Recall@k says how often a protein's own vector in "
            "the other modality is among the k nearest of all proteins.",
            _MIXED if results.given == TOGETHER else _NEVER_MIXED,
        ),
        pieces=(
            Table(
                columns=columns,
                rows=tuple(ckas),
                caption="Debiased CKA",
                note=f"Untrained: mean ± standard deviation over {_untrained_seeds(results)} seeds; shuffled pairs: "
                f"over {NUM_SHUFFLES} random pairings.",
            ),
            Table(
                columns=(columns[0], Column(title="k"), *columns[1:]),
                rows=tuple(recalls),
                caption="Recall@k",
                note=note,
            ),
            trusted(list(_trusted_rows(results)), chance=results.chance["5"]),
        ),
    )


def _trusted_rows(results: AlignmentResults) -> Iterator[Agreement]:
    wanted: Wanted = (
        ("encoders' features", "nothing", "features"),
        ("untrained", results.given, results.comparable),
        ("trained", results.given, results.comparable),
        ("untrained", ALONE, results.comparable),
        ("trained", ALONE, results.comparable),
    )
    yield from _those_there(results, wanted)


def _collapse(results: AlignmentResults) -> Section:
    columns = [Column(title="vectors")]
    columns += [Column(title=f"effective rank {m}", decimals=1) for m in MODALITIES]
    columns += [Column(title=f"spread {m}", decimals=3) for m in MODALITIES]
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (
            _label(row),
            *(_estimate(row.effective_rank[m], None) for m in MODALITIES),
            *(_estimate(row.spread[m], None) for m in MODALITIES),
        )
        for row in _trusted_rows(results)
    )
    return Section(
        heading="Have vectors collapsed?",
        paragraphs=(
            "Effective rank (Roy & Vetterli 2007) counts the directions in which vectors differ; spread is how much of "
            "their squared length is their differences. Where spread is near 0, all proteins have nearly one "
            "vector, and Table 1's figure is near 1.",
        ),
        pieces=(Table(columns=tuple(columns), rows=rows),),
    )


def _batch_sizes(results: AlignmentResults) -> Section:
    columns = [Column(title="proteins in a batch"), Column(title="vectors")]
    columns += [Column(title=pair, decimals=3) for pair in PAIRS]
    rows: list[tuple[Cell, ...]] = []
    for size in results.batch_sizes:
        for row in _table_one_rows(results):
            if not _is_shown(row):
                continue
            found = [_estimate(of.relation_by_batch_size[str(size)], None) for _, of in pairs_of(row)]
            rows.append((size, name_of(row), *found))
            if row.of == "trained":
                mixed = [_shuffled(of.relation_shuffled_by_batch_size[str(size)]) for _, of in pairs_of(row)]
                rows.append((size, "trained, shuffled pairs", *mixed))
    return Section(
        heading="What the batch size does to Table 1",
        paragraphs=(
            "The paper does not say of how many proteins a relation matrix is. The more there are, the less the ones "
            "on the diagonal count.",
        ),
        pieces=(Table(columns=tuple(columns), rows=tuple(rows), note=f"Given to the encoder: {results.given}."),),
    )


def _label(row: Agreement) -> Cell:
    return name_of(row) if row.given == "nothing" else Labelled(text=name_of(row), note=row.given)


def _mixed_label(row: Agreement) -> Cell:
    return Labelled(text="trained, shuffled pairs", note=row.given)


def _estimate(of: Summary, interval: Interval | None) -> Estimate:
    bounds = {} if interval is None else {"low": interval.low, "high": interval.high}
    return Estimate(mean=of.mean, sd=of.sd, **bounds)


def _shuffled(of: Shuffled) -> Estimate:
    return Estimate(mean=of.mean, sd=of.sd)


def _recall(of: PairFigures, k: str) -> Estimate | None:
    if of.recall is None:
        return None
    return _estimate(of.recall.at[k], None if of.recall.intervals is None else of.recall.intervals[k])


def _intervals(results: AlignmentResults, of: str) -> str:
    return f"Intervals: 95 % over {results.num_resamples:,} resamples of {of}. " if results.num_resamples else ""


def _untrained_seeds(results: AlignmentResults) -> int:
    return max(row.num_seeds for row in results.rows)


def _range(values: Iterator[float]) -> str:
    """`0.99 to 1.00`, or one number where they round to the same."""
    known = list(values)
    low, high = f"{min(known):.3f}", f"{max(known):.3f}"
    return low if low == high else f"{low} to {high}"
