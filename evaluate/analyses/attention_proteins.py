"""The proteins whose attention is looked at: held out, with a name, and with sites with something to find.

Legend: N proteins, L residues and T text tokens of one protein.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64

from amma.evaluate.analyses.annotated_sites import AnnotatedSites
from amma.evaluate.analyses.attention_results import FEWEST, AttentionConfig, LeftOut
from amma.evaluate.analyses.residue_attention import name_tokens
from amma.evaluate.analyses.subject import HeldOut
from amma.featurize.store.reader import FeatureStore
from amma.manifests.errors import InputError
from amma.manifests.table import MODALITIES

Scores = list[Float64[np.ndarray, " _L"]]
"""A score for each residue of each protein."""


@dataclass(frozen=True)
class Looked:
    """A protein that was looked at; `annotated_L` is True at annotated residues, None without a table of sites."""

    id: str
    sequence: str
    num_name_tokens: int
    annotated_L: Bool[np.ndarray, " L"] | None
    num_beyond: int

    @property
    def num_annotated(self) -> int:
        """How many of its residues with a token are annotated; 0 without a table of sites."""
        return 0 if self.annotated_L is None else int(self.annotated_L.sum())


@dataclass(frozen=True)
class Chosen:
    """The proteins of which attention is taken, their rows in the store and name tokens, and who was left out."""

    proteins: tuple[Looked, ...]
    rows_N: Int64[np.ndarray, " N"]
    is_name: tuple[Bool[np.ndarray, " _T"], ...]
    left_out: tuple[LeftOut, ...]


def choose(store: FeatureStore, held_out: HeldOut, sites: AnnotatedSites | None) -> Chosen:
    """Those held-out proteins that have a name, and with sites some residue that is annotated and some that is not.

    Raises `InputError` if fewer than two are left.
    """
    sequences = store.sequences().take(held_out.rows.tolist())
    kept: list[tuple[Looked, int, np.ndarray]] = []
    left_out = []
    for id, row, sequence in zip(held_out.ids, held_out.rows.tolist(), sequences, strict=True):
        of_name = name_tokens(store, row)
        length = int(store.length(MODALITIES[0])[row])
        annotated_L, num_beyond = None, 0
        if sites is not None:
            residues = sites.residues[id]
            annotated_L = np.zeros(length, dtype=np.bool_)
            annotated_L[residues[residues < length]] = True
            num_beyond = int((residues >= length).sum())
        if not of_name.any():
            left_out.append(LeftOut(id=id, code="no name", reason="its text has no token of a name"))
        elif annotated_L is not None and not 0 < annotated_L.sum() < length:
            reason = f"{int(annotated_L.sum())} of its {length} residues with a token are annotated"
            left_out.append(LeftOut(id=id, code="no contrast", reason=reason))
        else:
            kept.append((Looked(id, sequence, int(of_name.sum()), annotated_L, num_beyond), row, of_name))
    if len(kept) < FEWEST:
        first = f" ({left_out[0].id}: {left_out[0].reason})" if left_out else ""
        raise InputError(
            f"{store.path}: {len(kept)} of {len(held_out.ids)} held-out proteins can be looked at, at least {FEWEST} "
            f"are needed, one for the name of another{first}. Give proteins with names, or more of them."
        )
    looked, rows, is_name = zip(*kept, strict=True)
    return Chosen(looked, np.array(rows, dtype=np.int64), is_name, tuple(left_out))


def shown_proteins(config: AttentionConfig, chosen: Chosen, listed: Sequence[str] | None) -> list[int]:
    """Places of those that are drawn: the first of a list of ids, else those with most annotated residues, else any.

    Never by how well they went.
    """
    places = list(range(len(chosen.proteins)))
    if listed is not None:
        turn = {id: place for place, id in reversed(list(enumerate(listed)))}
        places.sort(key=lambda place: turn[chosen.proteins[place].id])
    else:
        places.sort(key=lambda place: -chosen.proteins[place].num_annotated)
    return places[: config.shown]
