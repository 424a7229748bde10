"""From vectors of three modalities to points in a plane, as the paper draws them (Fig. 1 and Fig. 4), and how mixed
they are.

Legend: N proteins, P points (all modalities of all proteins), D width of vectors, K of what PCA leaves.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Float64, Int64
from threadpoolctl import threadpool_limits

from amma.evaluate.analyses.vectors import Vectors
from amma.manifests.table import MODALITIES, Modality

NEIGHBOURS = 10
"""Nearest points that mixing is counted among."""

Points = dict[Modality, Float64[np.ndarray, "N _K"]]


def reduced(vectors: Mapping[Modality, Float[np.ndarray, "N _D"]], components: int, *, scale: bool) -> Points:
    """PCA of each modality by itself, to as many dimensions in all: at most `num_components` of the vectors.

    With `scale` each channel is mapped to [0, 1] before, over the proteins of its modality; one that does not vary
    becomes 0. The axes of one modality's PCA are not those of another's: what lies near what across modalities is then
    no finding.
    """
    from sklearn.decomposition import PCA

    exact = {modality: vectors[modality].astype(np.float64) for modality in MODALITIES if modality in vectors}
    ready = {modality: _min_max(of_ND) for modality, of_ND in exact.items()} if scale else exact
    kept = min(components, num_components(vectors))
    with threadpool_limits(1):
        return {m: PCA(kept, svd_solver="full").fit_transform(of_ND) for m, of_ND in ready.items()}


def reduced_jointly(vectors: Mapping[Modality, Float[np.ndarray, "N D"]], components: int, *, scale: bool) -> Points:
    """As `reduced`, with one min-max and one PCA of all modalities' vectors: what lies near what can be compared.

    They have to be of one width, and of one space.
    """
    from sklearn.decomposition import PCA

    modalities = [modality for modality in MODALITIES if modality in vectors]
    stacked_PD = np.concatenate([vectors[modality].astype(np.float64) for modality in modalities])
    kept = min(components, len(stacked_PD) - 1, stacked_PD.shape[1])
    with threadpool_limits(1):
        reduced_PK = PCA(kept, svd_solver="full").fit_transform(_min_max(stacked_PD) if scale else stacked_PD)
    return dict(zip(modalities, np.split(reduced_PK, len(modalities)), strict=True))


def num_components(vectors: Mapping[Modality, Float[np.ndarray, "N _D"]]) -> int:
    """How many dimensions PCA of each modality can have at most: fewer than proteins, and no more than channels."""
    return min(size for of_ND in vectors.values() for size in (len(of_ND) - 1, int(of_ND.shape[1])))


def _min_max(of_ND: Float64[np.ndarray, "N D"]) -> Float64[np.ndarray, "N D"]:
    lowest_D = of_ND.min(axis=0)
    width_D = of_ND.max(axis=0) - lowest_D
    scaled_ND: np.ndarray = (of_ND - lowest_D) / np.where(width_D > 0, width_D, 1.0)
    return scaled_ND


def plane(points: Points, *, perplexity: float, iterations: int, seed: int) -> Points:
    """t-SNE of all points together (scikit-learn's, begun with PCA); the same on one machine for the same seed.

    One thread: sums over several would come out in another order each time.
    """
    from sklearn.manifold import TSNE

    stacked_PK = np.concatenate(list(points.values())).astype(np.float32)
    with threadpool_limits(1):
        drawn_P2 = TSNE(
            perplexity=perplexity, max_iter=iterations, init="pca", random_state=seed, n_jobs=1
        ).fit_transform(stacked_PK)
    return dict(zip(points, np.split(drawn_P2.astype(np.float64), len(points)), strict=True))


def most_perplexity(num_points: int) -> float:
    """A perplexity is a number of neighbours: a third of the other points at most, as t-SNE's authors advise."""
    return (num_points - 1) / 3


def mixing(points: Points) -> float:
    """How often the nearest points are of another modality, over how often they would be at random.

    1 where modalities lie as if shuffled, 0 where each keeps to itself. Of `NEIGHBOURS` nearest points by Euclidean
    distance, fewer if there are fewer.
    """
    from sklearn.neighbors import NearestNeighbors

    stacked_PK = np.concatenate(list(points.values()))
    modality_P = np.repeat(np.arange(len(points)), [len(of) for of in points.values()])
    count = min(NEIGHBOURS, len(stacked_PK) - 1)
    with threadpool_limits(1):
        near_PN = NearestNeighbors(n_neighbors=count).fit(stacked_PK).kneighbors(return_distance=False)
    of_other = float((modality_P[near_PN] != modality_P[:, None]).mean())
    sizes = np.bincount(modality_P)
    expected = float((sizes * (len(stacked_PK) - sizes)).sum()) / (len(stacked_PK) * (len(stacked_PK) - 1))
    return of_other / expected


def nearness(points: Points, orders: Sequence[Int64[np.ndarray, " N"]]) -> float:
    """The mean distance of a protein's own points over that of different proteins' points, modality by modality.

    Below 1 a protein's points lie nearer to each other than to those of other proteins; `orders` are the random
    pairings that this is held against.
    """
    names = list(points)
    own, mixed = [], []
    for place, a in enumerate(names):
        for b in names[place + 1 :]:
            own.append(_apart(points[a], points[b]))
            mixed += [_apart(points[a], points[b][order_N]) for order_N in orders]
    return float(np.mean(own) / np.mean(mixed))


def _apart(a_NK: Float64[np.ndarray, "N K"], b_NK: Float64[np.ndarray, "N K"]) -> float:
    return float(np.linalg.norm(a_NK - b_NK, axis=1).mean())


def random_vectors(vectors: Vectors, rng: np.random.Generator) -> Vectors:
    """Normal vectors with each channel's mean and σ, and nothing else, in common with those given."""
    drawn: Vectors = {}
    for modality, of_ND in vectors.items():
        noise_ND = rng.standard_normal(of_ND.shape)
        drawn[modality] = (of_ND.mean(axis=0) + noise_ND * of_ND.std(axis=0)).astype(np.float32)
    return drawn
