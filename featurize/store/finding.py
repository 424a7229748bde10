"""What `verify` finds in a store, for people and for programs."""

from dataclasses import asdict, dataclass, field
from typing import Any

from amma.featurize.store.disk import human

_NAMED = 5


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: in which file, of which unit (None: of the whole store), and which proteins it hits.

    `proteins` are the first thousand of `num_hit`, in plan order; where all of them are hit, none is named.
    """

    file: str
    unit: int | None
    proteins: tuple[str, ...]
    reason: str
    num_hit: int

    def line(self) -> str:
        """For people: at most a few proteins by name."""
        where = "" if self.unit is None else f" (unit {self.unit})"
        named = ", ".join(map(repr, self.proteins[:_NAMED]))
        more = f" and {self.num_hit - _NAMED} more" if self.num_hit > _NAMED else ""
        hit = f"; hits {self.num_hit} proteins: {named}{more}" if self.proteins else ""
        if self.num_hit and not self.proteins:
            hit = f"; hits all {self.num_hit} proteins"
        return f"{self.file}{where}: {self.reason}{hit}"


@dataclass(slots=True)
class Verification:
    """What was checked, and what was found."""

    store: str
    full: bool
    sealed: bool = False
    root: str | None = None
    files: int = 0
    bytes: int = 0
    findings: list[Finding] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {**asdict(self), "ok": not self.findings}

    def lines(self) -> list[str]:
        """For people."""
        how = "sizes, hashes and checksums" if self.full else "sizes, metadata and ledger"
        checked = f"{self.files} files, {human(self.bytes)}: {how} checked"
        if not self.findings:
            return [f"{self.store}: intact. {checked}; root {self.root}"]
        count = f"{len(self.findings)} finding{'s' if len(self.findings) > 1 else ''}"
        return [f"{self.store}: {count}. {checked}", *(finding.line() for finding in self.findings)]
