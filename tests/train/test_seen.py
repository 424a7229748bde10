from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from amma.train.data.seen import NOT_RECORDED, WITH, WITHOUT, Seen


def of(pairs: dict[int, int]) -> Seen:
    return Seen.of(np.array([*pairs], dtype=np.uint64), np.array([*pairs.values()], dtype=np.uint8))


def as_dict(seen: Seen) -> dict[int, int]:
    assert (np.diff(seen.hashes.astype(object)) > 0).all()
    return dict(zip(seen.hashes.tolist(), seen.text.tolist(), strict=True))


def test_a_sequence_counts_once_and_with_text_if_any_of_its_proteins_had_one() -> None:
    seen = Seen.of(
        np.array([9, 4, 9, 4, 2**63], dtype=np.uint64), np.array([WITHOUT, WITHOUT, WITH, WITHOUT, WITH], "u1")
    )
    assert as_dict(seen) == {4: WITHOUT, 9: WITH, 2**63: WITH}


def test_what_is_not_recorded_stays_so_unless_it_was_seen_with_text() -> None:
    before = of({1: NOT_RECORDED, 2: NOT_RECORDED, 3: WITH})
    after = before.union(of({1: WITHOUT, 2: WITH, 4: WITHOUT}))
    assert as_dict(after) == {1: NOT_RECORDED, 2: WITH, 3: WITH, 4: WITHOUT}


def test_a_file_gives_back_what_was_written(tmp_path: Path) -> None:
    seen = of({5: WITH, 3: WITHOUT})
    seen.write(tmp_path / "seen.safetensors")
    assert as_dict(Seen.read(tmp_path / "seen.safetensors")) == as_dict(seen)


def test_a_file_of_format_1_0_says_nothing_about_text(tmp_path: Path) -> None:
    save_file({"hashes": np.array([3, 7], dtype=np.uint64)}, tmp_path / "seen.safetensors")
    assert as_dict(Seen.read(tmp_path / "seen.safetensors")) == {3: NOT_RECORDED, 7: NOT_RECORDED}


def test_members_are_found_with_their_text() -> None:
    seen = of({5: WITH, 3: WITHOUT})
    asked = np.array([5, 6, 3], dtype=np.uint64)
    assert seen.among(asked).tolist() == [True, False, True]
    assert seen.text_of(asked[[0, 2]]).tolist() == [WITH, WITHOUT]
