"""Keep proteins out of pretraining: by id, and under any other id by equal sequence.

Legend: N proteins.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt64

from amma.manifests.errors import InputError
from amma.manifests.labels import read_ids


@dataclass(frozen=True)
class Exclusion:
    """Which proteins take no part, and how many for which reason.

    `listed` were named, `by_sequence` have the sequence of a named one under another id, `unknown` were named but
    are in no store.
    """

    excluded: Bool[np.ndarray, " N"]
    listed: int
    by_sequence: int
    unknown: int

    def describe(self) -> str:
        """One line for the person watching."""
        return (
            f"excluded {self.listed} listed proteins and {self.by_sequence} with the same sequence under other ids; "
            f"{self.unknown} listed ids are not in the store"
        )


def exclude(paths: Sequence[Path], ids: Iterable[str], hashes: UInt64[np.ndarray, " N"]) -> Exclusion:
    """Read the id files and find the proteins to leave out.

    Raises `InputError` if a file is empty or none of the ids is known: that is a wrong file, and training on what was
    meant to be held out is the costlier mistake.
    """
    wanted: set[str] = set()
    for path in paths:
        names = read_ids(path)
        if not names:
            raise InputError(
                f"{path}: holds no id, so nothing would be excluded. Leave the option out if that is meant."
            )
        wanted.update(names)
    listed_N = np.fromiter((name in wanted for name in ids), dtype=bool, count=len(hashes))
    listed = int(listed_N.sum())
    if wanted and not listed:
        raise InputError(
            f"{', '.join(map(str, paths))}: none of its {len(wanted)} ids is in the store (the first is "
            f"{min(wanted)!r}). Give ids as the manifest has them, one a line."
        )
    excluded_N = np.isin(hashes, hashes[listed_N])
    return Exclusion(excluded_N, listed, int(excluded_N.sum()) - listed, len(wanted) - listed)
