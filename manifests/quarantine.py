"""Records that cannot be used: a code, a reason and a hint each, one JSON line a record."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from amma.manifests.files import write_atomically


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why one record was left out.

    `position` is the record's number in its source (1-based) or None; `code` is stable (`E_MISMATCH`).
    """

    id: str
    source: str
    position: int | None
    code: str
    reason: str
    hint: str

    @classmethod
    def from_line(cls, line: str) -> Self:
        """Read one line of `quarantine.jsonl`."""
        return cls(**json.loads(line))


class RecordError(Exception):
    """One record cannot be used; whoever reads records turns it into a `Rejection` and goes on."""

    def __init__(self, code: str, reason: str, hint: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason
        self.hint = hint

    def rejection(self, *, id: str, source: str, position: int | None) -> Rejection:
        """The line of `quarantine.jsonl` for this error."""
        return Rejection(id, source, position, self.code, self.reason, self.hint)


def write_quarantine(path: Path, rejections: Iterable[Rejection]) -> None:
    """Write `quarantine.jsonl` in the order given (an empty file says: nothing was left out)."""
    lines = [json.dumps(asdict(rejection), ensure_ascii=False, sort_keys=True) for rejection in rejections]
    # Bytes of an id that were not UTF-8 are lone surrogates here; as JSON escapes they read back the same.
    write_atomically(path, "".join(line + "\n" for line in lines).encode(errors="backslashreplace"))


def read_quarantine(path: Path) -> list[Rejection]:
    """Read what `write_quarantine` wrote."""
    return parse_quarantine(path.read_bytes())


def parse_quarantine(data: bytes) -> list[Rejection]:
    """As `read_quarantine`, of the bytes of such a file."""
    # Only line feeds end a line here: str.splitlines would also cut at U+2028 inside an id.
    return [Rejection.from_line(line) for line in data.decode().split("\n") if line]
