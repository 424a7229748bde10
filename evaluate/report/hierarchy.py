"""CAFA's figures of the rows of a report, and the ontology that they are computed on.

Shapes: N test proteins, K terms.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from amma.evaluate.metrics.cafa import CafaFigures as Best
from amma.evaluate.metrics.cafa import cafa_curve
from amma.evaluate.report.estimates import Summary
from amma.evaluate.report.results import CafaFacts, CafaFigures
from amma.evaluate.report.task_results import AlternativeTerm, OntologyFacts
from amma.evaluate.tasks.ontology import NAMESPACES, Ontology
from amma.evaluate.tasks.task import Task


@dataclass(frozen=True)
class Hierarchy:
    """The ontology of a task, and the step of the grid of thresholds."""

    task: Task
    ontology: Ontology
    tau_step: float

    def figures(self, scores: Sequence[Float32[np.ndarray, "N K"]]) -> CafaFigures:
        """Of the test split, summed up over the scores of the seeds."""
        seeds = [self._of(score_NK) for score_NK in scores]
        return CafaFigures(
            fmax=Summary.of([seed.fmax for seed in seeds]),
            tau=_summary([seed.fmax_tau for seed in seeds]),
            weighted_fmax=Summary.of([seed.weighted_fmax for seed in seeds]),
            s_min=_summary([seed.s_min for seed in seeds]),
        )

    def facts(self) -> CafaFacts:
        """Over whom and what the figures are; they are the same for any scores."""
        perfect = self._of(self.task.test.target_NK.astype(np.float32))
        return CafaFacts(
            tau_step=self.tau_step,
            num_proteins=perfect.num_proteins,
            num_terms=perfect.num_terms,
            num_informative=perfect.num_informative,
        )

    def _of(self, score_NK: Float32[np.ndarray, "N K"]) -> Best:
        return cafa_curve(
            score_NK,
            self.task.test.target_NK,
            self.task.terms,
            self.ontology,
            namespace=NAMESPACES[self.task.name],
            train_target_MK=self.task.train.target_NK,
            tau_step=self.tau_step,
        ).best()


def ontology_facts(task: str, terms: Sequence[str], ontology: Ontology) -> OntologyFacts:
    """What pins the ontology, and which of the task's terms it has under another id or not at all."""
    namespace = NAMESPACES[task]
    mapping = ontology.map_terms(terms, namespace=namespace)
    return OntologyFacts(
        kind="the digits of EC numbers" if namespace == "ec" else "OBO file",
        data_version=ontology.version or None,
        sha256=ontology.sha256 or None,
        namespace=namespace,
        num_terms=sum(of == namespace for of in ontology.namespace.values()),
        num_obsolete=len(ontology.obsolete),
        alternative=tuple(
            AlternativeTerm(term=term, primary=mapping.found[term], how=how)
            for term, how in mapping.how.items()
            if how != "id"
        ),
        unmatched=mapping.unmatched,
    )


def _summary(values: Sequence[float | None]) -> Summary | None:
    known = [value for value in values if value is not None]
    return Summary.of(known) if len(known) == len(values) else None
