"""Parts of a function report's page on single terms and proteins, on probabilities, and on what terms are called."""

from collections.abc import Sequence

from amma.evaluate.report.calibration_results import CalibrationRun
from amma.evaluate.report.figures import reliability_figure
from amma.evaluate.report.page_rows import estimate, listed
from amma.evaluate.report.protein_results import ProteinRecord, ScoredTerm
from amma.evaluate.report.results import Report
from amma.evaluate.report.section import Column, Labelled, Section, Table
from amma.evaluate.report.task_results import NameFacts, OntologyFacts

FIRST_TERMS = 20
"""Rows that are shown before a reader asks for all."""


def by_term(report: Report) -> Section:
    """Every term that some protein of the test split has, and how many others there are."""
    tested = [term for term in report.terms if term.num_test]
    tested.sort(key=lambda term: (-term.num_test, term.term))
    table = Table(
        columns=(
            Column(title="Term"),
            Column(title="Train"),
            Column(title="Valid"),
            Column(title="Test"),
            Column(title="Average precision", decimals=3),
            Column(title="… untrained", decimals=3),
            Column(title="… label frequency", decimals=3),
            Column(title="Best F", decimals=3),
        ),
        rows=tuple(
            (
                Labelled(text=term.term, note=term.name or ""),
                term.num_train,
                term.num_valid,
                term.num_test,
                term.trained.average_precision,
                term.untrained.average_precision,
                term.label_frequency.average_precision,
                term.trained.fmax,
            )
            for term in tested
        ),
        caption="Terms of the test split, those of most proteins first",
        note=(
            "Proteins that have the term in each split; average precision of ranking the test proteins by their score "
            "for it, and the best F of calling it at one threshold of its own: means over seeds of the trained model. "
            f"{len(report.terms) - len(tested):,} of {len(report.terms):,} terms have no test protein."
        ),
        first=FIRST_TERMS,
    )
    return Section(heading="By term", pieces=(table,))


def calibration(report: Report) -> Section:
    """How far probabilities can be taken at their word."""
    facts = report.calibration
    table = Table(
        columns=(Column(title="Test pairs"), Column(title="Before", decimals=4), Column(title="After", decimals=4)),
        rows=(
            ("Expected calibration error", estimate(facts.ece_before), estimate(facts.ece_after)),
            ("Brier score", estimate(facts.brier_before), estimate(facts.brier_after)),
        ),
        caption="Before and after the calibration",
        note=(
            "Both are means over pairs: of how far a bin's mean probability is from the share that is true, and of the "
            "squared error. Less is better; most pairs are false and easy, so both are small."
        ),
    )
    return Section(
        heading="Probabilities",
        paragraphs=(
            "Scores are turned into probabilities by a line on their logits, fitted on validation for each seed "
            f"({'; '.join(_line(run) for run in facts.runs)}). It rises, so no figure above depends on it. It is what "
            "amma-eval predict gives.",
        ),
        pieces=(reliability_figure(report), table),
    )


def _line(run: CalibrationRun) -> str:
    fitted = run.fitted
    if fitted.identity_because is not None:
        return f"seed {run.seed}: none, since {fitted.identity_because}"
    return f"seed {run.seed}: slope {fitted.slope:.2f}, intercept {fitted.intercept:+.2f}"


def extremes(report: Report) -> Section:
    """The test proteins that are predicted best and worst."""
    found = report.extremes
    return Section(
        heading="Best and worst proteins",
        paragraphs=(
            "F of a protein's predicted terms at the threshold chosen on validation, mean over seeds; below each "
            "predicted term its probability, and a tick if it is true.",
        ),
        pieces=(_proteins(found.best, "Predicted best"), _proteins(found.worst, "Predicted worst")),
    )


def _proteins(records: Sequence[ProteinRecord], caption: str) -> Table:
    return Table(
        columns=(
            Column(title="Protein"),
            Column(title="Residues"),
            Column(title="Identity to training", decimals=2),
            Column(title="F", decimals=3),
            Column(title="F, untrained", decimals=3),
            Column(title="True terms"),
            Column(title="Likeliest terms"),
        ),
        rows=tuple(
            (
                record.id,
                record.num_residues,
                record.identity,
                record.f,
                record.f_untrained,
                "; ".join(_called(term) for term in record.true),
                "; ".join(f"{_called(term)} {term.score:.3f}{' ✓' if term.true else ''}" for term in record.predicted),
            )
            for record in records
        ),
        caption=caption,
    )


def _called(term: ScoredTerm) -> str:
    return f"{term.term} ({term.name})" if term.name else term.term


def vocabulary(report: Report) -> Section:
    """Where names are from, and the hierarchy that CAFA's figures are computed on."""
    task = report.task
    return Section(
        heading="Terms and their names",
        paragraphs=(_names(task.names, task.num_terms), *_ontology(task.ontology)),
        pieces=_lists(task.names, task.ontology),
    )


def _names(names: NameFacts, num_terms: int) -> str:
    origins = [f"{number:,} by {origin}" for origin, number in names.origins if number]
    unnamed = f"{len(names.unnamed):,} have no name" if names.unnamed else "none is without a name"
    return f"Of {num_terms:,} terms, {listed(origins)} are named; {unnamed}." if origins else f"{unnamed.capitalize()}."


def _ontology(facts: OntologyFacts | None) -> tuple[str, ...]:
    if facts is None:
        return ("No ontology was given (--ontology), so there are no CAFA figures.",)
    pinned = [f"version {facts.data_version}"] if facts.data_version else []
    pinned += [f"sha256 {facts.sha256[:12]}"] if facts.sha256 else []
    return (
        f"CAFA's figures are on {facts.kind}{f' ({listed(pinned)})' if pinned else ''}, namespace {facts.namespace}: "
        f"{facts.num_terms:,} live terms, {facts.num_obsolete:,} obsolete. {len(facts.alternative):,} of the task's "
        f"terms stand for another one there, {len(facts.unmatched):,} are not in it and take no part in these figures.",
    )


def _lists(names: NameFacts, ontology: OntologyFacts | None) -> tuple[Table, ...]:
    tables = []
    if ontology is not None and ontology.alternative:
        tables.append(
            Table(
                columns=(Column(title="Term of the task"), Column(title="stands for"), Column(title="by")),
                rows=tuple((each.term, each.primary, each.how) for each in ontology.alternative),
                caption="Terms under another id",
                first=FIRST_TERMS,
            )
        )
    if ontology is not None and ontology.unmatched:
        tables.append(_one_column("Terms that the ontology lacks", ontology.unmatched))
    if names.unnamed:
        tables.append(_one_column("Terms without a name", names.unnamed))
    return tuple(tables)


def _one_column(caption: str, terms: Sequence[str]) -> Table:
    rows = tuple((term,) for term in terms)
    return Table(columns=(Column(title="Term"),), rows=rows, caption=caption, first=FIRST_TERMS)


def included(report: Report) -> list[Section]:
    """The sections of each analysis that was given along, after one that says what it is."""
    sections = []
    for each in report.included:
        said = [each.lead]
        if each.checkpoint_sha256 is None:
            said.append("It is of several models, not of this report's alone.")
        elif not each.same_checkpoint:
            said.append(
                "It is of another checkpoint than this report "
                f"(step {each.checkpoint_step:,}, sha256 {each.checkpoint_sha256[:12]})."
            )
        sections.append(Section(heading=f"Analysis: {each.title}", paragraphs=tuple(said)))
        sections += each.sections
    return sections
