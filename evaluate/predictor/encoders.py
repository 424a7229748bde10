"""The encoders of new proteins: those whose features the predictor was tuned on, by what it recorded of them.

Texts are not read, as they would name the function that is to be predicted: no text encoder is built.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amma.featurize.encoders.choice import EncoderChoice
from amma.featurize.encoders.device import resolve_device, resolve_precision
from amma.featurize.encoders.presets import PRESETS
from amma.featurize.encoders.protocol import Encoded, Encoder, EncoderInput
from amma.featurize.encoders.registry import Place, build_encoder, known_name
from amma.manifests.table import Modality, Protein

PRECISIONS = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
ESM2_OF_LAYERS = {
    6: "esm2_t6_8M",
    12: "esm2_t12_35M",
    30: "esm2_t30_150M",
    33: "esm2_t33_650M",
    36: "esm2_t36_3B",
    48: "esm2_t48_15B",
}


class Textless:
    """Stands where a text encoder would: no protein has a text."""

    name, modality, random_weights = "none", Modality.FUNC, False

    def __init__(self, width: int, fingerprint: Mapping[str, Any]) -> None:
        self.width = width
        self._fingerprint = dict(fingerprint)

    def fingerprint(self) -> Mapping[str, Any]:
        """That of the texts the predictor's store had: a store without any is not at odds with it."""
        return self._fingerprint

    def lengths(self, proteins: Sequence[Protein]) -> list[int]:
        """None of the proteins has a row."""
        return [0] * len(proteins)

    def cost(self, rows: int) -> int:
        """As many as there are, which is none."""
        return rows

    def encode(self, batch: Sequence[EncoderInput]) -> list[Encoded]:
        """Is never asked for a protein; raises `ValueError` if it is."""
        raise ValueError(f"{len(batch)} texts to encode, but predictions read none")


@dataclass(frozen=True, slots=True)
class NewProteinEncoders:
    """An encoder for each modality, texts left out."""

    seq: Encoder
    str: Encoder
    func: Encoder

    def __getitem__(self, modality: Modality) -> Encoder:
        return {Modality.SEQ: self.seq, Modality.STR: self.str, Modality.FUNC: self.func}[modality]

    @property
    def random_weights(self) -> bool:
        """True when the sequence or the structure encoder has random weights."""
        return self.seq.random_weights or self.str.random_weights

    def fingerprint(self) -> dict[Modality, Mapping[Any, Any]]:
        """The fingerprints by modality."""
        return {modality: self[modality].fingerprint() for modality in Modality}


class EncoderSettings(EncoderChoice):
    """Which encoders, where their weights are, and where they compute; None: as the predictor recorded it."""

    preset: str | None = None
    weights: Path | None = None
    precision: str | None = None
    device: str = "auto"


def recorded_settings(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """What the options of an encoder must have been, as far as a fingerprint tells."""
    seq, structure = fingerprint.get("seq", {}), fingerprint.get("str", {})
    told: dict[str, Any] = {"preset": "tiny" if seq.get("random_weights") else "paper"}
    if seq.get("dtype") in PRECISIONS:
        told["precision"] = PRECISIONS[seq["dtype"]]
    if structure.get("backend") == "torchdrug":
        told["str_backend"] = "torchdrug"
    if seq.get("encoder") == "esm":
        told |= {name: seq[name] for name in ("layer", "max_residues", "long") if seq.get(name) is not None}
        architecture = seq.get("architecture", {})
        if architecture.get("family") == "esm2" and architecture.get("layers") in ESM2_OF_LAYERS:
            told |= {} if seq.get("random_weights") else {"seq_encoder": ESM2_OF_LAYERS[architecture["layers"]]}
    return told


def build_recorded(
    fingerprint: Mapping[str, Any], widths: Mapping[str, int], settings: EncoderSettings
) -> NewProteinEncoders:
    """Build the encoders of `settings`, with what these leave open as `fingerprint` has it.

    Raises `UsageError` for unknown names, `ConfigError` for wrong options, `WeightsError` for missing weights.
    """
    given = {name: value for name, value in settings.model_dump().items() if value is not None}
    told = recorded_settings(fingerprint)
    if "seq_encoder" in given:  # options of another encoder than was recorded are its own
        told = {name: value for name, value in told.items() if name not in ("layer", "max_residues", "long")}
    chosen = EncoderSettings.parse({**told, **given}, source="the options")
    preset = chosen.preset or "paper"
    choice = EncoderChoice(**{name: getattr(chosen, name) for name in EncoderChoice.model_fields})
    specs = {**known_name(preset, PRESETS, what="preset"), **choice.specs(preset)}
    device = resolve_device(chosen.device)
    precision = resolve_precision(chosen.precision or "auto", device)
    seq = build_encoder(specs[Modality.SEQ], Modality.SEQ, Place(chosen.weights, device, precision))
    limit: int | None = getattr(seq, "max_residues", None)
    place = Place(chosen.weights, device, precision, max_residues=limit)
    return NewProteinEncoders(
        seq=seq,
        str=build_encoder(specs[Modality.STR], Modality.STR, place),
        func=Textless(widths[Modality.FUNC], fingerprint.get("func", {})),
    )
