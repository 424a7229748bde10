"""Sin-cos positions: computed for any index, with nothing to learn and no longest protein.

Shapes: T tokens, W width.
"""

import math

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

LONGEST_WAVE = 10_000.0


def sincos(position_T: Int64[Tensor, " T"], width: int) -> Float32[Tensor, "T {width}"]:
    """The vector of each position: sines in the first half, cosines in the second (Vaswani et al. 2017).

    Wavelengths rise geometrically from 2π to 2π·10,000. `width` must be even.
    """
    channel_W = torch.arange(width // 2, dtype=torch.float32, device=position_T.device)
    frequency_W = torch.exp(channel_W * (-math.log(LONGEST_WAVE) / (width // 2)))
    angle_TW = position_T.to(torch.float32)[:, None] * frequency_W
    return torch.cat([angle_TW.sin(), angle_TW.cos()], dim=1)
