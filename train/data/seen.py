"""What a model was trained on: the sequences by hash, and whether the text of each was there too.

    seen.safetensors    hashes (uint64, ascending, each once) and text (uint8: 0 without, 1 not recorded, 2 with)

Files of format 1.0 have no `text`: it was not recorded.

Legend: N sequences, P proteins.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8, UInt64
from safetensors.numpy import load_file, save

from amma.manifests.files import write_atomically

WITHOUT, NOT_RECORDED, WITH = 0, 1, 2
"""In this order the largest holds for a sequence that was seen more than once."""


@dataclass(frozen=True)
class Seen:
    """The sequences that a model was trained on; `text` is `WITHOUT`, `NOT_RECORDED` or `WITH` for each."""

    hashes: UInt64[np.ndarray, " N"]
    text: UInt8[np.ndarray, " N"]

    @staticmethod
    def of(hashes: UInt64[np.ndarray, " P"], text: UInt8[np.ndarray, " P"]) -> "Seen":
        """From proteins in any order, equal sequences among them."""
        if not len(hashes):
            return Seen(hashes, text)
        order = np.argsort(hashes)
        ordered = hashes[order]
        begins = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
        return Seen(ordered[begins], np.maximum.reduceat(text[order], begins))

    def union(self, other: "Seen") -> "Seen":
        """What a model has seen that began where the other ended."""
        return Seen.of(np.concatenate([self.hashes, other.hashes]), np.concatenate([self.text, other.text]))

    def among(self, hashes: UInt64[np.ndarray, " P"]) -> Bool[np.ndarray, " P"]:
        """True for sequences that were seen."""
        return np.isin(hashes, self.hashes)

    def text_of(self, hashes: UInt64[np.ndarray, " P"]) -> UInt8[np.ndarray, " P"]:
        """How each of these was seen; all of them must have been."""
        return self.text[np.searchsorted(self.hashes, hashes)]

    def write(self, path: Path) -> None:
        """Write the file; it appears whole or not at all."""
        write_atomically(path, save({"hashes": self.hashes, "text": self.text}))

    @staticmethod
    def read(path: Path) -> "Seen":
        """Read a file of this or of an earlier version."""
        stored = load_file(path)
        hashes = stored["hashes"]
        return Seen(hashes, stored.get("text", np.full(len(hashes), NOT_RECORDED, dtype=np.uint8)))
