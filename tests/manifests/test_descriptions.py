import gzip
from pathlib import Path

import pytest

from amma.manifests.descriptions import NO_TEXT, Description, Texts, read_descriptions
from amma.manifests.errors import InputError
from amma.manifests.quarantine import Rejection

HEADER = "EntryName\tProteinName\tFunction\tSubcellularLocation\tSimilarity\tSequence"


def write(tmp_path: Path, *rows: str, header: str = HEADER, name: str = "d.tsv") -> Path:
    path = tmp_path / name
    data = ("\n".join([header, *rows]) + "\n").encode("utf-8", "surrogateescape")
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def rows_of(path: Path) -> list[Description]:
    rows = list(read_descriptions(path))
    assert all(isinstance(row, Description) for row in rows)
    return [row for row in rows if isinstance(row, Description)]


def test_rows_are_read_by_column_name(tmp_path: Path) -> None:
    reordered = "Sequence\tExtra\tSimilarity\tFunction\tSubcellularLocation\tProteinName"
    (row,) = rows_of(write(tmp_path, "MKV\t?\tsim\tfun\tloc\tnam", header=reordered))
    assert row == Description(1, "", "MKV", ("nam", "fun", "loc", "sim"))


@pytest.mark.parametrize("name", ["d.tsv", "d.tsv.gz"])
def test_a_stray_quote_swallows_nothing(tmp_path: Path, name: str) -> None:
    rows = rows_of(
        write(tmp_path, 'a\t"Quoted\tf\t\t\tMK', 'b\t5"-nucleotidase\t"\t"\t\tMV', "c\tplain\t\t\t\tML", name=name)
    )
    assert [(row.name, row.text[0]) for row in rows] == [("a", '"Quoted'), ("b", '5"-nucleotidase'), ("c", "plain")]


def test_line_ends_byte_order_mark_and_blank_lines_change_nothing(tmp_path: Path) -> None:
    plain = rows_of(write(tmp_path, "a\tn\tf\tl\ts\tMK", "b\tn\tf\tl\ts\tMV"))
    path = tmp_path / "crlf.tsv"
    path.write_bytes(b"\xef\xbb\xbf" + f"{HEADER}\r\na\tn\tf\tl\ts\tMK\r\n\r\nb\tn\tf\tl\ts\tMV\r\n".encode())
    assert rows_of(path) == plain


def test_missing_columns_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no column Function, Sequence") as caught:
        list(read_descriptions(write(tmp_path, header="EntryName\tProteinName\tSubcellularLocation\tSimilarity")))
    assert caught.value.code == "E_COLUMNS"


def test_text_that_is_not_utf8_is_one_rejection(tmp_path: Path) -> None:
    rows = list(read_descriptions(write(tmp_path, "a\tcaf\udce9\t\t\t\tMK", "b\tn\t\t\t\tMV")))
    assert isinstance(rows[0], Rejection)
    assert (rows[0].code, rows[0].position) == ("E_UTF8", 1)
    assert isinstance(rows[1], Description)


def test_text_joins_by_id_where_the_row_names_one_else_by_sequence(tmp_path: Path) -> None:
    path = write(tmp_path, "known\tby id\t\t\t\tMKVV", "other\tby sequence\t\t\t\tmkv*", "gone\tx\t\t\t\tWWW")
    texts = Texts.load(path, {"known", "twin", "first"})
    assert texts.take("known", "MKVV")[0] == "by id"
    assert texts.take("first", "MKV")[0] == "by sequence"
    assert texts.take("twin", "MKV")[0] == "by sequence"
    assert texts.take("alone", "LLL") == NO_TEXT
    assert texts.counts() == {
        "rows": 3,
        "joined": 2,
        "repeated": 0,
        "conflicting": 0,
        "empty": 0,
        "unmatched": 1,
        "quarantined": 0,
    }


def test_a_row_that_names_an_id_is_not_given_to_another_protein_of_its_sequence(tmp_path: Path) -> None:
    texts = Texts.load(write(tmp_path, "a\ttext of a\t\t\t\tMKV"), {"a", "b"})
    assert texts.take("a", "MKV")[0] == "text of a"
    assert texts.take("b", "MKV") == NO_TEXT


def test_of_conflicting_texts_the_first_is_taken_and_the_conflict_kept(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "a\tone\t\t\t\tMKV",
        "a\tone\t\t\t\tMKV",
        "a\ttwo\t\t\t\tMKV",
        "x\tthree\t\t\t\tLLL",
        "y\tfour\t\t\t\tLLL",
    )
    texts = Texts.load(path, {"a"})
    assert texts.take("a", "MKV")[0] == "one"
    assert texts.take("z", "LLL")[0] == "three"
    assert [(conflict.taken, conflict.ignored) for conflict in texts.conflicts] == [(1, 3), (4, 5)]
    assert texts.conflicts[0].key == "a"
    assert texts.repeated == 1


def test_text_of_an_id_whose_row_has_another_sequence_is_taken_and_counted(tmp_path: Path) -> None:
    texts = Texts.load(write(tmp_path, "a\ttext\t\t\t\tMKV"), {"a"})
    assert texts.take("a", "MKVL")[0] == "text"
    assert texts.other_sequence == 1


def test_rows_without_text_describe_nothing(tmp_path: Path) -> None:
    texts = Texts.load(write(tmp_path, "a\t \t\t\t\tMKV", "a\ttext\t\t\t\tMKV"), {"a"})
    assert texts.take("a", "MKV")[0] == "text"
    assert (texts.empty, texts.conflicts) == (1, [])
