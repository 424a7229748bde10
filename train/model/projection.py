"""From the features of a modality to the fusion encoder's width, each row by itself.

Shapes: V rows, F feature width, D fusion width.
"""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import gelu

from amma.train.model.transformer import xavier_linear


class Projection(nn.Module):
    """Two fully connected layers, features → hidden → D, with a GELU between them."""

    def __init__(self, num_features: int, hidden: int, width: int) -> None:
        super().__init__()
        self.first = xavier_linear(num_features, hidden)
        self.second = xavier_linear(hidden, width)

    def forward(self, features_VF: Float[Tensor, "V F"]) -> Float[Tensor, "V D"]:
        """Project each row by itself: a hidden token has no part in it."""
        projected_VD: Tensor = self.second(gelu(self.first(features_VF)))
        return projected_VD
