"""The nearest training sequences: a control row of their labels, and how near each test protein's is.

Similarity is the identity of two sequences (`amma.evaluate.controls.identity`) where a program finds relatives, which
reports no pair that chance explains as well. Without one it is the Jaccard index of their 3-mers
(`amma.evaluate.controls.kmers`), which every training sequence has. Both are between 0 and 1, and 1 for equal ones.

Legend: V validation and N test proteins, T training proteins, M proteins asked about, K terms.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from amma.evaluate.controls.identity import Search, largest
from amma.evaluate.controls.kmers import nearest_neighbour_scores
from amma.evaluate.tasks.task import Task
from amma.featurize.store.reader import FeatureStore
from amma.manifests.console import progress
from amma.train.data.search_program import Hits


@dataclass(frozen=True)
class Nearest:
    """`identity_N` is 0 and `place_N` (the place within the training split) is -1 where no alignment was found.

    `valid_VK` and `test_NK` are the scores of each protein and term, and `meaning` says what they are.
    """

    method: str
    identity_N: Float64[np.ndarray, " N"]
    place_N: Int64[np.ndarray, " N"]
    valid_VK: Float32[np.ndarray, "V K"]
    test_NK: Float32[np.ndarray, "N K"]
    meaning: str


def nearest_training(task: Task, store: FeatureStore, search: Search, *, threads: int | None = None) -> Nearest:
    """Compare validation and test proteins with the training split; raises `InputError` if the program fails."""
    sequences = store.sequences()
    train, valid, test = (sequences.take(split.rows.tolist()) for split in (task.train, task.valid, task.test))
    # Our own search aligns a few pairs only, and scores by 3-mers: validation proteins need no alignment there.
    aligned = test if search.program is None else [*valid, *test]
    with progress("nearest training sequences", len(aligned), unit="proteins") as advance:
        hits = search.pairs(aligned, train, threads=threads, advance=advance)
    identity, place = largest(len(aligned), hits)
    if search.program is None:
        with progress("nearest sequences", len(valid) + len(test), unit="proteins") as advance:
            scores = nearest_neighbour_scores(train, task.train.target_NK, [*valid, *test], advance)
    else:
        scores = scores_of(hits, len(aligned), task.train.target_NK)
    valid_VK, test_NK = np.split(scores, [len(valid)])
    asked = slice(len(aligned) - len(test), None)
    return Nearest(search.method, identity[asked], place[asked], valid_VK, test_NK, nearest_meaning(search))


def scores_of(hits: Hits, number: int, target_TK: Bool[np.ndarray, "T K"]) -> Float32[np.ndarray, "M K"]:
    """For each of so many queries and each term the largest identity to a target that has the term, else 0."""
    score_MK = np.zeros((number, target_TK.shape[1]), dtype=np.float32)
    order = np.argsort(hits.query, kind="stable")
    asked, start = np.unique(hits.query[order], return_index=True)
    for query, rows in zip(asked.tolist(), np.split(order, start)[1:], strict=True):
        score_MK[query] = (hits.identity[rows, None] * target_TK[hits.target[rows]]).max(axis=0)
    return score_MK


def nearest_meaning(search: Search) -> str:
    """What the scores of the row are, in a few words."""
    if search.program is None:
        return "how similar the most similar training sequence with the term is (shared 3-mers)"
    return f"identity of the most similar training sequence with the term ({search.method}); 0 without a relative"
