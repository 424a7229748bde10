"""How well the vectors of two modalities agree on which proteins are alike, and whether vectors have collapsed.

All in float64, of vectors that are given: one row a protein, the same proteins in the same order. None of it changes
when a modality's vectors are shifted, turned or scaled as a whole: where a modality lies says nothing about a protein.
(Recall compares directions, so both modalities must be turned alike.)

Legend: N proteins, D and E widths of two modalities' vectors.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float64, Int64

SMALLEST = 1e-6
"""Singular values below this share of the vectors' own size are what float32 leaves of numbers that were equal."""


def debiased_cka(
    x_ND: Float[np.ndarray, "N D"], y_NE: Float[np.ndarray, "N E"], order_N: Int64[np.ndarray, " N"] | None = None
) -> float | None:
    """Linear CKA with the unbiased estimator of HSIC: about 0 for independent vectors whatever N and D, 1 at most.

    (The usual, biased one tends to 1 as D grows beyond N.) Source: Kornblith et al., arXiv 1905.00414, with HSIC_1 of
    Song et al., JMLR 13 (2012), as in Nguyen et al., arXiv 2010.15327. `order_N` takes the rows of `y_NE` in another
    order, as a shuffled control. None where it is not defined: fewer than four proteins, or vectors that are all equal.
    """
    num = len(x_ND)
    if num < 4:
        return None
    centred_x_NN, centred_y_NN = _u_centred(x_ND), _u_centred(y_NE)
    if order_N is not None:
        centred_y_NN = centred_y_NN[np.ix_(order_N, order_N)]
    # The factor 1 / N(N - 3) of all three cancels.
    scale = float(np.sqrt(np.square(centred_x_NN).sum() * np.square(centred_y_NN).sum()))
    return float((centred_x_NN * centred_y_NN).sum()) / scale if scale > 0 else None


def _u_centred(x_ND: Float[np.ndarray, "N D"]) -> Float64[np.ndarray, "N N"]:
    """The Gram matrix, U-centred: inner products of two such are N(N - 3) × HSIC_1 (Székely & Rizzo 2014, §3)."""
    centred_ND = _centred(x_ND)
    gram_NN: np.ndarray = centred_ND @ centred_ND.T
    np.fill_diagonal(gram_NN, 0.0)
    num = len(gram_NN)
    row_N = gram_NN.sum(axis=0) / (num - 2)
    gram_NN += gram_NN.sum() / ((num - 1) * (num - 2)) - row_N - row_N[:, None]
    np.fill_diagonal(gram_NN, 0.0)
    return gram_NN


def recall_at(
    ks: Sequence[int], query_ND: Float[np.ndarray, "N D"], target_ND: Float[np.ndarray, "N D"]
) -> dict[int, float]:
    """For each k how often a protein's own target is among the k most similar to its query; chance is k / N.

    The mean of `hits_at` over the proteins.
    """
    return {k: float(hit_N.mean()) for k, hit_N in hits_at(ks, query_ND, target_ND).items()}


def hits_at(
    ks: Sequence[int], query_ND: Float[np.ndarray, "N D"], target_ND: Float[np.ndarray, "N D"]
) -> dict[int, Float64[np.ndarray, " N"]]:
    """For each k whether each protein's own target is among the k most similar to its query: 1, 0, or between.

    Similarity is the cosine after each side's mean was subtracted, for modalities lie apart (the gap of Liang et al.,
    arXiv 2203.02053). Targets that are equally similar count as if in random order: vectors that have collapsed into
    one give k / N exactly.
    """
    similarity_NN = _directions(query_ND) @ _directions(target_ND).T
    own_N1 = np.diagonal(similarity_NN)[:, None]
    better_N = (similarity_NN > own_N1).sum(axis=1)
    equal_N = (similarity_NN == own_N1).sum(axis=1)
    return {k: np.clip((k - better_N) / equal_N, 0, 1) for k in ks}


def effective_rank(x_ND: Float[np.ndarray, "N D"]) -> float:
    """The exponential of the entropy of the centred vectors' normalised singular values: from 1 to min(N - 1, D).

    Vectors that are all equal have 0. Source: Roy & Vetterli, EUSIPCO 2007.
    """
    size = float(np.linalg.norm(x_ND.astype(np.float64)))
    singular = np.linalg.svd(_centred(x_ND), compute_uv=False)
    singular = singular[singular > SMALLEST * size]
    if not len(singular):
        return 0.0
    share = singular / singular.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


def spread(x_ND: Float[np.ndarray, "N D"]) -> float:
    """How much of the vectors' squared length is their differences from their mean, from 0 (all equal) to 1.

    It falls where vectors collapse without losing a direction, which their effective rank does not show.
    """
    whole = float(np.square(x_ND.astype(np.float64)).sum())
    return float(np.square(_centred(x_ND)).sum()) / whole if whole > 0 else 0.0


def _centred(x_ND: Float[np.ndarray, "N D"]) -> Float64[np.ndarray, "N D"]:
    exact_ND: np.ndarray = x_ND.astype(np.float64)
    centred_ND: np.ndarray = exact_ND - exact_ND.mean(axis=0)
    return centred_ND


def _directions(x_ND: Float[np.ndarray, "N D"]) -> Float64[np.ndarray, "N D"]:
    """Unit vectors; zeros where there is no direction."""
    size = float(np.linalg.norm(x_ND.astype(np.float64)))
    centred_ND = _centred(x_ND)
    if np.linalg.norm(centred_ND) <= SMALLEST * size:
        return np.zeros_like(centred_ND)
    length_N1 = np.linalg.norm(centred_ND, axis=1, keepdims=True)
    unit_ND: np.ndarray = centred_ND / np.where(length_N1 > 0, length_N1, 1.0)
    return unit_ND
