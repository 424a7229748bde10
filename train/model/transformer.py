"""Pre-norm Transformer layers over packed proteins.

They do not know modalities, positions or masks; all that has been added to the tokens before.

Shapes: B proteins, T tokens of the batch, Q those that are read, W width, H heads, K channels of a head.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import gelu
from torch.utils.checkpoint import checkpoint

from amma.featurize.encoders.packed_attention import Segments
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
    """The weights of multi-head self-attention with biases, and what they do to each row; mixing is `attend`'s."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_width = width // num_heads
        self.query_key_value = xavier_linear(width, 3 * width)
        with torch.no_grad():  # three square maps in one: each drawn as the square map it is
            for square in self.query_key_value.weight.chunk(3):
                nn.init.xavier_uniform_(square)
        self.output = xavier_linear(width, width)

    def project(
        self, x_TW: Float[Tensor, "T W"], row_Q: Int64[Tensor, " Q"] | None
    ) -> tuple[Float[Tensor, "Q H K"], Float[Tensor, "T H K"], Float[Tensor, "T H K"]]:
        """Queries of the rows `row_Q` (None: of all), keys and values of all."""
        if row_Q is None:
            query_QW, key_TW, value_TW = self.query_key_value(x_TW).chunk(3, dim=1)
        else:
            width = x_TW.shape[1]
            # torch.split and not slices: the gradient of a slice is a whole matrix of zeros.
            weights = torch.split(self.query_key_value.weight, [width, 2 * width])
            biases = torch.split(self.query_key_value.bias, [width, 2 * width])
            query_QW = multiply(x_TW.index_select(0, row_Q), weights[0], biases[0])
            key_TW, value_TW = multiply(x_TW, weights[1], biases[1]).chunk(2, dim=1)
        return self._heads(query_QW), self._heads(key_TW), self._heads(value_TW)

    def _heads(self, rows_TW: Float[Tensor, "T W"]) -> Float[Tensor, "T H K"]:
        return rows_TW.view(-1, self.num_heads, self.head_width)


class Layer(nn.Module):
    """x + attention(norm(x)), then x + FFN(norm(x)); GELU, no dropout.

    `before` and `after` attention each row is for itself, so that they can be compiled for any number of rows.
    """

    def __init__(self, width: int, num_heads: int, ffn: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = SelfAttention(width, num_heads)
        self.ffn_norm = nn.LayerNorm(width)
        self.expand = xavier_linear(width, ffn)
        self.contract = xavier_linear(ffn, width)

    def forward(
        self, x_TW: Float[Tensor, "T W"], asking: Segments, answering: Segments, row_Q: Int64[Tensor, " Q"] | None
    ) -> Float[Tensor, "Q W"]:
        """One layer, at the rows `row_Q`, which are `asking` (None: at all of them)."""
        query_QHK, key_THK, value_THK = self.before(x_TW, row_Q)
        mixed_QHK = attend(query_QHK, key_THK, value_THK, asking, answering)
        return self.after(x_TW if row_Q is None else x_TW.index_select(0, row_Q), mixed_QHK)

    def before(
        self, x_TW: Float[Tensor, "T W"], row_Q: Int64[Tensor, " Q"] | None
    ) -> tuple[Float[Tensor, "Q H K"], Float[Tensor, "T H K"], Float[Tensor, "T H K"]]:
        """Queries, keys and values of the normed rows."""
        return self.attention.project(self.attention_norm(x_TW), row_Q)

    def after(self, kept_QW: Float[Tensor, "Q W"], mixed_QHK: Float[Tensor, "Q H K"]) -> Float[Tensor, "Q W"]:
        """The rows with what attention and the FFN add to them."""
        kept_QW = kept_QW + self.attention.output(mixed_QHK.flatten(1))
        updated_QW: Tensor = kept_QW + self.contract(gelu(self.expand(self.ffn_norm(kept_QW))))
        return updated_QW


class Transformer(nn.Module):
    """A stack of layers with a final norm.

    With `recomputes`, the backward pass computes anew what a layer did inside, one layer at a time: only the layers'
    inputs are kept for it. The gradients are the same.
    """

    def __init__(self, num_layers: int, width: int, num_heads: int, ffn: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(width, num_heads, ffn) for _ in range(num_layers))
        self.norm = nn.LayerNorm(width)
        self.recomputes = False

    def forward(
        self,
        x_TW: Float[Tensor, "T W"],
        offsets: Int64[Tensor, " offsets"],
        read: Readout | None = None,
    ) -> Float[Tensor, "Q W"]:
        """Encode packed proteins; nothing passes from one to another.

        With `read`, only those rows come out, in its order; the last layer then does no work for the others.
        """
        everything = Segments.of(offsets.diff().tolist(), x_TW.device)
        last = len(self.layers) - 1
        for index, layer in enumerate(self.layers):
            asking, row_Q = everything, None
            if read is not None and index == last:
                asking, row_Q = Segments.of(read.offsets.diff().tolist(), x_TW.device), read.row_Q
            # Nothing is random in a layer.
            if self.recomputes and torch.is_grad_enabled():
                x_TW = checkpoint(layer, x_TW, asking, everything, row_Q, use_reentrant=False, preserve_rng_state=False)
            else:
                x_TW = layer(x_TW, asking, everything, row_Q)
        encoded_QW: Tensor = self.norm(x_TW)
        return encoded_QW
