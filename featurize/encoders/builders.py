"""Make each encoder from its options: check them, find its weights, load it.

One `registry.Builder` for each kind of encoder; the encoder's library is imported inside.
"""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import Field

from amma.featurize.encoders.pins import trusted_weights
from amma.featurize.encoders.protocol import Encoder
from amma.featurize.encoders.registry import EncoderSpec, Place
from amma.manifests.known_weights import known_weights
from amma.manifests.settings import Settings

Positive = Annotated[int, Field(ge=1)]
TextField = Literal["name", "function", "location", "similarity"]
Options = TypeVar("Options", bound=Settings)


class EsmOptions(Settings):
    """Another file than the known one, another layer, fewer residues; what becomes of longer proteins."""

    file: Path | None = None
    layer: int | None = None
    max_residues: Positive | None = None
    long: Literal["truncate", "skip"] = "truncate"


class RandomEsmOptions(Settings):
    """Sizes and seed of an ESM with random weights."""

    architecture: Literal["esm1b", "esm2"] = "esm1b"
    seed: int = 0
    layers: Positive = 2
    width: Positive = 64
    heads: Positive = 4
    layer: int | None = None
    max_residues: Positive | None = None
    long: Literal["truncate", "skip"] = "truncate"


class BackendOptions(Settings):
    """Whose code runs a GearNet: ours, or torchdrug in an environment of its own (always in fp32)."""

    backend: Literal["amma", "torchdrug"] = "amma"


class GearNetEdgeOptions(BackendOptions):
    """Another weights file than the known one."""

    file: Path | None = None


class GearNetOptions(BackendOptions):
    """The weights of a GearNet without edge layers: none are published, so the file must be given."""

    file: Path


class RandomGearNetOptions(BackendOptions):
    """Seed of a GearNet-Edge or a GearNet with random weights, at toy size."""

    seed: int = 0


class TextOptions(Settings):
    """Which fields of the text count, in the order they are joined in, and whether [CLS] and [SEP] are rows."""

    fields: tuple[TextField, ...] = ("name", "function", "location", "similarity")
    special_tokens: Literal["drop", "keep"] = "drop"


class PublishedTextOptions(TextOptions):
    """Another Hugging Face folder than the known one."""

    file: Path | None = None


class HuggingFaceTextOptions(TextOptions):
    """A folder, or the id of a repository in the Hugging Face cache."""

    model: str


class RandomTextOptions(TextOptions):
    """Sizes and seed of a BERT with random weights."""

    seed: int = 0
    layers: Positive = 2
    width: Positive = 48
    heads: Positive = 4
    intermediate: Positive = 96


def published_esm(spec: EncoderSpec, place: Place) -> Encoder:
    """ESM-1b or ESM-2 with its published weights."""
    from amma.featurize.encoders.esm import EsmEncoder

    options = _options(EsmOptions, spec)
    with _file(options.file, spec, place) as path:
        return EsmEncoder.from_file(
            path,
            name=spec.name,
            **options.model_dump(exclude={"file"}),
            device=place.device,
            precision=place.precision,
        )


def random_esm(spec: EncoderSpec, place: Place) -> Encoder:
    """ESM-1b or ESM-2 of any size with random weights."""
    from amma.featurize.encoders.esm import EsmEncoder

    options = _options(RandomEsmOptions, spec).model_dump()
    return EsmEncoder.random(**options, device=place.device, precision=place.precision)


def published_gearnet(spec: EncoderSpec, place: Place) -> Encoder:
    """GearNet-Edge with its published weights, or a plain GearNet with those of a file."""
    from amma.featurize.encoders.gearnet import GearNetConfig
    from amma.featurize.encoders.gearnet_backend import gearnet_by
    from amma.featurize.encoders.gearnet_weights import load_gearnet

    edges = spec.name.endswith("-edge")
    options = _options(GearNetEdgeOptions, spec) if edges else _options(GearNetOptions, spec)
    with _file(options.file, spec, place) as path:
        model, sha256 = load_gearnet(path, GearNetConfig(edges=edges))
    return gearnet_by(options.backend, model, sha256, place, random_weights=False)


def random_gearnet(spec: EncoderSpec, place: Place) -> Encoder:
    """GearNet-Edge or a plain GearNet at toy size with random weights."""
    from amma.featurize.encoders import gearnet_weights
    from amma.featurize.encoders.gearnet_backend import gearnet_by
    from amma.featurize.encoders.gearnet_encoder import TINY
    from amma.featurize.encoders.weights import sha256_of_state

    options = _options(RandomGearNetOptions, spec)
    config = TINY.model_copy(update={"edges": spec.name.endswith("-edge")})
    model = gearnet_weights.random_gearnet(options.seed, config)
    return gearnet_by(options.backend, model, sha256_of_state(model), place, random_weights=True)


def published_text(spec: EncoderSpec, place: Place) -> Encoder:
    """A text encoder with its published weights, from the weights folder or the Hugging Face cache."""
    from amma.featurize.encoders.text import TextEncoder

    options = _options(PublishedTextOptions, spec)
    with _file(options.file, spec, place) as folder:
        return TextEncoder.from_folder(
            folder,
            name=spec.name,
            **options.model_dump(exclude={"file"}),
            device=place.device,
            precision=place.precision,
        )


def huggingface_text(spec: EncoderSpec, place: Place) -> Encoder:
    """Any BERT-style text encoder, by folder or by Hugging Face id."""
    from amma.featurize.encoders.huggingface import HuggingFaceModel
    from amma.featurize.encoders.text import TextEncoder

    options = _options(HuggingFaceTextOptions, spec)
    model = HuggingFaceModel.find(options.model, device=place.device, precision=place.precision)
    return TextEncoder(model, **options.model_dump(exclude={"model"}))


def random_text(spec: EncoderSpec, place: Place) -> Encoder:
    """BERT of any size with random weights and the small tokenizer that ships with the package."""
    from amma.featurize.encoders.text import TextEncoder

    options = _options(RandomTextOptions, spec).model_dump()
    return TextEncoder.random(**options, device=place.device, precision=place.precision)


def _options(kind: type[Options], spec: EncoderSpec) -> Options:
    return kind.parse(spec.options, source=f"options of encoder {spec.name}")


def _file(chosen: Path | None, spec: EncoderSpec, place: Place) -> AbstractContextManager[Path]:
    """A file of the user's own is what it is; a published one must be what it was before."""
    return nullcontext(chosen) if chosen else trusted_weights(known_weights()[spec.name], place.weights)
