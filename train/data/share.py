"""Which of a step's proteins a process takes, and in which parts.

The plan of a step is the same for any number of processes and parts: it is cut, and never drawn anew.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from amma.train.data.streams import Portion


@dataclass(frozen=True, slots=True)
class Share:
    """One process of `ranks`, which goes through its proteins in `parts` batches, one after the other."""

    rank: int = 0
    ranks: int = 1
    parts: int = 1

    def of(self, plan: Sequence[Portion]) -> tuple[Portion, ...]:
        """The batches of this process: of each portion a contiguous piece, in `parts` pieces of nearly equal size.

        Pieces without a protein are left out, so that a process may have nothing to do.
        """
        return tuple(piece for portion in plan for piece in self._pieces(portion))

    def _pieces(self, portion: Portion) -> list[Portion]:
        size, pieces = len(portion.draws), self.ranks * self.parts
        ends = [size * number // pieces for number in range(pieces + 1)]
        mine = range(self.rank * self.parts, (self.rank + 1) * self.parts)
        return [
            replace(portion, draws=portion.draws[ends[number] : ends[number + 1]])
            for number in mine
            if ends[number] < ends[number + 1]
        ]


WHOLE = Share()
"""Everything at once, on one process."""
