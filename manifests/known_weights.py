"""The table of published encoder weights (`weights.toml`): file name, official address, licence."""

import tomllib
from functools import lru_cache
from importlib.resources import files

from amma.manifests.settings import Settings


class KnownWeights(Settings):
    """One published set of weights; `size` (bytes) and `sha256` only where their publisher states them."""

    name: str
    file: str
    """Its name in a weights folder: a file, or a folder for a Hugging Face repository."""
    address: str
    licence: str
    size: int | None = None
    sha256: str | None = None
    huggingface: str | None = None
    """The repository's id, for weights that may also lie in the Hugging Face cache."""


@lru_cache(maxsize=1)
def known_weights() -> dict[str, KnownWeights]:
    """Every entry of `weights.toml` by name."""
    table = tomllib.loads((files("amma.manifests") / "weights.toml").read_text(encoding="utf-8"))
    return {name: KnownWeights.parse({"name": name, **entry}, source="weights.toml") for name, entry in table.items()}
