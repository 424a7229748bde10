"""Which options of a run were really typed: those alone replace what a recipe says."""

import inspect
from collections.abc import Callable
from enum import StrEnum
from functools import wraps
from typing import Any, get_args, get_type_hints

import typer

from amma.train.options import Key, RunOptions

Chosen = dict[str, Any]
"""The settings that were typed, as a tree of plain values: what a recipe would say in their place."""

CHOSEN = "chosen"
"""The parameter of a command that all options of a run stand for."""


def takes_run_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command every option of `RunOptions` where it has its parameter `chosen`, which gets what was typed."""
    options = _parameters()
    own = inspect.signature(command).parameters.values()
    parameters = [inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)]
    for parameter in own:
        named = parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        parameters += options if parameter.name == CHOSEN else [named]

    @wraps(command)
    def with_chosen(*, context: Any, **values: Any) -> None:
        typed = {option.name: values.pop(option.name) for option in options}
        command(**values, **{CHOSEN: _tree(context, typed)})

    with_chosen.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with_chosen.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return with_chosen


def keys() -> dict[str, Key]:
    """The setting of each option, by the option's name with underscores."""
    found = {}
    for name, annotation in get_type_hints(RunOptions, include_extras=True).items():
        (found[name],) = (part for part in get_args(annotation) if isinstance(part, Key))
    return found


def _parameters() -> list[inspect.Parameter]:
    hints = get_type_hints(RunOptions, include_extras=True)
    kind = inspect.Parameter.KEYWORD_ONLY
    return [
        inspect.Parameter(name, kind, default=getattr(RunOptions, name), annotation=annotation)
        for name, annotation in hints.items()
    ]


def _tree(context: Any, typed: dict[str, Any]) -> Chosen:
    """What came from the command line itself and is no default; raises `UsageError` for text that cannot be read."""
    tree: Chosen = {}
    for name, key in keys().items():
        source = context.get_parameter_source(name)
        if source is None or source.name != "COMMANDLINE":
            continue
        value = typed[name]
        value = value.value if isinstance(value, StrEnum) else value
        *sections, last = key.name.split(".")
        place = tree
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = value if key.read is None else key.read(value)
    return tree
