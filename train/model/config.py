"""What decides a model, its masks and its loss, and the presets that have a name.

Nothing here needs torch, so that a command line can show it.
"""

from difflib import get_close_matches
from typing import Annotated, Literal

from pydantic import Field, model_validator

from amma.manifests.errors import UsageError
from amma.manifests.settings import Settings

Positive = Annotated[int, Field(gt=0)]

Family = Literal["asymmetric", "symmetric", "no-auxiliary", "contrastive"]
"""Which modalities each decoder sees; `contrastive` has no decoders. `amma.train.model.family` has their classes."""


class ModelConfig(Settings):
    """The size of a model and what its decoders see; the widths of the features come from the store.

    The paper gives D = 512, 8 fusion layers, decoders of 2 layers and 111M parameters, and is silent on the rest;
    docs/choices.md says what is open.
    """

    family: Family = "asymmetric"
    width: Positive = 512
    """D, of the fusion encoder."""
    ffn: Positive = 2048
    num_fusion_layers: Positive = 8
    num_heads: Positive = 8
    decoder_width: Positive = 1024
    decoder_ffn: Positive = 4096
    num_decoder_layers: Positive = 2
    num_decoder_heads: Positive = 8
    projection_hidden: Positive | None = None
    """Hidden width of the projections' two fully connected layers; None for D."""
    positions: Literal["sincos", "none"] = "sincos"
    """What the fusion encoder is told about a token's place."""
    modality_vectors: bool = True
    """A learned vector for each modality on its tokens, in the encoder and in the decoders."""
    decoder_positions: bool = True
    """Positions and modality vectors are added again before each decoder; without them, all hidden tokens of a modality
    are the same to it (the paper's letter)."""
    hidden_tokens: Literal["zeros", "learned"] = "zeros"
    """What stands for the content of a hidden token, and of a query, before each decoder: zeros (the paper), or one
    learned vector for each modality (the mask token of He et al. 2022)."""
    global_token: bool = False
    """A learned token that every protein has in the fusion encoder, always visible; decoders do not see it."""

    @model_validator(mode="after")
    def _heads_divide_widths(self) -> "ModelConfig":
        for name, width, heads in (
            ("width", self.width, self.num_heads),
            ("decoder_width", self.decoder_width, self.num_decoder_heads),
        ):
            if width % heads or width % 2:
                raise ValueError(f"{name} ({width}) must be even and a multiple of its number of heads ({heads})")
        return self


class MaskConfig(Settings):
    """Which tokens the fusion encoder sees."""

    visible_tokens: Positive = 160
    """M: visible tokens of a protein, over all modalities."""
    alpha: tuple[
        Annotated[float, Field(gt=0)],
        Annotated[float, Field(gt=0)],
        Annotated[float, Field(gt=0)],
    ] = (1.0, 2.0, 2.0)
    """Dirichlet concentrations of sequence, structure and function."""
    max_visible_fraction: Annotated[float, Field(gt=0, le=1)] = 0.75
    """At most this share of a protein's tokens, and of each of its modalities, is visible."""
    modality_dropout: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Probability that one modality of a protein is hidden whole (never its only one)."""
    rounding: Literal["largest-remainder", "multinomial"] = "largest-remainder"
    """How the Dirichlet's λ becomes whole numbers: as near to λM as can be, or M draws from λ."""
    shortfall: Literal["redistribute", "drop"] = "redistribute"
    """What becomes of tokens that a modality cannot show: the others show them in proportion to λ, or they are lost."""


class ObjectiveConfig(Settings):
    """What the loss counts. The first two are those of reconstruction, the others of contrast."""

    loss_on: Literal["all", "hidden"] = "all"
    """All tokens (Eq. 4), or only those the encoder did not see (as in MultiMAE)."""
    targets: Literal["standardised", "raw"] = "standardised"
    """The scale of the error: per-channel σ of the training split, or the encoders' own (the paper's letter)."""
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.07
    """Of contrast: what similarities are divided by."""
    normalise: bool = True
    """Similarities of contrast are cosines, else inner products."""


_NO_CONTRAST = {"objective": frozenset({"temperature", "normalise"})}

WITHOUT_EFFECT: dict[Family, dict[str, frozenset[str]]] = {
    "asymmetric": _NO_CONTRAST,
    "symmetric": _NO_CONTRAST,
    "no-auxiliary": _NO_CONTRAST,
    "contrastive": {
        "model": frozenset(
            {
                "decoder_width",
                "decoder_ffn",
                "num_decoder_layers",
                "num_decoder_heads",
                "positions",
                "modality_vectors",
                "decoder_positions",
                "hidden_tokens",
                "global_token",
            }
        ),
        "mask": frozenset(MaskConfig.model_fields),
        "objective": frozenset({"loss_on", "targets"}),
    },
}
"""Settings that a family does not use, by section. They keep their defaults, and giving one is an error."""

SMALLEST_BATCH: dict[Family, int] = {"contrastive": 2}
"""Proteins that a batch needs at least, where one is not enough."""


class Preset(Settings):
    """A model with the masks that fit it."""

    model: ModelConfig = ModelConfig()
    mask: MaskConfig = MaskConfig()


PRESETS: dict[str, Preset] = {
    "paper": Preset(),
    "paper-text-51m": Preset(model=ModelConfig(decoder_width=512, decoder_ffn=2048)),
    "uniform-768": Preset(
        model=ModelConfig(width=768, ffn=3072, num_heads=12, decoder_width=768, decoder_ffn=3072, num_decoder_heads=12)
    ),
    "tiny": Preset(
        model=ModelConfig(
            width=64,
            ffn=256,
            num_fusion_layers=2,
            num_heads=4,
            decoder_width=128,
            decoder_ffn=512,
            num_decoder_heads=4,
        ),
        mask=MaskConfig(visible_tokens=48),
    ),
}
"""`paper` counts the paper's 111M parameters (111,038,464), `paper-text-51m` has the shapes of its text (50,962,944),
`uniform-768` reaches the count with one width throughout (110,651,648); `tiny` is for tests and demonstrations."""


def find_preset(name: str) -> Preset:
    """The preset called `name`; `UsageError` with the nearest names if there is none."""
    if name in PRESETS:
        return PRESETS[name]
    near = get_close_matches(name, PRESETS, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise UsageError(f"there is no model preset {name!r}.{hint} Known: {', '.join(PRESETS)}.")
