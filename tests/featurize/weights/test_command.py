"""`amma-featurize weights` as it is typed: what is listed, fetched, checked; one line for what goes wrong."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from amma.featurize import cli
from amma.manifests.files import sha256_of_file
from amma.manifests.known_weights import KnownWeights, known_weights

FILE = "esm1b_t33_650M_UR50S.pt"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def weights(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command; its exit code, stdout and stderr."""

    def run(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["amma-featurize", "weights", *map(str, args)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    return run


@pytest.fixture
def published(site: Any, tmp_path: Path, write_esm1b: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A toy ESM-1b on the server, in the table of known weights."""
    path = write_esm1b(tmp_path / "published.pt")
    known = KnownWeights(
        name="esm1b",
        file=FILE,
        address=f"{site.address}/{FILE}",
        licence="MIT",
        size=path.stat().st_size,
        architecture={"family": "esm1b", "layers": 2, "width": 16},
    )
    monkeypatch.setitem(known_weights(), "esm1b", known)
    site.files[f"/{FILE}"] = path.read_bytes()
    return path


def entry(out: str) -> dict[str, Any]:
    (found,) = json.loads(out)
    assert isinstance(found, dict)
    return found


def test_everything_known_is_listed_with_licence_and_address(weights: Run) -> None:
    code, out, _ = weights()

    assert code == 0
    head, *lines = out.splitlines()
    assert head.split()[:4] == ["name", "state", "size", "preset"]
    assert [line.split()[0] for line in lines] == list(known_weights())
    for line, known in zip(lines, known_weights().values(), strict=True):
        assert "missing" in line
        assert known.licence in line
        assert known.address in line


def test_a_preset_lists_what_it_needs(weights: Run) -> None:
    assert [found["name"] for found in json.loads(weights("--preset", "paper", "--json")[1])] == [
        "esm1b",
        "gearnet-edge",
        "pubmedbert",
    ]
    assert weights("--preset", "tiny")[1] == "none is needed\n"


def test_missing_weights_are_fetched_listed_and_checked(
    site: Any, published: Path, weights: Run, tmp_path: Path
) -> None:
    site.fail(cut=5000)
    before = entry(weights("esm1b", "--json")[1])
    assert (before["state"], before["presets"], before["pinned"]) == ("missing", ["paper"], {})

    code, out, err = weights("esm1b", "--download", "--json")
    assert code == 0
    found = entry(out)
    place = tmp_path / "amma-cache" / "weights" / FILE
    size = published.stat().st_size
    assert found["path"] == str(place)
    assert (found["state"], found["size"], found["licence"]) == ("present", size, "MIT")
    assert found["pinned"] == {FILE: sha256_of_file(published)}
    assert f"esm1b: {size}/{size} bytes" in err, "progress goes to stderr"
    assert sum(site.sent) == size

    assert weights("esm1b", "--verify")[0] == 0
    assert sha256_of_file(published) in weights("esm1b")[1]


def test_a_folder_can_be_named(site: Any, published: Path, weights: Run, tmp_path: Path) -> None:
    assert weights("esm1b", "--download", "--weights", tmp_path / "mine")[0] == 0

    assert (tmp_path / "mine" / FILE).read_bytes() == published.read_bytes()


def test_a_dry_run_says_what_would_come_and_asks_nobody(
    site: Any, published: Path, weights: Run, tmp_path: Path
) -> None:
    code, out, _ = weights("esm1b", "--download", "--dry-run", "--json")
    assert code == 0
    assert entry(out)["size"] == published.stat().st_size
    assert site.asked == []
    assert not (tmp_path / "amma-cache").exists()

    weights("esm1b", "--download")
    assert json.loads(weights("esm1b", "--download", "--dry-run", "--json")[1]) == []


def test_an_interrupted_download_is_listed_as_such(site: Any, published: Path, weights: Run) -> None:
    site.fail(cut=5000)
    site.fail_always(status=404)
    code, _, err = weights("esm1b", "--download")
    assert code == 1
    assert err.splitlines()[-1].startswith("error E_DOWNLOAD: ")

    found = entry(weights("esm1b", "--json")[1])
    assert (found["state"], found["partial"]) == ("partial", 5000)
    assert "partial (5.0 kB)" in weights("esm1b")[1]


def test_a_changed_file_is_found_and_can_be_accepted(
    published: Path, weights: Run, write_esm1b: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tmp_path / "amma-cache" / "weights"
    weights("esm1b", "--download")
    other = write_esm1b(folder / FILE, seed=4)

    code, out, err = weights("esm1b", "--verify")
    assert code == 1
    assert "error E_PINNED" in err
    assert sha256_of_file(published) in err
    assert sha256_of_file(other) in err
    assert sha256_of_file(published) in out, "what is pinned is still listed"

    assert weights("esm1b", "--accept")[0] == 0
    assert weights("esm1b", "--verify")[0] == 0
    assert entry(weights("esm1b", "--json")[1])["pinned"] == {FILE: sha256_of_file(other)}


def test_offline_is_said(published: Path, weights: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMMA_OFFLINE", "1")

    assert "offline (AMMA_OFFLINE is set)" in weights("esm1b")[2]
    code, _, err = weights("esm1b", "--download")
    assert code == 1
    assert "error E_OFFLINE" in err


@pytest.mark.parametrize(
    ("args", "hint"),
    [
        (["--download"], "Say what to download"),
        (["--accept"], "Say whose hash"),
        (["esm1b", "--dry-run"], "goes with --download"),
        (["esm1b", "--preset", "paper"], "not both"),
        (["esm1c"], "esm1b"),
        (["--preset", "papre"], "paper"),
    ],
)
def test_misuse_is_one_line(weights: Run, args: list[str], hint: str) -> None:
    code, out, err = weights(*args)

    assert code == 2
    assert out == ""
    assert hint in err
    assert len(err.splitlines()) == 1
