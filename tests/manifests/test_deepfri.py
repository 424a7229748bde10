import gzip
from pathlib import Path

import pytest

from amma.manifests.deepfri import read_identity_cutoffs
from amma.manifests.errors import InputError, UsageError
from amma.manifests.labels import read_labels, read_splits

EC = "### EC-numbers\r\n1.4.3.-\t4.2.1.1\t2.7.6.-\t4.1.1.1\r\n### PDB-chain\tEC-numbers\r\n" + (
    "2FOR-A\t4.2.1.1,1.4.3.-\r\n5U4N-A\t4.2.1.1\r\n1ABC-B\r\n"
)
GO = "".join(
    f"### GO-{what} ({branch})\n{items}\n"
    for branch, terms, names in (
        ("molecular_function", "GO:3\tGO:1\tGO:2", "three\tone\ttwo"),
        ("biological_process", "GO:4", "four"),
        ("cellular_component", "GO:5\tGO:6", "five\tsix"),
    )
    for what, items in (("terms", terms), ("names", names))
) + (
    "### PDB-chain\tGO-terms (molecular_function)\tGO-terms (biological_process)\tGO-terms (cellular_component)\n"
    "a\tGO:1,GO:3\tGO:4\tGO:6\nb\t\tGO:4\nc\tGO:2\nd\n"
)


@pytest.fixture
def ec(tmp_path: Path) -> Path:
    path = tmp_path / "ec_annot.tsv"
    path.write_bytes(EC.encode())
    return path


@pytest.fixture
def go(tmp_path: Path) -> Path:
    path = tmp_path / "go_annot.tsv.gz"
    path.write_bytes(gzip.compress(GO.encode()))
    return path


def terms_of(path: Path, task: str, **options: str) -> dict[str, list[str]]:
    labels = read_labels(path, task, **options)  # type: ignore[arg-type]
    return {
        protein: [term for term, has in zip(labels.terms, row, strict=True) if has]
        for protein, row in zip(labels.ids, labels.targets, strict=True)
    }


def test_all_listed_ec_numbers_are_terms_also_those_that_no_protein_has(ec: Path) -> None:
    assert read_labels(ec, "ec").terms == ("1.4.3.-", "2.7.6.-", "4.1.1.1", "4.2.1.1")
    assert terms_of(ec, "ec") == {"2FOR-A": ["1.4.3.-", "4.2.1.1"], "5U4N-A": ["4.2.1.1"], "1ABC-B": []}


def test_ec_classes_are_the_first_digits(ec: Path) -> None:
    assert read_labels(ec, "ec-class").terms == ("1", "2", "4")
    assert terms_of(ec, "ec-class") == {"2FOR-A": ["1", "4"], "5U4N-A": ["4"], "1ABC-B": []}


def test_each_go_branch_has_its_terms_and_missing_cells_are_no_label(go: Path) -> None:
    assert terms_of(go, "go-mf") == {"a": ["GO:1", "GO:3"], "b": [], "c": ["GO:2"], "d": []}
    assert terms_of(go, "go-bp") == {"a": ["GO:4"], "b": ["GO:4"], "c": [], "d": []}
    assert terms_of(go, "go-cc") == {"a": ["GO:6"], "b": [], "c": [], "d": []}
    assert read_labels(go, "go-cc").terms == ("GO:5", "GO:6")


def test_proteins_without_a_label_in_the_branch_can_be_left_out(go: Path) -> None:
    assert list(terms_of(go, "go-mf", unlabelled="drop")) == ["a", "c"]
    assert read_labels(go, "go-mf", unlabelled="drop").terms == ("GO:1", "GO:2", "GO:3")


def test_a_table_of_another_task_is_refused_and_says_what_it_has(ec: Path, go: Path) -> None:
    with pytest.raises(InputError, match=r"no branch 'GO-terms \(molecular_function\)' \(found: EC-numbers\)"):
        read_labels(ec, "go-mf")
    with pytest.raises(InputError, match="no branch 'EC-numbers'"):
        read_labels(go, "ec")


def test_a_table_cut_off_in_its_head_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cut.tsv"
    path.write_text("".join(GO.splitlines(keepends=True)[:6]))
    with pytest.raises(InputError, match="cut short") as caught:
        read_labels(path, "go-mf")
    assert caught.value.code == "E_COLUMNS"


@pytest.mark.parametrize(
    ("row", "code"), [("x\tGO:9\n", "E_TERM"), ("a\tGO:1\n", "E_DUP"), ("d\t\n", "E_DUP"), ("\tGO:1\n", "E_INPUT")]
)
def test_rows_that_contradict_the_table_are_named_with_their_line(tmp_path: Path, row: str, code: str) -> None:
    path = tmp_path / "x.tsv"
    path.write_text(GO + row)
    with pytest.raises(InputError, match=r"x\.tsv:18: ") as caught:
        read_labels(path, "go-mf")
    assert caught.value.code == code


def test_identity_cutoffs_say_which_test_proteins_are_left(tmp_path: Path) -> None:
    path = tmp_path / "test.csv"
    path.write_bytes(b"PDB-chain,<30%,<95%\r\na,0,1\r\nb,1,1\r\n\r\nc,0,0\r\n")
    assert read_identity_cutoffs(path) == {"<30%": {"b"}, "<95%": {"a", "b"}}


@pytest.mark.parametrize("text", ["", "id\tx\n", "PDB-chain\n", "PDB-chain,<30%\na,2\n", "PDB-chain,<30%\na\n"])
def test_other_tables_are_no_identity_cutoffs(tmp_path: Path, text: str) -> None:
    path = tmp_path / "test.csv"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_identity_cutoffs(path)
    assert caught.value.code == "E_COLUMNS"


def write_lists(folder: Path, *beginnings: str) -> Path:
    for beginning in beginnings:
        for split in ("train", "valid", "test"):
            (folder / f"{beginning}{split}.txt").write_text(f"{beginning}{split}\n")
    return folder


def test_published_names_of_split_lists_are_found(tmp_path: Path) -> None:
    write_lists(tmp_path, "nrPDB-EC_2020.04_")
    assert read_splits(tmp_path)["valid"] == ("nrPDB-EC_2020.04_valid",)
    assert read_splits(tmp_path, prefix="nrPDB-EC")["test"] == ("nrPDB-EC_2020.04_test",)
    with pytest.raises(InputError, match="no such file"):
        read_splits(tmp_path, prefix="nrPDB-GO")


def test_of_several_sets_of_lists_one_must_be_named(tmp_path: Path) -> None:
    write_lists(tmp_path, "nrPDB-EC_2020.04_", "nrPDB-GO_2019.06.18_")
    with pytest.raises(UsageError, match=r"nrPDB-EC_2020\.04_train\.txt, nrPDB-GO"):
        read_splits(tmp_path)
    assert read_splits(tmp_path, prefix="nrPDB-GO")["train"] == ("nrPDB-GO_2019.06.18_train",)
    write_lists(tmp_path, "")
    assert read_splits(tmp_path)["train"] == ("train",)


def test_the_published_files_have_the_published_counts(shared: Path) -> None:
    deepfri = shared / "data" / "deepfri"
    labels = read_labels(deepfri / "nrPDB-EC_2020.04_annot.tsv", "ec")
    assert labels.targets.shape == (19_201, 538)
    assert labels.targets.any(axis=1).all()
    assert round(labels.targets.sum() / len(labels.ids), 3) == 1.742
    assert read_labels(deepfri / "nrPDB-EC_2020.04_annot.tsv", "ec-class").terms == tuple("1234567")
    counts = {"EC": [15_551, 1_729, 1_919], "GO": [29_902, 3_323, 3_416]}
    for task, sizes in counts.items():
        splits = read_splits(deepfri, prefix=f"nrPDB-{task}")
        assert [len(splits[split]) for split in ("train", "valid", "test")] == sizes
    left = read_identity_cutoffs(deepfri / "nrPDB-EC_2020.04_test.csv")
    assert {cutoff: len(ids) for cutoff, ids in left.items()} == {
        "<30%": 720,
        "<40%": 902,
        "<50%": 1117,
        "<70%": 1476,
        "<95%": 1919,
    }
    assert left["<95%"] == set(read_splits(deepfri, prefix="nrPDB-EC")["test"])
    go = read_identity_cutoffs(deepfri / "nrPDB-GO_2019.06.18_test.csv")
    assert [len(ids) for ids in go.values()] == [1717, 1937, 2199, 2733, 3416]


def test_the_published_go_format_is_read_in_all_branches(shared: Path) -> None:
    path = shared / "data" / "deepfri" / "nrPDB-GO_subset_annot.tsv"
    shapes = [read_labels(path, task).targets.shape for task in ("go-mf", "go-bp", "go-cc")]
    assert shapes == [(43, 488), (43, 1940), (43, 320)]
    assert {"GO:0016788", "GO:0004519", "GO:0004518"} <= set(terms_of(path, "go-mf")["2O3B-A"])
