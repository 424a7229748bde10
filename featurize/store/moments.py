"""Count, sum and M2 of every channel, in float64, merged exactly enough to compare stores.

Legend: R rows, D channels.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Real

_BLOCK = 1024
_CHANNELS = 256


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


def moments_of(features_RD: Real[np.ndarray, "R D"], present_R: Bool[np.ndarray, " R"]) -> ChannelMoments:
    """Moments of the rows that are present, in blocks of a fixed size so that equal rows give equal bits."""
    # Channels do not meet: a few at a time give the same bits, and their float64 copy stays in the processor's cache.
    channels = range(0, features_RD.shape[1], _CHANNELS)
    parts = [_moments_of(features_RD[:, begin : begin + _CHANNELS], present_R) for begin in channels]
    if len(parts) < 2:
        return parts[0] if parts else no_rows(0)
    total, m2 = (np.concatenate([getattr(part, name) for part in parts]) for name in ("total", "m2"))
    return ChannelMoments(parts[0].count, total, m2)


def _moments_of(features_RD: Real[np.ndarray, "R D"], present_R: Bool[np.ndarray, " R"]) -> ChannelMoments:
    result = no_rows(features_RD.shape[1])
    for begin in range(0, len(features_RD), _BLOCK):
        block = features_RD[begin : begin + _BLOCK][present_R[begin : begin + _BLOCK]].astype(np.float64)
        if len(block):
            total = block.sum(axis=0)
            block -= total / len(block)
            result = result.merged(ChannelMoments(len(block), total, np.einsum("rd,rd->d", block, block)))
    return result
