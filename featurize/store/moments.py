"""Count, sum and M2 of every channel, merged in float64.

Legend: R rows, D channels, B blocks of rows.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Real

_BLOCK = 128
"""Rows; few enough to stay in a processor's cache."""


@dataclass(frozen=True, slots=True)
class ChannelMoments:
    """`count` rows whose channels sum to `total`; `m2` is the sum of squared deviations from the mean."""

    count: int
    total: Float64[np.ndarray, " D"]
    m2: Float64[np.ndarray, " D"]

    @property
    def mean(self) -> Float64[np.ndarray, " D"]:
        """Mean of each channel (0 without rows)."""
        return self.total / max(self.count, 1)

    @property
    def sigma(self) -> Float64[np.ndarray, " D"]:
        """Population standard deviation of each channel."""
        sigma: np.ndarray[Any, np.dtype[np.float64]] = np.sqrt(self.m2 / max(self.count, 1))
        return sigma

    def merged(self, other: "ChannelMoments") -> "ChannelMoments":
        """Moments of both sets of rows (Chan, Golub and LeVeque 1979)."""
        if not self.count or not other.count:
            return other if not self.count else self
        count = self.count + other.count
        delta = other.mean - self.mean
        m2 = self.m2 + other.m2 + delta**2 * (self.count * other.count / count)
        return ChannelMoments(count, self.total + other.total, m2)


def no_rows(width: int) -> ChannelMoments:
    """The moments of nothing."""
    return ChannelMoments(0, np.zeros(width), np.zeros(width))


@contextmanager
def _one_thread() -> Iterator[None]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # of the calling thread
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def moments_of(features_RD: Real[np.ndarray, "R D"], present_R: Bool[np.ndarray, " R"]) -> ChannelMoments:
    """Moments of the rows that are present, in blocks of a fixed size so that equal rows give equal bits.

    Within a block of 128 rows in float32, about the block's own mean; over blocks in float64. In one thread whatever
    torch has, so that bits do not depend on that, and units can be measured side by side.
    """
    import torch  # turns float16 into float32 some fifteen times as fast as numpy 2.4 does

    counts, means, variances = [], [], []
    running_D = torch.ones(features_RD.shape[1])  # float32: what comes out is of that type, whatever goes in
    with torch.inference_mode(), _one_thread():
        for begin in range(0, len(features_RD), _BLOCK):
            rows = slice(begin, begin + _BLOCK)
            here_R = present_R[rows]
            block_RD = features_RD[rows] if here_R.all() else features_RD[rows][here_R]
            if not len(block_RD):
                continue
            value_RD = torch.from_numpy(block_RD)
            value_RD = value_RD if value_RD.is_floating_point() else value_RD.to(torch.float32)
            # Reads float16 as it is, twice, where sums and squares of a float32 copy take five passes.
            mean_D, variance_D = torch.batch_norm_update_stats(value_RD, running_D.clone(), running_D.clone(), 0.0)
            counts.append(len(block_RD))
            means.append(mean_D.numpy())
            variances.append(variance_D.numpy())
    if not counts:
        return no_rows(features_RD.shape[1])
    count_B1 = np.array(counts, dtype=np.float64)[:, None]
    part_BD = np.array(means, dtype=np.float64)
    part_BD *= count_B1
    total_D = part_BD.sum(axis=0)
    count = sum(counts)
    part_BD /= count_B1  # all of what follows in place: fresh memory takes longer than the arithmetic
    part_BD -= total_D / count
    part_BD *= part_BD
    part_BD *= count_B1
    m2_D = part_BD.sum(axis=0)
    part_BD[:] = variances
    part_BD *= count_B1
    m2_D += part_BD.sum(axis=0)
    return ChannelMoments(count, total_D, m2_D)
