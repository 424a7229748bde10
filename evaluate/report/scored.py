"""The scores that a row of a report is made of.

Shapes: V validation and N test proteins, K terms.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from amma.evaluate.metrics.per_term import TermFigures, term_figures
from amma.evaluate.report.results import RowName
from amma.evaluate.tasks.task import Task
from amma.evaluate.tuning.protocol import Outcome, SeedRun, Trial


@dataclass(frozen=True)
class Scored:
    """One entry a seed, one in all for what has no seeds (`runs` and `trials` are empty then).

    `terms` are the figures of every term on the test split.
    """

    name: RowName
    valid: tuple[Float32[np.ndarray, "V K"], ...]
    test: tuple[Float32[np.ndarray, "N K"], ...]
    terms: tuple[TermFigures, ...]
    runs: tuple[SeedRun, ...] = ()
    trials: tuple[Trial, ...] = ()
    meaning: str | None = None
    """What the row is, where its name does not say all of it."""

    @staticmethod
    def tuned(name: RowName, outcome: Outcome, *, task: Task) -> "Scored":
        """The scores of a model that was tuned."""
        test = tuple(run.test_NK for run in outcome.runs)
        terms = tuple(term_figures(each, task.test.target_NK) for each in test)
        return Scored(name, tuple(run.valid_VK for run in outcome.runs), test, terms, outcome.runs, outcome.trials)

    @staticmethod
    def untuned(
        name: RowName,
        valid_VK: Float32[np.ndarray, "V K"],
        test_NK: Float32[np.ndarray, "N K"],
        *,
        task: Task,
        meaning: str | None = None,
    ) -> "Scored":
        """The scores of a control that has no seeds."""
        terms = (term_figures(test_NK, task.test.target_NK),)
        return Scored(name, (valid_VK,), (test_NK,), terms, meaning=meaning)

    @property
    def mean_test_NK(self) -> Float32[np.ndarray, "N K"]:
        """The mean of the seeds' scores of the test proteins."""
        mean_NK: Float32[np.ndarray, "N K"] = np.mean(self.test, axis=0)
        return mean_NK
