"""What a person may choose about the encoders of a preset: other ones, and the options that decide their features.

Nothing here imports an encoder's library.
"""

from pathlib import Path
from typing import Any, Literal

from amma.featurize.encoders.presets import PRESETS
from amma.featurize.encoders.registry import EncoderSpec, known_name
from amma.manifests.settings import Settings
from amma.manifests.table import Modality

HUGGING_FACE = {Modality.SEQ: "huggingface-seq", Modality.FUNC: "huggingface-text"}
"""The encoders that take any model: a Hugging Face id (`owner/name`) or a folder in an encoder's place."""


class EncoderChoice(Settings):
    """None leaves what the preset says, or the encoder's own default.

    The three encoders are names of the registry; of sequences and texts a Hugging Face id or a folder too. The
    other fields are options of an encoder, refused by one that does not have it.
    """

    seq_encoder: str | None = None
    str_encoder: str | None = None
    func_encoder: str | None = None
    layer: int | None = None
    """Layer of the sequence encoder whose output is stored; its last if not given."""
    max_residues: int | None = None
    """Residues of a protein that are encoded; the sequence encoder's limit if not given."""
    long: Literal["truncate", "skip"] | None = None
    """What becomes of proteins with more residues."""
    str_backend: Literal["amma", "torchdrug"] | None = None
    """Whose GearNet computes."""
    text_fields: tuple[str, ...] | None = None
    special_tokens: Literal["drop", "keep"] | None = None
    """Whether rows of [CLS] and [SEP] count as tokens of the text."""

    def specs(self, preset: str) -> dict[Modality, EncoderSpec]:
        """The encoders that are not as in `preset`. Raises `UsageError` for an unknown preset."""
        options: dict[Modality, dict[str, Any]] = {
            Modality.SEQ: {"layer": self.layer, "max_residues": self.max_residues, "long": self.long},
            Modality.STR: {"backend": self.str_backend},
            Modality.FUNC: {"fields": self.text_fields, "special_tokens": self.special_tokens},
        }
        named = {Modality.SEQ: self.seq_encoder, Modality.STR: self.str_encoder, Modality.FUNC: self.func_encoder}
        changed = {}
        for modality, spec in known_name(preset, PRESETS, what="preset").items():
            name = named[modality]
            chosen = spec if name is None or name == spec.name else _spec_of(name, modality)
            given = {option: value for option, value in options[modality].items() if value is not None}
            if chosen is not spec or given:
                changed[modality] = EncoderSpec(name=chosen.name, options={**chosen.options, **given})
        return changed


def _spec_of(name: str, modality: Modality) -> EncoderSpec:
    if modality in HUGGING_FACE and ("/" in name or Path(name).is_dir()):
        return EncoderSpec(name=HUGGING_FACE[modality], options={"model": name})
    return EncoderSpec(name=name)
