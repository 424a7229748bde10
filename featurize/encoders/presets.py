"""Named choices of three encoders: `paper` (published weights) and `tiny` (same classes, small, random weights)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amma.featurize.encoders.device import resolve_device, resolve_precision
from amma.featurize.encoders.protocol import Encoder
from amma.featurize.encoders.registry import EncoderSpec, Place, build_encoder, known_name
from amma.manifests.errors import WeightsError
from amma.manifests.known_weights import known_weights
from amma.manifests.table import MODALITIES, Modality

PRESETS: dict[str, dict[Modality, EncoderSpec]] = {
    "paper": {
        Modality.SEQ: EncoderSpec(name="esm1b"),
        Modality.STR: EncoderSpec(name="gearnet-edge"),
        Modality.FUNC: EncoderSpec(name="pubmedbert"),
    },
    # Three different widths (64, 96, 48), so that features of one modality in another's place cannot go unseen.
    "tiny": {
        Modality.SEQ: EncoderSpec(name="random-esm", options={"layers": 2, "width": 64, "heads": 4}),
        Modality.STR: EncoderSpec(name="random-gearnet-edge"),
        Modality.FUNC: EncoderSpec(name="random-bert", options={"layers": 2, "width": 48, "heads": 4}),
    },
}


@dataclass(frozen=True, slots=True)
class EncoderSet:
    """One encoder for each modality; `max_residues` is the sequence encoder's limit, which holds for structures too."""

    seq: Encoder
    str: Encoder
    func: Encoder
    max_residues: int | None

    def __getitem__(self, modality: Modality) -> Encoder:
        return {Modality.SEQ: self.seq, Modality.STR: self.str, Modality.FUNC: self.func}[modality]

    @property
    def random_weights(self) -> bool:
        """True when any of the three has random weights."""
        return any(self[modality].random_weights for modality in MODALITIES)

    def fingerprint(self) -> dict[Modality, Mapping[Any, Any]]:
        """The three fingerprints by modality."""
        return {modality: self[modality].fingerprint() for modality in MODALITIES}


def build_encoders(
    preset: str,
    *,
    weights: Path | None = None,
    device: str = "auto",
    precision: str = "fp32",
    replaced: Mapping[Modality, EncoderSpec] | None = None,
) -> EncoderSet:
    """Build the encoders of `preset`, with some of them `replaced`.

    `weights` is the folder of weights files (None: `$AMMA_CACHE/weights`, else `~/.cache/amma/weights`). Raises
    `UsageError` for unknown names, devices and precisions, `ConfigError` for wrong options, `WeightsError` for
    missing weights.
    """
    specs = {**known_name(preset, PRESETS, what="preset"), **(replaced or {})}
    where = resolve_device(device)
    arithmetic = resolve_precision(precision, where)
    _find_all_weights(specs, weights)
    seq = build_encoder(specs[Modality.SEQ], Modality.SEQ, Place(weights, where, arithmetic))
    limit: int | None = getattr(seq, "max_residues", None)
    place = Place(weights, where, arithmetic, max_residues=limit)
    return EncoderSet(
        seq=seq,
        str=build_encoder(specs[Modality.STR], Modality.STR, place),
        func=build_encoder(specs[Modality.FUNC], Modality.FUNC, place),
        max_residues=limit,
    )


def _find_all_weights(specs: Mapping[Modality, EncoderSpec], folder: Path | None) -> None:
    """Raise one `WeightsError` for everything that is missing, before gigabytes of what is there are read."""
    from amma.featurize.encoders.weights import find_weights

    missing = []
    for spec in specs.values():
        if spec.name in known_weights() and spec.options.get("file") is None:
            try:
                find_weights(known_weights()[spec.name], folder)
            except WeightsError as error:
                missing.append(str(error))
    if missing:
        raise WeightsError(" ".join(missing))
