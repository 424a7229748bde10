"""A random order of n things that is computed, not stored: the place of each is a pure function of integers.

A Feistel network over pairs of digits in base ⌈√n⌉ is a bijection whatever its round function is; values that fall
outside 0..n-1 walk on until they are inside (Black & Rogaway 2002). Memory does not depend on n; an order for ten
million proteins begins at once, and can be entered anywhere.
"""

import hashlib
import math

import numpy as np
from jaxtyping import Int64, UInt64

NUM_ROUNDS = 8


class Permutation:
    """The order of `n` things in one epoch: `order(places)` gives what stands at those places.

    The same for any number of threads, ranks or batches; another order for each `part`. Raises `ValueError` for a
    negative `n`, `IndexError` for places outside 0..n-1.
    """

    def __init__(self, n: int, *, seed: int, epoch: int, part: int | None = None) -> None:
        if n < 0:
            raise ValueError(f"cannot order {n} things")
        self.n = n
        name = f"{int(seed)},{int(epoch)}" + ("" if part is None else f",{int(part)}")
        digest = hashlib.blake2b(name.encode(), digest_size=8 * NUM_ROUNDS).digest()
        self._base = np.uint64(max(1, math.isqrt(max(n - 1, 0)) + 1))
        self._keys = np.frombuffer(digest, dtype="<u8").astype(np.uint64)

    def __len__(self) -> int:
        return self.n

    def __call__(self, places: Int64[np.ndarray, " places"]) -> Int64[np.ndarray, " places"]:
        """What stands at each place, 0-based."""
        if len(places) and (places.min() < 0 or places.max() >= self.n):
            raise IndexError(f"places must lie in 0..{self.n - 1}")
        value: UInt64[np.ndarray, " places"] = self._shuffle(places.astype(np.uint64))
        outside = np.flatnonzero(value >= self.n)
        while len(outside):
            value[outside] = self._shuffle(value[outside])
            outside = outside[value[outside] >= self.n]
        order: Int64[np.ndarray, " places"] = value.astype(np.int64)
        return order

    def _shuffle(self, value: UInt64[np.ndarray, " places"]) -> UInt64[np.ndarray, " places"]:
        """A bijection of 0..base²-1."""
        left, right = np.divmod(value, self._base)
        for key in self._keys:
            left, right = right, (left + scramble(right + key) % self._base) % self._base
        shuffled: UInt64[np.ndarray, " places"] = left * self._base + right
        return shuffled


class BlockPermutation:
    """An order in which neighbours stay near: blocks one after the other in random order, shuffled inside.

    `begin_K` is where each of K blocks begins, ascending from 0; some may be empty. As `Permutation`, what stands at a
    place is a pure function of integers. For stores behind a network, which like to send whole units.
    """

    def __init__(self, n: int, begin_K: Int64[np.ndarray, " K"], *, seed: int, epoch: int) -> None:
        self.n = n
        self._seed, self._epoch = seed, epoch
        self._begin_K = begin_K
        self._size_K = np.diff(np.append(begin_K, n))
        self._order_K = Permutation(len(begin_K), seed=seed, epoch=epoch)(np.arange(len(begin_K)))
        self._end_K = np.cumsum(self._size_K[self._order_K])

    def __len__(self) -> int:
        return self.n

    def __call__(self, places: Int64[np.ndarray, " places"]) -> Int64[np.ndarray, " places"]:
        """What stands at each place, 0-based."""
        if len(places) and (places.min() < 0 or places.max() >= self.n):
            raise IndexError(f"places must lie in 0..{self.n - 1}")
        turn = np.searchsorted(self._end_K, places, side="right")
        block = self._order_K[turn]
        within = places - (self._end_K[turn] - self._size_K[block])
        order = np.empty_like(places)
        for number in np.unique(block).tolist():
            here = block == number
            inside = Permutation(int(self._size_K[number]), seed=self._seed, epoch=self._epoch, part=number)
            order[here] = self._begin_K[number] + inside(within[here])
        return order


def scramble(word: UInt64[np.ndarray, " places"]) -> UInt64[np.ndarray, " places"]:
    """A 64-bit word to another that looks unrelated (the finaliser of splitmix64, Steele et al. 2014)."""
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: UInt64[np.ndarray, " places"] = word ^ (word >> np.uint64(31))
    return mixed
