"""`bottlenet serve` in a process of its own, frames and streams for it, and a certificate."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from bottlenet.bundle import Bundle
from bottlenet.wire.codecs import CODES
from bottlenet.wire.frame import Frame

BOTTLENET = [sys.executable, "-W", "error", "-m", "bottlenet.cli"]
LIMIT_S = 600


def frame_of(bundle: Bundle, sequence: int = 0) -> Frame:
    """Of the same smooth symbols each time."""
    symbols = np.add.outer(np.arange(4) * 20, np.add.outer(np.arange(8) * 9, np.arange(8) * 5)).astype(np.uint8)
    payload = bundle.codec.encode(symbols)
    code = {name: number for number, name in CODES.items()}[bundle.manifest.codec]
    return Frame(code, bundle.manifest.setting, bundle.tag, sequence, payload)


@dataclass
class Process:
    """A server that takes connections."""

    popen: subprocess.Popen[str]
    url: str  # ws:// or wss://
    http_url: str

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def stream(self, bundle: Bundle, token: str | None = None, tls: ssl.SSLContext | None = None) -> ClientConnection:
        return open_stream(self.url, bundle.id.hex(), token, tls)

    def end(self, number: int) -> tuple[int, str]:
        """Exit code and standard error after a signal."""
        self.popen.send_signal(number)
        _, err = self.popen.communicate(timeout=LIMIT_S)
        return self.popen.returncode, err


def open_stream(
    url: str, bundle_id: str, token: str | None = None, tls: ssl.SSLContext | None = None
) -> ClientConnection:
    """To a server at ws://host:port, as a device opens one."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    url = f"{url}/v1/stream?bundle={bundle_id}"
    return connect(
        url, proxy=None, compression=None, ping_interval=None, additional_headers=headers, ssl=tls, close_timeout=2
    )


def close_code(opened: ClientConnection, *messages: bytes) -> int | None:
    """With which the other side closes a stream, when it has been sent these, without an answer."""
    with opened as stream:
        with contextlib.suppress(ConnectionClosed):
            for message in messages:
                stream.send(message)
            stream.recv(timeout=30)
        return stream.close_code


def everything(sock: socket.socket) -> bytes:
    """That the other side says until the end, whichever it is."""
    said = bytearray()
    with contextlib.suppress(ConnectionError):
        while data := sock.recv(65536):
            said += data
    return bytes(said)


@contextlib.contextmanager
def serving(*arguments: object, program: Sequence[str] = BOTTLENET) -> Iterator[Process]:
    """On a free port; killed at the end if it is still there."""
    pipe = subprocess.PIPE
    command = [*program, "serve", "--json", "--port", "0", *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True) as popen:
        try:
            assert popen.stdout is not None
            text = line = ""
            while line != "}\n":
                line = popen.stdout.readline()
                assert line, popen.stderr and popen.stderr.read()
                text += line
            document = json.loads(text)
            yield Process(popen, document["listening"], document["http"])
        finally:
            popen.kill()


def refused_to_start(*arguments: object) -> str:
    """The one line that says why."""
    command = [*BOTTLENET, "serve", "--port", "0", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    return done.stderr


def write_certificate(folder: Path) -> tuple[Path, Path]:
    """Self-signed, for localhost and 127.0.0.1: certificate and key."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(key), "-out", str(cert), "-days", "2", "-subj", "/CN=localhost"]
    names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
    subprocess.run([*command, "-addext", names], check=True, capture_output=True)
    return cert, key
