"""What `report.json` tells of each term."""

from amma.manifests.settings import Settings


class TermResult(Settings):
    """How well one term is predicted on the test split, mean over seeds; None where no test protein has the term.

    `average_precision` is that of ranking the test proteins by their score for the term, ties grouped; `fmax` is the
    largest F of calling it at one threshold.
    """

    average_precision: float | None
    fmax: float | None


class TermRecord(Settings):
    """A term, its name (None if nothing at hand names it) and where that is from, and how it is predicted.

    The numbers are of proteins that have the term in each split.
    """

    term: str
    name: str | None
    name_origin: str | None
    num_train: int
    num_valid: int
    num_test: int
    trained: TermResult
    untrained: TermResult
    label_frequency: TermResult
