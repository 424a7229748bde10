"""Choose which tokens the fusion encoder sees.

λ ~ Dirichlet(α) says how the visible tokens of a protein are shared among its modalities; within a modality they are
drawn uniformly. It knows nothing about features, models or losses; masks say True for visible.

Shapes: B proteins, T tokens of one modality.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from amma.manifests.table import MODALITIES, Modality
from amma.train.model.batch import PackedBatch
from amma.train.model.config import MaskConfig


def generator_for(seed: int, *counters: int) -> np.random.Generator:
    """Random numbers that are a pure function of integers, such as (seed, epoch, protein).

    The same whatever the batch, the thread or the rank; nothing to save for a resume.
    """
    name = ",".join(str(int(number)) for number in (seed, *counters))
    key = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=16).digest(), "little")
    return np.random.Generator(np.random.Philox(key=key))


def draw_counts(rng: np.random.Generator, lengths: Mapping[Modality, int], config: MaskConfig) -> dict[Modality, int]:
    """How many tokens of each modality of one protein are visible.

    No modality shows more than ⌊f · its tokens⌋. With shortfall `redistribute`, min(M, ⌊f · all tokens⌋) tokens are
    shared by λ; what a modality cannot take goes to the others in proportion to λ, until all is placed or all are full.
    With `drop`, M tokens are shared by λ, and what a modality cannot take is lost. Either way a modality of length 0 is
    absent: it has no part in the Dirichlet, and 0 visible tokens; nor has one that is dropped whole.
    """
    counts = dict.fromkeys(lengths, 0)
    present = [modality for modality in MODALITIES if lengths.get(modality, 0) > 0]
    if not present:
        return counts
    # The first number is drawn whatever the probability: a protein that keeps all modalities keeps its λ too.
    dropped = int(rng.integers(len(present))) if rng.random() < config.modality_dropout else None
    share = dict(zip(present, rng.dirichlet([config.alpha[MODALITIES.index(m)] for m in present]), strict=True))
    if dropped is not None and len(present) > 1:
        del share[present[dropped]]
    fraction = config.max_visible_fraction
    room = {modality: math.floor(fraction * lengths[modality]) for modality in share}
    if config.shortfall == "drop":
        wanted = _whole_numbers(rng, list(share.values()), config.visible_tokens, config)
        return counts | {m: min(number, room[m]) for m, number in zip(share, wanted, strict=True)}
    left = min(config.visible_tokens, math.floor(fraction * sum(lengths[modality] for modality in present)))
    while left and (open_ := [modality for modality in share if room[modality]]):
        wanted = _whole_numbers(rng, [share[m] for m in open_], left, config)
        for modality, number in zip(open_, wanted, strict=True):
            taken = min(number, room[modality])
            counts[modality] += taken
            room[modality] -= taken
            left -= taken
    return counts


def _whole_numbers(rng: np.random.Generator, weights: Sequence[float], total: int, config: MaskConfig) -> list[int]:
    """Whole numbers in proportion to `weights` that sum to `total`, by the rounding that is asked for."""
    whole = sum(weights)
    if whole == 0.0:  # a very small α underflows
        weights, whole = [1.0] * len(weights), float(len(weights))
    share = [weight / whole for weight in weights]
    if config.rounding == "multinomial":
        drawn: list[int] = rng.multinomial(total, share).tolist()
        return drawn
    exact = [part * total for part in share]
    counts = [math.floor(value) for value in exact]
    # The largest remainders are rounded up.
    by_fraction = sorted(range(len(exact)), key=lambda index: counts[index] - exact[index])
    for index in by_fraction[: total - sum(counts)]:
        counts[index] += 1
    return counts


def draw_visible(
    rng: np.random.Generator, lengths: Mapping[Modality, int], config: MaskConfig
) -> dict[Modality, Bool[np.ndarray, " _T"]]:
    """The masks of one protein: `draw_counts` tokens of each modality, uniformly and without replacement."""
    counts = draw_counts(rng, lengths, config)
    visible = {}
    for modality, length in lengths.items():
        visible_T = np.zeros(length, dtype=bool)
        visible_T[rng.choice(length, counts[modality], replace=False, shuffle=False)] = True
        visible[modality] = visible_T
    return visible


@dataclass(frozen=True)
class Masks:
    """The masks of a batch (host memory), and how many tokens of each protein they show."""

    visible: dict[Modality, Bool[Tensor, " _T"]]
    counts: dict[Modality, Int64[np.ndarray, " _B"]]


def show_all(batch: PackedBatch) -> Masks:
    """The masks of a batch that hide nothing."""
    return Masks(
        {modality: torch.ones(len(t.position_T), dtype=torch.bool) for modality, t in batch.tokens.items()},
        {modality: tokens.lengths.numpy() for modality, tokens in batch.tokens.items()},
    )


def draw_batch(generators: Sequence[np.random.Generator], batch: PackedBatch, config: MaskConfig) -> Masks:
    """Draw the masks of every protein of a batch, each with its own generator."""
    drawn: dict[Modality, list[Bool[np.ndarray, " _T"]]] = {modality: [] for modality in batch.modalities}
    lengths = {modality: batch.tokens[modality].lengths.tolist() for modality in batch.modalities}
    for protein, rng in enumerate(generators):
        visible = draw_visible(rng, {modality: of_all[protein] for modality, of_all in lengths.items()}, config)
        for modality, visible_T in visible.items():
            drawn[modality].append(visible_T)
    return Masks(
        {modality: torch.from_numpy(np.concatenate(masks)) for modality, masks in drawn.items()},
        {modality: np.array([mask.sum() for mask in masks], dtype=np.int64) for modality, masks in drawn.items()},
    )
