from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from amma.manifests.quarantine import RecordError, Rejection, read_quarantine, write_quarantine

# Low surrogates are what Python makes of bytes that are not UTF-8.
CHARACTERS = st.characters(exclude_categories=["Cs"], include_characters="\udc80\udcff\u2028\n")


@settings(max_examples=50, deadline=None)
@given(identifier=st.text(CHARACTERS), position=st.none() | st.integers(1))
def test_any_id_comes_back_as_it_was(identifier: str, position: int | None) -> None:
    import tempfile

    rejection = Rejection(identifier, "in.fasta", position, "E_ID", "why", "what to do")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "quarantine.jsonl"
        write_quarantine(path, [rejection, rejection])
        assert read_quarantine(path) == [rejection, rejection]
        assert path.read_bytes().count(b"\n") == 2


def test_an_empty_quarantine_is_an_empty_file(tmp_path: Path) -> None:
    write_quarantine(tmp_path / "q.jsonl", [])
    assert (tmp_path / "q.jsonl").read_bytes() == b""
    assert read_quarantine(tmp_path / "q.jsonl") == []


def test_a_record_error_becomes_a_line() -> None:
    error = RecordError("E_GAP", "a gap", "remove it")
    assert error.rejection(id="a", source="f", position=3) == Rejection("a", "f", 3, "E_GAP", "a gap", "remove it")
