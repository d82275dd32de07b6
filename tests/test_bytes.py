"""What is said of each photo's bytes is what crosses the network: against a relay that keeps every byte it carries."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

import httpx
import numpy as np
import pytest
from starlette.applications import Starlette

from bottlenet.bundle import Bundle, write_bundle
from bottlenet.cloud import create_app
from bottlenet.edge import Edge
from bottlenet.edge.prediction import Prediction
from bottlenet.edge.sender import Sender
from bottlenet.edge.spool import Spool
from bottlenet.wire.answer import parse_answer
from bottlenet.wire.frame import HEADER_BYTES, STREAM_HEADER_BYTES, parse_frame, parse_stream_frame
from conftest import LATENT, Server, tiny_manifest
from latents import flat_tables
from network import make_album

SETTINGS = {"raw": 0, "deflate": 9, "jpeg": 20, "webp": 20, "entropy": 0}
LARGEST_OVERHEAD = 16  # upstream, of a photo on an open stream: socket bytes above the payload


class Relay:
    """TCP on a port of its own to another one. `up` and `down` are all that it carried, of all connections."""

    def __init__(self, port: int) -> None:
        self.up, self.down = bytearray(), bytearray()
        self._server_port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._ends: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def __enter__(self) -> Relay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()
        for end in self._ends:
            end.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                device, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._server_port))
                self._ends += [device, server]
                for ends in ((device, server, self.up), (server, device, self.down)):
                    self._threads.append(threading.Thread(target=self._carry, args=ends))
                    self._threads[-1].start()

    @staticmethod
    def _carry(source: socket.socket, target: socket.socket, kept: bytearray) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                kept += data
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def messages(data: bytes) -> list[bytes]:
    """WebSocket's binary messages up to its end, each in one part (RFC 6455, 5.2), unmasked: read by hand."""
    found = []
    while data and data[0] != 0x88:
        assert data[0] == 0x82
        length, start = data[1] & 0x7F, 2
        if length == 126:
            length, start = int.from_bytes(data[2:4], "big"), 4
        key = b""
        if data[1] & 0x80:
            key, start = data[start : start + 4], start + 4
        body = data[start : start + length]
        assert len(body) == length
        found.append(bytes(each ^ key[at % 4] for at, each in enumerate(body)) if key else bytes(body))
        data = data[start + length :]
    return found


def agree(bundle: Bundle, told: list[Prediction], up: bytes, down: bytes) -> None:
    """What was said of some photos on an open connection, and what the relay carried meanwhile."""
    sent, received = messages(up), messages(down)
    assert len(sent) == len(received) == len(told)
    assert sum(one.socket_bytes for one in told) == len(up)
    assert sum(one.received_bytes for one in told) == len(down)
    for one, message, answer in zip(told, sent, received, strict=True):
        assert one.frame_bytes == len(message)
        payload = parse_stream_frame(message, bundle_tag=bundle.tag).payload
        assert one.payload_bytes == len(payload) == len(message) - STREAM_HEADER_BYTES
        assert one.socket_bytes <= one.payload_bytes + LARGEST_OVERHEAD
        assert parse_answer(answer).top[0][0] == one.class_index


def bundle_of(codec: str, files: dict[str, bytes], folder: Path) -> Bundle:
    tables = {"tables.bin": flat_tables(*LATENT).to_bytes()} if codec == "entropy" else {}
    return write_bundle(folder / codec, tiny_manifest(codec=codec, setting=SETTINGS[codec]), {**files, **tables})


@pytest.fixture
def relayed(serve: Callable[[Starlette], Server]) -> Iterator[Callable[[Bundle], Relay]]:
    """`relayed(bundle)`: a relay to a server of the bundle."""
    with contextlib.ExitStack() as stack:
        yield lambda bundle: stack.enter_context(Relay(serve(create_app([bundle])).port))


@pytest.mark.parametrize("codec", SETTINGS)
def test_of_each_photo_on_an_open_stream(
    codec: str,
    files: dict[str, bytes],
    tmp_path: Path,
    photo: np.ndarray,
    relayed: Callable[[Bundle], Relay],
) -> None:
    """WebSocket has another header from 126 bytes on; the payloads lie on both sides of that."""
    bundle = bundle_of(codec, files, tmp_path)
    relay = relayed(bundle)
    with Edge(bundle, f"ws://127.0.0.1:{relay.port}") as edge:
        edge.connect()
        opened = len(relay.up), len(relay.down)
        for picture in (photo, photo[::-1], photo[:50, :50]):
            before = len(relay.up), len(relay.down)
            prediction = edge.classify(picture)
            agree(bundle, [prediction], bytes(relay.up[before[0] :]), bytes(relay.down[before[1] :]))
        before = len(relay.up), len(relay.down)
        predictions = list(edge.classify_many([photo] * 20, in_flight=6))
        agree(bundle, predictions, bytes(relay.up[before[0] :]), bytes(relay.down[before[1] :]))
    assert relay.up.startswith(b"GET /v1/stream?bundle=")
    assert min(opened) > 100


def test_the_first_photo_pays_for_the_opening(
    bundle: Bundle, photo: np.ndarray, relayed: Callable[[Bundle], Relay]
) -> None:
    relay = relayed(bundle)
    with Edge(bundle, f"ws://127.0.0.1:{relay.port}") as edge:
        for _ in range(2):  # and a connection that is opened again
            before = len(relay.up), len(relay.down)
            first, second = edge.classify(photo), edge.classify(photo)
            assert first.socket_bytes + second.socket_bytes == len(relay.up) - before[0]
            assert first.received_bytes + second.received_bytes == len(relay.down) - before[1]
            assert first.socket_bytes > second.socket_bytes + 100
            edge.close()
            before = len(relay.up), len(relay.down)


def test_of_a_spool(bundle: Bundle, tmp_path: Path, relayed: Callable[[Bundle], Relay]) -> None:
    (tmp_path / "album").mkdir()
    photos = sorted(map(str, make_album(tmp_path / "album", 12).iterdir()))
    relay = relayed(bundle)
    with Edge(bundle, f"ws://127.0.0.1:{relay.port}") as edge, Spool(tmp_path / "spool", bundle) as spool:
        stated = [outcome.frame_bytes for outcome in Sender(edge, spool).send(photos)]  # type: ignore[union-attr]
        sent = relay.up.partition(b"\r\n\r\n")[2]
        carried = [len(message) for message in messages(bytes(sent))]
    assert len(carried) == len(photos)
    assert sorted(stated) == sorted(carried)


def test_of_a_frame_by_post(bundle: Bundle, photo: np.ndarray, relayed: Callable[[Bundle], Relay]) -> None:
    relay = relayed(bundle)
    edge = Edge(bundle, "ws://unused.invalid")
    data, encoded = edge.encode(photo), edge.encoder.encode(photo)
    httpx.post(f"http://127.0.0.1:{relay.port}/v1/classify", content=data).raise_for_status()
    body = bytes(relay.up).partition(b"\r\n\r\n")[2]
    assert body == data
    assert len(body) == HEADER_BYTES + len(encoded.frame.payload)
    assert parse_frame(body).payload == encoded.frame.payload
