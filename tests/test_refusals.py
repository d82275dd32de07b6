"""Whoever should not be served is refused, by kind; and who should be is served meanwhile, which each test looks at.

The others come from an address of their own, where there is one: 127.0.0.2.
"""

from __future__ import annotations

import contextlib
import re
import resource
import select
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

import httpx
import pytest

from bottlenet.bundle import Bundle
from bottlenet.cloud.admission import Addresses, origin
from bottlenet.wire.answer import parse_answer
from conftest import until
from processes import Process, close_code, everything, frame_of, open_stream, serving

TOKEN = "camera-1-0123456789abcdef"
WRONG = "camera-2-0123456789abcdef"
HOLDER = {"Authorization": f"Bearer {TOKEN}"}
PER_ADDRESS = 20
SLOW_S = 0.5
MANY = 10_000
ELSEWHERE = pytest.mark.skipif(sys.platform != "linux", reason="needs a second loopback address, as Linux has")


class Served:
    """Who has a token: frame after frame on one stream, each with its answer, as long as a block lasts."""

    def __init__(self, process: Process, bundle: Bundle) -> None:
        self._process, self._bundle = process, bundle
        self._thread = threading.Thread(target=self._run)
        self._ended = threading.Event()
        self._error: BaseException | None = None
        self.slowest_s = 0.0
        self.answers = 0

    def __enter__(self) -> Served:
        self._thread.start()
        self.goes_on()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.goes_on()
        finally:
            self._ended.set()
            self._thread.join(60)
        assert self._error is None, repr(self._error)
        assert self.slowest_s < 10

    def goes_on(self) -> None:
        """It gets five more answers, and can open another stream."""
        before = self.answers
        until(lambda: self.answers >= before + 5 or self._error is not None, "is not served any more")
        with self._process.stream(self._bundle, TOKEN) as stream:
            stream.send(frame_of(self._bundle, 77).to_stream_bytes())
            assert parse_answer(stream.recv(timeout=30)).sequence == 77

    def _run(self) -> None:
        try:
            with self._process.stream(self._bundle, TOKEN) as stream:
                while not self._ended.is_set():
                    started, number = time.monotonic(), self.answers % 65536
                    stream.send(frame_of(self._bundle, number).to_stream_bytes())
                    assert parse_answer(stream.recv(timeout=30)).sequence == number
                    self.slowest_s = max(self.slowest_s, time.monotonic() - started)
                    self.answers += 1
                    time.sleep(0.01)
        except BaseException as error:
            self._error = error


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokens") / "tokens.txt"
    path.write_text(f"{TOKEN}\n")
    return path


@pytest.fixture(scope="module")
def process(bundle: Bundle, tokens: Path) -> Iterator[Process]:
    limits = ("--first-byte-s", SLOW_S, "--request-s", SLOW_S, "--max-payload-bytes", 1000)
    with serving(bundle.path, "--tokens", tokens, *limits, "--max-per-address", PER_ADDRESS) as process:
        yield process


def refusals(process: Process) -> Counter[str]:
    """As the server counts them: "way kind" -> how many."""
    text = httpx.get(f"{process.http_url}/metrics", headers=HOLDER).text
    found = re.findall(r'^bottlenet_errors_total\{kind="(\w+)",via="(\w+)"\} ([0-9.]+)$', text, re.MULTILINE)
    return Counter({f"{via} {kind}": int(float(count)) for kind, via, count in found})


def elsewhere(process: Process) -> socket.socket:
    """A connection from another address."""
    return socket.create_connection(("127.0.0.1", process.port), 30, source_address=("127.0.0.2", 0))


def post(process: Process, body: bytes, headers: dict[str, str]) -> int:
    return httpx.post(f"{process.http_url}/v1/classify", content=body, headers=headers, timeout=30).status_code


def stream_ends(process: Process, url_id: str, token: str, *messages: bytes) -> int | None:
    return close_code(open_stream(process.url, url_id, token), *messages)


@dataclass(frozen=True)
class Case:
    """What somebody does, what he is told, and what the server counts."""

    act: Callable[[Process, Bundle], int | None]
    told: int
    counted: str


LARGE = b"\x12" * 5000
CASES = {
    "a wrong token, HTTP": Case(
        lambda process, bundle: post(process, frame_of(bundle).to_bytes(), {"Authorization": f"Bearer {WRONG}"}),
        401,
        "http unauthorized",
    ),
    "a wrong token, stream": Case(
        lambda process, bundle: stream_ends(process, bundle.id.hex(), WRONG), 4401, "stream unauthorized"
    ),
    "another bundle, HTTP": Case(
        lambda process, bundle: post(process, other_tag(bundle), HOLDER), 404, "http unknown_bundle"
    ),
    "another bundle, stream": Case(
        lambda process, bundle: stream_ends(process, "ab" * 32, TOKEN), 4404, "stream unknown_bundle"
    ),
    "a large body": Case(lambda process, bundle: post(process, LARGE, HOLDER), 413, "http too_large"),
    "a large message": Case(
        lambda process, bundle: stream_ends(process, bundle.id.hex(), TOKEN, LARGE), 1009, "stream too_large"
    ),
}


def other_tag(bundle: Bundle) -> bytes:
    return replace(frame_of(bundle), bundle_tag=b"xyz").to_bytes()


@pytest.mark.parametrize("name", CASES)
def test_what_is_wrong_with_a_request(name: str, process: Process, bundle: Bundle) -> None:
    case, before = CASES[name], refusals(process)
    with Served(process, bundle):
        assert [case.act(process, bundle) for _ in range(5)] == [case.told] * 5
    assert refusals(process) - before == Counter({case.counted: 5})


HEADER = b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\n"
AUTHORIZED = HEADER + f"Authorization: Bearer {TOKEN}\r\n".encode()
UPGRADE = (
    "GET /v1/stream?bundle={} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Authorization: Bearer {}\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


@ELSEWHERE
class TestSlow:
    """Bytes that come one by one keep nothing open longer than the whole may take."""

    @pytest.mark.parametrize(
        ("start", "rest", "told"),
        [
            (b"", b"GET /healthz HTTP/1.1\r\nX-" + b"a" * 1000, b" 408 "),
            (AUTHORIZED + b"Content-Length: 900\r\n\r\n", b"x" * 900, b" 408 "),
            (HEADER + b"Content-Length: 900\r\n\r\n", b"x" * 900, b" 401 "),
        ],
        ids=["header", "body", "body without a token"],
    )
    def test_dribbling(self, start: bytes, rest: bytes, told: bytes, process: Process, bundle: Bundle) -> None:
        with Served(process, bundle), contextlib.ExitStack() as stack:
            socks = [stack.enter_context(elsewhere(process)) for _ in range(PER_ADDRESS)]
            for sock in socks:
                sock.sendall(start)
            started, left = time.monotonic(), dict.fromkeys(socks, b"")
            for byte in rest:
                for sock in list(left):
                    with contextlib.suppress(OSError):  # closed
                        sock.sendall(bytes([byte]))
                for sock in select.select(list(left), [], [], 0.05)[0]:
                    with contextlib.suppress(ConnectionError):
                        left[sock] = sock.recv(65536)
                    assert told in left.pop(sock)
                if not left:
                    break
            assert not left, f"{len(left)} are open still"
            assert time.monotonic() - started < 10 * SLOW_S
            assert everything(elsewhere_after(process, stack)).startswith(b"HTTP/1.1 408")  # not: too many

    def test_half_open(self, process: Process, bundle: Bundle) -> None:
        """Whose other end has said that nothing more will come."""
        beginnings = (
            b"",
            b"GET /hea",
            AUTHORIZED + b"Content-Length: 9\r\n\r\nx",
            UPGRADE.format("ab" * 32, WRONG).encode(),
        )
        with Served(process, bundle):
            for _ in range(3):
                with contextlib.ExitStack() as stack:
                    socks = [stack.enter_context(elsewhere(process)) for _ in range(PER_ADDRESS)]
                    for number, sock in enumerate(socks):
                        sock.sendall(beginnings[number % len(beginnings)])
                        sock.shutdown(socket.SHUT_WR)
                    for sock in socks:
                        assert b" 503 " not in everything(sock)  # which ends: none is left open


def elsewhere_after(process: Process, stack: contextlib.ExitStack) -> socket.socket:
    """Another connection, once those before are gone."""
    sock = stack.enter_context(elsewhere(process))
    sock.sendall(b"GET /hea")
    return sock


@ELSEWHERE
class TestAddress:
    def test_one_address_can_not_fill_the_server(self, process: Process, bundle: Bundle) -> None:
        before = refusals(process)
        with Served(process, bundle), contextlib.ExitStack() as stack:
            for _ in range(PER_ADDRESS):
                stack.enter_context(elsewhere(process))
            for _ in range(5):
                with elsewhere(process) as sock:
                    sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
                    text = everything(sock)
                assert text.startswith(b"HTTP/1.1 503 ")
                assert b"\r\nRetry-After: 1\r\n" in text
                assert text.endswith(
                    b'{"error": "too many connections of this address that have shown no token; try again in 1 s"}'
                )
            assert (refusals(process) - before)["connection address"] == 5
        until(lambda: is_healthy(process), "places are not given back")

    def test_who_has_shown_a_token_does_not_count(self, process: Process, bundle: Bundle) -> None:
        with contextlib.ExitStack() as stack:
            for number in range(3 * PER_ADDRESS):
                stream = stack.enter_context(process.stream(bundle, TOKEN))
                stream.send(frame_of(bundle, number).to_stream_bytes())
                assert parse_answer(stream.recv(timeout=30)).sequence == number
            kept = stack.enter_context(httpx.Client(headers=HOLDER))
            for _ in range(2):
                assert kept.get(f"{process.http_url}/v1/bundles").status_code == 200

    def test_without_tokens_all_count(self, bundle: Bundle) -> None:
        with serving(bundle.path, "--max-per-address", 3) as process, contextlib.ExitStack() as stack:
            for _ in range(3):
                stack.enter_context(process.stream(bundle))
            assert httpx.get(f"{process.http_url}/healthz").status_code == 503
            with elsewhere(process) as sock:
                sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                assert everything(sock).startswith(b"HTTP/1.1 200 ")
            stack.close()
            until(lambda: httpx.get(f"{process.http_url}/healthz").status_code == 200, "places are not given back")


def is_healthy(process: Process) -> bool:
    with elsewhere(process) as sock:
        sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        return everything(sock).startswith(b"HTTP/1.1 200 ")


@pytest.fixture
def most_files() -> Iterator[int]:
    """As many as this process may have open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield hard if hard != resource.RLIM_INFINITY else 2**20
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.slow
def test_thousands_of_connections(bundle: Bundle, tokens: Path, most_files: int) -> None:
    """More than there is room for, and none of them says anything."""
    count = min(MANY, most_files - 500)
    if count < 2000:
        pytest.skip(f"needs 2,500 open files, and the system allows {most_files}")
    room = count // 2
    options = ("--max-connections", room, "--max-per-address", room, "--first-byte-s", 120, "--tokens", tokens)
    with (
        serving(bundle.path, *options) as process,
        process.stream(bundle, TOKEN) as stream,
        contextlib.ExitStack() as stack,
    ):
        poll = select.poll()
        slowest_s = 0.0
        for number in range(count):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", process.port), 30))
            poll.register(sock, select.POLLIN)
            if number % (count // 50) == 0:
                started = time.monotonic()
                stream.send(frame_of(bundle, 5).to_stream_bytes())
                assert parse_answer(stream.recv(timeout=30)).sequence == 5
                slowest_s = max(slowest_s, time.monotonic() - started)
        assert slowest_s < 10
        turned_away = count - (room - 1)  # the stream has its place
        ended: set[int] = set()

        def all_ended() -> bool:
            ended.update(file for file, _ in poll.poll(0))
            return len(ended) >= turned_away

        until(all_ended, "those without a place are not closed")
        assert len(ended) == turned_away
        stack.close()
        until(lambda: is_served(process), "no place is given back")
        assert refusals(process)["connection connections"] >= turned_away


def is_served(process: Process) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"{process.http_url}/healthz").status_code == 200
    return False


def test_places() -> None:
    addresses = Addresses(2)
    first, second = addresses.take("192.0.2.1"), addresses.take("::ffff:192.0.2.1")
    assert first is not None
    assert second is not None
    assert addresses.take("192.0.2.1") is None
    assert addresses.take("192.0.2.2") is not None
    first()
    first()  # once only
    assert addresses.take("192.0.2.1") is not None
    assert addresses.take("192.0.2.1") is None


@pytest.mark.parametrize(
    ("host", "whose"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_whose_an_address_is(host: str, whose: str) -> None:
    assert origin(host) == whose
