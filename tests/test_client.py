from __future__ import annotations

import contextlib
import errno
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from starlette.applications import Starlette
from websockets.sync.server import ServerConnection
from websockets.sync.server import serve as websocket_server

from bottlenet.bundle import Bundle
from bottlenet.cloud import create_app
from bottlenet.edge import Edge, open_websocket
from bottlenet.edge.sockets import CountingSocket, open_socket
from bottlenet.errors import BottleNetError, BundleError, FrameError, InputError, LinkError, PhotoError, WireError
from bottlenet.wire.answer import MAX_ANSWER_BYTES, Answer, refusal_bytes
from bottlenet.wire.frame import parse_frame, parse_stream_frame
from conftest import CLASSES, LABELS, AsgiTransport, MakeBundle, Server

Handler = Callable[[ServerConnection], None]
ANSWER = Answer(0, 1200, 3400, ((3, 0.5), (1, 0.25)))


@pytest.fixture(scope="module")
def server(bundle: Bundle) -> Iterator[Server]:
    """Serves the tiny bundle."""
    server = Server(create_app([bundle]))
    yield server
    server.stop()


@pytest.fixture
def fake_server() -> Iterator[Callable[[Handler], str]]:
    """`fake_server(handler)`: a WebSocket server that does what the handler says; gives its URL."""
    stops: list[Callable[[], None]] = []

    def start(handler: Handler) -> str:
        server = websocket_server(handler, "127.0.0.1", 0)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        stops.extend([server.shutdown, thread.join])
        return f"ws://127.0.0.1:{server.socket.getsockname()[1]}"

    yield start
    for stop in stops:
        stop()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A TCP port that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


def url_of(sock: socket.socket) -> str:
    return f"ws://127.0.0.1:{sock.getsockname()[1]}"


def failure(edge: Edge, photo: np.ndarray, kind: type[BottleNetError]) -> str:
    with edge, pytest.raises(kind) as error:
        edge.classify(photo)
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 400
    return text


class ScriptedTransport:
    """Gives the answers it was made with, and remembers what it was sent."""

    def __init__(self, *replies: bytes | Exception) -> None:
        self.replies = list(replies)
        self.sent: list[bytes] = []
        self.sent_bytes = 100
        self.received_bytes = 200
        self.closed = False

    def send(self, message: bytes) -> None:
        self.sent.append(message)
        self.sent_bytes += len(message) + 6

    def receive(self, timeout_s: float) -> bytes:
        reply = self.replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        self.received_bytes += len(reply) + 2
        return reply

    def close(self) -> None:
        self.closed = True


class TestPrediction:
    def test_without_a_network(
        self, bundle: Bundle, photo: np.ndarray, asgi_connect: Callable[[Starlette], Callable[..., AsgiTransport]]
    ) -> None:
        with Edge(bundle, "ws://anywhere", connect=asgi_connect(create_app([bundle]))) as edge:
            first, second = edge.classify(photo), edge.classify(photo)
        assert first.label == LABELS[first.class_index]
        assert first.top == second.top
        assert first.top[0].class_index == first.class_index
        assert len(first.top) == 5
        assert sum(choice.score for choice in first.top) <= 1.001
        assert first.payload_bytes + 4 == first.frame_bytes == first.socket_bytes

    def test_fields_come_from_the_answer_and_the_counters(self, bundle: Bundle, photo: np.ndarray) -> None:
        transport = ScriptedTransport(ANSWER.to_bytes())
        asked: list[tuple[str, float]] = []

        def connect(url: str, timeout_s: float) -> ScriptedTransport:
            asked.append((url, timeout_s))
            return transport

        edge = Edge(bundle, "ws://server:8000/", connect=connect, timeout_s=3)
        prediction = edge.classify(photo)
        assert asked == [(f"ws://server:8000/v1/stream?bundle={bundle.id.hex()}", 3)]
        assert (prediction.label, prediction.class_index) == ("class 3", 3)
        assert [(choice.label, round(choice.score, 3)) for choice in prediction.top] == [
            ("class 3", 0.5),
            ("class 1", 0.25),
        ]
        frame = parse_stream_frame(transport.sent[0], bundle_tag=bundle.tag)
        assert prediction.payload_bytes == len(frame.payload)
        assert prediction.frame_bytes == len(transport.sent[0])
        assert prediction.socket_bytes == 100 + len(transport.sent[0]) + 6  # opening included: the first photo
        assert prediction.received_bytes == 200 + len(ANSWER.to_bytes()) + 2
        assert (prediction.times.decode_ms, prediction.times.tail_ms) == (1.2, 3.4)
        assert min(prediction.times.prepare_ms, prediction.times.head_ms, prediction.times.round_trip_ms) > 0

    def test_encode_is_a_frame_of_its_own(self, bundle: Bundle, photo: np.ndarray) -> None:
        edge = Edge(bundle, "ws://nobody.invalid")  # needs no server
        frame = parse_frame(edge.encode(photo), bundle_tag=bundle.tag)
        np.testing.assert_array_equal(bundle.codec.decode(frame.payload).shape, bundle.manifest.latent)

    def test_a_path_to_the_bundle_will_do(self, bundle: Bundle) -> None:
        assert Edge(str(bundle.path), "ws://x").bundle.id == bundle.id
        with pytest.raises(BundleError, match="no such folder"):
            Edge("nowhere", "ws://x")


class TestRealServer:
    def test_bytes_are_what_websocket_takes(self, bundle: Bundle, photo: np.ndarray, server: Server) -> None:
        with Edge(bundle, server.url) as edge:
            edge.connect()
            for _ in range(3):
                prediction = edge.classify(photo)
                assert prediction.frame_bytes < 126
                assert prediction.socket_bytes == 2 + 4 + prediction.frame_bytes  # header, mask
                assert prediction.received_bytes == 2 + 14 + 4 * 5

    def test_large_frames_are_counted_too(
        self, make_bundle: MakeBundle, photo: np.ndarray, serve: Callable[[Starlette], Server]
    ) -> None:
        bundle = make_bundle(codec="raw", setting=0)
        with Edge(bundle, serve(create_app([bundle])).url) as edge:
            edge.connect()
            assert edge.classify(photo).socket_bytes == 4 + 4 + 4 + 256

    def test_the_same_answer_by_post(self, bundle: Bundle, photo: np.ndarray, server: Server) -> None:
        import httpx

        from bottlenet.wire.answer import parse_answer

        with Edge(bundle, server.url) as edge:
            answer = parse_answer(httpx.post(f"{server.http_url}/v1/classify", content=edge.encode(photo)).content)
            assert [index for index, _ in answer.top] == [choice.class_index for choice in edge.classify(photo).top]

    def test_several_threads_share_an_edge(self, bundle: Bundle, photo: np.ndarray, server: Server) -> None:
        photos = [np.roll(photo, 10 * number, axis=1) for number in range(8)]
        with Edge(bundle, server.url) as edge:
            alone = [edge.classify(one).top for one in photos]
            results: dict[int, object] = {}

            def classify(number: int) -> None:
                results[number] = edge.classify(photos[number]).top

            threads = [threading.Thread(target=classify, args=(number,)) for number in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(10)
        assert [results[number] for number in range(8)] == alone

    def test_another_bundle(self, bundle: Bundle, make_bundle: MakeBundle, photo: np.ndarray, server: Server) -> None:
        text = failure(Edge(make_bundle(name="another"), server.url), photo, FrameError)
        assert "does not serve this bundle" in text
        assert f"{bundle.id.hex()[:12]} (tiny)" in text

    def test_a_photo_that_can_not_be_used_does_not_hurt(
        self, bundle: Bundle, photo: np.ndarray, server: Server
    ) -> None:
        with Edge(bundle, server.url) as edge:
            with pytest.raises(PhotoError):
                edge.classify(b"no photo")
            edge.classify(photo)

    def test_a_restarted_server_is_found_again(
        self, bundle: Bundle, photo: np.ndarray, serve: Callable[[Starlette], Server]
    ) -> None:
        server = serve(create_app([bundle]))
        edge = Edge(bundle, server.url)
        edge.classify(photo)
        server.stop()
        with pytest.raises(LinkError, match="can't connect"):
            edge.classify(photo)
        edge.url = edge.url.replace(server.url, serve(create_app([bundle])).url)
        with edge:
            assert edge.classify(photo).label
        assert edge.classify(photo).label  # close() is not for ever
        edge.close()
        edge.close()

    def test_a_server_process_that_is_killed(self, bundle: Bundle, photo: np.ndarray) -> None:
        with socket.create_server(("127.0.0.1", 0)) as sock:
            port = sock.getsockname()[1]
        code = (
            "import sys, uvicorn; from bottlenet.bundle import Bundle; from bottlenet.cloud import create_app;"
            "uvicorn.run(create_app([Bundle.load(sys.argv[1])]), port=int(sys.argv[2]), log_level='error')"
        )
        process = subprocess.Popen([sys.executable, "-c", code, str(bundle.path), str(port)])
        try:
            with Edge(bundle, f"ws://127.0.0.1:{port}", timeout_s=5) as edge:
                deadline = time.monotonic() + 15
                while True:
                    try:
                        edge.connect()
                        break
                    except LinkError:
                        assert time.monotonic() < deadline
                        time.sleep(0.05)
                edge.classify(photo)
                process.kill()
                process.wait()
                started = time.monotonic()
                with pytest.raises(LinkError):
                    edge.classify(photo)
                assert time.monotonic() - started < 2
        finally:
            process.kill()
            process.wait()


class TestLink:
    def test_nobody_is_there(self, bundle: Bundle, photo: np.ndarray) -> None:
        with socket.create_server(("127.0.0.1", 0)) as sock:
            url = url_of(sock)
        text = failure(Edge(bundle, url), photo, LinkError)
        assert url in text
        assert "connection refused" in text

    def test_no_such_host(self, bundle: Bundle, photo: np.ndarray) -> None:
        text = failure(Edge(bundle, "ws://no-such-host.invalid:8000"), photo, LinkError)
        assert "can't connect to ws://no-such-host.invalid:8000" in text
        assert "is the name right" in text

    def test_it_takes_the_connection_and_says_nothing(
        self, bundle: Bundle, photo: np.ndarray, listener: socket.socket
    ) -> None:
        started = time.monotonic()
        assert "took too long" in failure(Edge(bundle, url_of(listener), timeout_s=0.2), photo, LinkError)
        assert time.monotonic() - started < 2

    def test_it_is_no_websocket_server(self, bundle: Bundle, photo: np.ndarray, listener: socket.socket) -> None:
        def talk() -> None:
            with listener.accept()[0] as sock:
                sock.recv(4096)
                sock.sendall(b"220 mail.example.com ESMTP\r\n")

        thread = threading.Thread(target=talk)
        thread.start()
        assert "is the server running there?" in failure(Edge(bundle, url_of(listener)), photo, LinkError)
        thread.join(30)

    def test_it_is_another_web_server(self, bundle: Bundle, photo: np.ndarray, server: Server) -> None:
        text = failure(Edge(bundle, f"{server.url}/elsewhere"), photo, LinkError)
        assert "HTTP status 4" in text

    def test_no_answer_in_time_and_the_late_one_is_not_taken_for_another(
        self, bundle: Bundle, photo: np.ndarray, fake_server: Callable[[Handler], str]
    ) -> None:
        connections: list[ServerConnection] = []
        late = threading.Event()

        def handler(connection: ServerConnection) -> None:
            connections.append(connection)
            message = connection.recv()
            assert isinstance(message, bytes)
            if len(connections) == 1:
                late.wait(5)
            sequence = int.from_bytes(message[2:4], "big")
            connection.send(Answer(sequence, 1, 1, ((len(connections), 1.0),)).to_bytes())

        with Edge(bundle, fake_server(handler), timeout_s=0.3) as edge:
            with pytest.raises(LinkError, match=r"no answer from ws://127.* within 0.3 s"):
                edge.classify(photo)
            late.set()
            assert edge.classify(photo).class_index == 2
        assert len(connections) == 2

    def test_it_dies_in_the_middle(
        self, bundle: Bundle, photo: np.ndarray, fake_server: Callable[[Handler], str]
    ) -> None:
        def handler(connection: ServerConnection) -> None:
            connection.recv()
            connection.socket.shutdown(socket.SHUT_RDWR)

        text = failure(Edge(bundle, fake_server(handler)), photo, LinkError)
        assert "closed the connection (without a word)" in text

    @pytest.mark.parametrize(
        ("code", "reason", "kind", "says"),
        [
            (1001, "going away", LinkError, "(1001 going away)"),
            (4000, "a\nb\x1b[31m", LinkError, "(4000 a b [31m)"),
            (1009, "", FrameError, "takes no frame as large"),
            (4404, "served: abc (other)", FrameError, "served: abc (other)"),
        ],
    )
    def test_it_closes(
        self,
        bundle: Bundle,
        photo: np.ndarray,
        fake_server: Callable[[Handler], str],
        code: int,
        reason: str,
        kind: type[BottleNetError],
        says: str,
    ) -> None:
        url = fake_server(lambda connection: connection.close(code, reason))
        assert says in failure(Edge(bundle, url), photo, kind)

    @pytest.mark.parametrize("message", ["text", b"x" * (MAX_ANSWER_BYTES + 1)])
    def test_it_sends_what_no_server_of_ours_would(
        self, bundle: Bundle, photo: np.ndarray, fake_server: Callable[[Handler], str], message: str | bytes
    ) -> None:
        def handler(connection: ServerConnection) -> None:
            connection.recv()
            connection.send(message)
            time.sleep(0.1)

        assert "is it a BottleNet server?" in failure(Edge(bundle, fake_server(handler), timeout_s=2), photo, LinkError)

    @pytest.mark.parametrize(
        "url", ["", "server:8000", "http://server", "ws://", "ws://server:99999", "ws://:80", "ws://me:pw@server", None]
    )
    def test_url(self, bundle: Bundle, url: str) -> None:
        with pytest.raises(InputError, match="give ws://host:port, or wss://"):
            Edge(bundle, url)

    def test_the_query_of_the_url_is_kept(self, bundle: Bundle) -> None:
        edge = Edge(bundle, "wss://server/base/?token=a")
        assert edge.url == f"wss://server/base/v1/stream?token=a&bundle={bundle.id.hex()}"

    @pytest.mark.parametrize("timeout_s", [0, -1, 1e9, float("nan"), float("inf")])
    def test_timeout(self, bundle: Bundle, timeout_s: float) -> None:
        with pytest.raises(InputError, match="timeout_s is .*; give seconds, above 0 and below 1,000,000"):
            Edge(bundle, "ws://x", timeout_s=timeout_s)


class TestAnswers:
    """What an answer may say that makes no sense, through a transport that says it."""

    @pytest.mark.parametrize(
        ("reply", "says"),
        [
            (b"", "no answer"),
            (b"\x10" * 40, "answer"),
            (Answer(7, 1, 1, ((3, 0.5),)).to_bytes(), "answered frame 7, which was not sent"),
            (Answer(0, 1, 1, ()).to_bytes(), f"{CLASSES} classes"),
            (Answer(0, 1, 1, ((CLASSES, 0.5),)).to_bytes(), f"{CLASSES} classes"),
        ],
    )
    def test_nonsense_ends_the_connection(self, bundle: Bundle, photo: np.ndarray, reply: bytes, says: str) -> None:
        transport = ScriptedTransport(reply)
        edge = Edge(bundle, "ws://x", connect=lambda url, timeout_s: transport)
        with pytest.raises(WireError, match=says):
            edge.classify(photo)
        assert transport.closed

    def test_a_refusal_does_not(self, bundle: Bundle, photo: np.ndarray) -> None:
        transport = ScriptedTransport(refusal_bytes(0, "too busy"), Answer(1, 1, 1, ((3, 0.5),)).to_bytes())
        edge = Edge(bundle, "ws://x", connect=lambda url, timeout_s: transport)
        with pytest.raises(FrameError, match="too busy"):
            edge.classify(photo)
        assert not transport.closed
        assert edge.classify(photo).class_index == 3
        assert len(transport.sent) == 2

    def test_sequence_numbers_start_again_after_65535(self, bundle: Bundle, photo: np.ndarray) -> None:
        transport = ScriptedTransport(*(Answer(sequence, 1, 1, ((3, 0.5),)).to_bytes() for sequence in (65535, 0)))
        edge = Edge(bundle, "ws://x", connect=lambda url, timeout_s: transport)
        edge._stream._next = 65535
        edge.classify(photo)
        edge.classify(photo)

    def test_interrupted(self, bundle: Bundle, photo: np.ndarray) -> None:
        class Interrupted(ScriptedTransport):
            def receive(self, timeout_s: float) -> bytes:
                raise KeyboardInterrupt

        transport = Interrupted()
        edge = Edge(bundle, "ws://x", connect=lambda url, timeout_s: transport)
        with pytest.raises(KeyboardInterrupt):
            edge.classify(photo)
        assert transport.closed


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(key), "-out", str(cert), "-days", "2", "-subj", "/CN=localhost"]
    subprocess.run([*command, "-addext", "subjectAltName=DNS:localhost"], check=True, capture_output=True)
    return cert, key


@pytest.fixture(scope="module")
def tls_server(bundle: Bundle, certificate: tuple[Path, Path]) -> Iterator[Server]:
    cert, key = certificate
    server = Server(create_app([bundle]), ssl_certfile=str(cert), ssl_keyfile=str(key))
    yield server
    server.stop()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificate with openssl")
class TestTls:
    def test_works_and_counts_what_is_encrypted(
        self, bundle: Bundle, photo: np.ndarray, tls_server: Server, certificate: tuple[Path, Path]
    ) -> None:
        connect = partial(open_websocket, tls=ssl.create_default_context(cafile=str(certificate[0])))
        with Edge(bundle, f"wss://localhost:{tls_server.port}", connect=connect) as edge:
            edge.connect()
            for _ in range(3):
                prediction = edge.classify(photo)
                # TLS 1.3: 5 bytes of header, 1 of type and 16 of tag for each record
                assert prediction.socket_bytes == 22 + 6 + prediction.frame_bytes

    def test_a_certificate_nobody_signed(self, bundle: Bundle, photo: np.ndarray, tls_server: Server) -> None:
        edge = Edge(bundle, f"wss://localhost:{tls_server.port}")
        assert "give the certificate that it should show: --ca FILE" in failure(edge, photo, LinkError)

    def test_no_tls_there(self, bundle: Bundle, photo: np.ndarray, server: Server) -> None:
        edge = Edge(bundle, f"wss://localhost:{server.port}", timeout_s=2)
        text = failure(edge, photo, LinkError)
        assert "can't connect" in text
        assert "does it speak TLS? Without, its address begins with ws://" in text

    def test_tls_there_and_not_asked_for(self, bundle: Bundle, photo: np.ndarray, tls_server: Server) -> None:
        text = failure(Edge(bundle, f"ws://localhost:{tls_server.port}", timeout_s=5), photo, LinkError)
        assert "If it speaks TLS, its address begins with wss://" in text


class Refuser:
    """Answers every connection with the same bytes, one after the other where `every_s` says so, and closes it."""

    def __init__(self, data: bytes, every_s: float = 0.0) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._data, self._every_s = data, every_s
        self._ended = threading.Event()
        self.requests: list[bytes] = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while not self._ended.is_set():
            with contextlib.suppress(OSError), self._listener.accept()[0] as sock:
                self.requests.append(sock.recv(65536))
                if not self._every_s:
                    sock.sendall(self._data)
                for number in range(len(self._data) if self._every_s else 0):
                    sock.sendall(self._data[number : number + 1])
                    if self._ended.wait(self._every_s):
                        break

    def stop(self) -> None:
        self._ended.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(60)


@pytest.fixture
def refuser() -> Iterator[Callable[..., Refuser]]:
    started: list[Refuser] = []

    def start(data: bytes, every_s: float = 0.0) -> Refuser:
        started.append(Refuser(data, every_s))
        return started[-1]

    yield start
    for each in started:
        each.stop()


# A TLS record of 16 KB is announced, and comes a byte at a time: longer than any test waits.
TRICKLE = b"\x16\x03\x03\x3f\xff" + bytes(2000)


class TestDeadlines:
    """A timeout is for the whole, and not for each step of it."""

    @pytest.mark.parametrize("scheme", ["wss", "mqtts"])
    def test_a_tls_handshake_that_trickles(
        self, bundle: Bundle, photo: np.ndarray, refuser: Callable[..., Refuser], scheme: str
    ) -> None:
        if scheme == "mqtts":
            pytest.importorskip("paho")
        url = f"{scheme}://127.0.0.1:{refuser(TRICKLE, 0.05).port}"
        assert "it took too long" in failure(Edge(bundle, url, timeout_s=0.5), photo, LinkError)

    @pytest.mark.parametrize("scheme", ["wss", "mqtts"])
    def test_the_fallback_helps(
        self, bundle: Bundle, photo: np.ndarray, refuser: Callable[..., Refuser], scheme: str
    ) -> None:
        if scheme == "mqtts":
            pytest.importorskip("paho")
        url = f"{scheme}://127.0.0.1:{refuser(TRICKLE, 0.05).port}"
        with Edge(bundle, url, timeout_s=0.5, fallback="local") as edge:
            assert edge.classify(photo).answered_by == "local"

    def test_a_websocket_handshake_that_trickles(
        self, bundle: Bundle, photo: np.ndarray, refuser: Callable[..., Refuser]
    ) -> None:
        url = f"ws://127.0.0.1:{refuser(b'HTTP/1.1 101 Switching Protocols' + bytes(2000), 0.05).port}"
        assert "it took too long" in failure(Edge(bundle, url, timeout_s=0.5), photo, LinkError)

    def test_a_name_server_that_does_not_answer(
        self, bundle: Bundle, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        answered = threading.Event()

        def getaddrinfo(*arguments: object, **options: object) -> list:
            answered.wait(20)
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        assert "it took too long" in failure(Edge(bundle, "ws://host", timeout_s=0.3), photo, LinkError)
        answered.set()

    def test_sending_to_who_takes_it_drop_by_drop(self) -> None:
        stop = threading.Event()

        def drain(listener: socket.socket) -> None:
            with listener.accept()[0] as sock, contextlib.suppress(OSError):
                while not stop.wait(0.02) and sock.recv(4096):
                    pass

        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            thread = threading.Thread(target=drain, args=(listener,))
            thread.start()
            with open_socket("127.0.0.1", listener.getsockname()[1], 0.3) as sock, pytest.raises(OSError):
                sock.sendall(bytes(20_000_000))
            stop.set()
            thread.join(30)


class TestAddresses:
    """A host has several; one that is dead must not hide the others."""

    @pytest.fixture
    def dead(self) -> Iterator[tuple[str, int]]:
        """An address that answers nothing: its queue of connections is full."""
        with contextlib.ExitStack() as stack:
            listener = stack.enter_context(socket.socket())
            listener.bind(("127.0.0.1", 0))
            listener.listen(0)
            for _ in range(8):
                filler = stack.enter_context(socket.socket())
                filler.setblocking(False)
                filler.connect_ex(listener.getsockname())
            yield listener.getsockname()

    def resolves_to(self, monkeypatch: pytest.MonkeyPatch, *addresses: tuple[int, tuple]) -> list[object]:
        hosts: list[object] = []

        def getaddrinfo(host: object, port: object, *more: object, **options: object) -> list:
            hosts.append(host)
            return [(family, socket.SOCK_STREAM, 6, "", address) for family, address in addresses]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        return hosts

    def test_the_first_is_dead(
        self,
        bundle: Bundle,
        photo: np.ndarray,
        server: Server,
        dead: tuple[str, int],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        live = ("127.0.0.1", server.port)
        self.resolves_to(monkeypatch, (socket.AF_INET, dead), (socket.AF_INET, dead), (socket.AF_INET, live))
        started = time.monotonic()
        with Edge(bundle, "ws://localhost", timeout_s=30) as edge:
            assert edge.classify(photo).label
        assert time.monotonic() - started < 20  # two dead ones cost half a second, and not all the time there is

    def test_a_kind_of_address_that_leads_nowhere(
        self, bundle: Bundle, photo: np.ndarray, server: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        nowhere = ("2001:db8::1", 80, 0, 0)  # for documentation (RFC 3849)
        live = ("127.0.0.1", server.port)
        self.resolves_to(monkeypatch, (socket.AF_INET6, nowhere), (socket.AF_INET6, nowhere), (socket.AF_INET, live))
        with Edge(bundle, "ws://localhost", timeout_s=10) as edge:
            assert edge.classify(photo).label

    def test_of_a_broker(
        self,
        bundle: Bundle,
        photo: np.ndarray,
        refuser: Callable[..., Refuser],
        dead: tuple[str, int],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        pytest.importorskip("paho")
        live = ("127.0.0.1", refuser(b"HTTP/1.1 400 Bad Request\r\n\r\n").port)
        self.resolves_to(monkeypatch, (socket.AF_INET, dead), (socket.AF_INET, live))
        started = time.monotonic()
        text = failure(Edge(bundle, "mqtt://two.example", timeout_s=30), photo, LinkError)
        assert "can't connect" not in text  # it was reached, and is no broker
        assert time.monotonic() - started < 20

    def test_all_are_dead(
        self, bundle: Bundle, photo: np.ndarray, dead: tuple[str, int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.resolves_to(monkeypatch, (socket.AF_INET, dead), (socket.AF_INET, dead))
        text = failure(Edge(bundle, "ws://localhost", timeout_s=0.4), photo, LinkError)
        assert "can't connect to ws://localhost: it took too long" in text

    @pytest.mark.parametrize("host", ["[fe80::1%25eth0]", "[fe80::1%eth0]"])
    def test_a_scope(
        self, bundle: Bundle, refuser: Callable[..., Refuser], monkeypatch: pytest.MonkeyPatch, host: str
    ) -> None:
        there = refuser(b"HTTP/1.1 404 Not Found\r\n\r\n")
        hosts = self.resolves_to(monkeypatch, (socket.AF_INET, ("127.0.0.1", there.port)))
        with pytest.raises(LinkError, match="HTTP status 404"):
            Edge(bundle, f"ws://{host}:8000").connect()
        assert hosts == ["fe80::1%eth0"]
        assert b"Host: [fe80::1]:8000\r\n" in there.requests[0]

    def test_no_file_handle_is_left(
        self, bundle: Bundle, photo: np.ndarray, server: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*arguments: object) -> None:
            raise OSError(errno.EMFILE, "Too many open files")

        monkeypatch.setattr(CountingSocket, "__init__", full)
        text = failure(Edge(bundle, server.url), photo, LinkError)
        assert "too many open files; this device has no file handle left" in text

    @pytest.mark.parametrize("scheme", ["ws", "mqtt"])
    def test_no_thread_is_left(
        self, bundle: Bundle, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch, scheme: str
    ) -> None:
        if scheme == "mqtt":
            pytest.importorskip("paho")

        def full(thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        edge = Edge(bundle, f"{scheme}://127.0.0.1:1")
        monkeypatch.setattr(threading.Thread, "start", full)
        assert "can't start new thread" in failure(edge, photo, LinkError)


class TestMessages:
    """What is wrong, and what to do: no other thing, and no secret."""

    def test_a_wrong_path_is_not_about_tokens(self, bundle: Bundle, photo: np.ndarray, server: Server) -> None:
        text = failure(Edge(bundle, f"{server.url}/elsewhere"), photo, LinkError)
        assert "refuses the path /elsewhere/v1/stream (HTTP status 403); is the address right?" in text
        assert "lets nobody in" not in text

    @pytest.mark.parametrize(("token", "says"), [
        (None, "lets nobody in without a token (HTTP status 401); give a token that it knows"),
        ("a-token-0123456789", "does not know this token (HTTP status 401); give a token that it knows"),
    ])  # fmt: skip
    def test_401(
        self, bundle: Bundle, photo: np.ndarray, refuser: Callable[..., Refuser], token: str | None, says: str
    ) -> None:
        port = refuser(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n").port
        assert says in failure(Edge(bundle, f"ws://127.0.0.1:{port}", token=token), photo, LinkError)

    @pytest.mark.parametrize(
        "token", ["0123456789abcdef\n", "0123456789abcdef\r\nX: 1", "0123456789abcd\u00e9\u00e9", ""]
    )
    def test_a_token_that_no_header_can_hold_is_not_shown(
        self, bundle: Bundle, photo: np.ndarray, server: Server, token: str
    ) -> None:
        for given in (token, lambda: token):
            with Edge(bundle, server.url, token=given) as edge, pytest.raises(InputError) as error:
                edge.classify(photo)
            assert "the token is empty, or has a line end" in str(error.value)
            assert "0123" not in f"{error.value}{error.value.__cause__}{error.value.__context__}"

    @pytest.mark.parametrize(("location", "address"), [
        ("https://photos.example/v1/stream?bundle=1", "wss://photos.example"),
        ("http://127.0.0.1:1/x/v1/stream", "ws://127.0.0.1:1/x"),
        ("/elsewhere/v1/stream", "ws://127.0.0.1:{port}/elsewhere"),
        ("//other.example/v1/stream", "ws://other.example"),
    ])  # fmt: skip
    def test_a_redirect_says_where_to(
        self, bundle: Bundle, photo: np.ndarray, refuser: Callable[..., Refuser], location: str, address: str
    ) -> None:
        port = refuser(f"HTTP/1.1 301 Moved\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()).port
        text = failure(Edge(bundle, f"ws://127.0.0.1:{port}"), photo, LinkError)
        assert text.endswith(f"(HTTP status 301); give that one: {address.format(port=port)}")

    @pytest.mark.parametrize(
        "url",
        ["ws://me:s3cret@server", "wss://me:s3cret@server:8000/x", "http://me:s3cret@server", "me:s3cret@server:8000",
         "ws://me:s3/cret@server", "mqtt://me:s3cret@server", "ws://s3cret@server"],
    )  # fmt: skip
    def test_a_password_is_not_shown(self, bundle: Bundle, url: str) -> None:
        with pytest.raises(InputError) as error:
            Edge(bundle, url)
        assert "s3" not in str(error.value)
        assert "give " in str(error.value)


class TestTokenThatIsBeingReplaced:
    def test_the_fallback_helps(self, bundle: Bundle, photo: np.ndarray) -> None:
        def token() -> str:
            raise InputError("token: can't read the token")

        with Edge(bundle, "ws://127.0.0.1:1", token=token, fallback="local") as edge:
            assert edge.classify(photo).answered_by == "local"


def test_a_round_trip_is_no_shorter_than_what_the_server_took(
    bundle: Bundle, photo: np.ndarray, server: Server
) -> None:
    with Edge(bundle, server.url) as edge:
        for times in (edge.classify(photo).times for _ in range(50)):
            assert times.round_trip_ms >= times.decode_ms + times.tail_ms + times.queue_ms
