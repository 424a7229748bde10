from collections.abc import Callable

import numpy as np
import pytest
import torch

from amma.evaluate.metrics.bootstrap import resampled_figures
from amma.evaluate.metrics.exact import aupr, f_at, fmax, pair_curve, protein_curve
from amma.evaluate.metrics.identity_bins import figures_below, figures_listed
from amma.evaluate.metrics.labelled import labelled_aupr, labelled_fmax
from amma.evaluate.metrics.paired import compare
from amma.evaluate.metrics.per_term import term_figures
from amma.evaluate.metrics.scores import checked_scores
from amma.evaluate.metrics.torchdrug import aupr_torchdrug, fmax_torchdrug

Metric = Callable[[np.ndarray, np.ndarray], object]

METRICS: dict[str, Metric] = {
    "fmax": fmax,
    "aupr": aupr,
    "protein_curve": protein_curve,
    "pair_curve": pair_curve,
    "f_at": lambda score, target: f_at(score, target, 0.5),
    "labelled_fmax": labelled_fmax,
    "labelled_aupr": labelled_aupr,
    "term_figures": term_figures,
    "figures_below": lambda score, target: figures_below(np.zeros(len(score)), score, target),
    "figures_listed": lambda score, target: figures_listed({0.3: np.zeros(len(score), dtype=bool)}, score, target),
    "resampled_figures": lambda score, target: resampled_figures(np.ones((2, len(score))), score, target),
    "compare, side a": lambda score, target: compare([score], [target * 1.0], target, np.arange(len(score)), 5),
    "compare, side b": lambda score, target: compare([target * 1.0], [score], target, np.arange(len(score)), 5),
    "fmax_torchdrug": lambda score, target: fmax_torchdrug(torch.tensor(score), torch.tensor(target)),
    "aupr_torchdrug": lambda score, target: aupr_torchdrug(torch.tensor(score), torch.tensor(target)),
}


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_figure_refuses_nan_and_names_protein_and_term(name: str, dtype: type) -> None:
    score, target = np.random.default_rng(0).random((4, 5)).astype(dtype), np.zeros((4, 5), dtype=bool)
    target[0, 0] = True  # protein 2 has no true term, and is refused all the same
    METRICS[name](score, target)
    score[2, 1] = score[3, 0] = np.nan
    with pytest.raises(ValueError, match="protein 2, term 1 is NaN"):
        METRICS[name](score, target)


def test_scores_of_another_shape_than_the_labels_are_refused() -> None:
    with pytest.raises(ValueError, match="scores are 4 × 5 and labels 4 × 6"):
        checked_scores(np.zeros((4, 5)), np.zeros((4, 6), dtype=bool))
