"""Modules that are used only if somebody else has loaded them already."""

import importlib
import sys
from types import ModuleType


def loaded_module(name: str) -> ModuleType | None:
    """The module, whole, or None if nobody has begun to load it.

    Another thread may be halfway through: `sys.modules` has it from the first moment on, importing it waits to the end.
    """
    return importlib.import_module(name) if name in sys.modules else None
