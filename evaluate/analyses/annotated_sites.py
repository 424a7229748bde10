"""The annotated residues of the proteins in a store.

Legend: S annotated residues of one protein.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int32

from amma.evaluate.analyses.attention_results import SiteFacts
from amma.featurize.store.reader import FeatureStore
from amma.manifests.errors import InputError
from amma.manifests.files import sha256_of_file
from amma.manifests.sites import read_sites

FEW = 5
"""Reasons that a report repeats."""


@dataclass(frozen=True)
class AnnotatedSites:
    """For each protein of the store that has a site of the kinds: its residues (0-based, rising)."""

    residues: dict[str, Int32[np.ndarray, " S"]]
    facts: SiteFacts


def annotated_sites(path: Path, store: FeatureStore, kinds: Sequence[str]) -> AnnotatedSites:
    """Read a table of sites and check it against the store's sequences.

    Raises `InputError` (`E_SITE`) if no row is a site of a protein in the store, or none of it is of one of `kinds`.
    """
    lengths = {}
    named = read_sites(path)
    for id in dict.fromkeys((*named.ids, *(rejection.id for rejection in named.rejections))):
        try:
            row = store.row_of(id)
        except KeyError:
            continue
        lengths[id] = len(store.sequences()[row])
    table = read_sites(path, lengths)
    residues = table.residues(kinds)
    if not residues:
        raise InputError(
            f"{path}: no protein of {store.path} has a site of kind {' or '.join(kinds)}. Use the ids of the store, "
            "or other kinds.",
            code="E_SITE",
        )
    known = [rejection for rejection in table.rejections if not rejection.id or rejection.id in lengths]
    facts = SiteFacts(
        sha256=sha256_of_file(path),
        kinds=tuple(kinds),
        num_proteins=len(residues),
        num_elsewhere=len(table.rejections) - len(known),
        num_rejected=len(known),
        reasons=tuple(f"row {each.position}, {each.id or 'no id'}: {each.reason}" for each in known[:FEW]),
    )
    return AnnotatedSites(residues, facts)
