"""Residue features by any BERT-style protein model of transformers, such as facebook/esm2_t33_650M_UR50D.

`ARCHITECTURE.md` shows what follows the imports as the example of how an encoder is added.
"""

from collections.abc import Sequence
from typing import Any

from amma.featurize.encoders.huggingface import HuggingFaceModel
from amma.featurize.encoders.protocol import Encoded, Encoder, EncoderInput
from amma.featurize.encoders.registry import EncoderSpec, Place
from amma.featurize.encoders.residue_tokens import ResidueLimits, ResidueTokens
from amma.manifests.table import Modality, Protein


class HuggingFaceSequenceEncoder:
    """Residue features of a frozen `AutoModel`: one row a residue, the token before the first as `cls`."""

    modality = Modality.SEQ

    def __init__(self, model: HuggingFaceModel, tokens: ResidueTokens) -> None:
        self.name, self.width, self.random_weights = model.name, model.width, model.random_weights
        self.max_residues, self._model, self._tokens = tokens.max_residues, model, tokens

    def fingerprint(self) -> dict[str, Any]:
        """What decides the numbers."""
        return {"encoder": "huggingface-seq", **self._model.fingerprint(), **self._tokens.fingerprint()}

    def lengths(self, proteins: Sequence[Protein]) -> list[int]:
        """Residues that are read of each protein."""
        return [self._tokens.count(protein) for protein in proteins]

    def cost(self, rows: int) -> int:
        """Residues and the special tokens around them."""
        return rows + self._tokens.num_special

    def encode(self, batch: Sequence[EncoderInput]) -> list[Encoded]:
        """Features of each protein; raises `RecordError` for letters that are no residues."""
        hidden = self._model.hidden_states([self._tokens.tokens(item.protein) for item in batch])
        return [Encoded(features=rows_TD[self._tokens.residues], cls=rows_TD[0]) for rows_TD in hidden]


class Options(ResidueLimits):
    """A folder or a Hugging Face id, another layer than the last, and how much of a long sequence is read."""

    model: str
    layer: int | None = None


def build(spec: EncoderSpec, place: Place) -> Encoder:
    """Make the encoder of its options: the `Builder` that `ENCODERS` names."""
    options = Options.parse(spec.options, source=f"options of encoder {spec.name}")
    model = HuggingFaceModel.find(options.model, device=place.device, precision=place.precision, layer=options.layer)
    return HuggingFaceSequenceEncoder(model, ResidueTokens(model, options))
