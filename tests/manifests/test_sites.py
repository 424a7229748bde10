from pathlib import Path

import pytest

from amma.manifests.errors import InputError
from amma.manifests.sites import Site, read_sites

HEADER = "id\tstart\tend\tkind\n"


def table(tmp_path: Path, rows: str, header: str = HEADER) -> Path:
    path = tmp_path / "sites.tsv"
    path.write_bytes((header + rows).encode())
    return path


def test_sites_are_counted_from_zero_inside(tmp_path: Path) -> None:
    sites = read_sites(table(tmp_path, "a\t1\t1\tACT_SITE\na\t3\t5\tBINDING\nb\t7\t\tBINDING\n"))
    assert sites.sites == (Site("a", 0, 1, "ACT_SITE"), Site("a", 2, 5, "BINDING"), Site("b", 6, 7, "BINDING"))
    assert sites.ids == ("a", "b")
    assert {protein: found.tolist() for protein, found in sites.residues().items()} == {"a": [0, 2, 3, 4], "b": [6]}
    assert {protein: found.tolist() for protein, found in sites.residues(["ACT_SITE"]).items()} == {"a": [0]}


def test_overlapping_and_repeated_sites_count_each_residue_once(tmp_path: Path) -> None:
    sites = read_sites(table(tmp_path, "a\t3\t5\tBINDING\r\na\t4\t6\tBINDING\r\na\t3\t5\tBINDING\r\n"))
    assert len(sites.sites) == 2
    assert sites.residues()["a"].tolist() == [2, 3, 4, 5]


def test_the_last_residue_is_inside_and_the_next_is_not(tmp_path: Path) -> None:
    path = table(tmp_path, "a\t10\t10\tBINDING\na\t11\t11\tBINDING\na\t9\t11\tBINDING\nb\t1\t1\tBINDING\n")
    sites = read_sites(path, {"a": 10})
    assert sites.sites == (Site("a", 9, 10, "BINDING"),)
    assert [(rejection.id, rejection.position, rejection.code) for rejection in sites.rejections] == [
        ("a", 2, "E_SITE"),
        ("a", 3, "E_SITE"),
        ("b", 4, "E_SITE"),
    ]
    assert "residue 11 of a sequence of 10" in sites.rejections[0].reason


@pytest.mark.parametrize(
    ("row", "code"),
    [
        ("a\t0\t1\tBINDING", "E_SITE"),
        ("a\t-1\t1\tBINDING", "E_SITE"),
        ("a\t?\t?\tBINDING", "E_SITE"),
        ("a\t<1\t5\tBINDING", "E_SITE"),
        ("a\t1.5\t2\tBINDING", "E_SITE"),
        ("a\t٣\t5\tBINDING", "E_SITE"),
        ("a\t\t\tBINDING", "E_SITE"),
        ("a\t5\t4\tBINDING", "E_SITE"),
        ("a\t1\t1\tHELIX", "E_SITE"),
        ("a\t1", "E_SITE"),
        ("\t1\t1\tBINDING", "E_ID"),
    ],
)
def test_a_row_that_is_no_site_is_rejected_and_the_others_are_kept(tmp_path: Path, row: str, code: str) -> None:
    sites = read_sites(table(tmp_path, f"{row}\nz\t2\t2\tBINDING\n"))
    assert [rejection.code for rejection in sites.rejections] == [code]
    assert sites.ids == ("z",)


def test_a_table_without_a_usable_row_is_refused_with_the_first_reason(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none of its 2 rows .* no residue numbers"):
        read_sites(table(tmp_path, "a\t?\t?\tBINDING\na\t1\t1\tHELIX\n"))
    with pytest.raises(InputError, match="none of its 0 rows"):
        read_sites(table(tmp_path, ""))


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no column end, kind"):
        read_sites(table(tmp_path, "a\t1\n", header="id\tstart\n"))
