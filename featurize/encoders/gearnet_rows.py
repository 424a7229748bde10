"""What structure encoders of either backend share: which residues of a chain get rows, and which chains go together.

The graph is that of the whole chain. `max_residues` only limits which residues get a row: those before that index of
the sequence, so that structure and sequence features cover the same residues where the sequence encoder has a limit;
None gives all.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float32

from amma.featurize.encoders.protocol import Encoded, EncoderInput
from amma.manifests.structures import Chain
from amma.manifests.table import Protein


def num_rows(protein: Protein, max_residues: int | None) -> int:
    """Residues with a Cα, of those before `max_residues`; 0 without a structure."""
    if protein.structure is None:
        return 0
    length = len(protein.sequence)
    limit = length if max_residues is None else min(length, max_residues)
    return limit - sum(residue < limit for residue in set(protein.unresolved))


def chain_of(item: EncoderInput) -> Chain:
    """The chain of an input; `ValueError` without one."""
    if item.chain is None:
        raise ValueError(f"{item.protein.id!r}: a structure encoder needs the protein's chain")
    return item.chain


def keep_rows(chain: Chain, features_RD: Float32[np.ndarray, "R D"], max_residues: int | None) -> Encoded:
    """The rows of one chain that are wanted; copies, so that nothing keeps the batch alive."""
    wanted_R = slice(None) if max_residues is None else chain.residue < max_residues
    return Encoded(features=features_RD[wanted_R].copy(), index=chain.residue[wanted_R].copy())


def groups_within_cost(chains: Sequence[Chain], max_residues: int | None) -> Iterator[list[Chain]]:
    """Cut a batch so that no group's graph has more residues than the batch was said to cost; order is kept.

    A batch is planned by its rows. Where chains are longer than `max_residues`, the graph has more residues than the
    batch has rows; then it is computed in several pieces, a pure function of the batch. A chain that is longer than all
    rows together is a group of its own.
    """
    limit = np.inf if max_residues is None else max_residues
    budget = sum(int((chain.residue < limit).sum()) for chain in chains)
    group: list[Chain] = []
    residues = 0
    for chain in chains:
        if group and residues + len(chain.residue) > budget:
            yield group
            group, residues = [], 0
        group.append(chain)
        residues += len(chain.residue)
    if group:
        yield group
