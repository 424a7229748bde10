"""The test proteins that the trained model predicts best and worst.

Shapes: N test proteins, K terms.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float32, Float64

from amma.evaluate.metrics.exact import fmax
from amma.evaluate.report.protein_results import Extremes, ProteinRecord, ScoredTerm
from amma.evaluate.report.scored import Scored
from amma.evaluate.tasks.task import Task
from amma.evaluate.tasks.term_names import TermNames

NUMBER = 10
TOP = 5
"""Predicted terms that are told of a protein."""
DECIMALS = 6


def protein_f(
    score_NK: Float32[np.ndarray, "N K"], target_NK: Bool[np.ndarray, "N K"], threshold: float
) -> Float64[np.ndarray, " N"]:
    """F of every protein's terms with at least the threshold as score; 0 for one without a true or a predicted term."""
    predicted_NK = score_NK >= np.float64(threshold)
    hits_N = (predicted_NK & target_NK).sum(axis=1)
    f_N: Float64[np.ndarray, " N"] = 2 * hits_N / np.maximum(predicted_NK.sum(axis=1) + target_NK.sum(axis=1), 1)
    return f_N


def find_extremes(
    task: Task,
    names: TermNames,
    *,
    trained: Scored,
    untrained: Scored,
    length_N: Sequence[int],
    identity_N: Float64[np.ndarray, " N"],
) -> Extremes:
    """At most `NUMBER` of either kind, and at most half of the labelled test proteins."""
    target_NK = task.test.target_NK
    score_NK = trained.mean_test_NK
    f_N, f_untrained_N = (_mean_f(task, scored) for scored in (trained, untrained))
    wrong_N = np.where(target_NK, -np.inf, score_NK).max(axis=1)
    labelled = np.flatnonzero(target_NK.any(axis=1))
    number = min(NUMBER, len(labelled) // 2)
    # The last key counts most; proteins are sorted by id, and the order of equals stays.
    best = labelled[np.lexsort((-target_NK[labelled].sum(axis=1), -f_N[labelled]))].tolist()[:number]
    worst = labelled[np.lexsort((-wrong_N[labelled], f_N[labelled]))].tolist()
    worst = [n for n in worst if n not in best][:number]

    def terms(n: int, places: Sequence[int]) -> tuple[ScoredTerm, ...]:
        return tuple(
            ScoredTerm(
                term=task.terms[k],
                name=names.names[k] or None,
                score=round(float(score_NK[n, k]), DECIMALS),
                true=bool(target_NK[n, k]),
            )
            for k in places
        )

    def record(n: int) -> ProteinRecord:
        order = np.argsort(-score_NK[n], kind="stable").tolist()
        return ProteinRecord(
            id=task.test.ids[n],
            num_residues=length_N[n],
            identity=round(float(identity_N[n]), DECIMALS),
            f=float(f_N[n]),
            f_untrained=float(f_untrained_N[n]),
            true=terms(n, [k for k in order if target_NK[n, k]]),
            predicted=terms(n, order[:TOP]),
        )

    return Extremes(best=tuple(map(record, best)), worst=tuple(map(record, worst)))


def _mean_f(task: Task, scored: Scored) -> Float64[np.ndarray, " N"]:
    """Each seed at its own validation threshold."""
    seeds = [
        protein_f(test_NK, task.test.target_NK, fmax(valid_VK, task.valid.target_NK).threshold)
        for valid_VK, test_NK in zip(scored.valid, scored.test, strict=True)
    ]
    mean_N: Float64[np.ndarray, " N"] = np.mean(seeds, axis=0)
    return mean_N
