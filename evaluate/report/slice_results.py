"""What `report.json` tells of parts of the test split: by nearness to training, by length.

Which proteins are in a slice is told once (`Slice`); every row of the table has its figures in the same order.
"""

from amma.evaluate.report.estimates import Summary
from amma.manifests.settings import Settings


class Slice(Settings):
    """Test proteins of which a number is at least `at_least` and less than `below` (None: no bound on that side)."""

    at_least: float | None
    below: float | None
    num_proteins: int
    num_unlabelled: int


class SliceFigures(Settings):
    """Exact figures over the proteins of a slice; None where none of them has a label."""

    fmax: Summary | None
    aupr: Summary | None


class NearestTraining(Settings):
    """A test protein, the nearest protein of the training split (None: no alignment was found), and the identity."""

    id: str
    identity: float
    training: str | None


class IdentitySlices(Settings):
    """Test proteins less than so near to the training split; a slice holds those of the slices before it.

    Identity is the number of equal residues in an alignment over the shorter length; `method` says how slices were made
    (by a search, or DeepFRI's list, whose proteins may be others than a search finds) and `nearest_method` how the
    nearest were found. A protein for which no alignment was found counts as 0. `nearest` has all test proteins.
    """

    method: str
    slices: tuple[Slice, ...]
    nearest_method: str
    nearest: tuple[NearestTraining, ...]
