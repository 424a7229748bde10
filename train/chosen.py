"""Which options of a run were really typed: those alone replace what a recipe says."""

from enum import StrEnum
from typing import Any, get_args

from amma.manifests.option_table import annotations, takes_options
from amma.train.options import Key, RunOptions

Chosen = dict[str, Any]
"""The settings that were typed, as a tree of plain values: what a recipe would say in their place."""


def keys() -> dict[str, Key]:
    """The setting of each option, by the option's name with underscores."""
    found = {}
    for name, annotation in annotations(RunOptions).items():
        (found[name],) = (part for part in get_args(annotation) if isinstance(part, Key))
    return found


def _tree(context: Any, values: dict[str, Any]) -> Chosen:
    """What came from the command line itself and is no default; raises `UsageError` for text that cannot be read."""
    tree: Chosen = {}
    for name, key in keys().items():
        source = context.get_parameter_source(name)
        if source is None or source.name != "COMMANDLINE":
            continue
        value = values[name]
        value = value.value if isinstance(value, StrEnum) else value
        *sections, last = key.name.split(".")
        place = tree
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = value if key.read is None else key.read(value)
    return tree


takes_run_options = takes_options(RunOptions, "chosen", _tree)
"""Gives a command every option of `RunOptions` where it has its parameter `chosen`, which gets what was typed."""
