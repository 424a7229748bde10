"""A server on this machine that serves files honestly, or as badly as a test says; a toy checkpoint to serve."""

import argparse
import shutil
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from amma.featurize.encoders.esm_checkpoint import random_model


@dataclass
class Fault:
    """How one answer differs from an honest one."""

    status: int | None = None
    location: str = ""
    cut: int | None = None
    """Bytes of the body after which the connection is closed."""
    hang: int | None = None
    """Bytes of the body after which nothing more comes, though the connection stays."""
    drip: bool = False
    length: int | None = None
    """A Content-Length that is not that of the body."""
    extra: bytes = b""
    chunked: bool = False
    ignore_range: bool = False
    shift: int = 0
    """Bytes by which another part than the one asked for is sent."""
    blind: bool = False
    """Goes on with a file without looking whether it is still the one that was asked for."""


@dataclass
class Site:
    """Files by path, faults of the next answers, and what was asked and sent."""

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    tags: bool = True
    faults: list[Fault] = field(default_factory=list)
    always: Fault | None = None
    asked: list[dict[str, str]] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)

    def fail(self, **how: Any) -> None:
        """Spoil the next answer that is not spoilt yet."""
        self.faults.append(Fault(**how))

    def fail_always(self, **how: Any) -> None:
        """Spoil every answer after those."""
        self.always = Fault(**how)


class Handler(BaseHTTPRequestHandler):
    """Serves `site` of its server."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the test's output is no log."""

    def end_headers(self) -> None:
        """One answer a connection."""
        self.send_header("Connection", "close")
        super().end_headers()

    def do_GET(self) -> None:
        site: Site = self.server.site  # type: ignore[attr-defined]
        fault = site.faults.pop(0) if site.faults else site.always or Fault()
        site.asked.append({"path": self.path, **dict(self.headers.items())})
        site.sent.append(0)
        place = len(site.sent) - 1
        if fault.status is not None:
            self.send_response(fault.status)
            if fault.location:
                self.send_header("Location", fault.location)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        whole = site.files.get(self.path)
        if whole is None:
            self.send_error(404)
            return
        tag = f'"{hash(whole)}"'
        start = 0
        asked = self.headers.get("Range")
        same = fault.blind or self.headers.get("If-Range", tag) == tag
        if asked and same and not fault.ignore_range:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(whole):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(whole)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            start += fault.shift
            self.send_header("Content-Range", f"bytes {start}-{len(whole) - 1}/{len(whole)}")
        else:
            self.send_response(200)
        body = whole[start:] + fault.extra
        if site.tags:
            self.send_header("ETag", tag)
        if fault.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(len(body) if fault.length is None else fault.length))
        self.end_headers()
        ends = [end for end in (fault.cut, fault.hang) if end is not None]
        body = body[: min(ends, default=len(body))]
        try:
            if fault.chunked:
                self.wfile.write(b"%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n")
            elif fault.drip:
                for position in range(len(body)):
                    self.wfile.write(body[position : position + 1])
                    site.sent[place] += 1
                    if site.done.wait(0.05):
                        return
            else:
                self.wfile.write(body)
            site.sent[place] = len(body)
            self.wfile.flush()
            if fault.hang is not None:
                site.done.wait(30)
        except (BrokenPipeError, ConnectionResetError):
            pass


def serve(site: Site, certificate: Path | None = None) -> ThreadingHTTPServer:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.site = site  # type: ignore[attr-defined]
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    scheme = "http" if certificate is None else "https"
    site.address = f"{scheme}://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    return server


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """An http server; the network is allowed, and no proxy stands before it."""
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    site = Site()
    server = serve(site)
    yield site
    site.done.set()
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Key and certificate for 127.0.0.1 in one file."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl to make a certificate")
    folder = tmp_path_factory.mktemp("certificate")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    options = ["-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    files = ["-keyout", str(key), "-out", str(certificate), "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(["openssl", "req", "-x509", *options, *files], check=True, capture_output=True)
    certificate.write_bytes(certificate.read_bytes() + key.read_bytes())
    return certificate


@pytest.fixture
def secure_site(site: Site, certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """An https server beside the http one, whose certificate is trusted."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    secure = Site()
    server = serve(secure, certificate)
    yield secure
    secure.done.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def write_esm1b() -> Callable[..., Path]:
    """Write a checkpoint as ESM-1b was published (its names, `argparse.Namespace`), at toy size."""

    def write(path: Path, *, seed: int = 3, layers: int = 2, width: int = 16) -> Path:
        model = random_model(seed=seed, architecture="esm1b", layers=layers, width=width, heads=2)
        state: dict[str, Any] = {
            ("encoder." if name.startswith("lm_head") else "encoder.sentence_encoder.") + name: value.clone()
            for name, value in model.state_dict().items()
            if "contact_head" not in name
        }
        sizes = {"encoder_layers": layers, "encoder_embed_dim": width, "encoder_ffn_embed_dim": 4 * width}
        switches = {"arch": "roberta_large", "max_positions": 1024, "token_dropout": True}
        args = argparse.Namespace(**sizes, encoder_attention_heads=2, **switches)
        torch.save({"args": args, "model": state}, path)
        return path

    return write
