"""Recipes: the settings of a run in a TOML file, by a name of ours or by a path, and what the command line changes.

    [recipe]                    what the file is: all of it may be left out
    about = "…"                 one line for `amma-train recipes`
    preset = "paper"            where sizes that the file does not name come from
    requires.init_from = "…"    an option that must be given, and why
    name = "…"                  of the recipe that a run's config.toml came from, "" if it came from none

All other keys are those of `RunConfig`. Paths in a recipe are relative to where the command is run, as on its line.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from amma.manifests.errors import ConfigError, UsageError
from amma.manifests.settings import Settings
from amma.train.model.config import PRESETS, WITHOUT_EFFECT, Family, find_preset
from amma.train.run.config import RunConfig

DEFAULT_PRESET = "paper"
HEAD = "recipe"


class RecipeHead(Settings):
    """The table `[recipe]` of a file."""

    about: str = ""
    preset: str | None = None
    requires: dict[Literal["init_from"], str] = Field(default_factory=dict)
    name: str | None = None


@dataclass(frozen=True)
class Recipe:
    """A file as it was read; its values are checked when a run is made of them."""

    name: str
    text: str = ""
    head: Any = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str, *, name: str) -> "Recipe":
        """Take a TOML text apart; raises `ConfigError` with the line of what is no TOML."""
        try:
            values = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"recipe {name} is no TOML: {error}.") from error
        return cls(name, text, values.pop(HEAD, {}), values)

    def place(self, key: str) -> str:
        """A dotted key with its line, where it is in the file."""
        line = _line_of(self.text, key.split("."))
        return key if line is None else f"line {line}, {key}"


def built_in() -> list[str]:
    """The names of the recipes that come with amma."""
    return sorted(file.name.removesuffix(".toml") for file in _folder().iterdir() if file.name.endswith(".toml"))


def find_recipe(name: str) -> Recipe:
    """One of ours, or the file at this path; raises `UsageError` with the nearest name if there is neither."""
    known = built_in()
    if name in known:
        return Recipe.parse((_folder() / f"{name}.toml").read_text(encoding="utf-8"), name=name)
    if not name.endswith(".toml"):
        near = get_close_matches(name, known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UsageError(f"there is no recipe {name!r}.{hint} Known: {', '.join(known)}; or give a file, FILE.toml.")
    try:
        return Recipe.parse(Path(name).read_text(encoding="utf-8"), name=name)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--recipe {name}: cannot be read ({error}).") from error


def resolve(chosen: Mapping[str, Any], *, stores: Sequence[str] = (), require: bool = True) -> RunConfig:
    """The settings of a run: the preset's, in their place the recipe's, in their place those typed (`chosen`).

    A preset that was typed stands for all sizes that presets decide. Files to exclude are added to the recipe's:
    nothing that a recipe keeps out gets in. Without `require`, what the recipe needs may still be missing. Raises
    `ConfigError` with every fault at once, each with its line in the file or its key.
    """
    typed = {**chosen, **({"stores": list(stores)} if stores else {})}
    named, preset = typed.pop("recipe", None), typed.pop("preset", None)
    recipe = Recipe("") if named is None else find_recipe(named)
    faults: list[str] = []
    head = RecipeHead()
    try:
        head = RecipeHead.model_validate(recipe.head)
    except ValidationError as error:
        faults += RecipeHead.faults(error, lambda key: recipe.place(f"{HEAD}.{key}" if key else HEAD))
    values = recipe.values if preset is None else _without_sizes(recipe.values)
    try:
        base = find_preset(preset or head.preset or DEFAULT_PRESET).model_dump()
    except UsageError as error:
        faults.append(str(error) if preset else f"{recipe.place(f'{HEAD}.preset')}: {error}")
        base = find_preset(DEFAULT_PRESET).model_dump()
    if isinstance(kept_out := values.get("exclude"), list) and "exclude" in typed:
        typed["exclude"] = list(dict.fromkeys([*kept_out, *map(str, typed["exclude"])]))
    family = _family(typed, values, base)
    for section, idle in WITHOUT_EFFECT[family].items():
        for table, place in ((values, recipe.place), (typed, str)):
            given = sorted(idle & _table(table, section).keys())
            faults += [f"{place(f'{section}.{name}')}: no effect with family {family}; leave it out" for name in given]
    base, values, typed = (_without(table, WITHOUT_EFFECT[family]) for table in (base, values, typed))
    described = _replace(_replace({**base, HEAD: named if head.name is None else head.name or None}, values), typed)
    if "stores" not in described:
        raise UsageError("no feature store is named. Name sealed stores on the command line, or in the recipe.")
    try:
        config = RunConfig.model_validate(described)
    except ValidationError as error:
        faults += RunConfig.faults(error, lambda key: key if _has(typed, key) else recipe.place(key))
    if faults:
        also = " with these options" if chosen.keys() - {"recipe"} else ""
        source = "the run's configuration" if named is None else f"recipe {recipe.name}{also}"
        raise ConfigError(f"{source} is not valid:\n" + "\n".join(f"  {fault}" for fault in faults))
    if require and head.requires and config.init_from is None:
        raise UsageError(f"recipe {recipe.name} needs --init-from CHECKPOINT: {head.requires['init_from']}")
    return config


def _folder() -> Traversable:
    return files("amma.train.recipes")


def _replace(values: Mapping[str, Any], by: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with those of `by` in their place; tables are merged key by key."""
    merged = dict(values)
    for key, value in by.items():
        old = merged.get(key)
        merged[key] = _replace(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def _family(*tables: Mapping[str, Any]) -> Family:
    """The family that the first of the tables names which names one; whether there is such a one is checked later."""
    named = next((name for table in tables if (name := _table(table, "model").get("family")) is not None), None)
    return next((family for family in WITHOUT_EFFECT if family == named), "asymmetric")


def _table(values: Mapping[str, Any], section: str) -> Mapping[str, Any]:
    """A section; an empty one where there is none, or something else in its place."""
    table = values.get(section)
    return table if isinstance(table, Mapping) else {}


def _without(values: Mapping[str, Any], idle: Mapping[str, frozenset[str]]) -> dict[str, Any]:
    """`values` without the keys of `idle`, by section."""
    kept = {
        section: {k: v for k, v in _table(values, section).items() if k not in names} for section, names in idle.items()
    }
    return {**values, **{section: table for section, table in kept.items() if isinstance(values.get(section), Mapping)}}


def _without_sizes(values: Mapping[str, Any]) -> dict[str, Any]:
    """What is left of a recipe's values without those in which presets differ."""
    plain = [preset.model_dump() for preset in PRESETS.values()]
    left = dict(values)
    for section, first in plain[0].items():
        if isinstance(left.get(section), Mapping):
            sizes = {key for key in first if any(preset[section][key] != first[key] for preset in plain)}
            left[section] = {key: value for key, value in left[section].items() if key not in sizes}
    return left


def _has(values: Mapping[str, Any], key: str) -> bool:
    """Whether the dotted key, or what it is in, was typed: below a list or a number there are no keys of its own."""
    here: Any = values
    for part in key.split("."):
        if not isinstance(here, Mapping):
            return True
        if part not in here:
            return False
        here = here[part]
    return True


def _line_of(text: str, path: Sequence[str]) -> int | None:
    """The line on which the key of this path, or else the nearest table or list around it, first appears.

    The shortest whole beginning of the file that has the key ends with it: what a line means in TOML depends on those
    before it, so they are read by the TOML reader and nothing else.
    """
    lines = text.splitlines()
    for depth in range(len(path), 0, -1):
        begin = 0
        for end in range(len(lines) + 1):
            try:
                here: Any = tomllib.loads("\n".join(lines[:end]))
            except tomllib.TOMLDecodeError:
                continue  # in the middle of a value of several lines
            for part in path[:depth]:
                here = here.get(part) if isinstance(here, Mapping) else None
            if here is not None:
                return begin + 1
            begin = end
    return None
