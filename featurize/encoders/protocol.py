"""What every frozen encoder looks like to the rest of the program.

An encoder turns proteins into rows of numbers: one row a residue (sequence, structure) or a token (text). It knows
nothing about stores, plans or units.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int32

from amma.manifests.structures import Chain
from amma.manifests.table import Modality, Protein


@dataclass(frozen=True, slots=True)
class EncoderInput:
    """One protein as encoders see it: its manifest row and, for structure encoders, its parsed chain.

    `chain` holds only residues that have a Cα; `chain.residue` places each of them in `protein.sequence`.
    """

    protein: Protein
    chain: Chain | None = None


@dataclass(frozen=True, slots=True)
class Encoded:
    """The features of one protein.

    `index` says what each row is: the residue index (0-based) for structures, the text field (0 to 3) for texts,
    None for sequences, whose rows are the residues in order. `cls` is the special-token row (BOS of ESM, [CLS] of
    BERT), None for structures; other special tokens have no row.
    """

    features: Float32[np.ndarray, "rows width"]
    index: Int32[np.ndarray, " rows"] | None = None
    cls: Float32[np.ndarray, " width"] | None = None


@runtime_checkable
class Encoder(Protocol):
    """A frozen encoder of one modality."""

    name: str
    modality: Modality
    width: int
    random_weights: bool
    """True when the weights are seeded random numbers (preset `tiny`): stores and reports then say so."""

    def fingerprint(self) -> Mapping[str, Any]:
        """Everything that decides the numbers, as plain JSON values; no paths, times or hosts."""

    def lengths(self, proteins: Sequence[Protein]) -> list[int]:
        """How many rows `encode` will give for each protein; cheap, and exact. 0: treat the modality as absent.

        A protein with 0 sequence rows is left out whole, for the reason that `encode` raises (a `RecordError`).
        """

    def cost(self, rows: int) -> int:
        """How much of a batch's token budget a protein of `rows` rows takes."""

    def encode(self, batch: Sequence[EncoderInput]) -> list[Encoded]:
        """Features of each protein; a protein's numbers do not depend on its batch mates (to 1e-5 of their RMS)."""
