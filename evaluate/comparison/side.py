"""A finished report as a side of a comparison: its scores, as `predictions.parquet` has them, and what they are of.

Shapes: S seeds, N test proteins, K terms.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Bool, Float32, Float64
from pydantic import ValidationError

from amma.evaluate.metrics.exact import aupr, fmax
from amma.evaluate.metrics.per_term import term_figures
from amma.evaluate.report.extremes import protein_f
from amma.evaluate.report.folder import CONFIG, JSON, PREDICTIONS
from amma.evaluate.report.results import Report, read_report
from amma.manifests.errors import InputError, UsageError
from amma.manifests.files import sha256_of_file

SHOWN = 5


@dataclass(frozen=True)
class Side:
    """A report with the scores of its trained model on the test proteins, sorted by id."""

    folder: Path
    report: Report
    report_sha256: str
    ids: tuple[str, ...]
    terms: tuple[str, ...]
    scores: tuple[Float32[np.ndarray, "N K"], ...]
    target_NK: Bool[np.ndarray, "N K"]

    @property
    def fmax(self) -> tuple[float, ...]:
        """Exact Fmax of each seed."""
        return tuple(fmax(score_NK, self.target_NK).value for score_NK in self.scores)

    @property
    def aupr(self) -> tuple[float, ...]:
        """Exact AUPR of each seed."""
        return tuple(aupr(score_NK, self.target_NK) for score_NK in self.scores)

    @property
    def term_ap_K(self) -> Float64[np.ndarray, " K"]:
        """Average precision of each term, the mean over seeds; NaN where no test protein has it."""
        mean_K: Float64[np.ndarray, " K"] = np.mean(
            [term_figures(score_NK, self.target_NK).average_precision_K for score_NK in self.scores], axis=0
        )
        return mean_K

    @property
    def protein_f_N(self) -> Float64[np.ndarray, " N"]:
        """F of each protein at the threshold that each seed has its largest F at on validation, the mean over seeds."""
        thresholds = [run.threshold for run in self.report.row("trained").runs]
        mean_N: Float64[np.ndarray, " N"] = np.mean(
            [
                protein_f(score_NK, self.target_NK, np.inf if threshold is None else threshold)
                for score_NK, threshold in zip(self.scores, thresholds, strict=True)
            ],
            axis=0,
        )
        return mean_N

    def only(self, ids: Sequence[str]) -> "Side":
        """The same for some of its proteins."""
        place = {name: row for row, name in enumerate(self.ids)}
        rows = [place[name] for name in ids]
        scores = tuple(score_NK[rows] for score_NK in self.scores)
        return replace(self, ids=tuple(ids), scores=scores, target_NK=self.target_NK[rows])

    def clusters(self) -> tuple[Path, str] | None:
        """The table that its intervals were made with, and its hash; None if there was none or it changed since."""
        facts = self.report.intervals
        if facts is None or facts.clusters_sha256 is None:
            return None
        path = Path(_config(self.folder).get("clusters") or "")
        if not path.is_file() or sha256_of_file(path) != facts.clusters_sha256:
            return None
        return path, facts.clusters_sha256


def read_side(folder: Path) -> Side:
    """Open a report. Raises `InputError` if it is none, of another version, or has other predictions than it says."""
    try:
        report = read_report(folder / JSON)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"]))
        raise InputError(
            f"{folder / JSON}: not as this amma writes it ({where}: {fault['msg']}). Run amma-eval function again."
        ) from error
    ids, terms, scores, target_NK = _read_predictions(folder / PREDICTIONS, len(report.row("trained").runs))
    side = Side(folder, report, sha256_of_file(folder / JSON), ids, terms, scores, target_NK)
    stated = report.row("trained").fmax.values
    if not np.allclose(side.fmax, stated, atol=1e-9):
        raise InputError(
            f"{folder}: {PREDICTIONS} gives Fmax {list(side.fmax)}, {JSON} says {list(stated)}: they are not of the "
            "same evaluation. Run amma-eval function again."
        )
    return side


def check_comparable(a: Side, b: Side, *, across_protocols: bool, common: bool) -> None:
    """Raise `UsageError` that names everything in which the two differ that must be the same."""
    first, second = a.report, b.report
    facts: list[tuple[str, Any, Any]] = [
        ("task", first.task.name, second.task.name),
        ("labels (sha256)", first.inputs.labels_sha256, second.inputs.labels_sha256),
        ("unlabelled", first.task.unlabelled, second.task.unlabelled),
    ]
    for split in ("train", "valid", "test"):
        one, other = (side.report.inputs.splits_sha256.get(split) for side in (a, b))
        facts.append((f"{split} split (sha256)", one, other))
    if not across_protocols:
        facts.append(("protocol", first.config.protocol, second.config.protocol))
    wrong = [f"{name}: {one} and {other}" for name, one, other in facts if one != other]
    if a.terms != b.terms:
        wrong.append(f"terms: {_only_in(a.terms, b.terms)}")
    if a.ids != b.ids and not common:
        wrong.append(f"test proteins: {_only_in(a.ids, b.ids)}")
    if wrong:
        hints = []
        if any(each.startswith("protocol") for each in wrong):
            hints.append("figures of different protocols do not belong in one table; --across-protocols does it anyway")
        if any(each.startswith("test proteins") for each in wrong):
            hints.append("--common compares on those that both have")
        raise UsageError(
            f"{a.folder} and {b.folder} cannot be compared: {'; '.join(wrong)}."
            + (f" ({'; '.join(hints)}.)" if hints else " Evaluate both on the same labels and splits.")
        )


def on_common(a: Side, b: Side) -> tuple[Side, Side, int, int]:
    """Both sides on the proteins that both have, and how many only the first and only the second has.

    Raises `InputError` if there is none, or if the two disagree about what is true of one.
    """
    both = sorted(set(a.ids) & set(b.ids))
    if not both:
        raise InputError(f"{a.folder} and {b.folder} have no test protein in common, so there is nothing to compare.")
    only = len(a.ids) - len(both), len(b.ids) - len(both)
    a, b = a.only(both), b.only(both)
    unequal_N = (a.target_NK != b.target_NK).any(axis=1)
    if unequal_N.any():
        raise InputError(
            f"{a.folder} and {b.folder} have other labels for {a.ids[int(unequal_N.argmax())]!r}. "
            "Evaluate both on the same label table."
        )
    return a, b, *only


def other_settings(a: Side, b: Side) -> dict[str, tuple[Any, Any]]:
    """What else differs between the two, by its key: how they were tuned, and what of."""
    found: dict[str, tuple[Any, Any]] = {}
    first, second = (
        {
            **{f"tuning.{key}": value for key, value in side.report.config.model_dump(mode="json").items()},
            "checkpoint (sha256)": side.report.inputs.checkpoint_sha256,
            "store (root)": side.report.inputs.store_root_hash,
        }
        for side in (a, b)
    )
    for key in sorted(first.keys() | second.keys()):
        if first.get(key) != second.get(key):
            found[key] = (first.get(key), second.get(key))
    return found


def _read_predictions(
    path: Path, num_seeds: int
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[Float32[np.ndarray, "N K"], ...], Bool[np.ndarray, "N K"]]:
    """Ids, terms, each seed's scores, and the labels of the test split."""
    columns = ["id", "split", "seed", "term", "score", "target"]
    try:
        table = pq.read_table(path, columns=columns, filters=pc.field("split") == "test").unify_dictionaries()
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: no predictions of a report ({error}). Run amma-eval function again.") from error
    id_P, term_P = (table.column(name).combine_chunks() for name in ("id", "term"))
    names, terms = (np.array(column.dictionary.to_pylist(), dtype=object) for column in (id_P, term_P))
    id_P, term_P = (column.indices.to_numpy(zero_copy_only=False) for column in (id_P, term_P))
    num_terms = len(np.unique(term_P))
    num_proteins = len(np.unique(id_P))
    shape = (num_seeds, num_proteins, num_terms)
    if not num_terms or len(id_P) != num_seeds * num_proteins * num_terms:
        raise InputError(f"{path}: not every term of every protein and seed is in it. Run amma-eval function again.")
    id_SNK, term_SNK = id_P.reshape(shape), term_P.reshape(shape)
    if (id_SNK != id_SNK[:1, :, :1]).any() or (term_SNK != term_SNK[:1, :1]).any():
        raise InputError(f"{path}: not sorted by seed, id and term, as amma-eval function writes it.")
    scores_SNK = table.column("score").to_numpy().reshape(shape)
    target_SNK = table.column("target").to_numpy().astype(np.bool_).reshape(shape)
    return (
        tuple(names[id_SNK[0, :, 0]].tolist()),
        tuple(terms[term_SNK[0, 0]].tolist()),
        tuple(scores_SNK),
        target_SNK[0],
    )


def _config(folder: Path) -> Mapping[str, Any]:
    try:
        value = json.loads((folder / CONFIG).read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _only_in(first: Sequence[str], second: Sequence[str]) -> str:
    """How many only one of the two has, with examples; ids and terms as they would stand in Python's text."""
    parts = []
    for which, here, there in (("first", first, second), ("second", second, first)):
        lacking = sorted(set(here) - set(there))
        if lacking:
            shown = ", ".join(repr(name) for name in lacking[:SHOWN])
            more = ", …" if len(lacking) > SHOWN else ""
            parts.append(f"{len(lacking)} only in the {which} ({shown}{more})")
    return ", ".join(parts) or "in another order"
