"""What `report.json` tells of single test proteins: those predicted best and worst."""

from amma.manifests.settings import Settings


class ScoredTerm(Settings):
    """A term, its name, the trained model's probability for a protein (mean over seeds), and whether it is true."""

    term: str
    name: str | None
    score: float
    true: bool


class ProteinRecord(Settings):
    """A test protein, and how the trained model does on it.

    `f` is that of its predicted terms at the validation threshold of each seed, mean over seeds; `f_untrained` the same
    for the untrained model. `identity` is that to the nearest protein of the training split. `true` has all its terms,
    `predicted` those with the largest scores, whether true or not, largest first.
    """

    id: str
    num_residues: int
    identity: float
    f: float
    f_untrained: float
    true: tuple[ScoredTerm, ...]
    predicted: tuple[ScoredTerm, ...]


class Extremes(Settings):
    """Of the test proteins with a label those with the largest and with the smallest F, the most extreme first.

    Of the best with equal F those with most terms come first, of the worst those with the largest score of a term that
    is not true; then the order is that of ids. No protein is in both.
    """

    best: tuple[ProteinRecord, ...]
    worst: tuple[ProteinRecord, ...]
