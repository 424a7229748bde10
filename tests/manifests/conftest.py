"""Small structure files, written atom by atom."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import gemmi
import pytest


@dataclass(frozen=True)
class Atom:
    """One line of a PDB file; coordinates as text, so that they can be wrong."""

    residue: str
    number: int
    name: str = "CA"
    insertion: str = " "
    altloc: str = " "
    occupancy: float = 1.0
    chain: str = "A"
    xyz: Sequence[str] | None = None
    record: str = "ATOM"

    def line(self, serial: int) -> str:
        x, y, z = self.xyz or (f"{3.8 * self.number:.3f}", "0.000", "0.000")
        return (
            f"{self.record:<6}{serial:5d}  {self.name:<3}{self.altloc}{self.residue:>3} {self.chain}{self.number:4d}"
            f"{self.insertion}   {x:>8}{y:>8}{z:>8}{self.occupancy:6.2f}  0.00           C  "
        )


@pytest.fixture
def pdb() -> Callable[[Sequence[Atom]], bytes]:
    """Write a PDB file of one model."""

    def write(atoms: Sequence[Atom]) -> bytes:
        lines = [atom.line(serial) for serial, atom in enumerate(atoms, start=1)]
        return ("\n".join([*lines, "TER", "END"]) + "\n").encode()

    return write


@pytest.fixture
def atom() -> type[Atom]:
    """The class of one line."""
    return Atom


@pytest.fixture
def alpha_trace(pdb: Callable[[Sequence[Atom]], bytes]) -> Callable[..., bytes]:
    """Write a Cα-only PDB file of a sequence in a straight line, 3.8 Å a step, without the residues `missing`."""

    def write(sequence: str, *, missing: Sequence[int] = (), chain: str = "A") -> bytes:
        names = [gemmi.expand_one_letter(letter, gemmi.ResidueKind.AA) for letter in sequence]
        return pdb([Atom(name, i + 1, chain=chain) for i, name in enumerate(names) if i not in missing])

    return write
