"""Frozen, validated settings, and the canonical JSON from which fingerprints are made."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from amma.manifests.errors import ConfigError


class Settings(BaseModel):
    """Base of every configuration: immutable, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def parse(cls, values: Mapping[str, Any], *, source: str) -> Self:
        """Validate `values`; raise `ConfigError` with every fault at once, each with its dotted key."""
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            faults = [f"  {fault}" for fault in cls.faults(error)]
            raise ConfigError(f"{source} is not valid:\n" + "\n".join(faults)) from error

    @classmethod
    def faults(cls, error: ValidationError, place: Callable[[str], str] = str) -> Iterator[str]:
        """Each fault in words, after its dotted key as `place` has it; unknown keys with what may have been meant."""
        for fault in error.errors():
            key = ".".join(str(part) for part in fault["loc"])
            unknown = fault["type"] == "extra_forbidden"
            yield f"{place(key) or '(whole)'}: {cls._unknown(key) if unknown else fault['msg']}"

    @classmethod
    def dotted_keys(cls, section: str = "") -> Iterator[str]:
        """The dotted keys of all settings, sections before what is in them."""
        for name, field in cls.model_fields.items():
            yield section + name
            if isinstance(field.annotation, type) and issubclass(field.annotation, Settings):
                yield from field.annotation.dotted_keys(f"{section}{name}.")

    @classmethod
    def _unknown(cls, key: str) -> str:
        section, _, name = key.replace("-", "_").rpartition(".")
        by_name = {known.rpartition(".")[2]: known for known in reversed(list(cls.dotted_keys()))}
        beside = [known.rpartition(".")[2] for known in cls.dotted_keys() if known.rpartition(".")[0] == section]
        near = get_close_matches(name, beside, n=1)
        if not near and name in by_name:
            near = [by_name[name]]
        if not near:
            near = [by_name[other] for other in get_close_matches(name, by_name, n=1)]
        if near:
            return f"there is no such key. Did you mean {near[0]!r}?"
        return f"there is no such key. Known here: {', '.join(beside)}."


def canonical_json(value: Any) -> str:
    """JSON with sorted keys, no spaces and no NaN: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256_of_json(value: Any) -> str:
    """Hex sha256 of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()
