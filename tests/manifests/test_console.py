import pytest

from amma.manifests.console import progress, say, silence


def test_in_silence_nothing_is_said_and_no_progress_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with silence():
        say("not heard")
        with progress("reading", 3) as advance:
            advance(3)
        with silence():
            say("nor this")
        say("nor this")
    assert capsys.readouterr().err == ""
    say("heard")
    with progress("reading", 3) as advance:
        advance(3)
    assert capsys.readouterr().err.startswith("heard\nreading: 3/3")


def test_silence_ends_with_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError), silence():
        raise RuntimeError
    say("heard")
    assert capsys.readouterr().err == "heard\n"
