from pathlib import Path

import pytest

from amma.manifests.errors import InputError
from amma.train.data.exclusion import exclude
from amma.train.data.sequence_hash import sequence_hash, sequence_hashes

IDS = ["a", "b", "c", "d"]
HASHES = sequence_hashes(["MKV", "MKVA", "MKV", "AAAA"])


def test_an_excluded_protein_is_excluded_under_every_id_of_its_sequence(tmp_path: Path) -> None:
    (tmp_path / "held.txt").write_text("a\nunheard-of\n")
    exclusion = exclude([tmp_path / "held.txt"], IDS, HASHES)
    assert exclusion.excluded.tolist() == [True, False, True, False]
    assert (exclusion.listed, exclusion.by_sequence, exclusion.unknown) == (1, 1, 1)


def test_several_files_add_up(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("b\r\n")
    (tmp_path / "two.txt").write_text("d\nb\n")
    exclusion = exclude([tmp_path / "one.txt", tmp_path / "two.txt"], IDS, HASHES)
    assert exclusion.excluded.tolist() == [False, True, False, True]


def test_without_a_file_nothing_is_excluded() -> None:
    assert not exclude([], IDS, HASHES).excluded.any()


def test_a_file_of_other_ids_is_an_error_and_not_a_leak(tmp_path: Path) -> None:
    (tmp_path / "held.txt").write_text("P12345\n")
    with pytest.raises(InputError, match="none of its 1 ids is in the store"):
        exclude([tmp_path / "held.txt"], IDS, HASHES)


def test_an_empty_file_is_an_error_and_not_a_leak(tmp_path: Path) -> None:
    (tmp_path / "held.txt").write_text("\n")
    with pytest.raises(InputError, match="holds no id"):
        exclude([tmp_path / "held.txt"], IDS, HASHES)


def test_a_sequence_has_the_same_hash_in_every_process_and_version() -> None:
    assert sequence_hash("MKV") == 2239102370402748320
