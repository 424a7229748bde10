"""How to build encoders, so that every process builds its own: names and options, never a model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from amma.featurize.encoding import Encoders


@dataclass(frozen=True)
class Recipe:
    """A function `module:name` and its arguments, which are small and equal exactly if they build the same."""

    function: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def build(self) -> Encoders:
        """Call it; raises what it raises."""
        module, _, name = self.function.partition(":")
        encoders: Encoders = getattr(import_module(module), name)(**self.arguments)
        return encoders
