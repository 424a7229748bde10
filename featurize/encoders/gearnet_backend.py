"""Whose code runs a GearNet: ours, or torchdrug's in a process of its own."""

from typing import Literal

from amma.featurize.encoders.gearnet import GearNet
from amma.featurize.encoders.gearnet_encoder import GearNetEncoder
from amma.featurize.encoders.protocol import Encoder
from amma.featurize.encoders.registry import Place


def gearnet_by(
    backend: Literal["amma", "torchdrug"],
    model: GearNet,
    weights_sha256: str,
    place: Place,
    *,
    random_weights: bool,
) -> Encoder:
    """The encoder of a loaded model; torchdrug computes in float32 whatever precision `place` says."""
    if backend == "torchdrug":
        from amma.featurize.encoders.torchdrug_encoder import TorchdrugEncoder

        return TorchdrugEncoder(
            model,
            weights_sha256=weights_sha256,
            random_weights=random_weights,
            max_residues=place.max_residues,
            device=place.device,
        )
    return GearNetEncoder(
        model,
        weights_sha256=weights_sha256,
        random_weights=random_weights,
        max_residues=place.max_residues,
        device=place.device,
        precision=place.precision,
    )
