"""Frozen, validated settings, and the canonical JSON from which fingerprints are made."""

import hashlib
import json
from collections.abc import Mapping
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
            faults = [
                f"  {'.'.join(str(part) for part in fault['loc']) or '(whole)'}: {fault['msg']}"
                for fault in error.errors()
            ]
            raise ConfigError(f"{source} is not valid:\n" + "\n".join(faults)) from error


def canonical_json(value: Any) -> str:
    """JSON with sorted keys, no spaces and no NaN: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256_of_json(value: Any) -> str:
    """Hex sha256 of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()
