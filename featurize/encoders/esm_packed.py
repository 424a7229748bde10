"""The forward pass of ESM-1b and ESM-2 over packed proteins: nothing is padded, and attention is fused.

Weights are those of fair-esm's modules; the arithmetic is that of fair-esm 2.0.0 (`esm/model/esm1.py`, `esm2.py`,
`modules.py`, `rotary_embedding.py`), in another order and without the attention maps that its layers average.

Legend: T tokens of all proteins, one after another; R consecutive ones of them; H heads; K channels of a head; D width.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn
from torch.nn import functional

from amma.featurize.encoders.matrix_product import MatrixProduct
from amma.featurize.encoders.packed_attention import Segments, attend

ROWS_AT_ONCE = {"cpu": 512, "cuda": 16384}
"""Tokens that pass through a matrix product together: what lies between two of them stays in a CPU's cache, and its
size does not grow with a protein's length."""

MASKED_IN_TRAINING = 0.15 * 0.8
"""Share of tokens that were zero in training. fair-esm scales what is not masked down by it, in use as well."""


class PackedEsm:
    """Hidden states after `layer` layers of a fair-esm model: 0 are the embeddings, the last has the final norm.

    Weights and products are in `dtype`; residuals, norms and rotations are in float32. The model's weights are copied
    layer by layer; layers above `layer` are not.
    """

    def __init__(
        self, model: Any, *, layer: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> None:
        self._device = torch.device(device)
        self._embeddings = _Embeddings(model, self._device)
        self._layers = [_PackedLayer(part, dtype, self._device) for part in model.layers[:layer]]
        self._norm = _Norm(model.emb_layer_norm_after, self._device) if layer == len(model.layers) else None
        self._rotary = _Rotary(model, self._device) if _is_rotary(model) else None

    @torch.inference_mode()
    def __call__(self, tokens_T: Int64[Tensor, " T"], lengths: Sequence[int]) -> Float32[Tensor, "T D"]:
        """Hidden states of the tokens of proteins of these `lengths` (BOS and EOS included), one after another.

        Tokens are residues, BOS and EOS: neither padding nor masks.
        """
        segments = Segments.of(lengths, self._device)
        position_T = torch.cat([torch.arange(length) for length in lengths]).to(self._device)
        hidden_TD = self._embeddings(tokens_T.to(self._device), position_T)
        turn_T2K = None if self._rotary is None else self._rotary(position_T, max(lengths))
        for layer in self._layers:
            layer(hidden_TD, turn_T2K, segments)
        return hidden_TD if self._norm is None else self._norm(hidden_TD)


class _Embeddings:
    """Embeddings of tokens and, for ESM-1b, of positions; a norm where the model has one before its layers."""

    def __init__(self, model: Any, device: torch.device) -> None:
        settings = getattr(model, "args", model)
        scale = 1 - MASKED_IN_TRAINING if getattr(settings, "token_dropout", False) else 1.0
        self._token_VD = _own(model.embed_tokens.weight, device) * scale
        learned = getattr(model, "embed_positions", None)
        self._position_PD = None if learned is None else _own(learned.weight, device)
        self._first_position = model.padding_idx + 1
        norm = getattr(model, "emb_layer_norm_before", None)
        self._norm = None if norm is None else _Norm(norm, device)

    def __call__(self, tokens_T: Int64[Tensor, " T"], position_T: Int64[Tensor, " T"]) -> Float32[Tensor, "T D"]:
        hidden_TD = self._token_VD[tokens_T]
        if self._position_PD is not None:
            hidden_TD += self._position_PD[position_T + self._first_position]
        return hidden_TD if self._norm is None else self._norm(hidden_TD)


class _PackedLayer:
    """One Transformer layer, norms first."""

    def __init__(self, layer: Any, dtype: torch.dtype, device: torch.device) -> None:
        attention = layer.self_attn
        self._heads = attention.num_heads
        self._dtype = dtype
        self._step = ROWS_AT_ONCE[device.type]
        self._norm = _Norm(layer.self_attn_layer_norm, device)
        self._ask = _product(dtype, device, attention.q_proj, attention.k_proj, attention.v_proj)
        self._mix = _product(dtype, device, attention.out_proj)
        self._final_norm = _Norm(layer.final_layer_norm, device)
        self._widen = _product(dtype, device, layer.fc1, gelu=True)
        self._narrow = _product(dtype, device, layer.fc2)

    def __call__(
        self, hidden_TD: Float32[Tensor, "T D"], turn_T2K: Float32[Tensor, "T 2 half"] | None, segments: Segments
    ) -> None:
        """Change `hidden_TD` into what comes after this layer."""
        num_tokens, width = hidden_TD.shape
        spans = [slice(begin, begin + self._step) for begin in range(0, num_tokens, self._step)]
        asked_T3HK = hidden_TD.new_empty((num_tokens, 3, self._heads, width // self._heads), dtype=self._dtype)
        for span in spans:
            asked_R3HK = self._ask(self._norm(hidden_TD[span])).view(asked_T3HK[span].shape)
            if turn_T2K is not None:
                asked_R3HK[:, :2] = rotate(asked_R3HK[:, :2], turn_T2K[span])
            asked_T3HK[span] = asked_R3HK
        query_THK, key_THK, value_THK = asked_T3HK.unbind(1)
        mixed_TD = attend(query_THK, key_THK, value_THK, segments).flatten(1)
        for span in spans:
            hidden_RD = hidden_TD[span]
            hidden_RD += self._mix(mixed_TD[span])
            hidden_RD += self._narrow(self._widen(self._final_norm(hidden_RD)))


class _Rotary:
    """Cosines and sines of ESM-2's rotary positions."""

    def __init__(self, model: Any, device: torch.device) -> None:
        # All layers have the same frequencies: they are computed, not learned.
        self._frequency = _own(model.layers[0].self_attn.rot_emb.inv_freq, device)

    def __call__(self, position_T: Int64[Tensor, " T"], longest: int) -> Float32[Tensor, "T 2 half"]:
        angle_P = torch.arange(longest, device=position_T.device, dtype=torch.float32)[:, None] * self._frequency
        turn: Tensor = torch.stack([angle_P.cos(), angle_P.sin()], dim=1)[position_T]
        return turn


def rotate(value_R2HK: Float[Tensor, "R 2 H K"], turn_R2K: Float32[Tensor, "R 2 half"]) -> Float32[Tensor, "R 2 H K"]:
    """Turn the channels i and i + K/2 of queries and keys by their position's angle i, in float32."""
    left, right = value_R2HK.float().chunk(2, dim=-1)
    cos, sin = (turn_R2K[:, part, None, None] for part in (0, 1))
    return torch.cat([left * cos - right * sin, right * cos + left * sin], dim=-1)


class _Norm:
    """A layer norm in float32."""

    def __init__(self, norm: Any, device: torch.device) -> None:
        self._weight_D, self._bias_D = _own(norm.weight, device), _own(norm.bias, device)
        self._eps = float(norm.eps)

    def __call__(self, value_TD: Float32[Tensor, "T D"]) -> Float32[Tensor, "T D"]:
        return functional.layer_norm(value_TD, self._weight_D.shape, self._weight_D, self._bias_D, self._eps)


def _product(dtype: torch.dtype, device: torch.device, *maps: nn.Linear, gelu: bool = False) -> MatrixProduct:
    """Linear maps of one input as one, their outputs side by side."""
    # `cat` copies even a single part: it may be a view of a file that is not there for ever.
    weight_OI = torch.cat([linear.weight.detach() for linear in maps])
    bias_O = torch.cat([linear.bias.detach() for linear in maps])
    return MatrixProduct(weight_OI.to(device=device, dtype=dtype), bias_O.to(device=device, dtype=dtype), gelu=gelu)


def _own(weight: Tensor, device: torch.device) -> Tensor:
    """A float32 copy: the original may be a view of a file that is not there for ever."""
    return weight.detach().to(device=device, dtype=torch.float32, copy=True)


def _is_rotary(model: Any) -> bool:
    return model.layers[0].self_attn.rot_emb is not None
