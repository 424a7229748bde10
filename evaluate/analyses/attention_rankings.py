"""Means over proteins of how well residues were ranked, with intervals and what the trained model has more.

Shapes: S seeds of a model, N proteins, B resamples.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float64

from amma.evaluate.analyses.attention_results import FIGURES, Margin, MeanFigure, RankingRow, RowOf
from amma.evaluate.analyses.residue_ranking import Ranking
from amma.evaluate.metrics.bootstrap import middle
from amma.evaluate.report.estimates import Interval, Summary


def ranking_rows(
    rankings: Mapping[RowOf, Sequence[Sequence[Ranking]]], weight_BN: Float64[np.ndarray, "B N"] | None
) -> tuple[RankingRow, ...]:
    """A row for each kind of scores, the trained one among them; `weight_BN` are resamples, None for no intervals."""
    values = {of: {figure: _values(seeds, figure) for figure in FIGURES} for of, seeds in rankings.items()}
    return tuple(
        RankingRow(
            of=of,
            num_seeds=len(rankings[of]),
            precision=_mean(value["precision"], weight_BN),
            average_precision=_mean(value["average_precision"], weight_BN),
            auroc=_mean(value["auroc"], weight_BN),
            trained_minus={}
            if of == "trained"
            else {figure: _margin(values["trained"][figure], value[figure], weight_BN) for figure in FIGURES},
        )
        for of, value in values.items()
    )


def _values(seeds: Sequence[Sequence[Ranking]], figure: str) -> Float64[np.ndarray, "S N"]:
    return np.array([[getattr(of, figure) for of in each] for each in seeds], dtype=np.float64)


def _mean(value_SN: Float64[np.ndarray, "S N"], weight_BN: Float64[np.ndarray, "B N"] | None) -> MeanFigure:
    return MeanFigure(
        value=Summary.of([float(mean) for mean in value_SN.mean(axis=1)]),
        interval=_interval(value_SN.mean(axis=0), weight_BN),
    )


def _margin(
    trained_SN: Float64[np.ndarray, "S N"],
    other_SN: Float64[np.ndarray, "Z N"],
    weight_BN: Float64[np.ndarray, "B N"] | None,
) -> Margin:
    difference_N = trained_SN.mean(axis=0) - other_SN.mean(axis=0)
    return Margin(difference=float(difference_N.mean()), interval=_interval(difference_N, weight_BN))


def _interval(value_N: Float64[np.ndarray, " N"], weight_BN: Float64[np.ndarray, "B N"] | None) -> Interval | None:
    if weight_BN is None:
        return None
    return Interval.of(middle((weight_BN @ value_N) / weight_BN.sum(axis=1)))
