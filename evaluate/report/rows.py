"""From scores to the rows of a report: every figure of every seed, summed up, with an interval for the test split.

Shapes: V validation and N test proteins, K terms, B resamples.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64

from amma.evaluate.metrics.bootstrap import middle, resampled_figures
from amma.evaluate.metrics.exact import aupr, f_at, fmax, pair_curve
from amma.evaluate.metrics.labelled import labelled_aupr, labelled_fmax
from amma.evaluate.metrics.torchdrug import aupr_torchdrug, fmax_torchdrug
from amma.evaluate.report.estimates import Interval, Summary, finite
from amma.evaluate.report.hierarchy import Hierarchy
from amma.evaluate.report.results import PrCurve, Row, RowName, Run, TrialRecord
from amma.evaluate.report.scored import Scored
from amma.evaluate.report.slices import Slices
from amma.evaluate.tasks.task import Task
from amma.evaluate.tuning.protocol import SeedRun, Trial

POINTS_PER_CURVE = 400

MEANINGS: dict[RowName, str] = {
    "trained": "the given checkpoint, then tuned on the task",
    "untrained": "the same architecture with fresh weights for each seed, the same tuning",
    "pooled inputs": "the encoders' features averaged over residues, without fusion; the same head on top",
    "nearest training sequence": "how similar the most similar training sequence with the term is",
    "label frequency": "how often each term occurs in training, as the score of every protein",
}


@dataclass(frozen=True)
class Scorer:
    """Makes rows of scores.

    `weight_BN` says how often each test protein is in each resample; None: no intervals. `hierarchy` is None where
    there is no ontology.
    """

    task: Task
    weight_BN: Float64[np.ndarray, "B N"] | None
    by_identity: Slices
    by_length: Slices
    hierarchy: Hierarchy | None

    def row(self, scored: Scored) -> Row:
        """The row of a model or a control: a run for each seed, and the learning rates that were tried."""
        target_NK = self.task.test.target_NK
        tuned: Sequence[SeedRun | None] = scored.runs or [None]
        runs = [self._run(*each) for each in zip(scored.valid, scored.test, tuned, strict=True)]
        defined = [run.fmax_torchdrug for run in runs if run.fmax_torchdrug is not None]
        fmax_interval, aupr_interval = self._intervals(scored.test)
        return Row(
            name=scored.name,
            meaning=scored.meaning or MEANINGS[scored.name],
            fmax=Summary.of([run.fmax for run in runs]),
            fmax_interval=fmax_interval,
            aupr=Summary.of([run.aupr for run in runs]),
            aupr_interval=aupr_interval,
            f_at_threshold=Summary.of([run.f_at_threshold for run in runs]),
            labelled_fmax=Summary.of([labelled_fmax(test_NK, target_NK).value for test_NK in scored.test]),
            labelled_aupr=Summary.of([labelled_aupr(test_NK, target_NK) for test_NK in scored.test]),
            macro_aupr=Summary.of([terms.macro_aupr or 0.0 for terms in scored.terms]),
            num_macro_terms=scored.terms[0].num_terms,
            fmax_torchdrug=Summary.of(defined) if len(defined) == len(runs) else None,
            aupr_torchdrug=Summary.of([run.aupr_torchdrug for run in runs]),
            by_identity=self.by_identity.figures(scored.test),
            by_length=self.by_length.figures(scored.test),
            cafa=self.hierarchy.figures(scored.test) if self.hierarchy else None,
            trials=tuple(_record(trial) for trial in scored.trials),
            runs=tuple(runs),
        )

    def _intervals(self, test_scores: Sequence[Float32[np.ndarray, "N K"]]) -> tuple[Interval | None, Interval | None]:
        """Of the means over seeds: the same resamples for every seed, averaged resample by resample."""
        if self.weight_BN is None:
            return None, None
        figures = [
            resampled_figures(self.weight_BN, test_NK.astype(np.float64), self.task.test.target_NK)
            for test_NK in test_scores
        ]
        mean_fmax_B, mean_aupr_B = (np.mean(metric, axis=0) for metric in zip(*figures, strict=True))
        return Interval.of(middle(mean_fmax_B)), Interval.of(middle(mean_aupr_B))

    def _run(
        self, valid_VK: Float32[np.ndarray, "V K"], test_NK: Float32[np.ndarray, "N K"], tuned: SeedRun | None
    ) -> Run:
        # The metrics see the very numbers that predictions.parquet holds.
        valid_VK, test_NK = valid_VK.astype(np.float64), test_NK.astype(np.float64)
        on_valid = fmax(valid_VK, self.task.valid.target_NK)
        target_NK = self.task.test.target_NK
        best = fmax(test_NK, target_NK)
        as_tensors = torch.from_numpy(test_NK), torch.from_numpy(target_NK)
        return Run(
            seed=tuned.trial.seed if tuned else None,
            fusion_lr=tuned.trial.rates.fusion if tuned else None,
            head_lr=tuned.trial.rates.head if tuned else None,
            num_epochs=tuned.trial.num_epochs if tuned else None,
            best_epoch=tuned.trial.best_epoch if tuned else None,
            valid_fmax=on_valid.value,
            threshold=finite(on_valid.threshold),
            fmax=best.value,
            fmax_threshold=finite(best.threshold),
            precision=best.precision,
            recall=best.recall,
            aupr=aupr(test_NK, target_NK),
            f_at_threshold=f_at(test_NK, target_NK, on_valid.threshold),
            fmax_torchdrug=finite(fmax_torchdrug(*as_tensors)),
            aupr_torchdrug=aupr_torchdrug(*as_tensors),
            curve=_curve(test_NK, target_NK),
        )


def _record(trial: Trial) -> TrialRecord:
    return TrialRecord(
        fusion_lr=trial.rates.fusion,
        head_lr=trial.rates.head,
        valid_fmax=trial.valid_fmax,
        best_epoch=trial.best_epoch,
        num_epochs=trial.num_epochs,
    )


def _curve(score_NK: np.ndarray, target_NK: Bool[np.ndarray, "N K"]) -> PrCurve:
    curve = pair_curve(score_NK, target_NK)
    num_points = len(curve.recall)
    keep = np.unique(np.linspace(0, num_points - 1, min(num_points, POINTS_PER_CURVE)).round().astype(int))
    return PrCurve(
        recall=tuple(curve.recall[keep].round(6).tolist()), precision=tuple(curve.precision[keep].round(6).tolist())
    )
