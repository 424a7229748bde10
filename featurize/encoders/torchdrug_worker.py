"""Run torchdrug in a process of its own, with another environment's Python, and ask it for features.

Importing torchdrug replaces `torch.nn.Module`, so it never happens here. The process is started once and stays: its
start takes seconds. Arrays travel as `.npz` files in a temporary folder, requests and answers as lines of JSON (see
`torchdrug_script.py`). A process that dies, hangs or answers nonsense is ended, and the next request starts another.

Legend: N residues of all chains, D width, E edges.
"""

import json
import os
import select
import subprocess
import sys
import tempfile
import time
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from jaxtyping import Float32, Int64

from amma.manifests.errors import WeightsError

SCRIPT = Path(__file__).with_name("torchdrug_script.py")
PYTHON_VARIABLE = "AMMA_TORCHDRUG_PYTHON"
REMEDY = f"Run `make torchdrug`, or set {PYTHON_VARIABLE} to the python of an environment that has torchdrug 0.2.1."
VERSIONS_TIMEOUT_S = 120.0
START_TIMEOUT_S = 600.0
"""Enough to compile torchdrug's extension where that was not done before."""
SECONDS_A_RESIDUE = 0.5
"""A process is taken to hang after this for every residue, on top of `ANSWER_TIMEOUT_S`."""
ANSWER_TIMEOUT_S = 300.0
EXIT_S = 5.0
"""A process that has closed its output gets this long to end by itself, so that its exit code is its own."""
KILLED = -9


class TorchdrugError(RuntimeError):
    """One request to torchdrug failed: the process died, hung, or answered nonsense."""


class _EndedError(TorchdrugError):
    """The process has closed its output: it is gone, or will be in a moment."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What torchdrug gave for some chains; `edges_E3` where asked for; `seconds` do not count file traffic."""

    features_ND: Float32[np.ndarray, "N D"]
    edges_E3: Int64[np.ndarray, "E 3"] | None
    seconds: float


def find_python() -> Path:
    """The interpreter of torchdrug's environment: `$AMMA_TORCHDRUG_PYTHON`, else `.venv-torchdrug` beside ours."""
    chosen = os.environ.get(PYTHON_VARIABLE)
    own = Path(sys.prefix).parent / ".venv-torchdrug"
    path = Path(chosen) if chosen else own / "bin" / "python"
    if not os.access(path, os.X_OK):
        raise WeightsError(f"{path}: torchdrug's environment is not there. {REMEDY}")
    if not chosen and not (own / "ready").exists():
        raise WeightsError(f"{own}: torchdrug's environment was not finished. {REMEDY}")
    return path


def installed_versions(python: Path) -> dict[str, str]:
    """Versions of torchdrug, torch-cluster, …, in that environment; `WeightsError` if it has no torchdrug."""
    command = [str(python), "-I", str(SCRIPT), "--versions"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=VERSIONS_TIMEOUT_S, check=False
        )
        found = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise WeightsError(
            f"{python}: cannot be asked for torchdrug's version ({_short(str(error))}). {REMEDY}"
        ) from error
    if not isinstance(found, dict) or not found.get("torchdrug"):
        raise WeightsError(f"{python}: this environment has no torchdrug. {REMEDY}")
    return {str(name): str(version) for name, version in found.items()}


class TorchdrugWorker:
    """A torchdrug process, started with the first request and kept until `close`.

    `model` is what the script's head calls MODEL.json, without `weights`.
    """

    def __init__(
        self,
        python: Path,
        model: dict[str, Any],
        weights: dict[str, np.ndarray],
        *,
        start_timeout_s: float = START_TIMEOUT_S,
        answer_timeout_s: float = ANSWER_TIMEOUT_S,
    ) -> None:
        self._python = python
        self._start_timeout_s = start_timeout_s
        self._answer_timeout_s = answer_timeout_s
        self._width = sum(model["hidden_dims"])
        self._folder = tempfile.TemporaryDirectory(prefix="amma-torchdrug-")
        folder = Path(self._folder.name)
        np.savez(folder / "weights.npz", **weights)  # type: ignore[arg-type]
        (folder / "model.json").write_text(json.dumps({**model, "weights": str(folder / "weights.npz")}))
        self._process: subprocess.Popen[bytes] | None = None
        self._unread = b""

    def compute(
        self,
        letters: str,
        ca_N3: Float32[np.ndarray, "N 3"],
        length: list[int],
        *,
        edges: bool = False,
        threads: int | None = None,
    ) -> Answer:
        """Features of chains that lie one after another; each must have a residue.

        Raises `WeightsError` if the environment does not work at all, `MemoryError` if torchdrug has not got enough,
        `TorchdrugError` for everything else.
        """
        folder = Path(self._folder.name)
        given, wanted = folder / "in.npz", folder / "out.npz"
        wanted.unlink(missing_ok=True)
        letters_N = np.frombuffer(letters.encode("latin-1", "replace"), dtype=np.uint8)
        np.savez(given, letters=letters_N, ca=ca_N3, length=np.array(length, dtype=np.int64))
        process = self._started()
        request = {"in": str(given), "out": str(wanted), "edges": edges, "threads": threads}
        try:
            assert process.stdin is not None
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            reply = self._read_line(self._answer_timeout_s + SECONDS_A_RESIDUE * len(letters))
        except (TorchdrugError, OSError) as error:
            code = self._stop(wait_s=EXIT_S if isinstance(error, _EndedError | BrokenPipeError) else 0.0)
            if code == KILLED:
                raise MemoryError("torchdrug's process was killed, as systems do where memory runs out") from error
            raise TorchdrugError(f"{_short(str(error))}{self._last_words()}") from error
        if not reply.get("ok"):
            words = _short(str(reply.get("error")))
            raise MemoryError(words) if reply.get("memory") else TorchdrugError(f"torchdrug failed: {words}")
        try:
            return self._read_answer(wanted, len(letters), float(reply["seconds"]), edges)
        except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
            self._stop()
            raise TorchdrugError(f"torchdrug's answer cannot be read: {_short(str(error))}") from error

    def close(self) -> None:
        """End the process and remove the temporary folder."""
        self._stop()
        self._folder.cleanup()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is not None:
            return self._process
        folder = Path(self._folder.name)
        self._unread = b""
        with (folder / "stderr").open("wb") as stderr:
            # A session of its own: Ctrl-C is for us; the process ends when its stdin does.
            process = subprocess.Popen(
                [str(self._python), "-I", str(SCRIPT), str(folder / "model.json")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,
            )
        self._process = process
        # Also when this object is forgotten, or Python exits.
        self._end = weakref.finalize(self, _end_process, process)
        try:
            hello = self._read_line(self._start_timeout_s)
            if not hello.get("ready"):
                raise TorchdrugError("it did not say that it is ready")
        except TorchdrugError as error:
            self._stop()
            raise WeightsError(
                f"{self._python}: torchdrug does not start there: {_short(str(error))}{self._last_words()}. {REMEDY}"
            ) from error
        return process

    def _read_line(self, timeout_s: float) -> dict[str, Any]:
        """The next line of the process, as JSON; `TorchdrugError` if it ends, takes too long or is something else."""
        assert self._process is not None
        assert self._process.stdout is not None
        stream = self._process.stdout.fileno()
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._unread:
            if not select.select([stream], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise TorchdrugError(f"torchdrug's process did not answer within {timeout_s:.0f} s")
            piece = os.read(stream, 1 << 16)
            if not piece:
                raise _EndedError("torchdrug's process ended")
            self._unread += piece
        line, _, self._unread = self._unread.partition(b"\n")
        try:
            reply = json.loads(line)
        except ValueError:
            reply = None
        if not isinstance(reply, dict):
            raise TorchdrugError(f"torchdrug's process answered {_short(line.decode(errors='replace'))!r}")
        return reply

    def _read_answer(self, path: Path, count: int, seconds: float, edges: bool) -> Answer:
        with np.load(path, allow_pickle=False) as arrays:
            features_ND = arrays["features"]
            edges_E3 = arrays["edges"] if edges else None
        if features_ND.shape != (count, self._width) or features_ND.dtype != np.float32:
            raise ValueError(f"features of {features_ND.shape} {features_ND.dtype}, not {(count, self._width)} float32")
        return Answer(features_ND, edges_E3, seconds)

    def _stop(self, *, wait_s: float = 0.0) -> int | None:
        """End the process if there is one; gives the exit code if it ended by itself within `wait_s`."""
        process, self._process = self._process, None
        if process is None:
            return None
        try:
            code: int | None = process.wait(timeout=wait_s)
        except subprocess.TimeoutExpired:
            code = None
        self._end()
        return code

    def _last_words(self) -> str:
        """The last line that the process wrote to stderr, in brackets; nothing if it wrote none."""
        try:
            lines = (Path(self._folder.name) / "stderr").read_text(errors="replace").strip().splitlines()
        except OSError:
            return ""
        return f" ({_short(lines[-1])})" if lines else ""


def _end_process(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            try:
                stream.close()
            except OSError:  # what was not flushed has no reader any more
                continue
    process.wait()


def _short(text: str) -> str:
    """One printable line of at most 200 characters."""
    return "".join(character for character in " ".join(text.split()) if character.isprintable())[:200]
