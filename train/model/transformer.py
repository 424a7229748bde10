"""Pre-norm Transformer layers over packed proteins.

They do not know modalities, positions or masks; all that has been added to the tokens before.

Shapes: B proteins, T tokens of the batch, Q those that are read, W width.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import gelu

from amma.train.model.attention import attend
from amma.train.model.linear import Linear, multiply
from amma.train.model.tokens import Readout


def xavier_linear(num_inputs: int, num_outputs: int) -> Linear:
    """A linear map with Xavier-uniform weights and biases of zero."""
    layer = Linear(num_inputs, num_outputs)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class SelfAttention(nn.Module):
    """Multi-head self-attention with biases."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_width = width // num_heads
        self.query_key_value = xavier_linear(width, 3 * width)
        with torch.no_grad():  # three square maps in one: each drawn as the square map it is
            for square in self.query_key_value.weight.chunk(3):
                nn.init.xavier_uniform_(square)
        self.output = xavier_linear(width, width)

    def forward(
        self,
        x_TW: Float[Tensor, "T W"],
        offsets: Int64[Tensor, " offsets"],
        read: Readout | None = None,
    ) -> Float[Tensor, "Q W"]:
        """Each token that is read (None: each token) from the tokens of its protein."""
        if read is None:
            query_QW, key_TW, value_TW = self.query_key_value(x_TW).chunk(3, dim=1)
        else:
            width = x_TW.shape[1]
            # torch.split and not slices: the gradient of a slice is a whole matrix of zeros.
            weights = torch.split(self.query_key_value.weight, [width, 2 * width])
            biases = torch.split(self.query_key_value.bias, [width, 2 * width])
            query_QW = multiply(x_TW.index_select(0, read.row_Q), weights[0], biases[0])
            key_TW, value_TW = multiply(x_TW, weights[1], biases[1]).chunk(2, dim=1)
        query, key, value = (
            rows.view(len(rows), self.num_heads, self.head_width) for rows in (query_QW, key_TW, value_TW)
        )
        mixed = attend(query, key, value, offsets if read is None else read.offsets, offsets)
        mixed_QW: Tensor = self.output(mixed.flatten(1))
        return mixed_QW


class Layer(nn.Module):
    """x + attention(norm(x)), then x + FFN(norm(x)); GELU, no dropout."""

    def __init__(self, width: int, num_heads: int, ffn: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = SelfAttention(width, num_heads)
        self.ffn_norm = nn.LayerNorm(width)
        self.expand = xavier_linear(width, ffn)
        self.contract = xavier_linear(ffn, width)

    def forward(
        self,
        x_TW: Float[Tensor, "T W"],
        offsets: Int64[Tensor, " offsets"],
        read: Readout | None = None,
    ) -> Float[Tensor, "Q W"]:
        """One layer, at the tokens that are read (None: at all of them)."""
        kept_QW = x_TW if read is None else x_TW.index_select(0, read.row_Q)
        kept_QW = kept_QW + self.attention(self.attention_norm(x_TW), offsets, read)
        updated_QW: Tensor = kept_QW + self.contract(gelu(self.expand(self.ffn_norm(kept_QW))))
        return updated_QW


class Transformer(nn.Module):
    """A stack of layers with a final norm."""

    def __init__(self, num_layers: int, width: int, num_heads: int, ffn: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(width, num_heads, ffn) for _ in range(num_layers))
        self.norm = nn.LayerNorm(width)

    def forward(
        self,
        x_TW: Float[Tensor, "T W"],
        offsets: Int64[Tensor, " offsets"],
        read: Readout | None = None,
    ) -> Float[Tensor, "Q W"]:
        """Encode packed proteins; nothing passes from one to another.

        With `read`, only those rows come out, in its order; the last layer then does no work for the others.
        """
        last = len(self.layers) - 1
        for index, layer in enumerate(self.layers):
            x_TW = layer(x_TW, offsets, read if index == last else None)
        encoded_QW: Tensor = self.norm(x_TW)
        return encoded_QW
