"""What `report.json` tells of a task: who takes part, who could not, and what its terms are."""

from amma.evaluate.config import Unlabelled
from amma.manifests.settings import Settings


class AbsentProtein(Settings):
    """A labelled protein of a split that has no features of sequence or structure in the store.

    `code` is one of docs/errors.md; `reason` says in words what is known.
    """

    id: str
    code: str
    reason: str


class SplitFacts(Settings):
    """Who takes part in a split.

    `num_unlabelled` of the proteins are in the label table without a term and count as all-zero rows; `missing` are
    labelled but could not be featurised; `num_unknown` ids of the split are outside the label table (or in it without
    a term, if such proteins are dropped) and take no part.
    `num_without_sequence` are read at their structure's residues.
    """

    num_proteins: int
    num_unlabelled: int
    num_pairs: int
    num_terms: int
    num_unknown: int
    num_without_sequence: int
    num_without_structure: int
    missing: tuple[AbsentProtein, ...]


class CeilingFacts(Settings):
    """The best figures possible on the test split for a model that knows nothing of terms unseen in training."""

    num_unseen_terms: int
    num_unseen_pairs: int
    fmax: float
    aupr: float


class NameFacts(Settings):
    """Where the names of terms are from: (origin, number of terms named by it), and the terms without a name."""

    origins: tuple[tuple[str, int], ...]
    unnamed: tuple[str, ...]


class AlternativeTerm(Settings):
    """A term of the label table that stands for another one, of the ontology.

    `how` is `alt_id`, or `replaced_by` or `consider` where the term is obsolete.
    """

    term: str
    primary: str
    how: str


class OntologyFacts(Settings):
    """The ontology that CAFA's figures are computed on.

    `kind` says in a few words what it is (a file of GO, the hierarchy of EC numbers); `data_version` and `sha256` pin
    a file. `unmatched` are terms of the label table that it does not have: CAFA's figures leave them out.
    """

    kind: str
    data_version: str | None
    sha256: str | None
    namespace: str
    num_terms: int
    num_obsolete: int
    alternative: tuple[AlternativeTerm, ...]
    unmatched: tuple[str, ...]


class TaskFacts(Settings):
    """What is predicted, for whom. `ontology` is None if none was given and the task has none by itself."""

    name: str
    num_terms: int
    unlabelled: Unlabelled
    train: SplitFacts
    valid: SplitFacts
    test: SplitFacts
    ceiling: CeilingFacts
    names: NameFacts
    ontology: OntologyFacts | None
