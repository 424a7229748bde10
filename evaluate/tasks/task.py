"""A task: which proteins of a store are trained, validated and tested on, and what is true of each.

It knows nothing about models or metrics.

Shapes: N proteins of one split, K terms.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int64

from amma.evaluate.config import Unlabelled
from amma.featurize.store.reader import FeatureStore
from amma.manifests.errors import InputError
from amma.manifests.labels import SPLITS, LabelTable, read_labels, read_splits
from amma.manifests.table import Modality

INPUTS = (Modality.SEQ, Modality.STR)
"""What a model is given about a protein; its text would name the function that is to be predicted."""


@dataclass(frozen=True)
class Split:
    """The proteins of one split that take part, sorted by id.

    `rows` are their numbers in the store. `missing` are in the label table and the split but have no features in
    the store; `num_unknown` are in the split and outside the label table, and take no part: what they do is unknown,
    not known to be nothing.
    """

    ids: tuple[str, ...]
    rows: Int64[np.ndarray, " N"]
    target_NK: Bool[np.ndarray, "N K"]
    missing: tuple[str, ...]
    num_unknown: int

    @property
    def num_unlabelled(self) -> int:
        """Proteins in the label table without any true term; they count, as all-zero rows."""
        return int((~self.target_NK.any(axis=1)).sum())


@dataclass(frozen=True)
class Task:
    """Terms to predict, and three splits.

    `seen_K` is True for terms that some training protein has; no model can learn the others.
    """

    name: str
    terms: tuple[str, ...]
    train: Split
    valid: Split
    test: Split

    def split(self, name: str) -> Split:
        """The split called `name` (`train`, `valid` or `test`)."""
        return {"train": self.train, "valid": self.valid, "test": self.test}[name]

    @property
    def seen_K(self) -> Bool[np.ndarray, " K"]:
        """True for terms that occur in training."""
        return np.asarray(self.train.target_NK.any(axis=0))


def read_task(
    name: str,
    store: FeatureStore,
    *,
    labels: Path,
    splits: Path,
    split_prefix: str | None = None,
    unlabelled: Unlabelled = Unlabelled.KEEP,
) -> Task:
    """Read the label table and the split files, and find their proteins in the store."""
    table = read_labels(labels, name, unlabelled=unlabelled.value)
    return build_task(name, store, table, read_splits(splits, prefix=split_prefix), source=f"{labels} and {splits}")


def build_task(
    name: str, store: FeatureStore, labels: LabelTable, splits: Mapping[str, tuple[str, ...]], *, source: str
) -> Task:
    """A task from a label table and splits.

    Raises `InputError` if a split has no protein that is both labelled and featurised, or if training has no label.
    """
    label_row = {identifier: row for row, identifier in enumerate(labels.ids)}
    featurised = np.any([store.length(modality) > 0 for modality in INPUTS], axis=0)
    built = {}
    for split in SPLITS:
        known = sorted(identifier for identifier in splits[split] if identifier in label_row)
        rows, ids, missing = [], [], []
        for identifier in known:
            row = _row_of(store, identifier)
            if row is None or not featurised[row]:
                missing.append(identifier)
            else:
                rows.append(row)
                ids.append(identifier)
        if not ids:
            raise InputError(
                f"{source}: no protein of the {split} split takes part ({len(splits[split])} ids in the split, "
                f"{len(known)} of them in the label table, none of these in {store.path}). "
                "Check that labels, splits and store name proteins alike."
            )
        target_NK = labels.targets[[label_row[identifier] for identifier in ids]]
        built[split] = Split(
            tuple(ids), np.array(rows, dtype=np.int64), target_NK, tuple(missing), len(splits[split]) - len(known)
        )
    task = Task(name, labels.terms, built["train"], built["valid"], built["test"])
    if not task.seen_K.any():
        raise InputError(f"{source}: no training protein has a label for task {name!r}, so nothing can be learned.")
    return task


def _row_of(store: FeatureStore, identifier: str) -> int | None:
    try:
        return store.row_of(identifier)
    except KeyError:
        return None
