"""`predictions.parquet`: the trained model's probability of every term for every test and validation protein.

Columns `id`, `split`, `seed`, `term`, `name` (null where a term has none), `score`, `calibrated` (the score after the
calibration of its seed, fitted on validation) and `target`, sorted by split, seed, id and term. The figures of the
report are computed from exactly these scores: group by seed to have them again.

Shapes: N proteins of a split, K terms.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float32

from amma.evaluate.tasks.task import Split
from amma.manifests.files import TEMPORARY_SUFFIX, fsync_directory

FORMAT_VERSION = "1.1"
ROWS_AT_ONCE = 1_000_000

_TEXT = pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema(
    [
        pa.field("id", _TEXT, nullable=False),
        pa.field("split", _TEXT, nullable=False),
        pa.field("seed", pa.int16(), nullable=False),
        pa.field("term", _TEXT, nullable=False),
        pa.field("name", _TEXT, nullable=True),
        pa.field("score", pa.float32(), nullable=False),
        pa.field("calibrated", pa.float32(), nullable=False),
        pa.field("target", pa.bool_(), nullable=False),
    ],
    metadata={"amma": json.dumps({"format": "predictions", "version": FORMAT_VERSION})},
)


@dataclass(frozen=True)
class PredictionBlock:
    """The scores of one seed for the proteins of a split."""

    split_name: str
    seed: int
    split: Split
    score_NK: Float32[np.ndarray, "N K"]
    calibrated_NK: Float32[np.ndarray, "N K"]


def write_predictions(
    path: Path, terms: Sequence[str], names: Mapping[str, str], blocks: Iterable[PredictionBlock]
) -> None:
    """Write blocks in the order given, with the names of terms that have one; the file appears whole or not at all."""
    aside = path.with_name(path.name + TEMPORARY_SUFFIX)
    proteins_at_once = max(1, ROWS_AT_ONCE // len(terms))
    with pq.ParquetWriter(aside, SCHEMA, compression="zstd") as writer:
        for block in blocks:
            for start in range(0, len(block.split.ids), proteins_at_once):
                part = slice(start, start + proteins_at_once)
                writer.write_table(_table(block, part, terms, names))
    with aside.open("rb") as handle:
        os.fsync(handle.fileno())
    aside.replace(path)
    fsync_directory(path.parent)


def _table(block: PredictionBlock, part: slice, terms: Sequence[str], names: Mapping[str, str]) -> pa.Table:
    ids = block.split.ids[part]
    num_rows = len(ids) * len(terms)
    term = np.tile(np.arange(len(terms)), len(ids))
    columns = [
        _column(np.arange(len(ids)).repeat(len(terms)), ids),
        _column(np.zeros(num_rows), (block.split_name,)),
        np.full(num_rows, block.seed, dtype=np.int16),
        _column(term, terms),
        _column(term, [names.get(each, "") for each in terms]),
        block.score_NK[part].ravel(),
        block.calibrated_NK[part].ravel(),
        block.split.target_NK[part].ravel(),
    ]
    return pa.table(columns, schema=SCHEMA)


def _column(number: np.ndarray, texts: Sequence[str]) -> pa.DictionaryArray:
    """Each row's text by its number; an empty one is null, which only names may be."""
    known = {place: at for at, place in enumerate(place for place, text in enumerate(texts) if text)}
    at_place = np.array([known.get(place, -1) for place in range(len(texts))], dtype=np.int32)
    at_row = at_place[number.astype(np.int64)]
    return pa.DictionaryArray.from_arrays(
        pa.array(at_row, mask=at_row < 0), pa.array([texts[place] for place in known], type=pa.string())
    )
