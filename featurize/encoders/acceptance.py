"""Is a file from the internet what it is published as: read as data, every name, shape and size compared."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from amma.manifests.errors import WeightsError
from amma.manifests.known_weights import KnownWeights


def check_contents(known: KnownWeights, path: Path) -> None:
    """Raise `WeightsError` unless `path` holds weights of `known`'s architecture, whole, and nothing but data.

    What it carries is never run. Numbers are not looked at: a changed one shows in the hash alone.
    """
    found = _DESCRIBE[str(known.architecture["family"])](path)
    differing = [
        f"{name} is {found.get(name)}, expected {wanted}"
        for name, wanted in known.architecture.items()
        if found.get(name) != wanted
    ]
    if differing:
        raise WeightsError(
            f"{path}: not the weights of {known.name}: {'; '.join(differing)}. Get them from {known.address}."
        )


def _describe_esm(path: Path) -> Mapping[str, Any]:
    from amma.featurize.encoders.esm_checkpoint import describe_file

    return describe_file(path)


def _describe_gearnet(path: Path) -> Mapping[str, Any]:
    from amma.featurize.encoders.gearnet_encoder import GearNetEncoder

    return {"family": "gearnet-edge", "width": GearNetEncoder.from_file(path).width}


def _describe_text(path: Path) -> Mapping[str, Any]:
    from amma.featurize.encoders.text import TextEncoder

    architecture = TextEncoder.from_folder(path).fingerprint()["architecture"]
    return {
        "family": architecture.get("model_type"),
        "layers": architecture.get("num_hidden_layers"),
        "width": architecture.get("hidden_size"),
    }


_DESCRIBE = {
    "esm1b": _describe_esm,
    "esm2": _describe_esm,
    "gearnet-edge": _describe_gearnet,
    "bert": _describe_text,
}
"""By the family of the table; each gives what it found under the table's names."""
