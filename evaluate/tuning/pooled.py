"""A control: what the encoders' own features tell, without any fusion.

Shapes: B proteins, N proteins of the store, D width of all inputs together.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from amma.evaluate.tasks.task import INPUTS
from amma.featurize.store.reader import FeatureStore
from amma.train.model.standardise import Standardiser


class PooledInputs:
    """The mean over residues of the sequence and of the structure features of each protein, side by side.

    They are standardised as the model's inputs are; a protein without one of the two has zeros there, the mean of
    pretraining. Computed once, for the rows of `splits`, and fixed: there is nothing to tune but a head on top.
    """

    def __init__(
        self,
        store: FeatureStore,
        standardiser: Standardiser,
        splits: Sequence[Int64[np.ndarray, " _"]],
        *,
        device: torch.device,
    ) -> None:
        rows = np.unique(np.concatenate(list(splits)))
        offset = {modality: sum(store.widths[m] for m in INPUTS[:place]) for place, modality in enumerate(INPUTS)}
        pooled_BD = torch.zeros(len(rows), sum(store.widths[modality] for modality in INPUTS), device=device)
        for modality in INPUTS:
            places = np.flatnonzero(store.length(modality)[rows])
            if not len(places):
                continue
            means = [store.read(modality, int(rows[place])).features.mean(axis=0, dtype=np.float64) for place in places]
            part_BD = torch.from_numpy(np.stack(means)).to(device, torch.float32)
            # The map is affine: the mean of standardised rows is the standardised mean.
            columns = slice(offset[modality], offset[modality] + store.widths[modality])
            pooled_BD[torch.from_numpy(places).to(device), columns] = standardiser(modality, part_BD)
        self._pooled_BD = pooled_BD.detach()
        self._place_N = np.full(store.num_proteins, -1, dtype=np.int64)
        self._place_N[rows] = np.arange(len(rows))

    def vectors(self, rows: Int64[np.ndarray, " B"]) -> Float32[Tensor, "B D"]:
        """The pooled features of proteins (numbers in the store) that belong to one of the splits."""
        places = torch.from_numpy(self._place_N[rows]).to(self._pooled_BD.device)
        return self._pooled_BD[places]
