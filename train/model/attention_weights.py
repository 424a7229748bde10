"""The attention weights of the fusion encoder's last layer, which its fused kernels never write down.

They follow from what the model itself hands to that layer: its input is caught on the way, normed and projected by the
layer's own maps; only the softmax is done again, one protein at a time.

Legend: B proteins, J rows of the joint matrix, W width, Q tokens that ask, T tokens that answer, H heads, K channels of
a head.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from amma.manifests.table import MODALITIES, Modality
from amma.train.model.batch import PackedBatch, Visible
from amma.train.model.fusion import FusionModel
from amma.train.model.tokens import Joint, join
from amma.train.model.transformer import Layer


@dataclass(frozen=True)
class AttentionWeights:
    """Of one protein: how much each of some tokens attends to each token, per head; rows sum to 1.

    Columns are the protein's visible tokens, modality by modality as in `columns` (in the order of `MODALITIES`), and
    last the global token where the model has one (`global_column`).
    """

    id: str
    weight_HQT: Float[Tensor, "H Q T"]
    columns: dict[Modality, slice]
    global_column: int | None

    def to(self, modality: Modality) -> Float[Tensor, "H Q _T"]:
        """The weights of this modality's tokens."""
        return self.weight_HQT[:, :, self.columns[modality]]


@dataclass(frozen=True)
class LastLayer:
    """The fusion encoder's last layer, and what it was given of a batch; `lengths` are those of the visible tokens.

    Row `joint.row_J[i]` of `input_JW` is row i of the modalities' visible tokens one after another.
    """

    ids: tuple[str, ...]
    layer: Layer
    input_JW: Float[Tensor, "J W"]
    joint: Joint
    lengths: dict[Modality, list[int]]
    has_global: bool

    def rows_of(self, protein: int) -> Float[Tensor, "_T W"]:
        """The input at one protein's tokens, modality by modality, its global token last."""
        part_T = torch.cat(torch.split(self.joint.row_J, self.joint.sizes))
        starts, before = [], 0
        counts = [*self.lengths.values(), *([[1] * len(self.ids)] if self.has_global else [])]
        for lengths_B, size in zip(counts, self.joint.sizes, strict=True):
            begin = before + sum(lengths_B[:protein])
            starts.append(part_T[begin : begin + lengths_B[protein]])
            before += size
        return self.input_JW.index_select(0, torch.cat(starts))


@torch.no_grad()
def last_layer(model: FusionModel, batch: PackedBatch, visible: Visible | None = None) -> LastLayer:
    """Fuse a batch and keep what its last layer was given; `visible` as in `FusionModel.fuse`.

    Raises `ValueError` for a model that fuses no tokens.
    """
    if not model.per_token:
        raise ValueError("this model fuses no tokens: there is nothing for attention to choose from")
    caught: list[Tensor] = []
    layer = model.encoder.layers[-1]
    if not isinstance(layer, Layer):
        raise TypeError(f"the last layer is a {type(layer).__name__}, expected {Layer.__name__}")
    hook = layer.register_forward_pre_hook(lambda _, given: caught.append(given[0]))
    try:
        fused = model.fuse(batch, visible)
    finally:
        hook.remove()
    (input_JW,) = caught
    offsets = [tokens.offsets for tokens in fused.tokens.values()]
    if fused.global_BD is not None:
        offsets.append(torch.arange(batch.num_proteins + 1))
    lengths = {modality: tokens.lengths.tolist() for modality, tokens in fused.tokens.items()}
    return LastLayer(batch.ids, layer, input_JW, join(offsets, input_JW.device), lengths, fused.global_BD is not None)


@torch.no_grad()
def attention_weights(
    model: FusionModel, batch: PackedBatch, visible: Visible | None = None, *, asking: Modality | None = None
) -> list[AttentionWeights]:
    """softmax(q·k/√K) of the fusion encoder's last layer, for each protein of the batch, in float32.

    Only the tokens of `asking` ask (None: all do, in the order of the columns). A protein is as it is alone. Raises
    `ValueError` for a model that fuses no tokens (contrastive), or if the batch lacks `asking`.
    """
    if asking is not None and asking not in batch.tokens:
        raise ValueError(f"the batch has no {asking} tokens that could ask")
    last = last_layer(model, batch, visible)
    return [_of_protein(last, protein, asking) for protein in range(batch.num_proteins)]


def _of_protein(last: LastLayer, protein: int, asking: Modality | None) -> AttentionWeights:
    input_TW = last.rows_of(protein)
    columns, begin = {}, 0
    for modality in (modality for modality in MODALITIES if modality in last.lengths):
        columns[modality] = slice(begin, begin + last.lengths[modality][protein])
        begin = columns[modality].stop
    query_THK, key_THK, _ = last.layer.before(input_TW, None)
    query_QHK = query_THK if asking is None else query_THK[columns[asking]]
    scale = query_QHK.shape[-1] ** -0.5
    logit_HQT = torch.einsum("qhk,thk->hqt", query_QHK.float() * scale, key_THK.float())
    return AttentionWeights(last.ids[protein], logit_HQT.softmax(dim=-1), columns, begin if last.has_global else None)
