"""Compare what decided the numbers of a store with what would decide them now, field by field."""

import json
from collections.abc import Mapping
from typing import Any

from amma.manifests.errors import FingerprintError
from amma.manifests.settings import canonical_json


def plain(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """The fingerprint as JSON gives it back: tuples become lists, keys become text, NaN is refused."""
    value: dict[str, Any] = json.loads(canonical_json(dict(fingerprint)))
    return value


def fields(fingerprint: Mapping[str, Any]) -> dict[str, str]:
    """Every leaf by its dotted key, as canonical JSON."""
    found: dict[str, str] = {}

    def descend(value: Any, key: str) -> None:
        if isinstance(value, Mapping) and value:
            for name, part in value.items():
                descend(part, f"{key}.{name}" if key else str(name))
        else:
            found[key] = canonical_json(value)

    descend(fingerprint, "")
    return found


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """One line a field that differs: `seq.layer: 33 -> 32`."""
    before, after = fields(plain(old)), fields(plain(new))
    absent = "(absent)"
    return [
        f"{key}: {before.get(key, absent)} -> {after.get(key, absent)}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]


def check_fingerprint(old: Mapping[str, Any], new: Mapping[str, Any], *, where: str) -> None:
    """Raise `FingerprintError` naming each field that differs, with both values."""
    lines = differences(old, new)
    if lines:
        raise FingerprintError(
            f"{where}: the numbers would not be those of what is stored: {'; '.join(lines)}. "
            "Use the encoders and settings it was begun with, or write to a new path."
        )
