"""`bottlenet serve` as a process: who gets in, how it stops, and what does not bring it down."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection

from bottlenet.bundle import Bundle
from bottlenet.cloud.admission import Access
from bottlenet.errors import InputError
from bottlenet.wire.answer import parse_answer
from conftest import until
from processes import Process, everything, frame_of, refused_to_start, serving, write_certificate

TOKEN = "camera-1-0123456789abcdef"
OTHER = "camera-2-0123456789abcdef"
SLOW_S = 0.4


def closed_with(process: Process, bundle: Bundle, token: str | None = None) -> int | None:
    with process.stream(bundle, token) as stream, pytest.raises(ConnectionClosed) as closed:
        stream.recv(timeout=30)
    return closed.value.rcvd.code if closed.value.rcvd else None


def until_the_end(stream: ClientConnection) -> Iterator[bytes]:
    """Every message, until it is closed."""
    with contextlib.suppress(ConnectionClosed):
        while True:
            message = stream.recv(timeout=20)
            assert isinstance(message, bytes)
            yield message


def until_closed(sock: socket.socket) -> tuple[bytes, float]:
    """What it says until the end, and after how many seconds that was."""
    sock.settimeout(10)
    started, said = time.monotonic(), b""
    with contextlib.suppress(ConnectionError):
        while data := sock.recv(4096):
            said += data
    return said, time.monotonic() - started


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokens") / "tokens.txt"
    path.write_text(f"# cameras\n\n{TOKEN}\n")
    return path


@pytest.fixture(scope="module")
def guarded(bundle: Bundle, file: Path) -> Iterator[Process]:
    with serving(bundle.path, "--tokens", file, "--log-level", "debug", "--log-json") as process:
        yield process


class TestTokens:
    @pytest.mark.parametrize("path", ["/v1/bundles", "/metrics", "/v2", "/v2/models/tiny", "/nothing"])
    def test_everything_asks_for_one(self, guarded: Process, path: str) -> None:
        for headers in ({}, {"Authorization": f"Bearer {OTHER}"}, {"Authorization": f"Basic {TOKEN}"}):
            response = httpx.get(guarded.http_url + path, headers=headers)
            assert response.status_code == 401
            assert response.headers["www-authenticate"] == "Bearer"
            assert "send the header Authorization: Bearer <token>" in response.json()["error"]
        response = httpx.get(guarded.http_url + path, headers={"Authorization": f"Bearer {TOKEN}"})
        assert response.status_code == (404 if path == "/nothing" else 200)

    @pytest.mark.parametrize("path", ["/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"])
    def test_but_for_health(self, guarded: Process, path: str) -> None:
        assert httpx.get(guarded.http_url + path).status_code == 200

    def test_who_has_none_keeps_no_connection(self, guarded: Process) -> None:
        for request in ("GET /metrics", "GET /nothing", "POST /v1/classify"):
            with socket.create_connection(("127.0.0.1", guarded.port)) as sock:
                sock.sendall(f"{request} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                said, _ = until_closed(sock)
            assert b" 401 " in said

    def test_a_frame_by_http(self, guarded: Process, bundle: Bundle) -> None:
        url, body = f"{guarded.http_url}/v1/classify", frame_of(bundle, 7).to_bytes()
        assert httpx.post(url, content=body).status_code == 401
        done = httpx.post(url, content=body, headers={"authorization": f"bearer {TOKEN}"})
        assert parse_answer(done.content).sequence == 7

    def test_a_stream(self, guarded: Process, bundle: Bundle) -> None:
        assert closed_with(guarded, bundle) == 4401
        assert closed_with(guarded, bundle, OTHER) == 4401
        with guarded.stream(bundle, TOKEN) as stream:
            stream.send(frame_of(bundle, 8).to_stream_bytes())
            assert parse_answer(stream.recv(timeout=30)).sequence == 8

    def test_they_come_and_go_while_it_runs(self, guarded: Process, bundle: Bundle, file: Path) -> None:
        with guarded.stream(bundle, TOKEN) as stream:
            stream.send(frame_of(bundle, 1).to_stream_bytes())
            assert parse_answer(stream.recv(timeout=30)).sequence == 1
            file.write_text(f"{OTHER}\n")
            time.sleep(1.1)
            assert closed_with(guarded, bundle, TOKEN) == 4401
            with guarded.stream(bundle, OTHER) as another:
                another.send(frame_of(bundle, 2).to_stream_bytes())
                assert parse_answer(another.recv(timeout=30)).sequence == 2
            stream.send(frame_of(bundle, 3).to_stream_bytes())  # with a token that is no more
            with pytest.raises(ConnectionClosed) as closed:
                stream.recv(timeout=30)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 4401
        file.write_text("no token, for sure\n")  # can't be used: it stays as it was
        time.sleep(1.1)
        assert httpx.get(f"{guarded.http_url}/v2", headers={"Authorization": f"Bearer {OTHER}"}).status_code == 200

    def test_the_log_is_json_without_tokens_and_payloads(self, bundle: Bundle, tmp_path: Path) -> None:
        (tmp_path / "tokens").write_text(f"{TOKEN}\n")
        with serving(bundle.path, "--tokens", tmp_path / "tokens", "--log-level", "debug", "--log-json") as process:
            headers = {"Authorization": f"Bearer {TOKEN}"}
            body = frame_of(bundle, 7).to_bytes()
            url = f"{process.http_url}/v1/classify"
            httpx.post(f"{url}?token={TOKEN}", content=body, headers=headers).raise_for_status()
            httpx.post(url, content=body[:-3], headers=headers)
            httpx.post(url, content=body, headers={"Authorization": f"Bearer {OTHER}"})
            with process.stream(bundle, TOKEN) as stream:
                stream.send(frame_of(bundle, 8).to_stream_bytes())
                stream.recv(timeout=30)
            code, log = process.end(signal.SIGTERM)
        assert code == 0
        lines = [json.loads(line) for line in log.splitlines()]
        assert {line["level"] for line in lines} == {"info"}
        requests = [(line["method"], line["path"], line["status"]) for line in lines if "path" in line]
        assert requests == [("POST", "/v1/classify", 200), ("POST", "/v1/classify", 400), ("WS", "/v1/stream", None)]
        assert [line["message"] for line in lines if "path" not in line] == ["refused: unauthorized"]
        for secret in (TOKEN, OTHER, "Bearer", repr(body[12:24])[2:-1], body[12:24].hex()):
            assert secret not in log


class TestStart:
    def test_it_does_not_listen_to_all_without_a_word(self, bundle: Bundle) -> None:
        said = refused_to_start(bundle.path, "--host", "0.0.0.0")
        assert said.startswith("error: 0.0.0.0 can be reached from other machines")
        assert "--tokens" in said
        assert "--insecure" in said

    def test_unless_it_is_told_to(self, bundle: Bundle) -> None:
        with serving(bundle.path, "--host", "0.0.0.0", "--insecure") as process:
            assert httpx.get(f"http://127.0.0.1:{process.port}/readyz").status_code == 200

    def test_nothing_to_serve(self) -> None:
        assert "no bundle to serve" in refused_to_start()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def encrypted(bundle: Bundle, certificate: tuple[Path, Path]) -> Iterator[Process]:
    cert, key = certificate
    options = ("--tls-cert", cert, "--tls-key", key, "--first-byte-s", SLOW_S, "--max-connections", 3)
    with serving(bundle.path, *options) as process:
        yield process


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificate with openssl")
class TestTls:
    def test_both_ways_in(self, encrypted: Process, bundle: Bundle, certificate: tuple[Path, Path]) -> None:
        assert encrypted.url.startswith("wss://")
        trusted = ssl.create_default_context(cafile=certificate[0])
        body = frame_of(bundle, 4).to_bytes()
        assert parse_answer(httpx.post(f"{encrypted.http_url}/v1/classify", content=body, verify=trusted).content)
        with encrypted.stream(bundle, tls=trusted) as stream:
            stream.send(frame_of(bundle, 5).to_stream_bytes())
            assert parse_answer(stream.recv(timeout=30)).sequence == 5

    def test_who_shakes_no_hands(self, encrypted: Process, certificate: tuple[Path, Path]) -> None:
        """Half-open ones count, and end; others get in again."""
        silent = [socket.create_connection(("127.0.0.1", encrypted.port)) for _ in range(5)]
        assert [len(until_closed(sock)[0]) for sock in silent] == [0] * 5
        for sock in silent:
            sock.close()
        with socket.create_connection(("127.0.0.1", encrypted.port)) as sock:
            sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")  # no TLS
            until_closed(sock)
        trusted = ssl.create_default_context(cafile=certificate[0])
        assert httpx.get(f"{encrypted.http_url}/healthz", verify=trusted).status_code == 200

    def test_old_versions(self, certificate: tuple[Path, Path]) -> None:
        context = Access(tls_cert=str(certificate[0]), tls_key=str(certificate[1])).context()
        assert context is not None
        assert context.minimum_version == ssl.TLSVersion.TLSv1_2

    def test_files_that_are_none(self, certificate: tuple[Path, Path], tmp_path: Path) -> None:
        cert, key = map(str, certificate)
        os.mkfifo(pipe := tmp_path / "pipe")  # OpenSSL would wait for who writes to it
        empty = tmp_path / "empty"
        empty.write_text("")
        other = write_certificate(tmp_path)[1]
        for access, says in (
            (Access(tls_cert=cert), "needs its key"),
            (Access(tls_key=key), "needs its key"),
            (Access(tls_cert=str(empty), tls_key=key), "can't use .* for TLS"),
            (Access(tls_cert=str(tmp_path / "x"), tls_key=key), "--tls-cert .*x: No such file"),
            (Access(tls_cert=str(tmp_path / "x")), "--tls-cert .*x: No such file"),
            (Access(tls_cert=cert, tls_key=str(pipe)), "--tls-key .*pipe: it is not a file; give a PEM file"),
            (Access(tls_key=str(tmp_path / "x")), "--tls-key .*x: No such file"),
            (Access(tls_cert=cert, tls_key=str(other)), "can't use .* for TLS"),
        ):
            with pytest.raises(InputError, match=says):
                access.context()


class TestStop:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_what_was_taken_is_answered(self, bundle: Bundle, number: signal.Signals) -> None:
        """Frames are sent as fast as they go, and the signal comes in the middle of them."""
        sent = 400
        with serving(bundle.path, "--max-waiting", "1000", "--max-in-flight", "1000") as process:
            with process.stream(bundle) as stream:
                with contextlib.suppress(ConnectionClosed):
                    for sequence in range(sent):
                        stream.send(frame_of(bundle, sequence).to_stream_bytes())
                        if sequence == 200:
                            process.popen.send_signal(number)
                answered = list(until_the_end(stream))
            assert (stream.close_code, stream.close_reason) == (1012, "the server is shutting down; try again later")
            statuses = {int.from_bytes(message[1:3], "big"): message[0] & 15 for message in answered}
            taken = [sequence for sequence, status in sorted(statuses.items()) if status == 0]
            assert taken == list(range(len(taken)))
            assert len(taken) > 100
            # Later ones were told to come again, or not read at all; each once, and none with an error.
            assert len(statuses) == len(answered)
            assert set(statuses.values()) <= {0, 2}
            out, err = process.popen.communicate(timeout=20)
            assert (process.popen.returncode, out, err) == (0, "", "")

    def test_nobody_gets_in_any_more(self, bundle: Bundle) -> None:
        with serving(bundle.path) as process:
            assert process.end(signal.SIGTERM)[0] == 0
            with pytest.raises(httpx.ConnectError):
                httpx.get(f"{process.http_url}/readyz")


@pytest.fixture(scope="module")
def limited(bundle: Bundle) -> Iterator[Process]:
    limits = ("--first-byte-s", SLOW_S, "--request-s", SLOW_S, "--idle-s", 2 * SLOW_S, "--max-connections", 8)
    with serving(bundle.path, *limits, "--max-payload-bytes", 1000) as process:
        yield process


class TestLimits:
    def connect(self, limited: Process) -> socket.socket:
        return socket.create_connection(("127.0.0.1", limited.port))

    def test_who_says_nothing(self, limited: Process) -> None:
        with self.connect(limited) as sock:
            said, seconds = until_closed(sock)
        assert said == b""
        assert SLOW_S * 0.9 < seconds < 5

    def test_who_speaks_slowly(self, limited: Process) -> None:
        """A byte now and then does not keep a connection open."""
        with self.connect(limited) as sock:
            started = time.monotonic()
            with contextlib.suppress(ConnectionError):
                for byte in b"GET /healthz HTTP/1.1\r\nX: " + b"a" * 100:
                    sock.sendall(bytes([byte]))
                    time.sleep(SLOW_S / 4)
                    sock.settimeout(0.001)
                    with contextlib.suppress(TimeoutError):
                        if said := sock.recv(4096):
                            assert b" 408 " in said
                            break
            assert time.monotonic() - started < 5

    def test_a_body_that_comes_slowly(self, limited: Process) -> None:
        with self.connect(limited) as sock:
            sock.sendall(b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500\r\n\r\nx")
            said, seconds = until_closed(sock)
        assert b" 408 " in said
        assert seconds < 5

    def test_a_second_header_that_comes_slowly(self, limited: Process) -> None:
        with self.connect(limited) as sock:
            sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert b" 200 " in sock.recv(4096)
            sock.sendall(b"GET /heal")
            said, seconds = until_closed(sock)
        assert b" 408 " in said
        assert seconds < 5

    def test_who_says_nothing_more(self, limited: Process, bundle: Bundle) -> None:
        with self.connect(limited) as sock:
            sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            said, seconds = until_closed(sock)
        assert b" 200 " in said
        assert SLOW_S * 0.9 < seconds < 5
        with limited.stream(bundle) as stream:
            for sequence in range(4):  # every one is a sign of life
                time.sleep(SLOW_S)
                stream.send(frame_of(bundle, sequence).to_stream_bytes())
                assert parse_answer(stream.recv(timeout=30)).sequence == sequence
            with pytest.raises(ConnectionClosed) as closed:
                stream.recv(timeout=30)
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1001, f"nothing came for {2 * SLOW_S:g} s")

    def test_too_many_are_told_so_and_the_rest_served(self, limited: Process, bundle: Bundle) -> None:
        body = frame_of(bundle).to_bytes()
        with contextlib.ExitStack() as stack:
            streams = [stack.enter_context(limited.stream(bundle)) for _ in range(8)]
            response = httpx.post(f"{limited.http_url}/v1/classify", content=body)
            assert (response.status_code, response.headers["retry-after"]) == (503, "1")
            assert "too many connections" in response.json()["error"]
            with pytest.raises(InvalidStatus) as refused:
                stack.enter_context(limited.stream(bundle))
            assert refused.value.response.status_code == 503
            for number, stream in enumerate(streams):
                stream.send(frame_of(bundle, number).to_stream_bytes())
                assert parse_answer(stream.recv(timeout=30)).sequence == number
        for _ in range(50):  # until the server has seen them go
            if httpx.post(f"{limited.http_url}/v1/classify", content=body).status_code == 200:
                break
            time.sleep(0.05)
        else:
            pytest.fail("the server stays full")

    def test_a_message_or_a_body_above_the_limit(self, limited: Process, bundle: Bundle) -> None:
        assert httpx.post(f"{limited.http_url}/v1/classify", content=b"x" * 2000).status_code == 413
        with limited.stream(bundle) as stream:
            stream.send(b"\x12" * 2000)
            with pytest.raises(ConnectionClosed) as closed:
                stream.recv(timeout=30)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009

    def test_a_message_in_very_many_empty_parts(self, limited: Process, bundle: Bundle) -> None:
        with limited.stream(bundle) as stream:
            with contextlib.suppress(ConnectionClosed):
                stream.send(iter([b"x", *([b""] * 5000)]))
            with pytest.raises(ConnectionClosed):
                stream.recv(timeout=30)
        assert httpx.get(f"{limited.http_url}/healthz").status_code == 200

    def test_pings_whose_answers_nobody_takes(self, limited: Process, bundle: Bundle) -> None:
        """A mask of zero leaves the payload as it is; the socket's buffer is small, so it fills at once."""
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(("127.0.0.1", limited.port))
            key = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
            path = f"/v1/stream?bundle={bundle.id.hex()}"
            up = f"Host: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{key}"
            sock.sendall(f"GET {path} HTTP/1.1\r\n{up}\r\n".encode())
            assert b" 101 " in sock.recv(1000)
            ping = b"\x89\xfd" + bytes(4) + b"x" * 125
            sock.settimeout(10)
            with pytest.raises(ConnectionError):
                sock.sendall(ping * 500_000)


class TestEnd:
    def test_half_bodies_and_clients_that_take_nothing(self, bundle: Bundle) -> None:
        """Each had a traceback in the log when the server was told to end."""
        with serving(bundle.path) as process, contextlib.ExitStack() as stack:
            requests = [
                f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nabc"
                for path in ("/v1/classify", "/v1/photo", "/v2/models/tiny/infer", "/nothing")
            ]
            for request in [*requests, "POST /v1/cl"]:
                sock = stack.enter_context(socket.create_connection(("127.0.0.1", process.port)))
                sock.sendall(request.encode())
            until(lambda: open_requests(process) == 4, "the requests do not come")  # this one among them
            assert process.end(signal.SIGTERM) == (0, "")

    def test_a_client_of_tls_that_does_not_say_goodbye(self, bundle: Bundle, tmp_path: Path) -> None:
        """Without a word it was kept for half a minute more than --first-byte-s says."""
        cert, key = write_certificate(tmp_path)
        options = ("--tls-cert", cert, "--tls-key", key, "--first-byte-s", SLOW_S)
        with serving(bundle.path, *options) as process, contextlib.ExitStack() as stack:
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", process.port), timeout=300))
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            context = ssl.create_default_context(cafile=str(cert))
            tls = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
            while True:
                try:
                    tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    sock.sendall(outgoing.read())
                    incoming.write(sock.recv(65536))
            sock.sendall(outgoing.read())
            started = time.monotonic()
            everything(sock)  # without an answer to what the server says
            assert time.monotonic() - started < 20  # it was 30 s and --first-byte-s


def open_requests(process: Process) -> int:
    text = httpx.get(f"{process.http_url}/metrics").text
    return sum(int(float(value)) for value in re.findall(r'^bottlenet_open\{via="http"\} (\S+)$', text, re.MULTILINE))


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="needs IPv6")
def test_all_addresses_are_those_of_ipv4_too(bundle: Bundle) -> None:
    with serving(bundle.path, "--host", "::", "--insecure") as process:
        assert process.url.startswith("ws://[::]:")
        for host in ("127.0.0.1", "[::1]"):
            assert httpx.get(f"http://{host}:{process.port}/healthz").status_code == 200
