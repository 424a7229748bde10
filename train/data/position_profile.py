"""What a token's position alone tells of its features: the mean over proteins at each position.

Legend: P positions, T tokens of one modality, F width of its features.
"""

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

from amma.manifests.table import Modality
from amma.train.data.collate import collate
from amma.train.data.corpus import Corpus
from amma.train.data.loader import Loader
from amma.train.model.batch import Tokens
from amma.train.model.standardise import Standardiser
from amma.train.run.arithmetic import one_thread

MOST_PROTEINS = 512
"""Enough: a mean of n proteins costs 1/n in the error. Spread evenly over the training proteins."""
PRIOR = 1.0
"""Tokens at the overall mean that each position counts besides its own, for positions that few proteins reach."""


class PositionProfile:
    """Predicts a token's standardised features from its position; beyond the last one known, the overall mean."""

    def __init__(self, mean_PF: Float32[Tensor, "P F"]) -> None:
        self._mean_PF = torch.cat([mean_PF, mean_PF.new_zeros(1, mean_PF.shape[1])])

    def at(self, position_T: Int64[Tensor, " T"]) -> Float32[Tensor, "T _F"]:
        """The prediction for each token, where the positions are."""
        self._mean_PF = self._mean_PF.to(position_T.device)
        return self._mean_PF.index_select(0, position_T.clamp(max=len(self._mean_PF) - 1))


def measure_profiles(
    corpus: Corpus, proteins_N: Int64[np.ndarray, " N"], standardiser: Standardiser, *, threads: int
) -> dict[Modality, PositionProfile]:
    """The profile of each modality over at most `MOST_PROTEINS` of `proteins_N`; the same for any number of threads."""
    chosen = proteins_N[:: -(-len(proteins_N) // MOST_PROTEINS)]
    return {m: PositionProfile(_profile(corpus, m, chosen, standardiser, threads)) for m in corpus.widths}


def _profile(
    corpus: Corpus, modality: Modality, proteins_N: Int64[np.ndarray, " N"], standardiser: Standardiser, threads: int
) -> Float32[Tensor, "_P _F"]:
    present = proteins_N[corpus.length(modality)[proteins_N] > 0]
    longest = corpus.length(Modality.SEQ if modality is Modality.STR else modality)[present].max(initial=0)
    prior_F = standardiser.mean(modality).double().cpu().numpy()
    sum_PF: Float64[np.ndarray, "P F"] = np.tile(PRIOR * prior_F, (int(longest), 1))
    count_P: Float64[np.ndarray, " P"] = np.full(int(longest), PRIOR)

    def read(number: int) -> Tokens:
        return collate(corpus, [int(present[number])], (modality,)).tokens[modality]

    with Loader(read, 0, len(present), threads=threads, ahead=2 * threads, begin=one_thread) as proteins:
        for tokens in proteins:
            position_T = tokens.position_T.numpy()  # each once in a protein
            sum_PF[position_T] += tokens.features_TD.numpy()
            count_P[position_T] += 1
    mean_PF = torch.from_numpy(sum_PF / count_P[:, None]).float()
    predicted_PF: Float32[Tensor, "P F"] = standardiser(modality, mean_PF.to(standardiser.mean(modality).device))
    return predicted_PF
