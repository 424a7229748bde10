"""Invented protein families: ancestors with a fold, a motif and a composition, and their mutated members.

Families of one enzyme class share nothing by descent; they share the class's kind of fold, its favoured residues and
the motif of their EC number. So a class can be learned from some families and recognised in others.

Legend: L residues of one protein.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from amma.manifests.backbone import build_backbones, count_clashes, radius_of_gyration

AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"
MIN_LENGTH, MAX_LENGTH = 40, 120
_CANDIDATES = 16


@dataclass(frozen=True)
class Enzyme:
    """An EC number with what marks it: a sequence motif, and words for its texts."""

    number: str
    motif: str
    noun: str
    reaction: str


@dataclass(frozen=True)
class EnzymeClass:
    """A class of enzymes: the first digit of its EC numbers, its fold and favoured residues."""

    digit: str
    fold: str
    """Secondary structure in turn, each letter a segment: H helix, E strand."""
    favoured: str
    location: str
    enzymes: tuple[Enzyme, Enzyme]


CLASSES = (
    EnzymeClass(
        "1",
        "HH",
        "KEL",
        "Mitochondrion matrix",
        (
            Enzyme("1.1.1.27", "GTGSVG", "dehydrogenase", "the oxidation of {substrate} with NAD(+) as acceptor"),
            Enzyme("1.6.5.-", "HCYWHC", "reductase", "the transfer of electrons from NADH to {substrate}"),
        ),
    ),
    EnzymeClass(
        "2",
        "EE",
        "TVYI",
        "Cell membrane",
        (
            Enzyme("2.7.11.1", "DFGRKT", "kinase", "the phosphorylation of {substrate} by ATP"),
            Enzyme("2.1.1.-", "PEWNPR", "methyltransferase", "the methylation of {substrate}"),
        ),
    ),
    EnzymeClass(
        "3",
        "EH",
        "GSDA",
        "Secreted",
        (
            Enzyme("3.4.21.4", "GDSGGP", "protease", "the hydrolysis of peptide bonds after {substrate}"),
            Enzyme("3.1.3.48", "HCQAGR", "phosphatase", "the hydrolysis of phosphate from {substrate}"),
        ),
    ),
    EnzymeClass(
        "4",
        "HHEE",
        "RHPNQ",
        "Cytoplasm",
        (
            Enzyme("4.2.1.1", "HWHFPH", "dehydratase", "the elimination of water from {substrate}"),
            Enzyme("4.1.1.-", "MDKEQM", "decarboxylase", "the release of carbon dioxide from {substrate}"),
        ),
    ),
)

_FORMERS = {"H": "AELKQMR", "E": "VIYFTW", "C": "GPNDS"}
_TORSIONS = {"H": ((-63.0, -42.0),), "E": ((-120.0, 130.0),)}
_LOOPS = ((-75.0, 145.0), (-60.0, -30.0), (-90.0, 0.0), (60.0, 40.0), (-70.0, 160.0))
_SEGMENTS = {"H": (9, 15), "E": (5, 8), "C": (3, 5)}


@dataclass(frozen=True)
class Residues:
    """A protein of an invented family, residue by residue; angles in degrees."""

    letters: str
    states: str
    """H helix, E strand, C coil, M motif (a coil that never changes)."""
    phi_L: Float[np.ndarray, " L"]
    psi_L: Float[np.ndarray, " L"]

    def __len__(self) -> int:
        return len(self.letters)


def backbones_of(proteins: Sequence[Residues]) -> list[Float[np.ndarray, "L 4 3"]]:
    """N, CA, C and O of each residue, in Å, of each protein; all are built side by side."""
    longest = max(map(len, proteins))
    phi_BL, psi_BL = (np.zeros((len(proteins), longest)) for _ in range(2))
    for b, protein in enumerate(proteins):
        phi_BL[b, : len(protein)], psi_BL[b, : len(protein)] = np.radians(protein.phi_L), np.radians(protein.psi_L)
    # What is built beyond a protein's end does not reach back into it.
    atoms_BL43 = build_backbones(phi_BL, psi_BL)
    return [atoms_BL43[b, : len(protein)] for b, protein in enumerate(proteins)]


@dataclass(frozen=True)
class Family:
    """An ancestor and what all of its descendants share; `enzymes` has two entries where members do two things."""

    index: int
    enzyme_class: EnzymeClass
    enzymes: tuple[Enzyme, ...]
    name: str
    substrate: str
    ancestor: Residues

    @classmethod
    def draw(cls, seed: int, index: int, enzyme_class: EnzymeClass, enzyme: int) -> "Family":
        """Family `index` of a toy proteome: a function of the arguments alone."""
        rng = np.random.default_rng([seed, 1, index])
        first = enzyme_class.enzymes[enzyme]
        bifunctional = index % 8 == 7
        second = enzyme_class.enzymes[1 - enzyme]
        states = _draw_states(rng, enzyme_class.fold, len(first.motif))
        letters = _draw_letters(rng, states, enzyme_class.favoured, first.motif)
        phi_L, psi_L = _draw_torsions(rng, states)
        return cls(
            index=index,
            enzyme_class=enzyme_class,
            enzymes=(first, second) if bifunctional else (first,),
            name=_draw_word(rng).capitalize(),
            substrate=_draw_word(rng) + "ate",
            ancestor=Residues(letters, states, phi_L, psi_L),
        )

    def member(self, rng: np.random.Generator) -> Residues:
        """A descendant: 10 to 40 % of residues outside the motif mutated, a few loop residues lost or gained."""
        ancestor = self.ancestor
        rate = rng.uniform(0.1, 0.4)
        letters: list[str] = []
        states: list[str] = []
        angles: list[tuple[float, float]] = []
        length = len(ancestor)
        for i, state in enumerate(ancestor.states):
            fate = rng.random()
            if state == "C" and fate < 0.04 and length > MIN_LENGTH:
                length -= 1
                continue
            changed = state != "M" and rng.random() < rate
            copies = 2 if state == "C" and fate > 0.96 and length < MAX_LENGTH else 1
            length += copies - 1
            for copy in range(copies):
                new = changed or copy
                letters.append(_draw_letter(rng, state, self.enzyme_class.favoured) if new else ancestor.letters[i])
                states.append(state)
                phi, psi = _LOOPS[rng.integers(len(_LOOPS))] if copy else (ancestor.phi_L[i], ancestor.psi_L[i])
                angles.append((phi + rng.normal(0, 1), psi + rng.normal(0, 1)))
        phi_L, psi_L = np.array(angles).T
        return Residues("".join(letters), "".join(states), phi_L, psi_L)


def _draw_states(rng: np.random.Generator, fold: str, motif: int) -> str:
    """Segments of the fold, joined by loops, to a length between the limits; the loop in the middle has the motif."""
    aim = int(rng.integers(MIN_LENGTH + 8, MAX_LENGTH - 20))
    half = len(fold) // 2
    parts = ["CC"]
    placed = False
    while (length := sum(map(len, parts))) < aim - 3:
        if not placed and length > aim // 3:
            parts.append("C" + "M" * motif + "C")
            placed = True
        # A fold of two halves changes once, in the middle; others alternate.
        kinds = (fold[:half] if length < aim // 2 else fold[half:]) if len(fold) > 2 else fold
        state = kinds[len(parts) // 2 % len(kinds)]
        low, high = _SEGMENTS[state]
        parts.append(state * int(rng.integers(low, high + 1)))
        low, high = _SEGMENTS["C"]
        parts.append("C" * int(rng.integers(low, high + 1)))
    return "".join(parts)[:MAX_LENGTH]


def _draw_letters(rng: np.random.Generator, states: str, favoured: str, motif: str) -> str:
    letters = [_draw_letter(rng, state, favoured) for state in states]
    start = states.index("M")
    letters[start : start + len(motif)] = motif
    return "".join(letters)


def _draw_letter(rng: np.random.Generator, state: str, favoured: str) -> str:
    formers = _FORMERS.get(state, _FORMERS["C"])
    weights = np.array([(3.0 if a in formers else 1.0) * (3.0 if a in favoured else 1.0) for a in AMINO_ACIDS])
    return AMINO_ACIDS[int(rng.choice(len(AMINO_ACIDS), p=weights / weights.sum()))]


def _draw_torsions(rng: np.random.Generator, states: str) -> tuple[Float[np.ndarray, " L"], Float[np.ndarray, " L"]]:
    """Torsion angles in degrees: of several draws of the loops, the one with fewest clashes, then the most compact."""
    angles = np.empty((_CANDIDATES, len(states), 2))
    for i, state in enumerate(states):
        choices = np.array(_TORSIONS.get(state, _LOOPS))
        spread = 3.0 if state in _TORSIONS else 10.0
        angles[:, i] = choices[rng.integers(len(choices), size=_CANDIDATES)]
        angles[:, i] += rng.normal(0, spread, size=(_CANDIDATES, 2))
    radians = np.radians(angles)
    alpha = build_backbones(radians[..., 0], radians[..., 1])[:, :, 1]
    best = np.lexsort((radius_of_gyration(alpha), count_clashes(alpha)))[0]
    return angles[best, :, 0], angles[best, :, 1]


def _draw_word(rng: np.random.Generator) -> str:
    def pick(choices: Sequence[str]) -> str:
        return choices[int(rng.integers(len(choices)))]

    return "".join(pick("bdfgklmnprstvz") + pick("aeiou") for _ in range(3))
