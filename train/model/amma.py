"""AMMA: three modalities, one fusion encoder that sees some of the tokens, and decoders that rebuild all of them.

                 visible tokens only                            all tokens, zeros where hidden
    features ──► standardise ──► project ──► + position ──► fusion ──► ℓ ──► + position ──► decoder ──► features
                                             + modality    encoder           + modality

What the paper leaves open is a switch of `ModelConfig`; what is switched off has no parameters, and what is switched
on draws its weights after those of the default model. The model knows nothing about stores, losses or steps. Paper:
Ko et al., arXiv 2405.06663, section 2.

Shapes: B proteins, T tokens of one modality, V visible ones, D fusion width, W decoder width, F feature width.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from amma.manifests.table import MODALITIES, Modality
from amma.train.model.batch import Fused, PackedBatch, Tokens, Visible
from amma.train.model.config import Family, ModelConfig
from amma.train.model.fusion import FusionModel
from amma.train.model.positions import sincos
from amma.train.model.tokens import Joint, join, residue_rows, select
from amma.train.model.transformer import Transformer, xavier_linear

SEQ, STR, FUNC = MODALITIES

DECODER_SOURCES: dict[Family, dict[Modality, tuple[Modality, ...]]] = {
    "asymmetric": {SEQ: (SEQ,), STR: (SEQ, FUNC), FUNC: (SEQ, STR)},
    "symmetric": {SEQ: (SEQ,), STR: (STR,), FUNC: (FUNC,)},  # Eq. 13
    "no-auxiliary": {SEQ: (SEQ,), STR: (SEQ,), FUNC: (SEQ,)},  # Eq. 17
}
"""What each decoder sees. A source that a batch lacks is left out."""


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


class AMMA(FusionModel):
    """The masked autoencoder over cached features."""

    per_token = True

    def __init__(self, config: ModelConfig, widths: Mapping[Modality, int]) -> None:
        super().__init__(config, widths)
        self.sources = DECODER_SOURCES[config.family]
        self.embeddings = self._vectors(config.width, wanted=config.modality_vectors)
        self.encoder = Transformer(config.num_fusion_layers, config.width, config.num_heads, config.ffn)
        seen = {source for target in self.widths for source in self.sources[target]}
        self.lifts = nn.ModuleDict(
            {
                modality: xavier_linear(config.width, config.decoder_width)
                for modality in self.widths
                if modality in seen
            }
        )
        self.decoder_embeddings = self._vectors(
            config.decoder_width, wanted=config.modality_vectors and config.decoder_positions
        )
        self.decoders = nn.ModuleDict({modality: Decoder(config, width) for modality, width in self.widths.items()})
        self.hidden_tokens = self._vectors(config.decoder_width, wanted=config.hidden_tokens == "learned")
        self.global_token = _vector(config.width) if config.global_token else None

    def _vectors(self, width: int, *, wanted: bool) -> nn.ParameterDict:
        """One learned vector for each modality, or none at all."""
        return nn.ParameterDict({modality: _vector(width) for modality in self.widths} if wanted else {})

    def fusion_parameters(self) -> Iterator[nn.Parameter]:
        """Projections, modality embeddings, global token and fusion encoder: all that makes a representation."""
        for module in (self.projections, self.embeddings, self.encoder):
            yield from module.parameters()
        if self.global_token is not None:
            yield self.global_token

    def decoder_parameters(self) -> Iterator[nn.Parameter]:
        """Everything behind the representation, which only pretraining uses."""
        for module in (self.lifts, self.decoder_embeddings, self.hidden_tokens, self.decoders):
            yield from module.parameters()

    def uncounted_parameters(self) -> Iterator[nn.Parameter]:
        """Vectors that stand for a modality or a token; the paper's number of parameters leaves them out."""
        for module in (self.embeddings, self.decoder_embeddings, self.hidden_tokens):
            yield from module.parameters()
        if self.global_token is not None:
            yield self.global_token

    def fuse(self, batch: PackedBatch, visible: Visible | None = None) -> Fused:
        """The representation: the encoder's output at the visible tokens (None: all are).

        Modalities that the batch lacks have no entry. Hidden tokens are dropped before the first map.
        """
        fused, global_BD = self._fuse(batch, visible)
        return Fused(batch.ids, {modality: tokens for modality, (tokens, _) in fused.items()}, global_BD)

    def forward(self, batch: PackedBatch, visible: Visible) -> dict[Modality, Tensor]:
        """The reconstruction of every token of every modality in the batch, (T, F), in standardised units."""
        fused, _ = self._fuse(batch, visible)
        decoder_inputs = {}
        for modality, (tokens, row_V) in fused.items():
            base_TW = self._without_content(modality, batch.tokens[modality], row_V)
            if modality in self.lifts:
                lifted_VW = self.lifts[modality](tokens.features_TD)
                # Hidden tokens get nothing here: they are told apart by their positions alone.
                base_TW = base_TW.index_add(0, row_V, lifted_VW.to(base_TW.dtype))
            decoder_inputs[modality] = base_TW
        return {modality: self._decode(modality, batch, decoder_inputs) for modality in batch.modalities}

    def _fuse(
        self, batch: PackedBatch, visible: Visible | None
    ) -> tuple[dict[Modality, tuple[Tokens, Tensor]], Tensor | None]:
        """For each modality the fused tokens and the rows of the batch they stand for; and the global ones, (B, D)."""
        chosen: dict[Modality, tuple[Tokens, Tensor]] = {}
        parts = []
        for modality in batch.modalities:
            whole = batch.tokens[modality]
            everything = torch.ones(len(whole.position_T), dtype=torch.bool)
            tokens, row_V = select(whole, everything if visible is None else visible[modality])
            # In float32 also under autocast, whatever is added: layers add to it, and bfloat16 would not keep the sum.
            token_VD: Tensor = self.projections[modality](self.standardiser(modality, tokens.features_TD)).float()
            if self.config.positions == "sincos":
                token_VD = token_VD + sincos(tokens.position_T, self.config.width)
            if modality in self.embeddings:
                token_VD = token_VD + self.embeddings[modality]
            parts.append(token_VD)
            chosen[modality] = (tokens, row_V)
        offsets = [tokens.offsets for tokens, _ in chosen.values()]
        if self.global_token is not None:
            parts.append(self.global_token.expand(batch.num_proteins, -1))
            offsets.append(torch.arange(batch.num_proteins + 1))
        joint = join(offsets, parts[0].device)
        fused_parts = list(joint.take_apart(self.encoder(joint.lay(parts), joint.offsets)))
        global_BD = fused_parts.pop() if self.global_token is not None else None
        fused = {
            modality: (Tokens(fused_VD, tokens.offsets, tokens.position_T), row_V)
            for (modality, (tokens, row_V)), fused_VD in zip(chosen.items(), fused_parts, strict=True)
        }
        return fused, global_BD

    def _without_content(self, modality: Modality, tokens: Tokens, visible_V: Tensor | None = None) -> Tensor:
        """What a decoder is told about tokens besides the content of those in the rows `visible_V` (None: of none).

        Where each is, and of which modality; and at hidden ones the learned vector that stands for a content.
        """
        width = self.config.decoder_width
        if self.config.decoder_positions:
            base_TW = sincos(tokens.position_T, width)
        else:
            base_TW = tokens.features_TD.new_zeros(len(tokens.position_T), width, dtype=torch.float32)
        if modality in self.decoder_embeddings:
            base_TW = base_TW + self.decoder_embeddings[modality]
        if modality in self.hidden_tokens:
            hidden_T1 = base_TW.new_ones(len(base_TW), 1)
            if visible_V is not None:
                hidden_T1 = hidden_T1.index_fill(0, visible_V, 0)
            base_TW = base_TW + hidden_T1 * self.hidden_tokens[modality]
        return base_TW

    def _decode(self, target: Modality, batch: PackedBatch, inputs: Mapping[Modality, Tensor]) -> Tensor:
        """Rebuild one modality from its decoder's sources.

        Rows are read off at the target's own tokens if the decoder sees them, else (structure) at the residues of
        the sequence, else at queries: hidden tokens of the target, all of them, put after the sources.
        """
        parts = {source: inputs[source] for source in self.sources[target] if source in inputs}
        if target in parts:
            read_at = target
        elif target is STR and SEQ in parts:
            read_at = SEQ
        else:
            read_at = target
            parts[target] = self._without_content(target, batch.tokens[target])
        joint = join(
            [batch.tokens[part].offsets for part in parts],
            batch.tokens[target].features_TD.device,
            read=list(parts).index(read_at),
        )
        rows_T = None if read_at is target else residue_rows(batch.tokens[target], batch.tokens[read_at])
        rebuilt_TF: Tensor = self.decoders[target](list(parts.values()), joint, rows_T)
        return rebuilt_TF


def _vector(width: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(width) * 0.02)
