"""The table of the paper's open points names only switches that exist."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from amma.evaluate import cli as evaluate
from amma.featurize import cli as featurize
from amma.train import cli as train
from amma.train.model.config import PRESETS

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "choices.md"


COMMANDS = {"Features": featurize.run, "Evaluation": evaluate.function}
"""By section, where the switch itself names none; `amma-train pretrain` where the section has none either."""
PROGRAMS = {"amma-featurize": featurize, "amma-train": train, "amma-eval": evaluate}
SWITCH = re.compile(r"`(?:(amma-[a-z]+ [a-z-]+) )?(--[a-z-]+)(?: ([\w-]+))?`")


def switches() -> list[tuple[str, str, str]]:
    """Section or command, option and value of every switch that the last column of a table names."""
    found = []
    section = ""
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        section = line.removeprefix("## ") if line.startswith("## ") else section
        if line.startswith("|"):
            last = line.rstrip("|").rsplit("|", 1)[1]
            found += [(command or section, option, value) for command, option, value in SWITCH.findall(last)]
    return found


def command_of(name: str) -> Callable[..., None]:
    """The function behind a command's name, or the command of a section."""
    program, _, verb = name.partition(" ")
    if program in PROGRAMS:
        return getattr(PROGRAMS[program], verb)
    return COMMANDS.get(name, train.pretrain)


@pytest.mark.parametrize(("of", "option", "value"), switches())
def test_every_switch_that_is_named_exists_and_takes_its_value(of: str, option: str, value: str) -> None:
    command = command_of(of)
    types = get_type_hints(command)
    name = option.removeprefix("--").replace("-", "_")
    if name.removeprefix("no_") in types and name not in types:  # the off side of a switch
        name = name.removeprefix("no_")
        assert types[name] is bool
    assert name in types
    if option == "--preset":
        assert value in PRESETS
    elif value:
        kinds = [kind for kind in get_args(types[name]) or (types[name],) if kind is not type(None)]
        assert kinds[0](value) is not None


def test_the_table_has_its_switches() -> None:
    assert len(switches()) > 20
