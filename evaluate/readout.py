"""One vector a protein from the fusion encoder's outputs at its residues.

A protein's vector does not depend on its batch mates. Sequence and structure go in, nothing is masked; a protein
that has only one of the two goes in with that one.

Shapes: B proteins, T residues of the whole batch, D fusion width.
"""

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from amma.evaluate.config import Readout
from amma.evaluate.tasks import INPUTS
from amma.featurize.store.reader import FeatureStore
from amma.manifests.table import Modality
from amma.train.data.collate import collate
from amma.train.model.amma import AMMA
from amma.train.model.batch import Fused


def read_out(fused: Fused, readout: Readout) -> Float[Tensor, "B D"]:
    """The vector of each protein of a batch, in the batch's order; differentiable."""
    tokens = fused.tokens[Modality.SEQ if Modality.SEQ in fused.tokens else Modality.STR]
    features_TD = tokens.features_TD
    lengths_B = tokens.offsets.diff()
    if not bool((lengths_B > 0).all()):
        raise ValueError("a protein without a single residue has no readout")
    if readout is Readout.FIRST:
        return features_TD.index_select(0, tokens.offsets[:-1].to(features_TD.device))
    return torch.segment_reduce(features_TD, "mean", lengths=lengths_B.to(features_TD.device))


def represent(
    model: AMMA, store: FeatureStore, proteins: Int64[np.ndarray, " B"], readout: Readout, *, device: torch.device | str
) -> Float[Tensor, "B D"]:
    """The vectors of `proteins` (numbers in the store), in their order; one pass for each set of modalities."""
    groups: dict[tuple[Modality, ...], list[int]] = {}
    length = {modality: store.length(modality) for modality in INPUTS}
    for place, protein in enumerate(proteins.tolist()):
        groups.setdefault(tuple(m for m in INPUTS if length[m][protein]), []).append(place)
    vectors = []
    for modalities, places in groups.items():
        batch = collate(store, proteins[places].tolist(), modalities)
        vectors.append(read_out(model.fuse(batch.to(device)), readout))
    order = np.argsort(np.concatenate([np.array(places) for places in groups.values()]))
    return torch.cat(vectors).index_select(0, torch.from_numpy(order).to(device))
