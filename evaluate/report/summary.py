"""A report and its plan as lines for a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from amma.evaluate.config import FinetuneConfig, FunctionConfig, Tune, Unlabelled
from amma.evaluate.controls.nearest import nearest_meaning
from amma.evaluate.report.estimates import Interval, Summary
from amma.evaluate.report.hierarchy import ontology_facts
from amma.evaluate.report.included import Included
from amma.evaluate.report.results import IntervalFacts, Leakage, Paired, Report
from amma.evaluate.report.task_facts import task_facts
from amma.evaluate.subject import Subject
from amma.evaluate.tasks.ontology import printable
from amma.evaluate.tuning.schedule import Schedule, schedule, schedule_lines
from amma.manifests.labels import SPLITS

SHOWN = 5
"""Proteins or terms that are listed before the rest is only counted."""


def plan_facts(config: FunctionConfig, subject: Subject) -> dict[str, Any]:
    """What will be computed, as plain values."""
    return {
        "checkpoint": str(subject.trained.path),
        "task": task_facts(config, subject).model_dump(mode="json"),
        "config": config.finetune.model_dump(mode="json"),
        "tunings": _num_tunings(config.finetune),
        "tunings_of_a_head_alone": _num_tunings(config.finetune.head_alone),
        "schedule": _schedule(config, subject).as_plain(),
        "relatives_found_by": subject.search.method,
        "nearest_training_sequence": nearest_meaning(subject.search),
        "included": [each.model_dump(mode="json", exclude={"sections"}) for each in subject.included],
        "random_encoders": subject.store.random_weights,
    }


def _num_tunings(finetune: FinetuneConfig) -> int:
    """Of one kind of model: every pair of learning rates with the first seed, the chosen one with the others."""
    return len(finetune.grid) + finetune.num_seeds - 1


def _schedule(config: FunctionConfig, subject: Subject) -> Schedule:
    encoder = 0 if subject.sequence is None else subject.sequence.num_parameters
    return schedule(config.finetune, subject.task, subject.trained.model, encoder_parameters=encoder)


def plan_lines(config: FunctionConfig, subject: Subject) -> list[str]:
    """What will be computed: proteins, terms, tunings; and what was left out."""
    task, finetune = subject.task, config.finetune
    lines = [f"task {task.name}: {len(task.terms)} terms, checkpoint {subject.trained.path}"]
    for name in SPLITS:
        split = task.split(name)
        lines.append(
            f"{name}: {len(split.ids)} proteins ({split.num_unlabelled} without a label), "
            f"{split.num_unknown} {_outside(config.unlabelled)}, {len(split.missing)} labelled but not in the store"
        )
        missing = subject.absent[name]
        lines += [f"  {each.id!r}: {each.reason} ({each.code})" for each in missing[:SHOWN]]
        if len(missing) > SHOWN:
            lines.append(f"  … and {len(missing) - SHOWN} more; the report names them all")
    lines.append(
        f"protocol {finetune.protocol}{_tuned(finetune)}, readout {finetune.readout}{_visible(finetune)}: "
        f"{_num_tunings(finetune)} tunings of at most {finetune.max_epochs} epochs for the trained and for the "
        "untrained model, "
        f"{_num_tunings(finetune.head_alone)} of a head alone for the pooled inputs"
    )
    lines += schedule_lines(finetune, _schedule(config, subject))
    lines += _ontology_lines(config, subject)
    lines += [_included_line(each) for each in subject.included]
    lines.append(f"nearest training sequence: {nearest_meaning(subject.search)}")
    lines.append(f"what pretraining saw of the test proteins: by hash, and by identity ({subject.search.method})")
    if subject.store.random_weights:
        lines.append("random encoders: these features show that the pipeline runs, not what the method can do")
    return lines


def _ontology_lines(config: FunctionConfig, subject: Subject) -> list[str]:
    """What terms are called, and what CAFA's figures are computed on."""
    named, total = subject.names.num_named, len(subject.task.terms)
    lines = [f"names: {named} of {total} terms have one of their own"]
    if subject.ontology is None:
        return [*lines, "no ontology (--ontology): CAFA's figures are not computed"]
    facts = ontology_facts(config.task, subject.task.terms, subject.ontology)
    pinned = f", {facts.data_version or 'no data-version'}, sha256 {facts.sha256[:12]}" if facts.sha256 else ""
    lines.append(
        f"ontology: {facts.kind}{pinned}; {len(facts.alternative)} terms stand for others, "
        f"{len(facts.unmatched)} are not in it"
    )
    return [*lines, *_unmatched_lines(facts.unmatched, subject.names.as_dict())]


def _unmatched_lines(unmatched: Sequence[str], names: Mapping[str, str]) -> list[str]:
    lines = [f"  not in the ontology: {_term(term, names.get(term))}" for term in unmatched[:SHOWN]]
    more = len(unmatched) - SHOWN
    return [*lines, f"  … and {more} more; the report names them all"] if more > 0 else lines


def _term(term: str, name: str | None) -> str:
    return printable(f"{term} ({name})" if name else term)


def _included_line(included: Included) -> str:
    of = "" if included.same_checkpoint else " of SEVERAL checkpoints"
    if not included.same_checkpoint and included.checkpoint_sha256 is not None:
        of = f" of ANOTHER checkpoint (sha256 {included.checkpoint_sha256[:12]})"
    return printable(f"shown along: {included.analysis}{of}")


def _tuned(finetune: FinetuneConfig) -> str:
    return " (B.2's parts only)" if finetune.tune is Tune.PAPER else ""


def _visible(finetune: FinetuneConfig) -> str:
    return "" if finetune.draws is None else f" (mean over {finetune.draws} masks of pretraining)"


def _outside(unlabelled: Unlabelled) -> str:
    return "outside the label table" if unlabelled is Unlabelled.KEEP else "outside the label table or without a label"


def result_lines(report: Report) -> list[str]:
    """The table of a report, and what to know when reading it."""
    test = report.task.test
    cells = [["model", "Fmax", "AUPR", "F at validation threshold", "macro AUPR"]]
    for row in report.rows:
        means = _figures(row.fmax, row.fmax_interval), _figures(row.aupr, row.aupr_interval)
        cells.append([row.name, *means, _figures(row.f_at_threshold), _figures(row.macro_aupr)])
    lines = [
        f"{report.task.name}, protocol {report.config.protocol}{_tuned(report.config)}: "
        f"{test.num_proteins} test proteins ({test.num_unlabelled} without a label), {report.task.num_terms} terms, "
        f"{test.num_pairs} labels, {_seeds(report.config.num_seeds)}",
        "",
        *_aligned(cells),
        "",
        *_interval_lines(report.intervals),
        *(_paired_line(pair) for pair in report.paired),
        *_cafa_lines(report),
        f"calibration error {report.calibration.ece_before.mean:.4f}, {report.calibration.ece_after.mean:.4f} after "
        "the calibration fitted on validation",
        f"ceiling from labels unseen in training: Fmax {report.task.ceiling.fmax:.3f}, "
        f"AUPR {report.task.ceiling.aupr:.3f}",
        *_leakage_lines(report.leakage),
        *(_included_line(each) for each in report.included),
    ]
    if report.inputs.random_encoders:
        lines.append("random encoders: these figures show that the pipeline runs, not what the method can do")
    return lines


def _paired_line(pair: Paired) -> str:
    fmax, aupr = (
        f"{name} {each.difference:+.4f} [{each.interval.low:+.3f}, {each.interval.high:+.3f}], "
        f"p {each.p_bootstrap:.3g} (swaps: {each.p_swap:.3g})"
        for name, each in (("Fmax", pair.fmax), ("AUPR", pair.aupr))
    )
    return f"trained against {pair.against}: {fmax}; {aupr}"


def _cafa_lines(report: Report) -> list[str]:
    figures, facts, ontology = report.row("trained").cafa, report.cafa, report.task.ontology
    if figures is None or facts is None or ontology is None:
        return []
    s_min = "undefined" if figures.s_min is None else _figures(figures.s_min)
    lines = [
        f"CAFA's figures of the trained model on {facts.num_proteins} proteins: Fmax {_figures(figures.fmax)}, "
        f"weighted {_figures(figures.weighted_fmax)}, S_min {s_min} ({facts.num_terms} terms of "
        f"{ontology.kind}, thresholds {facts.tau_step:g} apart)"
    ]
    names = {each.term: each.name for each in report.terms if each.name}
    return [*lines, *_unmatched_lines(ontology.unmatched, names)]


def _aligned(cells: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return [lines[0], "  ".join("-" * width for width in widths), *lines[1:]]


def _figures(summary: Summary, interval: Interval | None = None) -> str:
    mean = f"{summary.mean:.4f}" if summary.sd is None else f"{summary.mean:.4f} ± {summary.sd:.4f}"
    return mean if interval is None else f"{mean} [{interval.low:.3f}, {interval.high:.3f}]"


def _interval_lines(facts: IntervalFacts | None) -> list[str]:
    if facts is None:
        return []
    return [
        f"[{facts.level:.0%} intervals over {facts.num_resamples} resamples of the test split's "
        f"{facts.num_clusters} clusters ({facts.origin})]"
    ]


def _leakage_lines(leakage: Leakage) -> list[str]:
    near = leakage.by_identity
    shares = [
        f"{leakage.num_seen_with_text} with their text",
        f"{leakage.num_seen_without_text} without",
        f"{leakage.num_seen_text_not_recorded} not recorded which",
    ]
    kept = [share for share in shares if not share.startswith("0 ")]
    lines = [
        f"test proteins whose sequence was in pretraining: {leakage.num_seen} of {leakage.num_test}"
        + (f" ({', '.join(kept)})" if kept else ""),
    ]
    compared = f"{near.num_at_hand} of the {near.num_seen_sequences} sequences of pretraining are in this store"
    if not near.bins:
        return [*lines, f"nothing is known by identity: {compared}"]
    counts = ", ".join(f"{each.num} at >= {each.at_least:.0%}" for each in near.bins)
    return [*lines, f"by identity to the nearest: {counts} ({near.method}; {compared})"]


def _seeds(number: int) -> str:
    return "one seed" if number == 1 else f"mean ± sd of {number} seeds"
