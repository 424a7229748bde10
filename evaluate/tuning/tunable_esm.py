"""ESM-1b and ESM-2 over packed proteins, with gradients to every weight: what is tuned along with a task.

The values are those of `featurize/encoders/esm_packed.py`, which has no gradients; that one rounds weights to the
precision it computes in, this one keeps them in float32 and rounds them in each product (autocast).

Legend: T tokens (BOS, residues, EOS) of all proteins, one after another; H heads; K channels of a head; D width.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float32, Int64
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from amma.featurize.encoders.esm_packed import MASKED_IN_TRAINING, rotate
from amma.featurize.encoders.packed_attention import Segments
from amma.train.model.attention import attend


class TunableEsm(nn.Module):
    """Hidden states of a fair-esm model after `layer` layers: 0 are the embeddings, the last has the final norm.

    The modules of `model` are taken over, their weights copied to float32; nothing is dropped out in training or in
    use, as in fair-esm's published models. With `recomputes` only the layers' inputs are kept for the backward pass,
    which computes anew what a layer did inside; the gradients are the same.
    """

    def __init__(self, model: Any, *, layer: int) -> None:
        super().__init__()
        settings = getattr(model, "args", model)
        self._scale = 1 - MASKED_IN_TRAINING if getattr(settings, "token_dropout", False) else 1.0
        self._first_position = model.padding_idx + 1
        self.embed_tokens = model.embed_tokens
        self.embed_positions = getattr(model, "embed_positions", None)
        self.norm_before = getattr(model, "emb_layer_norm_before", None)
        self.layers = nn.ModuleList(model.layers[:layer])
        self.norm_after = model.emb_layer_norm_after if layer == len(model.layers) else None
        rotary = model.layers[0].self_attn.rot_emb
        self.register_buffer("frequency", None if rotary is None else rotary.inv_freq.detach().float().clone())
        self.recomputes = False
        for parameter in self.parameters():
            # Copied: it may be a view of a file that is not there for ever.
            parameter.data = parameter.detach().to(torch.float32, copy=True)
            parameter.requires_grad_(True)

    def forward(self, tokens_T: Int64[Tensor, " T"], lengths: Sequence[int]) -> Float32[Tensor, "T D"]:
        """Hidden states of the tokens of proteins of these `lengths` (BOS and EOS included), one after another."""
        device = self.embed_tokens.weight.device
        segments = Segments.of(lengths, device)
        position_T = torch.cat([torch.arange(length) for length in lengths]).to(device)
        hidden_TD = functional.embedding(tokens_T.to(device), self.embed_tokens.weight) * self._scale
        if self.embed_positions is not None:
            hidden_TD = hidden_TD + functional.embedding(position_T + self._first_position, self.embed_positions.weight)
        if self.norm_before is not None:
            hidden_TD = _norm(self.norm_before, hidden_TD)
        turn_T2K = self._turn(position_T, max(lengths))
        for layer in self.layers:
            if self.recomputes and torch.is_grad_enabled():
                # Nothing is random in a layer.
                hidden_TD = checkpoint(
                    _through, layer, hidden_TD, turn_T2K, segments, use_reentrant=False, preserve_rng_state=False
                )
            else:
                hidden_TD = _through(layer, hidden_TD, turn_T2K, segments)
        return hidden_TD if self.norm_after is None else _norm(self.norm_after, hidden_TD)

    def _turn(self, position_T: Int64[Tensor, " T"], longest: int) -> Float32[Tensor, "T 2 half"] | None:
        """Cosines and sines of ESM-2's rotary positions; ESM-1b has none."""
        frequency = self.frequency
        if not isinstance(frequency, Tensor):
            return None
        angle_P = torch.arange(longest, device=position_T.device, dtype=torch.float32)[:, None] * frequency
        turn: Tensor = torch.stack([angle_P.cos(), angle_P.sin()], dim=1)[position_T]
        return turn


def _through(
    layer: Any, hidden_TD: Float32[Tensor, "T D"], turn_T2K: Float32[Tensor, "T 2 half"] | None, segments: Segments
) -> Float32[Tensor, "T D"]:
    """One Transformer layer, norms first; residuals and norms are in float32 also under autocast."""
    attention = layer.self_attn
    normed_TD = _norm(layer.self_attn_layer_norm, hidden_TD)
    heads = (attention.num_heads, hidden_TD.shape[1] // attention.num_heads)
    query_THK, key_THK, value_THK = (
        functional.linear(normed_TD, linear.weight, linear.bias).view(-1, *heads)
        for linear in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    if turn_T2K is not None:
        turned_T2HK = rotate(torch.stack([query_THK, key_THK], dim=1), turn_T2K)
        query_THK, key_THK = turned_T2HK.to(value_THK.dtype).unbind(1)
    mixed_TD = attend(query_THK, key_THK, value_THK, segments, segments).flatten(1)
    hidden_TD = hidden_TD + functional.linear(mixed_TD, attention.out_proj.weight, attention.out_proj.bias)
    normed_TD = _norm(layer.final_layer_norm, hidden_TD)
    wide = functional.gelu(functional.linear(normed_TD, layer.fc1.weight, layer.fc1.bias))
    return hidden_TD + functional.linear(wide, layer.fc2.weight, layer.fc2.bias)


def _norm(norm: Any, value_TD: Float32[Tensor, "T D"]) -> Float32[Tensor, "T D"]:
    """Torch's own layer norm, whichever class fair-esm found on this machine."""
    return functional.layer_norm(value_TD, norm.weight.shape, norm.weight, norm.bias, float(norm.eps))
