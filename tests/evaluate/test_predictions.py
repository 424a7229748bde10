from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from amma.evaluate.report import predictions
from amma.evaluate.report.predictions import PredictionBlock, write_predictions
from amma.evaluate.tasks.task import Split

HOSTILE = ("</script><b>", "=HYPERLINK(1)", "a\tb\nc", "\x00\u202e", "日本")


def make_split(ids: tuple[str, ...], num_terms: int) -> Split:
    target_NK = np.random.default_rng(0).random((len(ids), num_terms)) < 0.3
    return Split(ids, np.arange(len(ids)), target_NK, (), 0)


def test_ids_and_terms_come_back_as_they_went_in(tmp_path: Path) -> None:
    split = make_split(HOSTILE, len(HOSTILE))
    score_NK = np.random.default_rng(1).random(split.target_NK.shape, dtype=np.float32)
    names = dict(zip(HOSTILE[1:], HOSTILE[:-1], strict=True))
    block = PredictionBlock("test", 0, split, score_NK, score_NK / 2)
    write_predictions(tmp_path / "p.parquet", HOSTILE, names, [block])
    rows = pq.read_table(tmp_path / "p.parquet").to_pylist()
    assert [(row["id"], row["term"]) for row in rows] == [(one, term) for one in HOSTILE for term in HOSTILE]
    assert [row["name"] for row in rows] == [names.get(term) for _ in HOSTILE for term in HOSTILE]
    assert rows[0]["name"] is None
    assert [row["calibrated"] for row in rows] == [row["score"] / 2 for row in rows]
    assert np.array_equal(np.array([row["score"] for row in rows], dtype=np.float32), score_NK.ravel())
    assert [row["target"] for row in rows] == split.target_NK.ravel().tolist()


def test_blocks_of_any_size_hold_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = make_split(tuple(f"p{n}" for n in range(7)), 3)
    score_NK = np.random.default_rng(1).random((7, 3), dtype=np.float32)
    tables = []
    for rows_at_once in (1, 7, 1000):
        monkeypatch.setattr(predictions, "ROWS_AT_ONCE", rows_at_once)
        block = PredictionBlock("valid", 2, split, score_NK, score_NK**2)
        write_predictions(tmp_path / "p.parquet", ("a", "b", "c"), {"b": "B"}, [block])
        tables.append(pq.read_table(tmp_path / "p.parquet").to_pylist())
    assert tables[0] == tables[1] == tables[2]
    assert len(tables[0]) == 21


def test_a_write_that_fails_leaves_no_half_file(tmp_path: Path) -> None:
    split = make_split(("a", "b"), 2)

    def blocks():
        yield PredictionBlock("test", 0, split, np.zeros((2, 2), np.float32), np.zeros((2, 2), np.float32))
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        write_predictions(tmp_path / "p.parquet", ("x", "y"), {}, blocks())
    assert not (tmp_path / "p.parquet").exists()
