"""The table of published encoder weights (`weights.toml`): file name, official address, licence, architecture."""

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
    architecture: dict[str, str | int]
    """What the file must hold: the family, and sizes of that family (`layers`, `width`, …)."""
    size: int | None = None
    sha256: str | None = None
    huggingface: str | None = None
    """The repository's id, for weights that lie in the Hugging Face cache."""
    revision: str | None = None
    """The commit of that repository which is fetched; None is its newest."""


@lru_cache(maxsize=1)
def known_weights() -> dict[str, KnownWeights]:
    """Every entry of `weights.toml` by name."""
    table = tomllib.loads((files("amma.manifests") / "weights.toml").read_text(encoding="utf-8"))
    return {name: KnownWeights.parse({"name": name, **entry}, source="weights.toml") for name, entry in table.items()}
