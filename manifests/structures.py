"""Read one chain of a PDB or mmCIF file and place its residues on the protein's sequence.

Legend: R residues that have a Cα.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int32


@dataclass(frozen=True, slots=True)
class Chain:
    """The residues of a chain that have a Cα, in sequence order.

    `residue` is the index (0-based) of each in the protein's sequence, `letters` its one-letter code in the
    structure (`X` if unknown), `ca` the position of its Cα in Å.
    """

    residue: Int32[np.ndarray, " R"]
    letters: str
    ca: Float32[np.ndarray, "R 3"]
