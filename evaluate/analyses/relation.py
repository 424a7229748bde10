"""The paper's Table 1: how alike the relations between proteins are in two modalities.

Vectors are divided by their lengths, R = z zᵀ holds every two proteins' cosine, and the figure is the cosine of two
modalities' R, flattened. R has ones on its diagonal, and vectors that lie on one side of the origin have cosines near 1
everywhere; so the figure is high for vectors that say little, and for those of other proteins. In small batches the
diagonal alone is much of it: unrelated vectors in orthogonal directions give 1, in random ones of high dimension too.

Legend: N proteins, B of a batch, D and E widths of two modalities' vectors.
"""

import numpy as np
from jaxtyping import Float, Float64

EPSILON = 1e-8
PAIRS = ("seq-str", "seq-func", "str-func")
PRINTED: dict[str, dict[str, float]] = {
    "initial": {"seq-str": 0.865, "seq-func": 0.855, "str-func": 0.947},
    "contrastive": {"seq-str": 0.894, "seq-func": 0.907, "str-func": 0.847},
    "AMMA": {"seq-str": 1.0, "seq-func": 0.999, "str-func": 0.999},
}
"""What the paper prints: Ko et al., arXiv 2405.06663, Table 1."""


def relation_cosine(x_BD: Float[np.ndarray, "B D"], y_BE: Float[np.ndarray, "B E"]) -> float:
    """The cosine of two modalities' flattened R over all the proteins."""
    return float(relation_cosines(x_BD, y_BE, len(x_BD))[0])


def num_batches(number: int, batch_size: int) -> int:
    """How many whole batches there are: what is left at the end takes no part; fewer proteins make one of all."""
    return max(number // batch_size, 1)


def relation_cosines(
    x_ND: Float[np.ndarray, "N D"], y_NE: Float[np.ndarray, "N E"], batch_size: int
) -> Float64[np.ndarray, " batches"]:
    """Of each batch, in order, the cosine of the two flattened R; the figure of Table 1 is their mean.

    Lengths of the flattened matrices are at least `EPSILON`, each by itself, as in `torch.cosine_similarity`.
    """
    a_nBB, b_nBB = (_relations(vector_NX, batch_size) for vector_NX in (x_ND, y_NE))
    lengths = [np.maximum(np.sqrt(np.square(related).sum(axis=(1, 2))), EPSILON) for related in (a_nBB, b_nBB)]
    cosine_n: np.ndarray = (a_nBB * b_nBB).sum(axis=(1, 2)) / (lengths[0] * lengths[1])
    return cosine_n


def relations(x_BD: Float[np.ndarray, "B D"]) -> Float64[np.ndarray, "B B"]:
    """R = z zᵀ of the vectors over their lengths (at least `EPSILON`)."""
    related_BB: np.ndarray = _relations(x_BD, len(x_BD))[0]
    return related_BB


def _relations(x_ND: Float[np.ndarray, "N D"], batch_size: int) -> Float64[np.ndarray, "batches B B"]:
    exact_ND = x_ND.astype(np.float64)
    z_ND = exact_ND / np.maximum(np.linalg.norm(exact_ND, axis=1, keepdims=True), EPSILON)
    number, width = z_ND.shape
    size, batches = min(batch_size, number), num_batches(number, batch_size)
    z_nBD = z_ND[: size * batches].reshape(batches, size, width)
    related_nBB: np.ndarray = z_nBD @ z_nBD.transpose(0, 2, 1)
    return related_nBB
