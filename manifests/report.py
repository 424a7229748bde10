"""What a manifest was built from, counted so that nothing can get lost on the way."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from amma.manifests.descriptions import TextConflict
from amma.manifests.errors import AmmaError
from amma.manifests.quarantine import Rejection


class ConservationError(AmmaError):
    """Inputs are not what was stored, quarantined and set aside: a fault of this program, never of the data."""

    code = "E_CONSERVATION"


@dataclass(frozen=True)
class Duplicate:
    """A record that repeats an earlier one exactly; `first` is that record's position."""

    id: str
    position: int
    first: int


@dataclass(frozen=True)
class BuildReport:
    """The counts of one build. `records`, `structures` and `descriptions` each add up to their input.

    * records: `read = stored + quarantined + duplicates`
    * structures (files): `found = used + quarantined + unmatched`
    * descriptions (rows): `rows = joined + repeated + conflicting + empty + unmatched + quarantined`
    """

    roster: str
    """The file or folder that says which proteins there are."""
    records: dict[str, int]
    structures: dict[str, int]
    descriptions: dict[str, int]
    kinds: dict[str, int]
    """Stored proteins by what they have: `triplet`, `seq-str`, `seq-func`, `seq`."""
    residues: int
    unresolved: dict[str, int]
    """Proteins whose structure lacks residues, and how many residues those are."""
    tags: dict[str, int]
    """Proteins whose structure has an expression tag at an end, which was left out, and how many residues those are."""
    other_sequence: int
    """Proteins that took the text of their id although its row has another sequence."""
    duplicates: tuple[Duplicate, ...] = ()
    conflicts: tuple[TextConflict, ...] = ()
    rejections: tuple[Rejection, ...] = ()

    def check(self) -> None:
        """Raise `ConservationError` if a sum does not hold."""
        sums = {
            "records": ("read", "stored", "quarantined", "duplicates"),
            "structures": ("found", "used", "quarantined", "unmatched"),
            "descriptions": ("rows", "joined", "repeated", "conflicting", "empty", "unmatched", "quarantined"),
        }
        for name, (whole, *parts) in sums.items():
            counts: dict[str, int] = getattr(self, name)
            if counts and counts[whole] != sum(counts[part] for part in parts):
                shown = ", ".join(f"{key} {value}" for key, value in counts.items())
                raise ConservationError(
                    f"{self.roster}: the {name} do not add up ({shown}). Nothing was written; please report this."
                )
        if sum(self.kinds.values()) != self.records["stored"]:
            raise ConservationError(
                f"{self.roster}: {self.kinds} are not the {self.records['stored']} stored proteins."
            )

    @property
    def codes(self) -> dict[str, int]:
        """How often each rejection code occurs."""
        return dict(sorted(Counter(rejection.code for rejection in self.rejections).items()))

    def to_json(self) -> dict[str, Any]:
        """The report as plain JSON values; the rejections as counts, their lines being in `quarantine.jsonl`."""
        value = asdict(self)
        value["rejections"] = self.codes
        return value

    def lines(self) -> Sequence[str]:
        """The report for a person."""

        def row(name: str, counts: dict[str, int]) -> str:
            return f"{name:<13}" + ", ".join(f"{value:,} {key}" for key, value in counts.items())

        parts = {"records": self.records, "structures": self.structures, "descriptions": self.descriptions}
        shown = [row(name, counts) for name, counts in parts.items() if counts]
        shown.append(row("proteins", self.kinds) + f"; {self.residues:,} residues")
        if self.unresolved["proteins"]:
            shown.append(row("unresolved", {"residues": self.unresolved["residues"]}) + " have no Cα")
        if self.tags["proteins"]:
            shown.append(row("tags", self.tags) + " at ends of structures, not in the sequence, were left out")
        shown += [
            f"quarantined  {rejection.id!r}: {rejection.code}: {rejection.reason}" for rejection in self.rejections[:20]
        ]
        if len(self.rejections) > 20:
            shown.append(f"quarantined  and {len(self.rejections) - 20:,} more")
        shown += [
            f"conflict     {conflict.key!r}: rows {conflict.taken} and {conflict.ignored} differ, the first was taken"
            for conflict in self.conflicts[:5]
        ]
        if len(self.conflicts) > 5:
            shown.append(f"conflict     and {len(self.conflicts) - 5:,} more")
        return shown
