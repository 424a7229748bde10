"""A download is whole or has no name, whatever server, network and disk do; what came already is not fetched again."""

import errno
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from amma.featurize.encoders.download import Patience, download
from amma.manifests.errors import WeightsError

WHOLE = random.Random(0).randbytes(20_000)
OTHER = random.Random(1).randbytes(20_000)
QUICK = Patience(connect=5.0, silence=0.4, tries=3, pause=0.01, longest_pause=0.02, slowest=1000.0, sync=1000)


@pytest.fixture(autouse=True)
def _served(site: Any) -> None:
    site.files["/file.pt"] = WHOLE


@pytest.fixture
def get(site: Any, tmp_path: Path) -> Callable[..., bool]:
    def get(**how: Any) -> bool:
        how = {"accept": lambda _: None, "patience": QUICK, **how}
        return download(how.pop("address", f"{site.address}/file.pt"), tmp_path / "w" / "file.pt", **how)

    return get


def left(folder: Path) -> set[str]:
    """Names of what is in the folder of weights, without the lock."""
    return {path.name for path in (folder / "w").iterdir() if path.suffix != ".lock"}


def refused(get: Callable[..., bool], code: str, **how: Any) -> str:
    """The line with which a download ends."""
    with pytest.raises(WeightsError) as caught:
        get(**how)
    assert caught.value.code == code
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_comes_whole_and_alone(site: Any, get: Callable[..., bool], tmp_path: Path) -> None:
    steps: list[int] = []

    class Bar:
        def __init__(self, total: int) -> None:
            assert total == len(WHOLE)

        def __enter__(self) -> Callable[[int], None]:
            return steps.append

        def __exit__(self, *_: object) -> None:
            pass

    assert get(show_progress=Bar)

    assert (tmp_path / "w" / "file.pt").read_bytes() == WHOLE
    assert left(tmp_path) == {"file.pt"}
    assert sum(steps) == len(WHOLE)
    assert not get(), "it is there"
    assert len(site.asked) == 1


def test_a_broken_connection_is_taken_up_where_it_broke(site: Any, get: Callable[..., bool], tmp_path: Path) -> None:
    for at in [0, 1, 999, 1000, 1001, *random.Random(2).sample(range(len(WHOLE)), 45)]:
        site.asked, site.sent = [], []
        site.fail(cut=at)

        assert get(patience=replace(QUICK, sync=len(WHOLE)))

        assert (tmp_path / "w" / "file.pt").read_bytes() == WHOLE
        assert site.sent == [at, len(WHOLE) - at]
        assert "Range" not in site.asked[0]
        if at:
            assert site.asked[1]["Range"] == f"bytes={at}-"
            assert site.asked[1]["If-Range"].startswith('"')
        (tmp_path / "w" / "file.pt").unlink()


def test_a_connection_may_break_more_often_than_there_are_tries_as_long_as_something_comes(
    site: Any, get: Callable[..., bool], tmp_path: Path
) -> None:
    for _ in range(19):
        site.fail(cut=1000)

    get()

    assert (tmp_path / "w" / "file.pt").read_bytes() == WHOLE
    assert site.sent == [1000] * 20


def test_a_later_command_goes_on_with_what_an_earlier_one_left(
    site: Any, get: Callable[..., bool], tmp_path: Path
) -> None:
    site.fail(cut=7000)
    site.fail_always(cut=0)
    line = refused(get, "E_DOWNLOAD")
    assert "the connection broke" in line
    assert "7,000 bytes are kept" in line
    assert left(tmp_path) == {"file.pt.part", "file.pt.part.json"}

    site.always = None
    get()

    assert (tmp_path / "w" / "file.pt").read_bytes() == WHOLE
    assert left(tmp_path) == {"file.pt"}
    assert site.asked[-1]["Range"] == "bytes=7000-"
    assert site.sent[-1] == 13_000


def test_what_a_power_cut_may_have_lost_is_fetched_again(site: Any, get: Callable[..., bool], tmp_path: Path) -> None:
    site.fail(cut=7000)
    site.fail_always(cut=0)
    refused(get, "E_DOWNLOAD")
    part, notes = tmp_path / "w" / "file.pt.part", tmp_path / "w" / "file.pt.part.json"
    # The last sync came before the file's end was on the disk; the rest reads as zeros.
    notes.write_text(json.dumps({**json.loads(notes.read_text()), "received": 5000}))
    part.write_bytes(WHOLE[:5000] + bytes(2000))

    site.always = None
    get()

    assert (tmp_path / "w" / "file.pt").read_bytes() == WHOLE
    assert site.asked[-1]["Range"] == "bytes=5000-"


def test_without_notes_of_its_version_a_part_is_not_trusted(
    site: Any, get: Callable[..., bool], tmp_path: Path
) -> None:
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "file.pt.part").write_bytes(OTHER[:5000])

    get()

    assert (tmp_path / "w" / "file.pt").read_bytes() == WHOLE


def test_a_server_without_versions_is_asked_for_everything_again(
    site: Any, get: Callable[..., bool], tmp_path: Path
) -> None:
    site.tags = False
    site.fail(cut=7000)

    get()

    assert (tmp_path / "w" / "file.pt").read_bytes() == WHOLE
    assert "Range" not in site.asked[1]


@pytest.mark.parametrize("how", [{"hang": 0}, {"hang": 3000}, {"drip": True}])
def test_a_server_that_hangs_is_left_and_asked_again(
    site: Any, get: Callable[..., bool], tmp_path: Path, how: dict[str, Any]
) -> None:
    site.fail(**how)

    get()

    assert (tmp_path / "w" / "file.pt").read_bytes() == WHOLE
    assert len(site.asked) == 2


def test_a_server_that_hangs_for_ever_is_given_up(site: Any, get: Callable[..., bool], tmp_path: Path) -> None:
    site.fail_always(hang=0)

    line = refused(get, "E_DOWNLOAD")

    assert "the server is silent" in line
    assert "given up after 3 attempts" in line
    assert len(site.asked) == 3
    assert "file.pt" not in left(tmp_path)


def test_a_server_that_ignores_ranges_gives_the_whole_file(
    site: Any, get: Callable[..., bool], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site.fail(cut=7000)
    site.fail(ignore_range=True)

    get()

    assert (tmp_path / "w" / "file.pt").read_bytes() == WHOLE
    assert site.sent == [7000, 20_000]
    assert "beginning again" in capsys.readouterr().err


@pytest.mark.parametrize("blind", [False, True], ids=["server compares", "server does not compare"])
@pytest.mark.parametrize("length", [20_000, 15_000, 25_000])
def test_halves_of_two_versions_are_never_put_together(
    site: Any, get: Callable[..., bool], tmp_path: Path, blind: bool, length: int
) -> None:
    changed = random.Random(2).randbytes(length)
    site.fail(cut=7000)
    site.fail_always(cut=0)
    refused(get, "E_DOWNLOAD")
    site.files["/file.pt"], site.always = changed, None
    site.fail(blind=blind)

    get()

    assert (tmp_path / "w" / "file.pt").read_bytes() == changed


def test_another_part_than_the_one_asked_for_is_not_taken(site: Any, get: Callable[..., bool], tmp_path: Path) -> None:
    site.fail(cut=7000)
    site.fail(shift=5)

    get()

    assert (tmp_path / "w" / "file.pt").read_bytes() == WHOLE
    assert "Range" not in site.asked[2], "it began again"


def test_a_file_shorter_than_its_server_says_gets_no_name(site: Any, get: Callable[..., bool], tmp_path: Path) -> None:
    site.fail_always(length=25_000)

    assert "given up" in refused(get, "E_DOWNLOAD")

    assert "file.pt" not in left(tmp_path)


def test_a_size_that_is_not_the_publishers_is_refused_before_anything_is_fetched(
    site: Any, get: Callable[..., bool], tmp_path: Path
) -> None:
    line = refused(get, "E_DOWNLOAD", size=19_999)

    assert "offers 20,000 bytes, its publisher states 19,999" in line
    assert left(tmp_path) == set()


def test_a_file_longer_than_its_publisher_says_gets_no_name(
    site: Any, get: Callable[..., bool], tmp_path: Path
) -> None:
    site.fail_always(chunked=True, extra=b"more")

    line = refused(get, "E_DOWNLOAD", size=20_000)

    assert "more than the 20,000 bytes" in line
    assert "file.pt" not in left(tmp_path)


def test_a_file_of_known_size_may_come_in_chunks(site: Any, get: Callable[..., bool], tmp_path: Path) -> None:
    site.fail_always(chunked=True)

    get(size=20_000)

    assert (tmp_path / "w" / "file.pt").read_bytes() == WHOLE


def test_a_file_of_unknown_length_is_refused(site: Any, get: Callable[..., bool], tmp_path: Path) -> None:
    site.fail_always(chunked=True)

    assert "does not say how long" in refused(get, "E_DOWNLOAD")

    assert left(tmp_path) == set()


@pytest.mark.parametrize(("status", "times"), [(404, 1), (403, 1), (410, 1), (500, 3), (503, 3), (429, 3)])
def test_only_what_may_pass_is_asked_again(
    site: Any, get: Callable[..., bool], tmp_path: Path, status: int, times: int
) -> None:
    site.fail_always(status=status)

    line = refused(get, "E_DOWNLOAD")

    assert f"the server answers {status}" in line
    assert site.address in line
    assert len(site.asked) == times
    assert left(tmp_path) == set()


def test_a_server_may_be_ill_for_a_moment(site: Any, get: Callable[..., bool], tmp_path: Path) -> None:
    site.fail(status=503)

    get()

    assert (tmp_path / "w" / "file.pt").read_bytes() == WHOLE


def test_nobody_there_is_one_line(site: Any, get: Callable[..., bool]) -> None:
    assert "no connection" in refused(get, "E_DOWNLOAD", address="http://127.0.0.1:1/file.pt")


def test_a_file_that_does_not_fit_is_not_begun(
    get: Callable[..., bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=19_999))

    line = refused(get, "E_DISK")

    assert "20,000 bytes are still to come, 19,999 are free" in line
    assert "Make room" in line


def test_a_disk_that_fills_up_is_one_line_and_room_lets_it_go_on(
    site: Any, get: Callable[..., bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync, synced = os.fsync, []

    def full(descriptor: int) -> None:
        synced.append(descriptor)
        if len(synced) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    assert "the disk is full" in refused(get, "E_DISK")
    assert "file.pt" not in left(tmp_path)
    monkeypatch.undo()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    get()

    assert (tmp_path / "w" / "file.pt").read_bytes() == WHOLE


def test_a_folder_that_cannot_be_made_is_one_line(site: Any, get: Callable[..., bool], tmp_path: Path) -> None:
    (tmp_path / "w").write_text("a file")

    assert "cannot be written" in refused(get, "E_WEIGHTS")
    assert site.asked == []


def test_what_is_not_accepted_is_removed(site: Any, get: Callable[..., bool], tmp_path: Path) -> None:
    def refuse(part: Path) -> None:
        assert part.read_bytes() == WHOLE
        assert not (tmp_path / "w" / "file.pt").exists()
        raise WeightsError("not this one.")

    line = refused(get, "E_WEIGHTS", accept=refuse)

    assert line.startswith("not this one. What was downloaded from")
    assert left(tmp_path) == set()


def test_processes_that_want_one_file_fetch_it_once(site: Any, tmp_path: Path) -> None:
    for _ in range(5):
        site.fail(cut=3000)
    script = "import sys; from pathlib import Path; from amma.featurize.encoders.download import download, Patience\n"
    script += "print('ready', flush=True); input()\n"
    script += "print(download(sys.argv[1], Path(sys.argv[2]), accept=lambda _: None, patience=Patience(pause=0.2)))"
    command = [sys.executable, "-c", script, f"{site.address}/file.pt", str(tmp_path / "w" / "file.pt")]

    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes: list[Any] = [subprocess.Popen(command, **pipes) for _ in range(3)]  # type: ignore[call-overload]
    assert [process.stdout.readline() for process in processes] == ["ready\n"] * 3
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    fetched = [process.communicate(timeout=60)[0].strip() for process in processes]

    assert sorted(fetched) == ["False", "False", "True"]
    assert (tmp_path / "w" / "file.pt").read_bytes() == WHOLE
    assert sum(site.sent) == len(WHOLE)
    assert left(tmp_path) == {"file.pt"}


def test_a_killed_process_is_taken_up_where_it_was(site: Any, get: Callable[..., bool], tmp_path: Path) -> None:
    site.fail(hang=7500)
    script = "import sys; from pathlib import Path; from amma.featurize.encoders.download import download, Patience\n"
    script += "download(sys.argv[1], Path(sys.argv[2]), accept=lambda _: None, patience=Patience(sync=1000))"
    command = [sys.executable, "-c", script, f"{site.address}/file.pt", str(tmp_path / "w" / "file.pt")]
    notes = tmp_path / "w" / "file.pt.part.json"

    with subprocess.Popen(command) as process:
        deadline = time.monotonic() + 60
        while not (notes.exists() and json.loads(notes.read_text())["received"]) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.kill()
    received = json.loads(notes.read_text())["received"]
    assert 0 < received <= 7500
    get()

    assert (tmp_path / "w" / "file.pt").read_bytes() == WHOLE
    assert site.asked[1]["Range"] == f"bytes={received}-"
    assert site.sent[1] == len(WHOLE) - received
