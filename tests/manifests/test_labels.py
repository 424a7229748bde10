from pathlib import Path

import pytest

from amma.manifests.errors import InputError, UsageError
from amma.manifests.labels import read_ids, read_labels, read_splits

TABLE = "id\tec\tec_class\na\t3.2.1.17\t3\nb\t2.6.1.-,2.6.1.1\t2\nc\t3.4.-.-,4.2.1.1\t3,4\nd\t\t\n"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "ec.tsv"
    path.write_text(TABLE)
    return path


def terms_of(path: Path, task: str) -> dict[str, list[str]]:
    labels = read_labels(path, task)
    assert labels.targets.shape == (len(labels.ids), len(labels.terms))
    return {
        protein: [term for term, has in zip(labels.terms, row, strict=True) if has]
        for protein, row in zip(labels.ids, labels.targets, strict=True)
    }


def test_each_task_reads_its_column(table: Path) -> None:
    assert terms_of(table, "ec") == {
        "a": ["3.2.1.17"],
        "b": ["2.6.1.-", "2.6.1.1"],
        "c": ["3.4.-.-", "4.2.1.1"],
        "d": [],
    }
    assert terms_of(table, "ec-class") == {"a": ["3"], "b": ["2"], "c": ["3", "4"], "d": []}


def test_partial_ec_numbers_are_terms_of_their_own(table: Path) -> None:
    terms = read_labels(table, "ec").terms
    assert {"2.6.1.-", "2.6.1.1"} <= set(terms)
    assert terms == tuple(sorted(terms))


def test_unknown_tasks_are_refused_with_a_hint(table: Path) -> None:
    with pytest.raises(UsageError, match="Did you mean 'ec-class'"):
        read_labels(table, "ec_class")
    with pytest.raises(UsageError, match="Known: ec, ec-class, go-bp, go-cc, go-mf"):
        read_labels(table, "go")


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.tsv"
    path.write_text("id\tec\na\t1.1.1.1\n")
    with pytest.raises(InputError, match="no column ec_class"):
        read_labels(path, "ec-class")


@pytest.mark.parametrize("row", ["a\t1.1.1.1\t1\n", "\t1.1.1.1\t1\n"])
def test_repeated_and_empty_ids_are_refused_with_their_line(tmp_path: Path, row: str) -> None:
    path = tmp_path / "x.tsv"
    path.write_text(TABLE + row)
    with pytest.raises(InputError, match=r"x\.tsv:6"):
        read_labels(path, "ec")


def test_an_empty_table_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.tsv"
    path.write_text("id\tec\tec_class\n")
    with pytest.raises(InputError):
        read_labels(path, "ec")


def test_ids_are_read_whatever_the_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "ids.txt"
    path.write_bytes(b"\xef\xbb\xbfa\r\n\r\nb\n  c  \n\xef\xbb\xbfd\na\n")
    assert read_ids(path) == ("a", "b", "c", "d")


def write_splits(folder: Path, **splits: str) -> Path:
    for name, ids in splits.items():
        (folder / f"{name}.txt").write_text("\n".join(ids.split()))
    return folder


def test_splits_are_three_lists(tmp_path: Path) -> None:
    splits = read_splits(write_splits(tmp_path, train="a b", valid="c", test="d"))
    assert splits == {"train": ("a", "b"), "valid": ("c",), "test": ("d",)}


@pytest.mark.parametrize("shared", [{"valid": "a"}, {"test": "b"}, {"valid": "x", "test": "x"}])
def test_overlapping_splits_are_refused(tmp_path: Path, shared: dict[str, str]) -> None:
    with pytest.raises(InputError) as caught:
        read_splits(write_splits(tmp_path, **({"train": "a b", "valid": "c", "test": "d"} | shared)))
    assert caught.value.code == "E_SPLITS"


def test_missing_and_empty_splits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"test\.txt"):
        read_splits(write_splits(tmp_path, train="a", valid="c"))
    with pytest.raises(InputError, match=r"test\.txt: an empty split"):
        read_splits(write_splits(tmp_path, test=""))


def test_the_real_tables_have_the_counts_that_their_readme_says(shared: Path) -> None:
    real = shared / "data" / "real"
    labels = read_labels(real / "ec.tsv", "ec")
    splits = read_splits(real)
    assert len(labels.ids) == 319
    assert {split: len(ids) for split, ids in splits.items()} == {"train": 759, "valid": 111, "test": 213}
    known = set(labels.ids)
    assert [len(known & set(splits[split])) for split in ("train", "valid", "test")] == [215, 33, 71]
