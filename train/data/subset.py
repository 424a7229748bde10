"""A seeded subset of the training triplets: the paper's ablations pretrain on 22,000 of 120,000.

Every protein has a number that is a pure function of its sequence and the seed, and the smallest N are taken. So the
order of stores does not matter, a larger N keeps what a smaller had, and when proteins are added a subset loses only as
many as come into it.

Legend: N proteins of the corpus.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int64, UInt64

from amma.manifests.errors import InputError
from amma.train.data.permutation import scramble


def choose_subset(
    candidate_N: Bool[np.ndarray, " N"],
    hashes_N: UInt64[np.ndarray, " N"],
    ids: Sequence[str],
    *,
    count: int,
    seed: int,
) -> Bool[np.ndarray, " N"]:
    """True for `count` of the candidates; `hashes_N` are of their sequences, of equal ones the ids decide.

    Raises `InputError` if there are fewer candidates.
    """
    candidates: Int64[np.ndarray, " C"] = np.flatnonzero(candidate_N)
    if count > len(candidates):
        raise InputError(
            f"--subset {count}: there are only {len(candidates)} training triplets, after exclusion and without those "
            "set aside for validation. Give a smaller number, more stores, or leave the option out."
        )
    chosen_N = np.zeros_like(candidate_N)
    if not count:
        return chosen_N
    key = int.from_bytes(hashlib.blake2b(f"subset,{seed}".encode(), digest_size=8).digest(), "little")
    rank_C = scramble(hashes_N[candidates] ^ np.uint64(key))
    last = np.partition(rank_C, count - 1)[count - 1]
    chosen_N[candidates[rank_C < last]] = True
    tied = sorted(candidates[rank_C == last].tolist(), key=lambda protein: ids[protein])
    chosen_N[tied[: count - int(chosen_N.sum())]] = True
    return chosen_N
