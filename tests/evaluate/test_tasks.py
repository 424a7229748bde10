from pathlib import Path

import numpy as np
import pytest

from amma.evaluate.tasks.task import Task, build_task, read_task
from amma.featurize.store.reader import FeatureStore
from amma.manifests.errors import InputError
from amma.manifests.labels import LabelTable


@pytest.fixture
def task(planted) -> Task:
    with FeatureStore(planted.store) as store:
        return read_task("ec", store, labels=planted.labels, splits=planted.splits)


def test_only_proteins_in_split_label_table_and_store_take_part(task: Task) -> None:
    assert len(task.train.ids) == 96
    assert len(task.valid.ids) == 32
    assert len(task.test.ids) == 31
    assert "P157" not in task.test.ids  # outside the label table: unknown, not negative
    assert task.test.num_unknown == 1
    assert task.test.missing == ("absent",)


def test_a_protein_without_a_label_counts_as_a_row_without_a_true_term(task: Task) -> None:
    assert task.test.num_unlabelled == 1
    assert not task.test.target_NK[task.test.ids.index("P158")].any()


def test_rows_point_at_the_same_proteins_in_the_store(planted, task: Task) -> None:
    with FeatureStore(planted.store) as store:
        assert [store.ids[int(row)] for row in task.test.rows] == list(task.test.ids)


def test_targets_are_those_of_the_label_table(planted, task: Task) -> None:
    lines = planted.labels.read_text().splitlines()[1:]
    terms = {line.split("\t")[0]: set(filter(None, line.split("\t")[1].split(","))) for line in lines}
    for split in (task.train, task.valid, task.test):
        for identifier, row in zip(split.ids, split.target_NK, strict=True):
            assert {term for term, true in zip(task.terms, row, strict=True) if true} == terms[identifier]


def test_terms_that_training_never_saw_are_known(task: Task) -> None:
    unseen = [term for term, seen in zip(task.terms, task.seen_K, strict=True) if not seen]
    assert unseen == ["6.1.1.1"]


def test_the_order_of_ids_in_the_split_files_does_not_matter(planted, task: Task) -> None:
    with FeatureStore(planted.store) as store:
        table = LabelTable(ids=task.train.ids, terms=task.terms, targets=task.train.target_NK, path=Path("labels.tsv"))
        names = {"train": task.train.ids[10:], "valid": task.train.ids[:5], "test": task.train.ids[5:10]}
        there = build_task("ec", store, table, names, source="test")
        back = build_task("ec", store, table, {name: ids[::-1] for name, ids in names.items()}, source="test")
    assert there.train.ids == back.train.ids
    assert np.array_equal(there.train.rows, back.train.rows)
    assert np.array_equal(there.train.target_NK, back.train.target_NK)


def test_a_split_in_which_nobody_takes_part_is_refused_with_the_reason(planted, task: Task) -> None:
    table = LabelTable(
        ids=("other", *task.train.ids),
        terms=task.terms,
        targets=np.vstack([task.train.target_NK[:1], task.train.target_NK]),
        path=Path("labels.tsv"),
    )
    with FeatureStore(planted.store) as store:
        names = {"train": task.train.ids[:4], "valid": task.train.ids[4:], "test": ("other", "stranger")}
        with pytest.raises(InputError, match=r"test split takes part \(2 ids in the split, 1 of them in the label"):
            build_task("ec", store, table, names, source="labels.tsv")


def test_training_without_a_single_label_is_refused(planted, task: Task) -> None:
    table = LabelTable(
        ids=task.train.ids, terms=task.terms, targets=np.zeros_like(task.train.target_NK), path=Path("labels.tsv")
    )
    names = {"train": task.train.ids[:4], "valid": task.train.ids[4:6], "test": task.train.ids[6:]}
    with FeatureStore(planted.store) as store, pytest.raises(InputError, match="no training protein has a label"):
        build_task("ec", store, table, names, source="labels.tsv")
