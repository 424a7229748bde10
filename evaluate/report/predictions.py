"""`predictions.parquet`: the trained model's probability of every term for every test and validation protein.

Columns `id`, `split`, `seed`, `term`, `score`, `target`, sorted by split, seed, id and term. The figures of the report
are computed from exactly these scores: group by seed to have them again.

Shapes: N proteins of a split, K terms.
"""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float32

from amma.evaluate.tasks.task import Split
from amma.manifests.files import TEMPORARY_SUFFIX, fsync_directory

FORMAT_VERSION = "1.0"
ROWS_AT_ONCE = 1_000_000

_TEXT = pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema(
    [
        pa.field("id", _TEXT, nullable=False),
        pa.field("split", _TEXT, nullable=False),
        pa.field("seed", pa.int16(), nullable=False),
        pa.field("term", _TEXT, nullable=False),
        pa.field("score", pa.float32(), nullable=False),
        pa.field("target", pa.bool_(), nullable=False),
    ],
    metadata={"amma": json.dumps({"format": "predictions", "version": FORMAT_VERSION})},
)


def write_predictions(
    path: Path,
    terms: Sequence[str],
    blocks: Iterable[tuple[str, int, Split, Float32[np.ndarray, "N K"]]],
) -> None:
    """Write blocks of (split, seed, proteins, scores) in the order given; the file appears whole or not at all."""
    aside = path.with_name(path.name + TEMPORARY_SUFFIX)
    proteins_at_once = max(1, ROWS_AT_ONCE // len(terms))
    with pq.ParquetWriter(aside, SCHEMA, compression="zstd") as writer:
        for name, seed, split, score_NK in blocks:
            for start in range(0, len(split.ids), proteins_at_once):
                part = slice(start, start + proteins_at_once)
                writer.write_table(_table(name, seed, split, part, terms, score_NK))
    with aside.open("rb") as handle:
        os.fsync(handle.fileno())
    aside.replace(path)
    fsync_directory(path.parent)


def _table(
    name: str, seed: int, split: Split, part: slice, terms: Sequence[str], score_NK: Float32[np.ndarray, "N K"]
) -> pa.Table:
    ids = split.ids[part]
    num_rows = len(ids) * len(terms)
    columns = [
        _column(np.arange(len(ids)).repeat(len(terms)), ids),
        _column(np.zeros(num_rows), (name,)),
        np.full(num_rows, seed, dtype=np.int16),
        _column(np.tile(np.arange(len(terms)), len(ids)), terms),
        score_NK[part].ravel(),
        split.target_NK[part].ravel(),
    ]
    return pa.table(columns, schema=SCHEMA)


def _column(number: np.ndarray, names: Sequence[str]) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(number.astype(np.int32)), pa.array(names, type=pa.string()))
