"""The encoders that can be chosen by name; their libraries are imported when one is built, not before."""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field

from amma.featurize.encoders.protocol import Encoder
from amma.manifests.errors import UsageError
from amma.manifests.settings import Settings
from amma.manifests.table import Modality

Value = TypeVar("Value")

ENCODERS: dict[str, str] = {
    "esm1b": "amma.featurize.encoders.builders:published_esm",
    "esm2_t6_8M": "amma.featurize.encoders.builders:published_esm",
    "esm2_t12_35M": "amma.featurize.encoders.builders:published_esm",
    "esm2_t30_150M": "amma.featurize.encoders.builders:published_esm",
    "esm2_t33_650M": "amma.featurize.encoders.builders:published_esm",
    "esm2_t36_3B": "amma.featurize.encoders.builders:published_esm",
    "esm2_t48_15B": "amma.featurize.encoders.builders:published_esm",
    "random-esm": "amma.featurize.encoders.builders:random_esm",
    "huggingface-seq": "amma.featurize.encoders.huggingface_sequence:build",
    "gearnet-edge": "amma.featurize.encoders.builders:published_gearnet",
    "random-gearnet-edge": "amma.featurize.encoders.builders:random_gearnet",
    "gearnet": "amma.featurize.encoders.builders:published_gearnet",
    "random-gearnet": "amma.featurize.encoders.builders:random_gearnet",
    "pubmedbert": "amma.featurize.encoders.builders:published_text",
    "huggingface-text": "amma.featurize.encoders.builders:huggingface_text",
    "random-bert": "amma.featurize.encoders.builders:random_text",
}
"""Name -> `module:builder`. To add an encoder: a class like `protocol.Encoder`, a `Builder`, and a line here."""


class EncoderSpec(Settings):
    """An encoder's name in `ENCODERS` and its builder's options."""

    name: str
    options: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Place:
    """What a machine and a run give every encoder, as opposed to an encoder's own options."""

    weights: Path | None
    """Folder of weights files; None is the default folder."""
    device: str
    precision: str = "fp32"
    """What weights and products are in: fp32, bf16 or fp16; sums, norms and residuals are fp32 in all of them."""
    max_residues: int | None = None
    """The sequence encoder's limit: rows of later residues are not wanted from a structure encoder either."""


Builder = Callable[[EncoderSpec, Place], Encoder]


def build_encoder(spec: EncoderSpec, modality: Modality, place: Place) -> Encoder:
    """Build one encoder of `modality`.

    Raises `UsageError` for an unknown name (with the nearest one) or another modality, `ConfigError` for wrong
    options and `WeightsError` for missing or unusable weights.
    """
    module, _, function = known_name(spec.name, ENCODERS, what="encoder").partition(":")
    builder: Builder = getattr(import_module(module), function)
    encoder = builder(spec, place)
    if encoder.modality != modality:
        raise UsageError(f"{spec.name} encodes {encoder.modality}, but was chosen as the encoder of {modality}.")
    return encoder


def known_name(name: str, table: Mapping[str, Value], *, what: str) -> Value:
    """`table[name]`, or a `UsageError` that names the nearest key and all keys."""
    if name in table:
        return table[name]
    near = difflib.get_close_matches(name, table, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise UsageError(f"no {what} called {name!r}.{hint} Known: {', '.join(sorted(table))}.")
