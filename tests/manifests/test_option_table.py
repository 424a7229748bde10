"""A command takes a whole table of options as one value."""

from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from amma.manifests.errors import UsageError
from amma.manifests.option_table import takes_options


class Table:
    """Three options; the first is required."""

    size: Annotated[int, typer.Option(min=1)]
    colour: Annotated[str, typer.Option()] = "red"
    place: Annotated[Path | None, typer.Option()] = None


def gather(context: Any, values: dict[str, Any]) -> dict[str, Any]:
    if values["colour"] == "no-colour":
        raise UsageError("there is no such colour")
    return {**values, "typed": context.get_parameter_source("colour").name == "COMMANDLINE"}


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()

    @app.command()
    @takes_options(Table, "chosen", gather)
    def paint(thing: Annotated[str, typer.Argument()], chosen: dict[str, Any], twice: bool = False) -> None:
        """Paint a thing."""
        print(thing, chosen, twice)

    return app


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("door --size 2", "door {'size': 2, 'colour': 'red', 'place': None, 'typed': False} False"),
        ("door --size 2 --colour red --twice", "door {'size': 2, 'colour': 'red', 'place': None, 'typed': True} True"),
    ],
)
def test_it_gets_what_is_made_of_the_values_and_the_context(app: typer.Typer, typed: str, expected: str) -> None:
    done = CliRunner().invoke(app, typed.split())
    assert (done.exit_code, done.output.strip()) == (0, expected)


@pytest.mark.parametrize("typed", ["door", "door --size 0"])
def test_an_option_without_a_default_is_required_and_its_bounds_hold(app: typer.Typer, typed: str) -> None:
    done = CliRunner().invoke(app, typed.split())
    assert done.exit_code == 2
    assert "--size" in done.output


def test_what_cannot_be_gathered_is_raised(app: typer.Typer) -> None:
    done = CliRunner().invoke(app, ["door", "--size", "1", "--colour", "no-colour"])
    assert isinstance(done.exception, UsageError)


def test_the_options_stand_where_the_parameter_stood(app: typer.Typer) -> None:
    command = typer.main.get_command(app)
    assert [each.name for each in command.params][:5] == ["thing", "size", "colour", "place", "twice"]
    assert command.help == "Paint a thing."
