"""How much the name of a protein attends to each of its residues, in the fusion encoder's last layer.

The model is given sequence, structure and the tokens of the name alone, nothing masked (Ko et al., arXiv 2405.06663,
Fig. 3). The name's tokens ask; the mean over them and over heads is taken.

Legend: N proteins, L residues of one protein, T text tokens of one protein.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from amma.evaluate.analyses.vectors import batches
from amma.featurize.store.reader import FeatureStore
from amma.manifests.table import MODALITIES, TEXT_FIELDS, Modality
from amma.train.data.packing import Packer
from amma.train.model.attention_weights import AttentionWeights, attention_weights
from amma.train.model.batch import PackedBatch
from amma.train.model.fusion import FusionModel

SEQ, STR, FUNC = MODALITIES
NAME = TEXT_FIELDS.index("name")
ResidueTokens = Literal["both", "seq", "str"]
"""Whose attention counts as a residue's: the sum over its sequence and structure token, or that of one of them."""


@dataclass(frozen=True)
class View:
    """A model, and for each protein the place of the one whose name it is given (its own place: its own name)."""

    model: FusionModel
    name_of_N: Int64[np.ndarray, " N"]


@dataclass(frozen=True)
class ResidueAttention:
    """Of one protein: attention to each residue that has a token, and the share that each modality's tokens get."""

    residue_L: Float64[np.ndarray, " L"]
    shares: dict[Modality, float]


def name_tokens(store: FeatureStore, row: int) -> Bool[np.ndarray, " T"]:
    """Which text tokens of a protein are of its name (True); all False where it has a text and no name."""
    index = store.read(FUNC, row).index
    if index is None:
        raise ValueError(f"{store.path}: text tokens without their fields")
    of_name: Bool[np.ndarray, " T"] = index == NAME
    return of_name


@torch.no_grad()
def collect_attention(
    store: FeatureStore,
    rows_N: Int64[np.ndarray, " N"],
    is_name: Sequence[Bool[np.ndarray, " _T"]],
    views: Sequence[View],
    *,
    residue_tokens: ResidueTokens = "both",
    device: torch.device | str = "cpu",
    advance: Callable[[int], None] = lambda n: None,
) -> list[list[ResidueAttention]]:
    """For each view the attention of the proteins `rows_N`, in their order; `is_name` is `name_tokens` of each."""
    pack = Packer(device)
    found: list[dict[int, ResidueAttention]] = [{} for _ in views]
    for places in batches(store, rows_N, MODALITIES):
        residues = pack(store, rows_N[places].tolist(), (SEQ, STR))
        seen = {m: torch.ones(len(residues.tokens[m].position_T), dtype=torch.bool) for m in (SEQ, STR)}
        texts: dict[tuple[int, ...], PackedBatch] = {}
        for number, view in enumerate(views):
            named = view.name_of_N[places]
            key = tuple(named.tolist())
            if key not in texts:
                texts[key] = pack(store, rows_N[named].tolist(), (FUNC,))
            tokens = {**residues.tokens, FUNC: texts[key].tokens[FUNC]}
            visible = {**seen, FUNC: torch.from_numpy(np.concatenate([is_name[place] for place in key]))}
            batch = PackedBatch(residues.ids, tokens)
            structured = batch.tokens[STR]
            for at, of in enumerate(attention_weights(view.model, batch, visible, asking=FUNC)):
                start, end = structured.offsets[at : at + 2].tolist()
                residue_T = structured.position_T[start:end].cpu()
                found[number][places[at]] = _per_residue(of, residue_T, residue_tokens)
        advance(len(places))
    return [[by_place[place] for place in range(len(rows_N))] for by_place in found]


def _per_residue(of: AttentionWeights, residue_T: Tensor, residue_tokens: ResidueTokens) -> ResidueAttention:
    mean_T = of.weight_HQT.double().mean(dim=(0, 1)).cpu()
    parts = {modality: mean_T[columns] for modality, columns in of.columns.items()}
    residue_L = parts[SEQ].clone() if residue_tokens != "str" else torch.zeros_like(parts[SEQ])
    if residue_tokens != "seq":
        residue_L.index_add_(0, residue_T, parts[STR])
    shares = {modality: float(part.sum()) for modality, part in parts.items()}
    return ResidueAttention(residue_L.numpy(), shares)


def times_mean(residue_L: Float64[np.ndarray, " L"]) -> Float64[np.ndarray, " L"]:
    """The attention over its mean: 1 everywhere if all residues get the same."""
    scaled: Float64[np.ndarray, " L"] = residue_L / residue_L.mean()
    return scaled


def evenness(residue_L: Float64[np.ndarray, " L"]) -> float:
    """exp(entropy) over the number of residues: 1 if all get the same, 1/L if a single one gets all."""
    share_L = residue_L / residue_L.sum()
    positive = share_L[share_L > 0]
    return float(np.exp(-(positive * np.log(positive)).sum()) / len(share_L))


def correlation(x_L: Float64[np.ndarray, " L"], y_L: Float64[np.ndarray, " L"]) -> float | None:
    """Pearson's; None where one of them is the same everywhere."""
    if np.ptp(x_L) == 0 or np.ptp(y_L) == 0:
        return None
    return float(np.corrcoef(x_L, y_L)[0, 1])


def position_profiles(
    attention: Sequence[Float64[np.ndarray, " _L"]], bins: int = 20
) -> list[Float64[np.ndarray, " _L"]]:
    """What can be said of each protein's residues by their place in the chain alone.

    The mean attention (over its mean) of all *other* proteins in `bins` equal parts of the chain, between whose middles
    it is interpolated. Needs two proteins at least.
    """
    middle_B = (np.arange(bins) + 0.5) / bins
    places = [(np.arange(len(of)) + 0.5) / len(of) for of in attention]
    profile_NB = np.stack(
        [np.interp(middle_B, place_L, times_mean(of)) for place_L, of in zip(places, attention, strict=True)]
    )
    others_NB = (profile_NB.sum(axis=0) - profile_NB) / (len(attention) - 1)
    return [np.interp(place_L, middle_B, profile_B) for place_L, profile_B in zip(places, others_NB, strict=True)]
