import gzip
from pathlib import Path

import pytest

from amma.manifests.errors import InputError
from amma.manifests.quarantine import RecordError, Rejection
from amma.manifests.sequences import SequenceRecord, clean_sequence, find_accession, read_sequences


def write(tmp_path: Path, data: bytes, name: str = "in.fasta") -> Path:
    path = tmp_path / name
    path.write_bytes(data)
    return path


def only(path: Path) -> SequenceRecord | Rejection:
    records = list(read_sequences(path))
    assert len(records) == 1
    return records[0]


def test_id_and_accession_are_the_first_two_words_of_the_header(tmp_path: Path) -> None:
    path = write(tmp_path, b">103L-A P00720 exp_allatom\nMNIF\nEML\n>107L-A - exp\nMK\n")
    assert list(read_sequences(path)) == [
        SequenceRecord("103L-A", "MNIFEML", "P00720", 1),
        SequenceRecord("107L-A", "MK", None, 2),
    ]


def test_second_word_that_is_no_accession_is_not_one() -> None:
    assert find_accession("x", "kinase") is None
    assert find_accession("x", "A0A023GPI8") == "A0A023GPI8"
    assert find_accession("sp|P00720|ENLYS_BPT4", "Endolysin") == "P00720"
    assert find_accession() is None


def test_line_ends_and_byte_order_mark_change_nothing(tmp_path: Path) -> None:
    plain = only(write(tmp_path, b">a x\nMKV\nLAA\n"))
    assert only(write(tmp_path, b"\xef\xbb\xbf>a x\r\nMKV\r\nLAA\r\n")) == plain
    assert only(write(tmp_path, b">a x\rMKV\rLAA\r")) == plain
    assert only(write(tmp_path, gzip.compress(b"\xef\xbb\xbf>a x\r\n\r\nMKV\r\nLAA"), "in.fasta.gz")) == plain


def test_lower_case_is_raised_and_the_final_star_is_dropped(tmp_path: Path) -> None:
    record = only(write(tmp_path, b">a\nmkv*\n"))
    assert isinstance(record, SequenceRecord)
    assert record.sequence == "MKV"


@pytest.mark.parametrize(
    ("letters", "code", "shown"),
    [
        ("MK*V", "E_ALPHABET", "'*' at residue 3"),
        ("MKJ", "E_ALPHABET", "'J' at residue 3"),
        ("MK<eos>", "E_ALPHABET", "'<' at residue 3"),
        ("M K", "E_ALPHABET", "' ' at residue 2"),
        ("M1K", "E_ALPHABET", "'1' at residue 2"),
        ("ßKJ", "E_ALPHABET", "at residue 1"),
        ("M-K", "E_GAP", "'-' at residue 2"),
        ("M.K", "E_GAP", "'.' at residue 2"),
        ("", "E_EMPTY", "no residues"),
        ("*", "E_EMPTY", "no residues"),
    ],
)
def test_what_is_no_residue_is_refused_with_its_place(letters: str, code: str, shown: str) -> None:
    with pytest.raises(RecordError) as caught:
        clean_sequence(letters)
    assert caught.value.code == code
    assert shown in caught.value.reason


def test_all_letters_of_the_alphabet_pass() -> None:
    assert clean_sequence("acdefghiklmnpqrstvwyUOBZX") == "ACDEFGHIKLMNPQRSTVWYUOBZX"


def test_a_bad_record_does_not_stop_the_others_and_keeps_its_number(tmp_path: Path) -> None:
    records = list(read_sequences(write(tmp_path, b">a\nMK\n>b\nM1\n>\nMK\n>c\n>d\nMKV\n")))
    rejections = [record for record in records if isinstance(record, Rejection)]
    assert [(r.id, r.position, r.code) for r in rejections] == [
        ("b", 2, "E_ALPHABET"),
        ("", 3, "E_ID"),
        ("c", 4, "E_EMPTY"),
    ]
    assert [record.id for record in records if isinstance(record, SequenceRecord)] == ["a", "d"]


@pytest.mark.parametrize("header", [b"a\x00b", b"a\x1b[31mb", b"a\xff", "a\u202eb".encode()])
def test_ids_with_control_characters_or_bad_utf8_are_refused(tmp_path: Path, header: bytes) -> None:
    record = only(write(tmp_path, b">" + header + b" x\nMK\n"))
    assert isinstance(record, Rejection)
    assert record.code == ("E_UTF8" if b"\xff" in header else "E_ID")
    assert record.reason.isprintable()


def test_ids_that_look_like_paths_are_data(tmp_path: Path) -> None:
    record = only(write(tmp_path, b">../../etc/passwd\nMK\n"))
    assert isinstance(record, SequenceRecord)
    assert record.id == "../../etc/passwd"


@pytest.mark.parametrize("kept", [0.2, 0.5, 0.99])
def test_a_truncated_gzip_yields_no_record_at_all(tmp_path: Path, kept: float) -> None:
    import random

    letters = random.Random(0)
    records = "".join(f">r{i}\n{''.join(letters.choices('ACDEFGHIKL', k=200))}\n" for i in range(500))
    packed = gzip.compress(records.encode())
    path = write(tmp_path, packed[: int(len(packed) * kept)], "in.fasta.gz")
    seen: list[object] = []
    with pytest.raises(InputError) as caught:
        seen.extend(read_sequences(path))
    assert caught.value.code == "E_GZIP"
    assert seen == []


def test_a_gzip_with_a_wrong_checksum_is_refused(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(b">a\nMKV\n" * 50))
    packed[-6] ^= 1
    with pytest.raises(InputError) as caught:
        list(read_sequences(write(tmp_path, bytes(packed))))
    assert caught.value.code == "E_GZIP"


@pytest.mark.parametrize("data", [b"", b"\n\n", b"; only a comment\n", b"MKV\n>a\nMK\n", b"EntryName\tFunction\n"])
def test_what_is_no_fasta_file_stops_the_run(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(InputError):
        list(read_sequences(write(tmp_path, data)))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.fasta"):
        list(read_sequences(tmp_path / "absent.fasta"))
