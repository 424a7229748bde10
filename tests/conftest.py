"""Checks that hold for every test: shapes of annotated functions are verified at run time, the network stays shut."""

import errno
import hashlib
import itertools
import logging
import os
import select
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
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


@pytest.fixture(scope="session", autouse=True)
def installed_diamond() -> Iterator[Any]:
    """DIAMOND, likewise."""
    from amma.train.data import diamond

    found = diamond.find_diamond()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diamond, "PROGRAM", "diamond-hidden-from-tests")
        yield found


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The endpoint of an S3 server of this process."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An empty bucket on that server, which the environment points to."""
    import boto3
    import s3fs

    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()
    made = boto3.resource("s3").create_bucket(Bucket="proteins")
    yield made
    made.objects.all().delete()
    made.delete()
    s3fs.S3FileSystem.clear_instance_cache()


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


@pytest.fixture
def memory_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder where thousands of fsyncs cost nothing: in memory, or on a disk that is not waited for.

    A killed process looks the same on all of them; only a machine without power would tell.
    """
    shm = Path("/dev/shm")
    if not os.access(shm, os.W_OK):
        monkeypatch.setattr(os, "fsync", lambda descriptor: None)
        yield tmp_path
        return
    folder = Path(tempfile.mkdtemp(dir=shm))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def tree() -> Callable[[Path], dict[str, str]]:
    """Give the sha256 of every file below a folder."""

    def of(folder: Path) -> dict[str, str]:
        return {
            str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }

    return of


class Children:
    """Run something in a fork of this process, and have it die, or its disk fill up, at an operation of choice."""

    KILLED = -signal.SIGKILL
    DISK_FULL = 28
    """Exit code of a child that ended with `E_DISK`."""
    PATIENCE = 300
    """Seconds after which a child is taken to hang."""

    def start(self, action: Callable[[], object]) -> int:
        """Fork; gives the id of the child, which exits with 0, or 1 after an exception."""
        child = os.fork()
        if child:
            return child
        code = 1
        try:
            action()
            code = 0
        except Exception as error:
            code = self.DISK_FULL if getattr(error, "code", "") == "E_DISK" else 1
            if code == 1:
                traceback.print_exc()
        finally:
            os._exit(code)

    def wait(self, child: int) -> int:
        """The exit code of a child; minus the number of the signal that ended it. One that hangs is killed."""
        if hasattr(os, "pidfd_open"):
            watched = os.pidfd_open(child)
            if not select.select([watched], [], [], self.PATIENCE)[0]:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                pytest.fail(f"a child was still at work after {self.PATIENCE} s")
            os.close(watched)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def run_to_operation(
        self, number: int, action: Callable[[], object], *, below: Path, disk_full: bool = False
    ) -> int:
        """Run `action` in a child that is killed before its `number`-th operation (from 1) that changes files `below`.

        With `disk_full` that operation fails for want of space instead, and so do all later ones. Counted are opening
        for writing, making, linking and renaming files and folders, removing them (not with `disk_full`), and fsync.
        """
        count = itertools.count(1)

        def happens() -> None:
            reached = next(count)
            if disk_full and reached >= number:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if reached == number:
                os.kill(os.getpid(), signal.SIGKILL)

        def audit(event: str, arguments: tuple[Any, ...]) -> None:
            makes = event in ("os.rename", "os.mkdir", "os.link") or (
                event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            )
            removes = event in ("os.remove", "os.rmdir", "os.truncate") and not disk_full
            if (makes or removes) and str(below) in str(arguments[0]):
                happens()

        def run() -> None:
            fsync = os.fsync

            def counted_fsync(descriptor: int) -> None:
                happens()
                fsync(descriptor)

            os.fsync = counted_fsync
            sys.addaudithook(audit)
            action()

        return self.wait(self.start(run))


@pytest.fixture
def children() -> Children:
    """Give the means to run things in processes that die."""
    return Children()
