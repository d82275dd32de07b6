from __future__ import annotations

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
        assert "can't connect to ws://no-such-host.invalid:8000" in failure(
            Edge(bundle, "ws://no-such-host.invalid:8000"), photo, LinkError
        )

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
        assert "certificate" in failure(edge, photo, LinkError)

    def test_no_tls_there(self, bundle: Bundle, photo: np.ndarray, server: Server) -> None:
        edge = Edge(bundle, f"wss://localhost:{server.port}", timeout_s=2)
        assert "can't connect" in failure(edge, photo, LinkError)
