"""torchdrug's process, played by small scripts: every way to fail has one clear error, and nothing is left behind."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from amma.featurize.encoders import torchdrug_worker
from amma.featurize.encoders.gearnet import GearNetConfig
from amma.featurize.encoders.gearnet_weights import random_gearnet
from amma.featurize.encoders.protocol import EncoderInput
from amma.featurize.encoders.registry import EncoderSpec, Place, build_encoder
from amma.featurize.encoders.torchdrug_encoder import TorchdrugEncoder, script_model
from amma.featurize.encoders.torchdrug_worker import SCRIPT, TorchdrugError, TorchdrugWorker, installed_versions
from amma.manifests.errors import WeightsError
from amma.manifests.structures import Chain
from amma.manifests.table import Modality, Protein

CONFIG = GearNetConfig(hidden_widths=(2, 1))
Interpreter = Callable[[str], Path]

PRELUDE = """\
import io, json, os, signal, sys, time
if sys.argv[-1] == "--versions":
    print(json.dumps({"torchdrug": "0.2.1", "torch-cluster": "1.6.3"}))
    raise SystemExit
def say(**words):
    print(json.dumps(words), flush=True)
def ready():
    say(ready=True)
    for line in sys.stdin:
        yield json.loads(line)
"""
ECHO = """\
import numpy as np
for request in ready():
    arrays = np.load(request["in"])
    own = arrays["letters"].astype(np.float32)
    np.savez(request["out"], features=np.stack([own, arrays["ca"][:, 0], own * 0 + len(arrays["length"])], axis=1))
    say(ok=True, seconds=0.25)
"""


@pytest.fixture
def interpreter(tmp_path: Path) -> Interpreter:
    """Make an executable that is run in place of torchdrug's Python, and does what its text says."""

    def make(text: str) -> Path:
        path = tmp_path / "python"
        path.write_text(f"#!{sys.executable} -S\n{PRELUDE}{text}")
        if "numpy" in text:
            path.write_text(f"#!{sys.executable}\n{PRELUDE}{text}")
        path.chmod(0o755)
        return path

    return make


def worker_of(python: Path, *, start_timeout_s: float = 60.0, answer_timeout_s: float = 60.0) -> TorchdrugWorker:
    weights = {"weight": np.ones((2, 3), dtype=np.float32)}
    model = script_model(CONFIG, "cpu")
    return TorchdrugWorker(python, model, weights, start_timeout_s=start_timeout_s, answer_timeout_s=answer_timeout_s)


def ask(worker: TorchdrugWorker) -> np.ndarray:
    return worker.compute("GAV", np.arange(9, dtype=np.float32).reshape(3, 3), [2, 1]).features_ND


def item(letters: str, first: int = 0) -> EncoderInput:
    count = len(letters)
    residue = np.arange(first, first + count, dtype=np.int32)
    ca = np.arange(3 * count, dtype=np.float32).reshape(count, 3)
    sequence = "M" * first + letters
    row = Protein("P", sequence, structure="p.pdb", unresolved=tuple(range(first)))
    return EncoderInput(row, Chain(residue=residue, letters=letters, ca=ca))


def test_a_missing_environment_is_named_with_the_command_that_makes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(torchdrug_worker.PYTHON_VARIABLE, "/nowhere/bin/python")
    for name in ("random-gearnet-edge", "random-gearnet"):
        with pytest.raises(WeightsError, match=r"/nowhere/bin/python.*make torchdrug.*AMMA_TORCHDRUG_PYTHON"):
            build_encoder(EncoderSpec(name=name, options={"backend": "torchdrug"}), Modality.STR, Place(None, "cpu"))


def test_without_the_variable_the_environment_lies_beside_ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(torchdrug_worker.PYTHON_VARIABLE, raising=False)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv"))
    python = tmp_path / ".venv-torchdrug" / "bin" / "python"
    with pytest.raises(WeightsError, match="make torchdrug"):
        torchdrug_worker.find_python()
    python.parent.mkdir(parents=True)
    python.touch(mode=0o755)
    with pytest.raises(WeightsError, match="not finished"):
        torchdrug_worker.find_python()
    (python.parent.parent / "ready").touch()
    assert torchdrug_worker.find_python() == python


def test_an_environment_without_torchdrug_is_refused() -> None:
    with pytest.raises(WeightsError, match=r"has no torchdrug.*make torchdrug"):
        installed_versions(Path(sys.executable))


@pytest.mark.parametrize("body", ["print('hello')", "raise SystemExit(3)", "import os; os.kill(os.getpid(), 9)"])
def test_an_interpreter_that_cannot_say_its_versions_is_refused(body: str, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!{sys.executable} -S\n{body}\n")
    python.chmod(0o755)
    with pytest.raises(WeightsError, match=r"version.*make torchdrug"):
        installed_versions(python)


def test_features_come_back_in_order_and_the_process_stays(interpreter: Interpreter) -> None:
    worker = worker_of(interpreter(ECHO))
    first = worker.compute("GAV", np.arange(9, dtype=np.float32).reshape(3, 3), [2, 1])
    process = worker._process
    assert first.features_ND.tolist() == [[71, 0, 2], [65, 3, 2], [86, 6, 2]]
    assert first.seconds == 0.25
    assert ask(worker).shape == (3, 3)
    assert worker._process is process
    worker.close()
    assert process is not None
    assert process.poll() is not None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("print('ModuleNotFoundError: no rdkit', file=sys.stderr); raise SystemExit(1)", "no rdkit"),
        ("print('Building extension', flush=True); time.sleep(60)", "Building extension"),
        ("say(ready=False)", "ready"),
        ("time.sleep(60)", "did not answer within"),
    ],
)
def test_torchdrug_that_does_not_start_stops_the_run(text: str, message: str, interpreter: Interpreter) -> None:
    patience = 1.0 if "within" in message else 60.0
    with pytest.raises(WeightsError, match=rf"(?s)does not start.*{message}.*make torchdrug"):
        ask(worker_of(interpreter(text), start_timeout_s=patience))


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("for _ in ready(): print('Segmentation', file=sys.stderr); os._exit(139)", TorchdrugError, "Segmentation"),
        ("for _ in ready(): os.kill(os.getpid(), signal.SIGKILL)", MemoryError, "killed"),
        ("for _ in ready(): print('[1, 2]', flush=True)", TorchdrugError, r"answered '\[1, 2\]'"),
        ("for _ in ready(): print('nonsense', flush=True)", TorchdrugError, "nonsense"),
        ("for _ in ready(): say(ok=True, seconds=1)", TorchdrugError, "cannot be read"),
        ("for r in ready(): io.open(r['out'], 'w').write('x'); say(ok=True, seconds=1)", TorchdrugError, "read"),
        (
            "for _ in ready(): say(ok=False, error='RuntimeError: bad\\nworse', memory=False)",
            TorchdrugError,
            "bad worse",
        ),
        ("for _ in ready(): say(ok=False, error='out of memory', memory=True)", MemoryError, "out of memory"),
        ("for _ in ready(): time.sleep(60)", TorchdrugError, "did not answer within"),
    ],
)
def test_a_request_that_fails_is_one_error_and_leaves_no_process(
    text: str, error: type[Exception], message: str, interpreter: Interpreter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torchdrug_worker, "SECONDS_A_RESIDUE", 0.0)
    worker = worker_of(interpreter(text), answer_timeout_s=1.0 if "within" in message else 60.0)
    began = time.monotonic()
    with pytest.raises(error, match=message):
        ask(worker)
    assert time.monotonic() - began < 50
    still_there = worker._process
    worker.close()
    # A request that was answered with an error has not harmed the process; all others end it.
    assert (still_there is not None) == ("ok=False" in text)


@pytest.mark.parametrize(
    "features",
    [
        "np.zeros((3, 4), np.float32)",
        "np.zeros((2, 3), np.float32)",
        "np.zeros((3, 3))",
        "np.array([{}], dtype=object)",
    ],
)
def test_arrays_of_another_shape_or_kind_are_refused(features: str, interpreter: Interpreter) -> None:
    text = (
        f"import numpy as np\nfor r in ready():\n    np.savez(r['out'], features={features}); say(ok=True, seconds=1)\n"
    )
    worker = worker_of(interpreter(text))
    with pytest.raises(TorchdrugError, match="cannot be read"):
        ask(worker)
    worker.close()


def test_after_a_crash_the_next_request_starts_another_process(interpreter: Interpreter, tmp_path: Path) -> None:
    once = f"import os\nif not os.path.exists({str(tmp_path / 'ran')!r}):\n    open({str(tmp_path / 'ran')!r}, 'w')\n"
    worker = worker_of(interpreter(f"{once}    for _ in ready():\n        os._exit(1)\n{ECHO}"))
    with pytest.raises(TorchdrugError, match="ended"):
        ask(worker)
    assert ask(worker).shape == (3, 3)
    worker.close()


def test_nothing_is_left_when_the_encoder_is_forgotten(interpreter: Interpreter) -> None:
    worker = worker_of(interpreter(ECHO))
    ask(worker)
    process, folder = worker._process, Path(worker._folder.name)
    assert folder.is_dir()
    del worker
    assert process is not None
    assert process.poll() is not None
    assert not folder.exists()


def test_the_encoder_gives_each_protein_its_own_rows(interpreter: Interpreter) -> None:
    encoder = TorchdrugEncoder(
        random_gearnet(0, CONFIG), weights_sha256="0" * 64, max_residues=4, python=interpreter(ECHO)
    )
    batch = [item("GAV"), item("", 2), item("WWWWW"), item("KK", 3)]
    encoded = encoder.encode(batch)
    assert [found.features[:, 0].tolist() for found in encoded] == [[71, 65, 86], [], [87] * 4, [75]]
    assert [found.index.tolist() for found in encoded if found.index is not None] == [[0, 1, 2], [], [0, 1, 2, 3], [3]]
    assert encoder.lengths([one.protein for one in batch]) == [3, 0, 4, 1]
    assert encoder.encode([item("")])[0].features.shape == (0, 3)
    assert encoder.encode([]) == []
    assert "torchdrug" not in sys.modules
    printed = encoder.fingerprint()
    encoder.close()
    assert (printed["backend"], printed["backend_version"], printed["torch_cluster"]) == ("torchdrug", "0.2.1", "1.6.3")
    assert printed["device"] == "cpu"
    assert json.loads(json.dumps(printed)) == printed


def test_the_script_needs_nothing_of_ours_and_says_what_is_installed() -> None:
    done = subprocess.run([sys.executable, "-I", str(SCRIPT), "--versions"], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert set(found) == {"torchdrug", "torch", "torch-scatter", "torch-cluster"}
    assert found["torchdrug"] is None
    assert "amma." not in SCRIPT.read_text(encoding="utf-8").replace("amma.lock", "")
