"""A 64-bit name for a sequence: how a checkpoint remembers what it saw without keeping the sequences.

Two different sequences share a hash with probability 2^-64, so among ten million there is a chance collision in one
of 370,000 corpora; the consequence would be one protein counted as seen that was not.

Legend: N proteins.
"""

import hashlib
from collections.abc import Iterable

import numpy as np
from jaxtyping import UInt64


def sequence_hash(sequence: str) -> int:
    """The first eight bytes of the sequence's blake2b digest, as an unsigned little-endian number."""
    return int.from_bytes(hashlib.blake2b(sequence.encode(), digest_size=8).digest(), "little")


def sequence_hashes(sequences: Iterable[str]) -> UInt64[np.ndarray, " N"]:
    """`sequence_hash` of each, in order; eight bytes a protein."""
    return np.fromiter((sequence_hash(sequence) for sequence in sequences), dtype=np.uint64)
