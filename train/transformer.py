"""Pre-norm Transformer layers over packed proteins.

They do not know modalities, positions or masks; all that has been added to the tokens before.

Shapes: B proteins, T tokens of the batch, W width.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import gelu

from amma.train.attention import attend


def xavier_linear(num_inputs: int, num_outputs: int) -> nn.Linear:
    """A linear map with Xavier-uniform weights and biases of zero."""
    linear = nn.Linear(num_inputs, num_outputs)
    nn.init.xavier_uniform_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


class SelfAttention(nn.Module):
    """Multi-head self-attention with biases."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query_key_value = xavier_linear(width, 3 * width)
        with torch.no_grad():  # three square maps in one: each drawn as the square map it is
            for square in self.query_key_value.weight.chunk(3):
                nn.init.xavier_uniform_(square)
        self.output = xavier_linear(width, width)

    def forward(self, x_TW: Float[Tensor, "T W"], offsets: Int64[Tensor, " offsets"]) -> Float[Tensor, "T W"]:
        """Each token from the tokens of its protein."""
        num_tokens, width = x_TW.shape
        split_T3HK = self.query_key_value(x_TW).view(num_tokens, 3, self.num_heads, width // self.num_heads)
        query, key, value = split_T3HK.unbind(1)
        mixed_TW: Tensor = self.output(attend(query, key, value, offsets).flatten(1))
        return mixed_TW


class Layer(nn.Module):
    """x + attention(norm(x)), then x + FFN(norm(x)); GELU, no dropout."""

    def __init__(self, width: int, num_heads: int, ffn: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = SelfAttention(width, num_heads)
        self.ffn_norm = nn.LayerNorm(width)
        self.expand = xavier_linear(width, ffn)
        self.contract = xavier_linear(ffn, width)

    def forward(self, x_TW: Float[Tensor, "T W"], offsets: Int64[Tensor, " offsets"]) -> Float[Tensor, "T W"]:
        """One layer; rows stay where they are."""
        x_TW = x_TW + self.attention(self.attention_norm(x_TW), offsets)
        updated_TW: Tensor = x_TW + self.contract(gelu(self.expand(self.ffn_norm(x_TW))))
        return updated_TW


class Transformer(nn.Module):
    """A stack of layers with a final norm."""

    def __init__(self, num_layers: int, width: int, num_heads: int, ffn: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(width, num_heads, ffn) for _ in range(num_layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, x_TW: Float[Tensor, "T W"], offsets: Int64[Tensor, " offsets"]) -> Float[Tensor, "T W"]:
        """Encode packed proteins; nothing passes from one to another."""
        for layer in self.layers:
            x_TW = layer(x_TW, offsets)
        encoded_TW: Tensor = self.norm(x_TW)
        return encoded_TW
