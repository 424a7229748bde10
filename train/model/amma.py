"""AMMA: three modalities, one fusion encoder that sees some of the tokens, and decoders that rebuild all of them.

                 visible tokens only                            all tokens, zeros where hidden
    features ──► standardise ──► project ──► + position ──► fusion ──► ℓ ──► + position ──► decoder ──► features
                                             + modality    encoder           + modality

It knows nothing about stores, losses or steps. Paper: Ko et al., arXiv 2405.06663, section 2.

Shapes: B proteins, T tokens of one modality, V visible ones, D fusion width, W decoder width, F feature width.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn.functional import gelu

from amma.manifests.table import MODALITIES, Modality
from amma.train.model.batch import Fused, PackedBatch, Tokens
from amma.train.model.config import Family, ModelConfig
from amma.train.model.positions import sincos
from amma.train.model.standardise import Standardiser
from amma.train.model.tokens import Joint, join, residue_rows, select
from amma.train.model.transformer import Transformer, xavier_linear

Visible = Mapping[Modality, Bool[Tensor, " _T"]]
"""For each modality, True where the fusion encoder sees a token; best kept in host memory, like offsets."""

SEQ, STR, FUNC = MODALITIES

DECODER_SOURCES: dict[Family, dict[Modality, tuple[Modality, ...]]] = {
    "asymmetric": {SEQ: (SEQ,), STR: (SEQ, FUNC), FUNC: (SEQ, STR)},
    "symmetric": {SEQ: (SEQ,), STR: (STR,), FUNC: (FUNC,)},  # Eq. 13
    "no-auxiliary": {SEQ: (SEQ,), STR: (SEQ,), FUNC: (SEQ,)},  # Eq. 17
}
"""What each decoder sees. A source that a batch lacks is left out."""


class Projection(nn.Module):
    """Two fully connected layers, features → D → D, with a GELU between them."""

    def __init__(self, num_features: int, width: int) -> None:
        super().__init__()
        self.first = xavier_linear(num_features, width)
        self.second = xavier_linear(width, width)

    def forward(self, features_VF: Float[Tensor, "V F"]) -> Float[Tensor, "V D"]:
        """Project each token by itself: a hidden token has no part in it."""
        projected_VD: Tensor = self.second(gelu(self.first(features_VF)))
        return projected_VD


class Decoder(nn.Module):
    """Transformer layers and one linear map to the features of a modality."""

    def __init__(self, config: ModelConfig, num_features: int) -> None:
        super().__init__()
        self.transformer = Transformer(
            config.num_decoder_layers, config.decoder_width, config.num_decoder_heads, config.decoder_ffn
        )
        self.head = xavier_linear(config.decoder_width, num_features)

    def forward(
        self, parts: Sequence[Float[Tensor, "_P _W"]], joint: Joint, rows_T: Int64[Tensor, " T"] | None
    ) -> Float[Tensor, "_T _F"]:
        """The features at the part that `joint` reads, or at those of its rows that `rows_T` names."""
        if joint.readout is None:
            raise ValueError("a decoder needs a joint layout that says which part is read")
        decoded_QW = self.transformer(joint.lay(parts), joint.offsets, joint.readout)
        back_T = joint.readout.back_T
        wanted_T = back_T if rows_T is None else back_T.index_select(0, rows_T)
        features_TF: Tensor = self.head(decoded_QW.index_select(0, wanted_T))
        return features_TF


class AMMA(nn.Module):
    """The masked autoencoder over cached features.

    `widths` are the feature widths of the modalities in the store. The statistics in `standardiser` are those of
    the pretraining split; they are part of the state and go wherever the weights go.
    """

    def __init__(self, config: ModelConfig, widths: Mapping[Modality, int]) -> None:
        super().__init__()
        self.config = config
        self.widths = {modality: widths[modality] for modality in MODALITIES if modality in widths}
        self.sources = DECODER_SOURCES[config.family]
        self.standardiser = Standardiser(self.widths)
        self.projections = nn.ModuleDict(
            {modality: Projection(width, config.width) for modality, width in self.widths.items()}
        )
        self.embeddings = nn.ParameterDict({modality: _embedding(config.width) for modality in self.widths})
        self.encoder = Transformer(config.num_fusion_layers, config.width, config.num_heads, config.ffn)
        seen = {source for target in self.widths for source in self.sources[target]}
        self.lifts = nn.ModuleDict(
            {
                modality: xavier_linear(config.width, config.decoder_width)
                for modality in self.widths
                if modality in seen
            }
        )
        self.decoder_embeddings = nn.ParameterDict(
            {modality: _embedding(config.decoder_width) for modality in self.widths}
        )
        self.decoders = nn.ModuleDict({modality: Decoder(config, width) for modality, width in self.widths.items()})

    def fusion_parameters(self) -> Iterator[nn.Parameter]:
        """Projections, modality embeddings and fusion encoder: all that makes a representation."""
        for module in (self.projections, self.embeddings, self.encoder):
            yield from module.parameters()

    def decoder_parameters(self) -> Iterator[nn.Parameter]:
        """Everything behind the representation, which only pretraining uses."""
        for module in (self.lifts, self.decoder_embeddings, self.decoders):
            yield from module.parameters()

    def fuse(self, batch: PackedBatch, visible: Visible | None = None) -> Fused:
        """The representation: the encoder's output at the visible tokens (None: all are).

        Modalities that the batch lacks have no entry. Hidden tokens are dropped before the first map.
        """
        return Fused(batch.ids, {modality: tokens for modality, (tokens, _) in self._fuse(batch, visible).items()})

    def forward(self, batch: PackedBatch, visible: Visible) -> dict[Modality, Tensor]:
        """The reconstruction of every token of every modality in the batch, (T, F), in standardised units."""
        fused = self._fuse(batch, visible)
        decoder_inputs = {}
        for modality, (tokens, row_V) in fused.items():
            whole = batch.tokens[modality]
            base_TW = self._place(modality, whole)
            if modality in self.lifts:
                lifted_VW = self.lifts[modality](tokens.features_TD)
                # Hidden tokens are zeros, told apart by their positions alone.
                base_TW = base_TW.index_add(0, row_V, lifted_VW.to(base_TW.dtype))
            decoder_inputs[modality] = base_TW
        return {modality: self._decode(modality, batch, decoder_inputs) for modality in batch.modalities}

    def _fuse(self, batch: PackedBatch, visible: Visible | None) -> dict[Modality, tuple[Tokens, Tensor]]:
        """For each modality the fused tokens and the rows of the batch they stand for."""
        chosen: dict[Modality, tuple[Tokens, Tensor]] = {}
        parts = []
        for modality in batch.modalities:
            whole = batch.tokens[modality]
            everything = torch.ones(len(whole.position_T), dtype=torch.bool)
            tokens, row_V = select(whole, everything if visible is None else visible[modality])
            projected_VD = self.projections[modality](self.standardiser(modality, tokens.features_TD))
            position_VD = sincos(tokens.position_T, self.config.width)
            parts.append(projected_VD + position_VD + self.embeddings[modality])
            chosen[modality] = (tokens, row_V)
        joint = join([tokens.offsets for tokens, _ in chosen.values()], parts[0].device)
        fused_parts = joint.take_apart(self.encoder(joint.lay(parts), joint.offsets))
        return {
            modality: (Tokens(fused_VD, tokens.offsets, tokens.position_T), row_V)
            for (modality, (tokens, row_V)), fused_VD in zip(chosen.items(), fused_parts, strict=True)
        }

    def _place(self, modality: Modality, tokens: Tokens) -> Tensor:
        """What a decoder is told about a token besides its content: where it is, and of which modality."""
        placed_TW: Tensor = sincos(tokens.position_T, self.config.decoder_width) + self.decoder_embeddings[modality]
        return placed_TW

    def _decode(self, target: Modality, batch: PackedBatch, inputs: Mapping[Modality, Tensor]) -> Tensor:
        """Rebuild one modality from its decoder's sources.

        Rows are read off at the target's own tokens if the decoder sees them, else (structure) at the residues of
        the sequence, else at queries: zeros with position and modality, one per token, put after the sources.
        """
        parts = {source: inputs[source] for source in self.sources[target] if source in inputs}
        if target in parts:
            read_at = target
        elif target is STR and SEQ in parts:
            read_at = SEQ
        else:
            read_at = target
            parts[target] = self._place(target, batch.tokens[target])
        joint = join(
            [batch.tokens[part].offsets for part in parts],
            batch.tokens[target].features_TD.device,
            read=list(parts).index(read_at),
        )
        rows_T = None if read_at is target else residue_rows(batch.tokens[target], batch.tokens[read_at])
        rebuilt_TF: Tensor = self.decoders[target](list(parts.values()), joint, rows_T)
        return rebuilt_TF


def _embedding(width: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(width) * 0.02)


def count_parameters(config: ModelConfig, widths: Mapping[Modality, int]) -> int:
    """Parameters of a model, without its modality embeddings; no memory is taken for it."""
    with torch.device("meta"):
        model = AMMA(config, widths)
    embeddings = {id(p) for group in (model.embeddings, model.decoder_embeddings) for p in group.parameters()}
    return sum(p.numel() for p in model.parameters() if id(p) not in embeddings)
