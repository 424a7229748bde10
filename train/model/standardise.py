"""Per-channel mean and σ of the features of a training split, and the map that divides them out.

Statistics pool the tokens of all proteins: a protein's standardised features do not depend on its batch mates.

Shapes: T tokens of one modality, D width of its features.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64
from torch import Tensor, nn

from amma.manifests.table import Modality

SMALLEST_SCALE = 1e-3
"""A channel is divided by at least this share of the median σ: nearly constant channels are not blown up to noise."""


class Moments:
    """Count, mean and sum of squared deviations (M2) per channel, in float64 (Chan et al. 1983).

    `merge` in a fixed order gives the same bits, however the rows were spread over workers.
    """

    def __init__(self, width: int) -> None:
        self.count = 0
        self.mean_D: Float64[np.ndarray, " D"] = np.zeros(width)
        self.m2_D: Float64[np.ndarray, " D"] = np.zeros(width)

    def update(self, rows_TD: Float[np.ndarray, "T D"]) -> "Moments":
        """Take in the rows of a protein (or many)."""
        block = Moments(len(self.mean_D))
        block.count = len(rows_TD)
        if block.count:
            rows_TD = rows_TD.astype(np.float64)
            block.mean_D = rows_TD.mean(axis=0)
            block.m2_D = np.square(rows_TD - block.mean_D).sum(axis=0)
        return self.merge(block)

    def merge(self, other: "Moments") -> "Moments":
        """Take in what another one counted."""
        if other.count:
            total = self.count + other.count
            step_D = other.mean_D - self.mean_D
            self.mean_D = self.mean_D + step_D * (other.count / total)
            self.m2_D = self.m2_D + other.m2_D + np.square(step_D) * (self.count * other.count / total)
            self.count = total
        return self

    @property
    def sigma_D(self) -> Float64[np.ndarray, " D"]:
        """Standard deviation of each channel (of the population)."""
        return np.sqrt(self.m2_D / max(self.count, 1))


class Standardiser(nn.Module):
    """(x - mean) / max(σ, 1e-3 · median σ) for each modality, frozen into the model's state.

    Until `fit` it changes nothing. Channels that never varied are not `live`; the loss leaves them out.
    """

    def __init__(self, widths: Mapping[Modality, int]) -> None:
        super().__init__()
        for modality, width in widths.items():
            self.register_buffer(f"{modality}_mean", torch.zeros(width))
            self.register_buffer(f"{modality}_scale", torch.ones(width))
            self.register_buffer(f"{modality}_live", torch.ones(width, dtype=torch.bool))
        self._num_live: dict[Modality, int] = {}

    def fit(self, modality: Modality, moments: Moments) -> None:
        """Freeze the statistics of one modality; without any rows there is nothing to freeze and it stays as it is."""
        if not moments.count:
            return
        sigma_D = moments.sigma_D
        # A channel that only ever held one value has an M2 of rounding errors, not of 0, once blocks are merged.
        live_D = sigma_D > 1e-12 * np.abs(moments.mean_D)
        floor = SMALLEST_SCALE * float(np.median(sigma_D[live_D])) if live_D.any() else 1.0
        scale_D = np.maximum(sigma_D, floor)
        self.mean(modality).copy_(torch.from_numpy(moments.mean_D))
        self.scale(modality).copy_(torch.from_numpy(scale_D))
        self.live(modality).copy_(torch.from_numpy(live_D))
        self._num_live.clear()

    def mean(self, modality: Modality) -> Float32[Tensor, " D"]:
        """What is subtracted."""
        return self.get_buffer(f"{modality}_mean")

    def scale(self, modality: Modality) -> Float32[Tensor, " D"]:
        """What is divided by."""
        return self.get_buffer(f"{modality}_scale")

    def live(self, modality: Modality) -> Bool[Tensor, " D"]:
        """True for channels that varied in the training split."""
        return self.get_buffer(f"{modality}_live")

    def num_live(self, modality: Modality) -> int:
        """How many channels varied; remembered, so that a device is asked once."""
        if modality not in self._num_live:
            self._num_live[modality] = int(self.live(modality).sum())
        return self._num_live[modality]

    def forward(self, modality: Modality, features_TD: Float[Tensor, "T D"]) -> Float32[Tensor, "T D"]:
        """Standardised features, in float32 also under autocast; 0 in channels that never varied in training.

        (A store where such a channel does vary would else bring in noise, a thousandfold.)
        """
        divisor_D = torch.where(self.live(modality), self.scale(modality), torch.inf)
        return (features_TD.float() - self.mean(modality)) / divisor_D

    def inverse(self, modality: Modality, standardised_TD: Float[Tensor, "T D"]) -> Float32[Tensor, "T D"]:
        """Features on the encoders' own scale again."""
        return standardised_TD.float() * self.scale(modality) + self.mean(modality)

    def _load_from_state_dict(self, *arguments: Any, **options: Any) -> None:
        super()._load_from_state_dict(*arguments, **options)
        self._num_live.clear()
