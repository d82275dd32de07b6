"""HTTP that goes on without end, in every place where it could: each is ended, and others are served."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator

import httpx
import pytest
from websockets.exceptions import ConnectionClosed

from bottlenet.bundle import Bundle
from bottlenet.wire.answer import parse_answer
from processes import Process, everything, frame_of, serving

SLOW_S = 0.5
ENOUGH_BYTES = 2**25  # that a server which reads on without end would have kept
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED = b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def process(bundle: Bundle) -> Iterator[Process]:
    with serving(bundle.path, "--first-byte-s", 2 * SLOW_S, "--request-s", SLOW_S) as process:
        yield process


@pytest.fixture
def sock(process: Process) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", process.port), timeout=30) as sock:
        yield sock
    with socket.create_connection(("127.0.0.1", process.port), timeout=30) as another:
        another.sendall(HEALTH + b"Connection: close\r\n\r\n")
        assert b" 200 " in everything(another)


def pour(sock: socket.socket, start: bytes, part: bytes) -> tuple[bytes, bool]:
    """Send `part` again and again: what was said, and whether an end came before very many bytes had gone."""
    with contextlib.suppress(ConnectionError):
        sock.sendall(start)
        block = part * (1 + 65536 // len(part))
        for _ in range(ENOUGH_BYTES // len(block)):
            sock.sendall(block)
        return b"", False
    return everything(sock), True


def trickle(sock: socket.socket, part: bytes, limit_s: float = 10) -> bool:
    """Send `part` now and then: whether an end came in time."""
    started = time.monotonic()
    with contextlib.suppress(ConnectionError):
        while time.monotonic() < started + limit_s:
            sock.sendall(part)
            time.sleep(SLOW_S / 5)
    return time.monotonic() - started < limit_s


@pytest.mark.parametrize(
    ("start", "part"),
    [
        (b"GET /", b"a"),
        (b"GET /healthz HTTP/1.1\r\nX: ", b"a"),
        (b"GET /healthz HTTP/1.1\r\n", b"X: a\r\n"),
        (b"GET /healthz HTTP/1.1\r\n", b"a"),
        (b"", b"\r\n"),
        (CHUNKED, b"1;" + b"x" * 50 + b"\r\na\r\n"),
        (CHUNKED + b"1;", b"x"),
        (CHUNKED + b"1\r\na\r\n0\r\n", b"X: a\r\n"),
        (CHUNKED + b"1\r\na\r\n0\r\nX: ", b"a"),
    ],
    ids=["path", "value", "lines", "name", "nothing", "extensions", "one extension", "trailers", "one trailer"],
)
def test_without_end(sock: socket.socket, start: bytes, part: bytes) -> None:
    _, ended = pour(sock, start, part)
    assert ended


def test_very_many_requests_before_their_turn(sock: socket.socket) -> None:
    """Some are answered; the rest is not kept."""
    request = HEALTH + b"\r\n"
    with contextlib.suppress(ConnectionError):
        sock.sendall(request * 100_000)
    said = everything(sock)
    assert said.count(b"HTTP/1.1 200 ") < 1000


def test_some_requests_before_their_turn(sock: socket.socket, bundle: Bundle) -> None:
    body = frame_of(bundle, 7).to_bytes()
    post = b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    sock.sendall(post * 5 + HEALTH + b"Connection: close\r\n\r\n")
    answers = everything(sock).split(b"HTTP/1.1 200 OK")[1:]
    assert len(answers) == 6
    for answer in answers[:5]:
        assert parse_answer(answer.partition(b"\r\n\r\n")[2]).sequence == 7


def test_a_large_header_in_one_piece(sock: socket.socket) -> None:
    sock.sendall(HEALTH + b"X: a\r\n" * 10_000 + b"\r\n")
    assert everything(sock).startswith(b"HTTP/1.1 400 ")


def test_a_body_in_chunks(sock: socket.socket, bundle: Bundle) -> None:
    """As small as one byte, and slower than a header may be."""
    body = frame_of(bundle, 9).to_bytes()
    sock.sendall(CHUNKED)
    for byte in body[:3]:
        sock.sendall(b"1\r\n" + bytes([byte]) + b"\r\n")
        time.sleep(0.05)
    sock.sendall(b"%x\r\n%s\r\n0\r\nX: trailer\r\n\r\n" % (len(body) - 3, body[3:]))
    head, _, rest = sock.recv(65536).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert parse_answer(rest or sock.recv(65536)).sequence == 9


def test_a_body_that_nobody_waits_for(sock: socket.socket) -> None:
    """It was answered, and the connection would stay open as long as a byte comes now and then."""
    sock.sendall(b"POST /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\nx")
    assert b" 405 " in sock.recv(65536)
    assert trickle(sock, b"x")


def test_line_ends_between_requests(sock: socket.socket) -> None:
    """They end the time that a connection may say nothing, and begin that of a header."""
    sock.sendall(HEALTH + b"\r\n")
    assert b" 200 " in sock.recv(65536)
    assert trickle(sock, b"\r\n")


def test_no_http(sock: socket.socket) -> None:
    sock.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500))
    assert everything(sock).startswith(b"HTTP/1.1 400 ")


def test_a_burst_of_frames_is_answered_within_the_limit_of_those_in_flight(bundle: Bundle) -> None:
    with serving(bundle.path, "--max-in-flight", 3) as process, process.stream(bundle) as stream:
        for burst in range(3):
            numbers = range(100 * burst, 100 * burst + 100)
            for sequence in numbers:
                stream.send(frame_of(bundle, sequence).to_stream_bytes())
            answers = [parse_answer(stream.recv(timeout=30)) for _ in numbers]
            assert sorted(each.sequence for each in answers) == list(numbers)
            assert len({each.top for each in answers}) == 1


def test_one_stream_that_is_refused_without_end_does_not_keep_others_waiting(bundle: Bundle) -> None:
    with serving(bundle.path) as process, process.stream(bundle) as stream:
        stop = threading.Event()

        def pour() -> None:
            block = masked(b"") * 10_000
            stream.socket.settimeout(0.2)
            while not stop.is_set():
                with contextlib.suppress(TimeoutError):
                    stream.socket.sendall(block)

        def swallow() -> None:
            with contextlib.suppress(ConnectionClosed):
                while not stop.is_set():
                    stream.recv()

        threads = [threading.Thread(target=work, daemon=True) for work in (pour, swallow)]
        for thread in threads:
            thread.start()
        try:
            time.sleep(0.5)
            for _ in range(3):
                with socket.create_connection(("127.0.0.1", process.port), timeout=30) as another:
                    started = time.monotonic()
                    another.sendall(HEALTH + b"Connection: close\r\n\r\n")
                    assert b" 200 " in everything(another)
                    assert time.monotonic() - started < 10  # it was a minute
        finally:
            stop.set()


@pytest.mark.slow
def test_who_takes_no_answers_keeps_none_of_the_others_waiting(bundle: Bundle) -> None:
    with serving(bundle.path) as process, process.stream(bundle) as stream, process.stream(bundle) as deaf:
        message = frame_of(bundle, 1).to_stream_bytes()
        deaf.socket.settimeout(1)
        with contextlib.suppress(OSError):  # until the server reads no more
            while True:
                deaf.socket.sendall(masked(message) * 100)
        stream.send(frame_of(bundle, 2).to_stream_bytes())
        assert parse_answer(stream.recv(timeout=30)).sequence == 2


def masked(message: bytes) -> bytes:
    """As a client's WebSocket frame, with a mask of zeros."""
    length = bytes((0x80 | len(message),)) if len(message) < 126 else b"\xfe" + len(message).to_bytes(2, "big")
    return b"\x82" + length + bytes(4) + message


UPGRADE = (
    b"GET /v1/stream HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
)


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (UPGRADE + b"Content-Length: 5\r\n\r\n", "malformed"),
        (UPGRADE + b"Transfer-Encoding: chunked\r\n\r\n", "malformed"),
        (UPGRADE + b"X: y\r\n" * 130 + b"\r\n", "malformed"),
        (UPGRADE + b"X: " + b"y" * 9000 + b"\r\n\r\n", "malformed"),
        (UPGRADE.replace(b"Version: 13", b"Version: 12") + b"\r\n", "malformed"),
        (b"no http\r\n\r\n", "malformed"),
        (HEALTH, "slow"),
    ],
    ids=["length", "chunked", "lines", "long line", "version", "no http", "slow"],
)
def test_what_is_refused_before_the_application_is_answered_and_counted(
    process: Process, start: bytes, kind: str
) -> None:
    """An upgrade that only the WebSocket's parser refuses had no answer, no end and no metric."""

    def count() -> float:
        text = httpx.get(f"{process.http_url}/metrics").text
        found = re.search(rf'bottlenet_errors_total{{kind="{kind}",via="connection"}} (\S+)', text)
        return float(found[1]) if found else 0.0

    before = count()
    with socket.create_connection(("127.0.0.1", process.port), timeout=300) as sock:
        sock.sendall(start)
        assert everything(sock).startswith(b"HTTP/1.1 4")
    assert count() == before + 1


def test_an_upgrade_that_is_none_does_not_disturb_the_end(bundle: Bundle) -> None:
    with serving(bundle.path) as process, socket.create_connection(("127.0.0.1", process.port), timeout=300) as sock:
        sock.sendall(UPGRADE + b"Content-Length: 5\r\n\r\n")
        assert everything(sock).startswith(b"HTTP/1.1 400 ")
        assert process.end(signal.SIGTERM) == (0, "")
