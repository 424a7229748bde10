"""The four commands in this process, and a small folder in which every one of them has been run once."""

import hashlib
import importlib
import shlex
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from amma.manifests.console import run_app

COMMANDS = {"amma-manifest": "manifests", "amma-featurize": "featurize", "amma-train": "train", "amma-eval": "evaluate"}
TUNING = "--epochs 1 --seeds 1 --head-lr 1e-3 --threads 1 --device cpu"


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str


def call(folder: Path, command: str, capsys: pytest.CaptureFixture[str] | None = None) -> Ended:
    """Run a command line in `folder` as a user would, but in this process."""
    name, *words = shlex.split(command)
    app = importlib.import_module(f"amma.{COMMANDS[name]}.cli").app
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", [name, *words])
        with pytest.raises(SystemExit) as ended:
            run_app(app)
    printed = capsys.readouterr() if capsys else None
    return Ended(int(ended.value.code or 0), printed.out if printed else "", printed.err if printed else "")


Amma = Callable[[str], Ended]


@pytest.fixture(scope="session")
def worked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`data` (16 proteins), `all.parquet`, `all.zarr`, `run`; and `other.zarr`, the same through other encoders.

    Read-only by convention: what is changed is a copy.
    """
    folder = tmp_path_factory.mktemp("worked")
    files = "--sequences data/sequences.fasta --structures data/structures --descriptions data/descriptions.tsv"
    for command in (
        "amma-manifest toy data --proteins 16 --seed 3",
        f"amma-manifest build {files} all.parquet",
        "amma-featurize run all.parquet all.zarr --preset tiny --device cpu --threads 1",
        "amma-featurize run all.parquet other.zarr --preset tiny --device cpu --threads 1 --max-residues 30",
        "amma-train pretrain all.zarr run --preset tiny --epochs 1 --max-steps 2 --device cpu --threads 1",
    ):
        assert call(folder, command).code == 0, command
    return folder


@pytest.fixture(scope="session")
def command() -> Callable[[Path, str], Ended]:
    """Runs a command line in a folder; for fixtures of a module."""
    return call


@pytest.fixture
def amma(worked: Path, capsys: pytest.CaptureFixture[str]) -> Amma:
    """Runs a command line in the folder `worked`."""
    capsys.readouterr()
    return lambda command: call(worked, command, capsys)


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go in this test."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def contents() -> Callable[[Path], dict[str, str]]:
    """Gives every file and folder below a folder, files with their hash and the time they were written."""
    return contents_of


def contents_of(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): f"{hashlib.sha256(path.read_bytes()).hexdigest()} {path.stat().st_mtime_ns}"
        if path.is_file()
        else "folder"
        for path in sorted(folder.rglob("*"))
    }
