"""Figures as a report tells them: over seeds, with an interval, as a difference."""

import math
import statistics
from collections.abc import Sequence

from amma.evaluate.metrics.paired import PairedFigure
from amma.manifests.settings import Settings

DECIMALS = 6


class Summary(Settings):
    """A figure over seeds: mean, and sample standard deviation (None for a single value)."""

    mean: float
    sd: float | None
    values: tuple[float, ...]

    @staticmethod
    def of(values: Sequence[float]) -> "Summary":
        """Summarise at least one value."""
        sd = statistics.stdev(values) if len(values) > 1 else None
        return Summary(mean=statistics.fmean(values), sd=sd, values=tuple(values))


class Interval(Settings):
    """The middle part (`IntervalFacts.level`) of a figure over resamples of the test proteins."""

    low: float
    high: float

    @staticmethod
    def of(bounds: tuple[float, float]) -> "Interval":
        """From a pair of bounds."""
        return Interval(low=bounds[0], high=bounds[1])


class Difference(Settings):
    """What one model has more than another of a figure, both scored on the same test proteins.

    `interval` is that of the difference over the resamples that all intervals of the report are from. `p_bootstrap` and
    `p_swap` are two-sided p-values of "there is no difference": from these resamples, and from exchanging the scores of
    the two for whole clusters at random.
    """

    difference: float
    interval: Interval
    p_bootstrap: float
    p_swap: float

    @staticmethod
    def of(figure: PairedFigure) -> "Difference":
        """What a comparison of two sides gave."""
        return Difference(
            difference=round(figure.difference, DECIMALS),
            interval=Interval(low=figure.low, high=figure.high),
            p_bootstrap=figure.p_bootstrap,
            p_swap=figure.p_swap,
        )


def finite(value: float) -> float | None:
    """The value, or None for NaN and an infinite threshold, which JSON cannot say."""
    return value if math.isfinite(value) else None
