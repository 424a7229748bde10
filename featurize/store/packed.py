"""Rows of several proteins one after the other, in memory that is used again.

Legend: B proteins.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int64

from amma.featurize.store.affine import Affine
from amma.featurize.store.layout import ArraySpec
from amma.manifests.table import Modality

Allocate = Callable[[str, int], np.ndarray]
"""Gives memory for an array of this name, so many bytes, as uint8."""
ALIGNMENT = 64
"""Bytes: a cache line. Sums in matrix products may depend on where rows begin, so they always begin alike."""


@dataclass(frozen=True, slots=True)
class Packed:
    """One modality: protein b owns the rows `offsets[b]:offsets[b + 1]`.

    `features` is (rows, width) in the store's dtype; `index` is the residue or the field of each row in the stored
    dtype, None for sequences.
    """

    features: np.ndarray
    index: np.ndarray | None
    offsets: Int64[np.ndarray, " offsets"]
    affine: Affine | None = None
    """What the features mean where they are codes; None where they are numbers."""


@dataclass(frozen=True, slots=True)
class PackedProteins:
    """Some proteins by modality, in the order asked for. Views of buffers, if buffers were given."""

    ids: tuple[str, ...]
    rows: Mapping[Modality, Packed]


def fresh(name: str, size: int) -> np.ndarray:
    """New memory for `size` bytes, aligned."""
    memory = np.empty(size + ALIGNMENT, dtype=np.uint8)
    begin = -memory.ctypes.data % ALIGNMENT
    return memory[begin : begin + size]


class RowBuffers:
    """One growing buffer for each array. What was taken is overwritten when the same array is taken again."""

    def __init__(self, allocate: Allocate = fresh) -> None:
        self._allocate = allocate
        self._memory: dict[str, np.ndarray] = {}

    def take(self, spec: ArraySpec, rows: int) -> np.ndarray:
        """Room for `rows` rows of the array; their contents are whatever was there."""
        wanted = self.bytes(spec.path, rows * spec.row_bytes)
        taken: np.ndarray[Any, Any] = wanted.view(spec.dtype).reshape(rows, *spec.row_shape)
        return taken

    def bytes(self, name: str, size: int) -> np.ndarray:
        """`size` bytes under a name."""
        memory = self._memory.get(name)
        if memory is None or len(memory) < size:
            # Half more, so that batches of other sizes soon fit; what is never touched takes no memory.
            memory = self._memory[name] = self._allocate(name, size + size // 2)
        return memory[:size]
