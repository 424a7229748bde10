import numpy as np
import pytest

from amma.evaluate.controls.identity import Search, largest
from amma.evaluate.controls.nearest import nearest_training
from amma.evaluate.tasks.task import read_task
from amma.featurize.store.reader import FeatureStore
from amma.train.data.mmseqs import Hits


def test_of_several_hits_the_largest_identity_counts_and_of_equals_the_first() -> None:
    hits = Hits(np.array([1, 1, 1, 3]), np.array([7, 5, 6, 2]), np.array([0.4, 0.9, 0.9, 0.1]))
    identity_N, target_N = largest(4, hits)
    assert identity_N.tolist() == [0, 0.9, 0, 0.1]
    assert target_N.tolist() == [-1, 5, -1, 2]


@pytest.mark.parametrize("share", ["an equal sequence", "nothing"])
def test_test_proteins_are_compared_with_the_training_split_alone(
    planted, share: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FeatureStore(planted.store) as store:
        task = read_task("ec", store, labels=planted.labels, splits=planted.splits)
        sequences = store.sequences()
        asked: list[tuple[list[str], list[str]]] = []

        class Found(Search):
            def pairs(self, queries, targets, *, threads=None, advance=lambda _: None) -> Hits:
                asked.append((list(queries), list(targets)))
                if share == "nothing":
                    return Hits(*np.empty((2, 0), dtype=np.int64), np.empty(0))
                return Hits(np.array([2]), np.array([4]), np.array([1.0]))

        nearest = nearest_training(task, store, Found(None))
        assert asked == [(sequences.take(task.test.rows.tolist()), sequences.take(task.train.rows.tolist()))]
    assert "local alignments" in nearest.method
    if share == "nothing":
        assert (nearest.identity_N.tolist(), set(nearest.place_N)) == ([0.0] * len(task.test.ids), {-1})
    else:
        assert (nearest.identity_N[2], nearest.place_N[2]) == (1, 4)
        assert nearest.identity_N.sum() == 1
