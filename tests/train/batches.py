"""Packed batches of random features, for the tests of models; `conftest.py` lets them be imported."""

from collections.abc import Mapping

import torch
from torch import Tensor

from amma.manifests.table import MODALITIES, Modality
from amma.train.model.batch import PackedBatch, Tokens, pack

SEQ, STR, FUNC = Modality
WIDTHS = {SEQ: 6, STR: 10, FUNC: 4}
TRIPLETS = [(9, 7, 5), (4, 4, 8), (9, 9, 5), (6, 2, 1)]


def make_batch(
    lengths: list[tuple[int, int, int]], modalities: tuple[Modality, ...] = MODALITIES, seed: int = 0
) -> PackedBatch:
    """Proteins of (residues, residues with a Cα, text tokens); the first residues lack their Cα."""
    generator = torch.Generator().manual_seed(seed)
    rows = {
        modality: [
            (
                torch.randn(of[column], WIDTHS[modality], generator=generator),
                torch.arange(of[column]) + (of[0] - of[1] if modality is STR else 0),
            )
            for of in lengths
        ]
        for column, modality in enumerate(MODALITIES)
        if modality in modalities
    }
    return pack(tuple(f"p{index}" for index in range(len(lengths))), rows)


def make_visible(batch: PackedBatch, share: float = 0.4) -> dict[Modality, Tensor]:
    """About this share of the tokens, whichever they are."""
    generator = torch.Generator().manual_seed(5)
    return {m: torch.rand(len(t.position_T), generator=generator) < share for m, t in batch.tokens.items()}


def with_features(batch: PackedBatch, features: Mapping[Modality, Tensor]) -> PackedBatch:
    """The same proteins with other features in the modalities that are named."""
    tokens = {
        modality: Tokens(features.get(modality, old.features_TD), old.offsets, old.position_T)
        for modality, old in batch.tokens.items()
    }
    return PackedBatch(batch.ids, tokens)
