"""What the vectors of held-out proteins show: whether modalities agree on which are alike, and whether they collapse.

Each modality is encoded **alone**. Encoded together, its tokens attend to those of the others, and vectors agree
because they have seen each other: of 281 real proteins an untrained model (`tiny`) then finds more than every second
again among the five nearest, at a debiased CKA of 0.67 to 0.96. Alone, there is nothing to see. (A masked model meets a
modality alone only where masks hide the others whole, so these figures are hard on it; and its loss does not ask for
agreement. Only the contrastive one's does.)

Legend: N proteins, D width of the fusion encoder.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from amma.manifests.table import MODALITIES, Modality
from amma.train.data.streams import STREAMS, Portion
from amma.train.model.alignment import debiased_cka, effective_rank, recall_at, spread
from amma.train.model.batch import PackedBatch
from amma.train.model.fusion import FusionModel
from amma.train.model.masking import generator_for
from amma.train.run.ranks import Ranks

MOST_PROTEINS = 512
"""So many are enough: debiased CKA of unrelated vectors is then 0 within 0.003."""
RECALL_AT = (1, 5, 10)
NUM_SHUFFLES = 8
COUNTER = -2
"""Random numbers of the choice and of the shuffles are `generator_for(seed, COUNTER, …)`: apart from all others."""


def choose_batches(validation: Sequence[Portion], *, seed: int, most: int = MOST_PROTEINS) -> frozenset[int]:
    """Numbers of validation batches with at most `most` proteins in all, drawn at random; triplets come first.

    A triplet serves every pair of modalities.
    """
    drawn = generator_for(seed, COUNTER, 0).permutation(len(validation)).tolist()
    drawn.sort(key=lambda number: -len(STREAMS[validation[number].stream]))
    chosen, room = set(), most
    for number in drawn:
        if len(validation[number].draws) <= room:
            chosen.add(number)
            room -= len(validation[number].draws)
    return frozenset(chosen)


@torch.no_grad()
def vectors_alone(model: FusionModel, batch: PackedBatch) -> dict[Modality, Float[Tensor, "_B _D"]]:
    """For each modality the mean of the encoder's outputs at its tokens, with nothing masked and nothing else given."""
    vectors = {}
    for modality in batch.modalities:
        alone = PackedBatch(batch.ids, {modality: batch.tokens[modality]})
        tokens = model.fuse(alone).tokens[modality]
        lengths_B = tokens.lengths.to(tokens.features_TD.device)
        vectors[modality] = torch.segment_reduce(tokens.features_TD.float(), "mean", lengths=lengths_B)
    return vectors


class Agreement:
    """Collects the vectors of the chosen batches; the host reads them once, for `figures`."""

    def __init__(self, batches: frozenset[int], *, seed: int) -> None:
        self._batches = batches
        self._seed = seed
        self._vectors: dict[int, dict[Modality, Tensor]] = {}

    def add(self, number: int, model: FusionModel, batch: PackedBatch) -> None:
        """Take in validation batch `number` if it was chosen."""
        if number in self._batches:
            self._vectors[number] = vectors_alone(model, batch)

    def merge(self, ranks: Ranks) -> None:
        """Take in the batches of the other processes."""
        own = {number: {m: vector_BD.cpu() for m, vector_BD in of.items()} for number, of in self._vectors.items()}
        self._vectors = {number: of for each in ranks.gathered(own) for number, of in each.items()}

    def figures(self) -> dict[str, Any]:
        """By pair of modalities how well they agree on the proteins that have both; by modality whether it collapsed.

        `cka` is the debiased one, with its mean and standard deviation over shuffled pairs; `recall` goes both ways,
        beside `chance` (k/N, which is also its mean over all shuffles). Nothing that is not finite is in it.
        """
        rows: dict[Modality, list[int]] = {modality: [] for modality in MODALITIES}
        parts: dict[Modality, list[Tensor]] = {modality: [] for modality in MODALITIES}
        count = 0
        for _, of in sorted(self._vectors.items()):
            for modality, vector_BD in of.items():
                parts[modality].append(vector_BD)
                rows[modality].extend(range(count, count + len(vector_BD)))
            count += max(map(len, of.values()))
        have = [modality for modality in MODALITIES if len(rows[modality]) > 1]
        vector = {modality: torch.cat(parts[modality]).cpu().numpy() for modality in have}
        if not all(np.isfinite(matrix).all() for matrix in vector.values()):
            return {}
        pairs = {}
        for a, b in combinations(have, 2):
            _, at_a, at_b = np.intersect1d(rows[a], rows[b], return_indices=True)
            if len(at_a) > 1:
                pairs[f"{a}-{b}"] = self._agreement(a, b, vector[a][at_a], vector[b][at_b])
        return {
            "pairs": pairs,
            "effective_rank": {str(modality): effective_rank(matrix) for modality, matrix in vector.items()},
            "spread": {str(modality): spread(matrix) for modality, matrix in vector.items()},
        }

    def _agreement(
        self, a: Modality, b: Modality, a_ND: Float[np.ndarray, "N D"], b_ND: Float[np.ndarray, "N D"]
    ) -> dict[str, Any]:
        num = len(a_ND)
        figures: dict[str, Any] = {"proteins": num}
        cka = debiased_cka(a_ND, b_ND)
        if cka is not None:
            rng = generator_for(self._seed, COUNTER, 1)
            shuffled = [debiased_cka(a_ND, b_ND, rng.permutation(num)) or 0.0 for _ in range(NUM_SHUFFLES)]
            figures |= {"cka": cka, "cka_shuffled": {"mean": float(np.mean(shuffled)), "sd": float(np.std(shuffled))}}
        recall = {f"{a}-{b}": recall_at(RECALL_AT, a_ND, b_ND), f"{b}-{a}": recall_at(RECALL_AT, b_ND, a_ND)}
        figures["recall"] = {way: {str(k): value for k, value in of.items()} for way, of in recall.items()}
        figures["chance"] = {str(k): min(k / num, 1.0) for k in RECALL_AT}
        return figures


def describe(figures: Mapping[str, Any]) -> str:
    """One short line: CKA, recall@5 as the mean of both ways, effective ranks; empty if there is nothing to tell."""
    pairs = figures.get("pairs", {})
    cka = ", ".join(f"{pair} {of['cka']:.2f}" for pair, of in pairs.items() if "cka" in of)
    recall = ", ".join(
        f"{pair} {np.mean([way['5'] for way in of['recall'].values()]):.2f} (chance {of['chance']['5']:.2f})"
        for pair, of in pairs.items()
        if of["chance"]["5"] < 1
    )
    rank = ", ".join(f"{modality} {value:.1f}" for modality, value in figures.get("effective_rank", {}).items())
    named = (("CKA", cka), ("recall@5", recall), ("effective rank", rank))
    return "; ".join(f"{name} {text}" for name, text in named if text)
