"""Two processes and a socket between them: `bottlenet serve` and `bottlenet classify`."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from bottlenet.bundle import Bundle
from bottlenet.cloud import Decoder
from bottlenet.edge import Edge, Encoder
from bottlenet.wire.answer import parse_answer

BOTTLENET = [sys.executable, "-W", "error", "-m", "bottlenet.cli"]
LIMIT_S = 60


def bottlenet(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*BOTTLENET, *map(str, arguments)], capture_output=True, text=True, timeout=LIMIT_S, check=False
    )


@contextlib.contextmanager
def serving(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A server process, killed at the end if it is still there."""
    pipe = subprocess.PIPE
    command = [*BOTTLENET, "serve", *map(str, arguments), "--port", "0"]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def url_of(process: subprocess.Popen[str]) -> str:
    """What it prints when it takes connections."""
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.search(r"listening on (ws://127\.0\.0\.1:(\d+)) ", line)
    assert found, f"{line!r}, {process.stderr and process.stderr.read()}"
    assert int(found[2]) != 0
    return found[1]


@pytest.fixture(scope="module")
def server(bundle: Bundle) -> Iterator[str]:
    """The URL of a server process."""
    with serving(bundle.path) as process:
        yield url_of(process)


def test_a_photo_goes_from_process_to_process(server: str, bundle: Bundle, photo_path: Path) -> None:
    done = bottlenet("classify", photo_path, "--to", server, "--bundle", bundle.path, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    (prediction,) = json.loads(done.stdout)["photos"]

    (expected,) = Decoder(bundle).answers([Encoder(bundle).encode(photo_path).frame])
    assert [choice["class_index"] for choice in prediction["top"]] == [index for index, _ in expected.top]
    assert prediction["score"] == pytest.approx(expected.top[0][1], abs=1e-4)
    assert prediction["socket_bytes"] < 300
    assert prediction["received_bytes"] < 60
    assert prediction["times"]["tail_ms"] > 0


def test_a_frame_goes_by_http(server: str, bundle: Bundle, photo_path: Path, tmp_path: Path) -> None:
    assert bottlenet("encode", photo_path, "-o", tmp_path / "frame", "--bundle", bundle.path).returncode == 0
    http = f"http{server.removeprefix('ws')}"
    body = (tmp_path / "frame").read_bytes()
    with urllib.request.urlopen(f"{http}/v1/classify", data=body, timeout=LIMIT_S) as reply:
        answer = parse_answer(reply.read())
    decoded = bottlenet("decode", tmp_path / "frame", "--bundle", bundle.path, "--json")
    assert [choice["class_index"] for choice in json.loads(decoded.stdout)["top"]] == [i for i, _ in answer.top]
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{http}/v1/classify", data=b"no frame", timeout=LIMIT_S)
    with refused.value:
        assert refused.value.code == 400


def test_a_message_above_the_limit_is_not_read(server: str, bundle: Bundle, photo_path: Path) -> None:
    url = f"{server}/v1/stream?bundle={bundle.id.hex()}"
    with connect(url, proxy=None, compression=None) as connection:
        connection.send(b"\x12" * 2**20)
        with pytest.raises(ConnectionClosed) as closed:
            connection.recv(timeout=LIMIT_S)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1009
    with Edge(bundle, server) as edge:
        assert edge.classify(photo_path).label in bundle.labels


def test_a_header_without_end_is_not_read(server: str) -> None:
    host, port = server.removeprefix("ws://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as sock, contextlib.suppress(ConnectionError):
        sock.sendall(b"GET /healthz HTTP/1.1\r\nX: " + b"a" * 2**20)
        while sock.recv(4096):  # what it says, and the end; it would time out if the server waited for more
            pass


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_when_told_to_even_with_a_device_connected(
    bundle: Bundle, photo_path: Path, number: signal.Signals
) -> None:
    with serving(bundle.path, "--no-page") as process, Edge(bundle, url_of(process)) as edge:
        edge.classify(photo_path)
        process.send_signal(number)
        out, err = process.communicate(timeout=LIMIT_S)
        assert (process.returncode, out, err) == (0, "", "")


def test_it_stops_with_its_input(bundle: Bundle) -> None:
    with serving(bundle.path, "--stop-with-input", "--json") as process:
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(LIMIT_S) == 0
        assert process.stdout is not None
        document = json.loads(process.stdout.read())
    assert document["listening"].startswith("ws://127.0.0.1:")
    assert document["bundles"] == [{"id": bundle.id.hex(), "name": "tiny"}]


def test_it_stops_when_told_to_while_its_input_is_open(bundle: Bundle) -> None:
    with serving(bundle.path, "--stop-with-input") as process:
        url_of(process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT_S) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_two_bundles(bundle: Bundle, make_bundle: Callable[..., Bundle], photo_path: Path) -> None:
    other = make_bundle(name="other", codec="raw", setting=0)
    with serving(bundle.path, other.path) as process:
        url = url_of(process)
        for one in (bundle, other):
            with Edge(one, url) as edge:
                assert edge.classify(photo_path).label in one.labels


def test_a_port_that_is_taken(bundle: Bundle) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = bottlenet("serve", bundle.path, "--port", port)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: can't listen on 127.0.0.1 port {port}")
    assert done.stderr.count("\n") == 1


def test_a_bundle_that_is_none(tmp_path: Path) -> None:
    done = bottlenet("serve", tmp_path / "nothing", "--port", 0)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
