"""Tables of options that several commands take: each option is an attribute of a class, declared once."""

import inspect
from collections.abc import Callable, Collection
from functools import wraps
from typing import Any, get_type_hints

import typer

Command = Callable[..., None]
Gather = Callable[[Any, dict[str, Any]], Any]
"""Makes what a command gets, of its context and of the values of all options by name."""


def annotations(table: type) -> dict[str, Any]:
    """How each option of a table is declared, by its name with underscores."""
    return get_type_hints(table, include_extras=True)


def takes_options(
    table: type, parameter: str, gather: Gather, *, leave_out: Collection[str] = ()
) -> Callable[[Command], Command]:
    """Give a command every option of `table` where it has `parameter`, which gets what `gather` makes of them.

    An attribute's value is its option's default; an option without one is required. Those of `leave_out` would have no
    effect on the command: it does not get them.
    """
    options = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=getattr(table, name, inspect.Parameter.empty),
            annotation=annotation,
        )
        for name, annotation in annotations(table).items()
        if name not in leave_out
    ]

    def decorated(command: Command) -> Command:
        parameters = [inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)]
        for own in inspect.signature(command).parameters.values():
            named = own.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            parameters += options if own.name == parameter else [named]

        @wraps(command)
        def with_options(*, context: Any, **values: Any) -> None:
            of_table = {option.name: values.pop(option.name) for option in options}
            command(**values, **{parameter: gather(context, of_table)})

        with_options.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        with_options.__annotations__ = {each.name: each.annotation for each in parameters}
        return with_options

    return decorated
