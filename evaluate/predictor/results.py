"""The folder that `amma-eval predict` writes.

    OUT/predictions.tsv       the best terms of each protein, ranked
        predictions.parquet   every term of every protein
        predictions.cafa.tsv  where it is asked for: the same in the format of CAFA's submissions, from 0.01 on
        quarantine.jsonl      what could not be used, or only in part, and why
        predict.json          what was computed of what; written last

Shapes: B proteins, K terms.
"""

import csv
import json
import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float64

from amma.evaluate.config import Protocol, Readout
from amma.evaluate.report.cafa_export import write_cafa
from amma.manifests.console import say
from amma.manifests.errors import UsageError
from amma.manifests.files import TEMPORARY_SUFFIX, aside_of, fsync_directory, write_json_atomically
from amma.manifests.quarantine import Rejection, write_quarantine
from amma.manifests.settings import Settings

TSV, PARQUET, QUARANTINE, FACTS = "predictions.tsv", "predictions.parquet", "quarantine.jsonl", "predict.json"
CAFA = "predictions.cafa.tsv"
FILES = (TSV, PARQUET, CAFA, QUARANTINE, FACTS)
FORMAT: Literal["amma-predictions"] = "amma-predictions"
FORMAT_VERSION = "1.0"
Kind = Literal["store", "manifest", "structures", "sequences"]
COLUMNS = ("id", "rank", "term", "name", "probability", "above_threshold")

_TEXT = pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema(
    [
        pa.field("id", _TEXT, nullable=False),
        pa.field("term", _TEXT, nullable=False),
        pa.field("probability", pa.float32(), nullable=False),
        pa.field("above_threshold", pa.bool_(), nullable=False),
    ],
    metadata={"amma": json.dumps({"format": FORMAT, "version": FORMAT_VERSION})},
)


class PredictCounts(Settings):
    """`records` = `predicted` + `quarantined` + `duplicates`; of the predicted, how many were seen in part only."""

    records: int
    predicted: int
    quarantined: int
    duplicates: int
    without_structure: int
    without_sequence: int


class PredictorUsed(Settings):
    """Which predictor: the sha256 of its `predictor.json`, and what was tuned how."""

    sha256: str
    task: str
    num_terms: int
    protocol: Protocol
    readout: Readout
    seeds: tuple[int, ...]
    checkpoint_sha256: str
    num_train: int
    num_train_with_structure: int
    calibrated: tuple[bool, ...]
    """For each seed, whether a line could be fitted; where not, its scores are taken as they are."""


class PredictProvenance(Settings):
    """What may differ from run to run: when, where and with which versions."""

    finished: str
    seconds: float
    versions: dict[str, str]
    platform: str
    device: str
    predictor: str
    source: str
    kept_store: str | None


class PredictFacts(Settings):
    """The whole of `predict.json`. `threshold` is that of validation (None: there was no true pair to find one)."""

    format: Literal["amma-predictions"] = FORMAT
    version: str = FORMAT_VERSION
    kind: Kind
    store_root_hash: str
    predictor: PredictorUsed
    counts: PredictCounts
    threshold: float | None
    top: int
    at_least: float
    random_encoders: bool
    provenance: PredictProvenance


def check_out(out: Path, *, overwrite: bool) -> None:
    """Raise `UsageError` if `out` holds something, unless it is predictions to overwrite."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file; OUT is a folder that predictions are written to.")
    held = {path.name for path in out.iterdir()} if out.exists() else set()
    held = {name for name in held if not name.endswith(TEMPORARY_SUFFIX)}
    strangers = sorted(held - set(FILES))
    if strangers:
        raise UsageError(f"{out} holds something else than predictions ({strangers[0]!r}); give a new folder.")
    if held and not overwrite:
        raise UsageError(f"{out} already holds predictions. Pass --overwrite to replace them, or give a new folder.")


class PredictionWriter:
    """Writes blocks of proteins as they come; the files appear, `predict.json` last, when `finish` is called.

    A context: what is not finished when it ends is removed. `top` terms of each protein, those of at least `at_least`,
    go to the table for reading. With `cafa` all probabilities are kept in memory until the end.
    """

    def __init__(
        self,
        out: Path,
        terms: Sequence[str],
        names: Sequence[str],
        threshold: float | None,
        *,
        top: int,
        at_least: float,
        cafa: bool = False,
    ) -> None:
        self._out, self._terms, self._names = out, list(terms), list(names)
        self._threshold = np.inf if threshold is None else threshold
        self._top, self._at_least = top, at_least
        self._cafa: tuple[list[str], list[np.ndarray]] | None = ([], []) if cafa else None
        self._stack = ExitStack()

    def __enter__(self) -> "PredictionWriter":
        self._out.mkdir(parents=True, exist_ok=True)
        table = self._stack.enter_context(aside_of(self._out / TSV).open("w", encoding="utf-8", newline=""))
        self._table = csv.writer(table, delimiter="\t", lineterminator="\n")
        self._table.writerow(COLUMNS)
        self._parquet = self._stack.enter_context(
            pq.ParquetWriter(aside_of(self._out / PARQUET), SCHEMA, compression="zstd")
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        for name in (TSV, PARQUET):
            aside_of(self._out / name).unlink(missing_ok=True)

    def write(self, ids: Sequence[str], probability_BK: Float64[np.ndarray, "B K"]) -> None:
        """Add proteins."""
        if self._cafa is not None:
            self._cafa[0].extend(ids)
            self._cafa[1].append(probability_BK.astype(np.float32))
        above_BK = probability_BK >= self._threshold
        # Equal probabilities stand in the order of the terms.
        order_BK = np.argsort(-probability_BK, axis=1, kind="stable")[:, : self._top]
        for name, order, probability, above in zip(ids, order_BK, probability_BK, above_BK, strict=True):
            for rank, term in enumerate(order.tolist(), start=1):
                if probability[term] < self._at_least:
                    break
                cells = (self._terms[term], self._names[term], f"{probability[term]:.6g}", _yes_or_no(above[term]))
                self._table.writerow((name, rank, *cells))
        num_terms = len(self._terms)
        columns = [
            _column(np.arange(len(ids)).repeat(num_terms), ids),
            _column(np.tile(np.arange(num_terms), len(ids)), self._terms),
            probability_BK.astype(np.float32).ravel(),
            above_BK.ravel(),
        ]
        self._parquet.write_table(pa.table(columns, schema=SCHEMA))

    def finish(self, rejections: Iterable[Rejection], facts: PredictFacts) -> None:
        """Put everything in place of what was there."""
        self._stack.close()
        (self._out / FACTS).unlink(missing_ok=True)
        for name in (TSV, PARQUET):
            aside = aside_of(self._out / name)
            with aside.open("rb") as handle:
                os.fsync(handle.fileno())
            aside.replace(self._out / name)
        (self._out / CAFA).unlink(missing_ok=True)
        if self._cafa is not None and self._cafa[0]:
            ids, blocks = self._cafa
            written = write_cafa(self._out / CAFA, ids, self._terms, np.concatenate(blocks))
            for rejection in written.rejections:
                say(f"{CAFA} is without {rejection.id!r}: {rejection.reason}")
        write_quarantine(self._out / QUARANTINE, rejections)
        fsync_directory(self._out)
        write_json_atomically(self._out / FACTS, facts.model_dump(mode="json"))


def _yes_or_no(value: Any) -> str:
    return "yes" if value else "no"


def _column(number: np.ndarray, names: Sequence[str]) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(number.astype(np.int32)), pa.array(names, type=pa.string()))
