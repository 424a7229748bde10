"""The contrastive member of the family: one vector for each protein and modality, and no tokens (Eq. 14-16).

    features ──► standardise ──► mean over tokens ──► project ──► z_str, z_func, z′_seq
                                                                  z′_seq ──► fusion encoder ──► z_seq

The encoder is the autoencoder's, and gets a protein's sequence as a single token. Attention from one token to itself
mixes nothing: of each layer its values, its output map and its FFN are what is learned, while queries and keys have a
gradient of zero. That is the model as it is published, and there is nothing to mask, to place or to tell apart in it.

Shapes: B proteins, T tokens of one modality, F feature width, D fusion width.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn
from torch.nn.functional import embedding_bag

from amma.manifests.table import Modality
from amma.train.model.batch import Fused, PackedBatch, Tokens, Visible
from amma.train.model.config import ModelConfig
from amma.train.model.fusion import FusionModel
from amma.train.model.tokens import select
from amma.train.model.transformer import Transformer


@dataclass(frozen=True)
class Contrasted:
    """What the loss compares: the vectors of each modality, and those that the encoder makes of the sequences'.

    `encoded_BD` is None for proteins without a sequence.
    """

    projected: dict[Modality, Float32[Tensor, "B D"]]
    encoded_BD: Float32[Tensor, "B D"] | None


class Contrastive(FusionModel):
    """Projections of mean features, and an encoder for those of sequences."""

    per_token = False

    def __init__(self, config: ModelConfig, widths: Mapping[Modality, int]) -> None:
        super().__init__(config, widths)
        self.encoder = Transformer(config.num_fusion_layers, config.width, config.num_heads, config.ffn)
        self.global_token = None

    def fusion_parameters(self) -> Iterator[nn.Parameter]:
        """All parameters: nothing here serves pretraining alone."""
        return self.parameters()

    def uncounted_parameters(self) -> Iterator[nn.Parameter]:
        """None: no vector stands for a modality or a token."""
        return iter(())

    def fuse(self, batch: PackedBatch, visible: Visible | None = None) -> Fused:
        """One token for each protein and modality: the encoder's output for sequences, the projection for others.

        Means are over the visible tokens (None: over all). Raises `ValueError` for a protein without one of a
        modality that the batch has.
        """
        contrasted = self(batch, visible)
        vectors = dict(contrasted.projected)
        if contrasted.encoded_BD is not None:
            vectors[Modality.SEQ] = contrasted.encoded_BD
        return Fused(batch.ids, {modality: _as_tokens(vector_BD) for modality, vector_BD in vectors.items()})

    def forward(self, batch: PackedBatch, visible: Visible | None = None) -> Contrasted:
        """The vectors of every modality of the batch, in float32 also under autocast."""
        projected = {}
        for modality in batch.modalities:
            tokens = batch.tokens[modality]
            if visible is not None:
                tokens, _ = select(tokens, visible[modality])
            # The map that standardises is affine: of the mean it gives the mean of what it gives of each token.
            mean_BF = self.standardiser(modality, _means(modality, tokens))
            projected[modality] = self.projections[modality](mean_BF).float()
        sequence_BD = projected.get(Modality.SEQ)
        if sequence_BD is None:
            return Contrasted(projected, None)
        return Contrasted(projected, self.encoder(sequence_BD, torch.arange(len(sequence_BD) + 1)).float())


def _means(modality: Modality, tokens: Tokens) -> Float32[Tensor, "B F"]:
    """The mean over each protein's tokens."""
    if not bool((tokens.lengths > 0).all()):
        raise ValueError(f"{modality}: a protein without a single token has no mean")
    features_TF = tokens.features_TD.float()
    device = features_TF.device
    # One pass over the rows, of which there are many, by all threads, and without asking a device for lengths.
    row_T = torch.arange(len(features_TF), device=device)
    return embedding_bag(row_T, features_TF, tokens.offsets[:-1].to(device, non_blocking=True), mode="mean")


def _as_tokens(vector_BD: Float[Tensor, "B D"]) -> Tokens:
    """Each row as the only token of its protein."""
    num = len(vector_BD)
    return Tokens(vector_BD, torch.arange(num + 1), torch.zeros(num, dtype=torch.int64, device=vector_BD.device))
