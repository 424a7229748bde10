"""The per-term table of a report.

Legend: K terms.
"""

from collections.abc import Sequence

import numpy as np

from amma.evaluate.metrics.per_term import TermFigures
from amma.evaluate.report.scored import Scored
from amma.evaluate.report.task_results import NameFacts
from amma.evaluate.report.term_results import TermRecord, TermResult
from amma.evaluate.tasks.task import Task
from amma.evaluate.tasks.term_names import Origin, TermNames
from amma.manifests.labels import SPLITS

DECIMALS = 6
"""Enough to tell terms apart; the file of a task with 2,000 terms stays small."""


def term_records(
    task: Task, names: TermNames, *, trained: Scored, untrained: Scored, label_frequency: Scored
) -> tuple[TermRecord, ...]:
    """Every term of the task in its order, with the figures of these rows."""
    count_3K = [task.split(name).target_NK.sum(axis=0) for name in SPLITS]
    results = [_results(scored.terms) for scored in (trained, untrained, label_frequency)]
    return tuple(
        TermRecord(
            term=term,
            name=names.names[k] or None,
            name_origin=str(names.origins[k]) or None,
            num_train=int(count_3K[0][k]),
            num_valid=int(count_3K[1][k]),
            num_test=int(count_3K[2][k]),
            trained=results[0][k],
            untrained=results[1][k],
            label_frequency=results[2][k],
        )
        for k, term in enumerate(task.terms)
    )


def name_facts(names: TermNames) -> NameFacts:
    """How many terms each source named, and which have no name."""
    counts = {origin: names.origins.count(origin) for origin in Origin if origin is not Origin.NONE}
    return NameFacts(
        origins=tuple((str(origin), number) for origin, number in counts.items() if number),
        unnamed=tuple(term for term, name in zip(names.terms, names.names, strict=True) if not name),
    )


def _results(seeds: Sequence[TermFigures]) -> list[TermResult]:
    """Means over seeds; a term without a test protein has no figure with any of them."""
    precision_K, fmax_K = (
        np.mean([getattr(seed, figure) for seed in seeds], axis=0) for figure in ("average_precision_K", "fmax_K")
    )
    return [
        TermResult(average_precision=_known(precision), fmax=_known(f))
        for precision, f in zip(precision_K.tolist(), fmax_K.tolist(), strict=True)
    ]


def _known(value: float) -> float | None:
    return None if np.isnan(value) else round(value, DECIMALS)
