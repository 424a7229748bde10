"""The settings of a run as a recipe that gives them again: `config.toml` beside the run."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from amma.train.run.config import RunConfig

HEADER = """\
# The settings of this run, all of them, whatever recipe, preset and options they came from. The same run elsewhere:
#
#     amma-train pretrain --recipe RUN_DIR/config.toml NEW_RUN_DIR
#
# Options replace single values, stores before NEW_RUN_DIR those named here. Paths are as they were given: relative to
# where the command was run. What the run read, by its hashes, is in config.json.
"""


def to_toml(config: RunConfig) -> str:
    """A file from which `--recipe` makes exactly these settings; what is None or not used is left out."""
    settings = config.model_dump(mode="json")
    name = settings.pop("recipe")
    tables = {"recipe": {"name": name or ""}}
    tables |= {key: value for key, value in settings.items() if isinstance(value, dict)}
    values = {key: value for key, value in settings.items() if not isinstance(value, dict)}
    lines = [HEADER, *_lines(values)]
    for table, content in tables.items():
        if content:
            lines += ["", f"[{table}]", *_lines(content)]
    return "\n".join(lines) + "\n"


def _lines(values: Mapping[str, Any]) -> Iterator[str]:
    for key, value in values.items():
        if value is not None:
            yield f"{key} = {_literal(value)}"


def _literal(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_literal(item)}" for key, item in value.items()) + " }" if value else "{}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_literal, value)) + "]"
    # JSON's numbers, booleans and strings are TOML's, but for one character that TOML wants escaped.
    return json.dumps(value, ensure_ascii=False, allow_nan=False).replace("\x7f", "\\u007f")
