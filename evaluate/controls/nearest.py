"""The nearest training protein of each test protein, by identity of their sequences.

Legend: N test proteins.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from amma.evaluate.controls.identity import Search, largest
from amma.evaluate.tasks.task import Task
from amma.featurize.store.reader import FeatureStore
from amma.manifests.console import progress


@dataclass(frozen=True)
class Nearest:
    """`identity_N` is 0 and `place_N` (the place within the training split) is -1 where no alignment was found."""

    method: str
    identity_N: Float64[np.ndarray, " N"]
    place_N: Int64[np.ndarray, " N"]


def nearest_training(task: Task, store: FeatureStore, search: Search, *, threads: int | None = None) -> Nearest:
    """Compare every test protein with the training split; raises `InputError` if the search's program fails."""
    sequences = store.sequences()
    train = sequences.take(task.train.rows.tolist())
    with progress("nearest training sequences", len(task.test.ids), unit="proteins") as advance:
        hits = search.pairs(sequences.take(task.test.rows.tolist()), train, threads=threads, advance=advance)
    identity_N, place_N = largest(len(task.test.ids), hits)
    return Nearest(search.method, identity_N, place_N)
