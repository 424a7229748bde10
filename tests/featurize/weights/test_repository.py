"""A text encoder's repository comes from the hub through its own client, at one commit, and is what the hub says."""

import hashlib
import json
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from transformers import BertConfig, BertModel

from amma.featurize import cli
from amma.featurize.encoders.pins import decisive_files
from amma.featurize.encoders.repository import wanted_files
from amma.featurize.encoders.tiny_vocabulary import tiny_vocabulary
from amma.manifests.known_weights import known_weights

REVISION = "d673b8835373c6fa116d6d8006b33d48734e305d"
REPOSITORY = "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract"


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as its client asks for to list a repository and to get its files."""

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the test's output is no log."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        files: dict[str, bytes] = self.server.files  # type: ignore[attr-defined]
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        path = self.path.partition("?")[0]
        if path == f"/api/models/{REPOSITORY}/tree/{REVISION}":
            listed = [
                {"type": "file", "path": name, "size": len(data), **identity(name, data)}
                for name, data in files.items()
            ]
            self.answer(json.dumps(listed).encode(), {"Content-Type": "application/json"})
        elif path.startswith(f"/{REPOSITORY}/resolve/{REVISION}/"):
            name = path.rpartition("/")[2]
            data = files[name]
            found = identity(name, data)
            tag = found["lfs"]["oid"] if "lfs" in found else found["oid"]
            sent = self.server.spoilt.get(name, data)  # type: ignore[attr-defined]
            self.answer(sent, {"ETag": f'"{tag}"', "X-Repo-Commit": REVISION})
        else:
            self.send_error(404)

    def answer(self, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(200)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)


def identity(name: str, data: bytes) -> dict[str, Any]:
    """How the hub knows a file: by git's hash, and a large one by sha256 too."""
    oid = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    if not name.endswith((".bin", ".safetensors")):
        return {"oid": oid}
    return {"oid": oid, "lfs": {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}}


@pytest.fixture
def bert(tmp_path: Path) -> dict[str, bytes]:
    """The files of a small BERT, as pickled weights and safetensors, and others that nobody needs."""
    vocabulary = tiny_vocabulary()
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    model = BertModel(BertConfig(vocab_size=len(vocabulary), **sizes), add_pooling_layer=False)
    folder = tmp_path / "bert"
    model.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    (folder / "flax_model.msgpack").write_bytes(b"unneeded")
    (folder / "README.md").write_bytes(b"unneeded")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def hub(bert: dict[str, bytes]) -> Iterator[Any]:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.daemon_threads = True
    server.files, server.spoilt, server.asked = bert, {}, []
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def weights(
    hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., tuple[int, str, str]]]:
    """Run `amma-featurize weights pubmedbert` with our hub, a cache of its own, and a small model in the table."""
    address = f"http://127.0.0.1:{hub.server_address[1]}"
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    # The client reads its environment once, when it is imported.
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    huggingface_hub.close_session()
    small = {"family": "bert", "layers": 1, "width": 32}
    known = known_weights()["pubmedbert"].model_copy(update={"architecture": small})
    monkeypatch.setitem(known_weights(), "pubmedbert", known)

    def run(*args: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["amma-featurize", "weights", "pubmedbert", *args])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    yield run
    huggingface_hub.close_session()


def cached(tmp_path: Path) -> list[str]:
    """Names of an encoder's files in the Hugging Face cache."""
    folder = tmp_path / "hf" / "hub" / f"models--{REPOSITORY.replace('/', '--')}" / "snapshots" / REVISION
    return [path.name for path in decisive_files(folder)]


def test_a_repository_is_fetched_at_its_commit_in_one_format(
    hub: Any,
    bert: dict[str, bytes],
    weights: Callable[..., tuple[int, str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    code, out, err = weights("--download", "--json")

    assert code == 0, err
    (found,) = json.loads(out)
    assert found["state"] == "present"
    assert found["revision"] == REVISION
    assert found["path"].startswith(str(tmp_path / "hf"))
    needed = {"config.json", "tokenizer_config.json", "vocab.txt", "model.safetensors"}
    assert found["pinned"] == {name: hashlib.sha256(bert[name]).hexdigest() for name in needed}
    assert {path.rpartition("/")[2] for path in hub.asked if "/resolve/" in path} == needed

    asked = len(hub.asked)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    huggingface_hub.close_session()
    assert weights("--verify")[0] == 0
    assert len(hub.asked) == asked


def test_a_file_damaged_on_its_way_is_refused_and_removed(
    hub: Any, bert: dict[str, bytes], weights: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    changed = bytearray(bert["model.safetensors"])
    changed[-1] ^= 1
    hub.spoilt["model.safetensors"] = bytes(changed)

    code, _, err = weights("--download")

    assert code == 1
    assert "its hash is not the hub's" in err.splitlines()[-1]
    assert cached(tmp_path) == []

    hub.spoilt.clear()
    assert weights("--download")[0] == 0
    assert "model.safetensors" in cached(tmp_path)


def test_another_model_is_refused_and_removed(
    hub: Any, bert: dict[str, bytes], weights: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    del bert["model.safetensors"], bert["vocab.txt"]

    code, _, err = weights("--download")

    assert code == 1
    assert err.splitlines()[-1].startswith("error E_WEIGHTS")
    assert "What was downloaded was removed" in err
    assert cached(tmp_path) == []


def test_code_in_a_repository_is_not_run_and_not_kept(
    hub: Any, bert: dict[str, bytes], weights: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    canary = tmp_path / "canary"

    class Canary:
        def __reduce__(self) -> tuple[object, tuple[str, str]]:
            return open, (str(canary), "w")

    poisoned = tmp_path / "poisoned.bin"
    torch.save({"embeddings": Canary()}, poisoned)
    del bert["model.safetensors"]
    bert["pytorch_model.bin"] = poisoned.read_bytes()
    torch.load(poisoned, weights_only=False)
    canary.unlink()  # it was really dangerous

    code, _, err = weights("--download")

    assert code == 1
    assert "error E_WEIGHTS" in err.splitlines()[-1]
    assert not canary.exists()
    assert cached(tmp_path) == []


def test_a_hub_that_has_no_such_repository_is_one_line(
    hub: Any, bert: dict[str, bytes], weights: Callable[..., tuple[int, str, str]]
) -> None:
    bert.clear()

    code, _, err = weights("--download")

    assert code == 1
    assert err.splitlines()[-1].startswith("error E_DOWNLOAD")


def test_of_a_repository_only_one_format_is_wanted() -> None:
    texts = ["config.json", "vocab.txt"]
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"]

    assert wanted_files([*texts, "pytorch_model.bin", "model.safetensors", "tf_model.h5"]) == [
        *texts,
        "model.safetensors",
    ]
    assert wanted_files([*texts, "pytorch_model.bin", "onnx/model.safetensors"]) == [*texts, "pytorch_model.bin"]
    assert wanted_files([*texts, *shards]) == [*texts, *shards]
    with pytest.raises(ValueError, match="neither"):
        wanted_files(texts)
