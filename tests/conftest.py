"""Checks that hold for every test: shapes of annotated functions are verified at run time, the network stays shut."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# What tests compute is tiny: threads would only wait for each other. The tests themselves run side by side.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from jaxtyping import install_import_hook

# Before anything of ours is imported: jaxtyping annotations become run-time checks in tests only.
_checked = ["amma.featurize", "amma.train", "amma.evaluate"]
_checked += [f"amma.manifests.{name}" for name in ("chains", "placement", "structures", "labels", "sites")]
_hook = install_import_hook(_checked, "beartype.beartype")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real proteins and reference outputs beside the checkout; without it, what needs it is skipped."""
    folder = REPOSITORY.parent / "shared"
    if not (folder / "golden").is_dir():
        pytest.skip("needs the folder of real proteins and reference outputs beside the checkout")
    return folder


@pytest.fixture(scope="session", autouse=True)
def installed_mmseqs() -> Iterator[Any]:
    """MMseqs2, if this machine has it. Only who asks for it gets it: tests are the same with it and without."""
    from amma.train.data import mmseqs

    found = mmseqs.find_mmseqs()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mmseqs, "PROGRAM", "mmseqs-hidden-from-tests")
        yield found


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashes of weights are remembered for one test only, and never in the cache of the person who runs it."""
    monkeypatch.setenv("AMMA_CACHE", str(tmp_path / "amma-cache"))


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connecting anywhere but to this machine fails, so that a test cannot come to depend on a download."""
    import socket

    connect = socket.socket.connect

    def guarded(self: socket.socket, address: object) -> None:
        if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise OSError(f"tests may not connect to {address[0]}")
        connect(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", guarded)
