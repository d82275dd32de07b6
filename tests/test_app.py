from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from starlette.applications import Starlette
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from bottlenet.bundle import Bundle
from bottlenet.cloud import Limits, create_app
from bottlenet.cloud.decoder import Decoder
from bottlenet.edge import Encoder
from bottlenet.errors import BusyError, FrameError, InputError
from bottlenet.task import most_answer_bytes
from bottlenet.wire.answer import Answer, parse_answer
from bottlenet.wire.frame import Frame
from conftest import AsgiTransport, MakeBundle, Server, until
from other_tasks import other_bundle
from processes import frame_of

MAX_PAYLOAD_BYTES = 1000


@pytest.fixture(scope="module")
def frame(bundle: Bundle, photo: np.ndarray) -> Frame:
    return Encoder(bundle).encode(photo, sequence=77).frame


@pytest.fixture(scope="module")
def app(bundle: Bundle) -> Starlette:
    return create_app([bundle], Limits(max_payload_bytes=MAX_PAYLOAD_BYTES))


def ask(app: Starlette, method: str, path: str, content: bytes | AsyncIterator[bytes] | None = None) -> httpx.Response:
    """One request without a network. An exception in the app would come out here."""

    async def main() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, content=content)

    return asyncio.run(main())


def refused(response: httpx.Response, status: int) -> str:
    assert response.status_code == status
    assert response.headers["content-type"] == "application/json"
    (text,) = response.json().values()
    assert list(response.json()) == ["error"]
    assert "\n" not in text
    return str(text)


class TestClassify:
    def test_a_frame(self, app: Starlette, bundle: Bundle, frame: Frame) -> None:
        response = ask(app, "POST", "/v1/classify", frame.to_bytes())
        assert response.status_code == 200
        assert response.headers["content-type"] == "application/octet-stream"
        answer = parse_answer(response.content)
        assert answer.sequence == 77
        assert answer.top[0][0] == int(Decoder(bundle).scores([frame]).scores[0].argmax())

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            (lambda data: b"", "shorter than its header"),
            (lambda data: data[:-1], "cut or added to"),
            (lambda data: data + b"x", "cut or added to"),
            (lambda data: bytes([0x22]) + data[1:], "version 2"),
            (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "checksum"),
            (lambda data: b"GET / HTTP/1.1\r\n", "version"),
        ],
    )
    def test_no_frame(self, app: Starlette, frame: Frame, change: Callable[[bytes], bytes], says: str) -> None:
        assert says in refused(ask(app, "POST", "/v1/classify", change(frame.to_bytes())), 400)

    def test_a_payload_that_does_not_decode(self, app: Starlette, frame: Frame) -> None:
        broken = dataclasses.replace(frame, payload=b"\xff\xd9")
        assert "jpeg payload" in refused(ask(app, "POST", "/v1/classify", broken.to_bytes()), 400)

    def test_another_bundle(self, app: Starlette, bundle: Bundle, frame: Frame) -> None:
        other = dataclasses.replace(frame, bundle_tag=b"xyz")
        text = refused(ask(app, "POST", "/v1/classify", other.to_bytes()), 404)
        assert "78797a" in text
        assert bundle.id.hex()[:12] in text

    def test_a_large_body(self, app: Starlette, frame: Frame) -> None:
        whole = dataclasses.replace(frame, payload=b"x" * (MAX_PAYLOAD_BYTES + 1)).to_bytes()
        assert "1012 bytes" in refused(ask(app, "POST", "/v1/classify", whole), 413)

    def test_a_body_without_end_is_not_read_to_the_end(self, app: Starlette) -> None:
        sent = 0

        async def endless() -> AsyncIterator[bytes]:
            nonlocal sent
            while sent < 10**9:
                sent += 500
                yield b"x" * 500

        async def main() -> list[dict]:
            chunks = endless()
            messages = []

            async def receive() -> dict:
                return {"type": "http.request", "body": await anext(chunks), "more_body": True}

            async def send(message: dict) -> None:
                messages.append(message)

            scope = {"type": "http", "method": "POST", "path": "/v1/classify", "headers": [], "query_string": b""}
            await app(scope, receive, send)
            return messages

        messages = asyncio.run(main())
        assert messages[0]["status"] == 413
        assert sent <= 2000

    @pytest.mark.parametrize("length", [b"9" * 5000, b"1013", b"-5", b"abc", b""])
    def test_odd_content_lengths(self, app: Starlette, length: bytes) -> None:
        async def main() -> int:
            statuses = []

            async def receive() -> dict:
                return {"type": "http.request", "body": b"x" * 2000, "more_body": False}

            async def send(message: dict) -> None:
                statuses.append(message.get("status"))

            headers = [(b"content-length", length)]
            scope = {"type": "http", "method": "POST", "path": "/v1/classify", "headers": headers, "query_string": b""}
            await app(scope, receive, send)
            return statuses[0]

        assert asyncio.run(main()) == 413

    def test_a_body_that_does_not_come(self, bundle: Bundle) -> None:
        app = create_app([bundle], Limits(request_s=0.05))

        async def slow() -> AsyncIterator[bytes]:
            yield b"x"
            await asyncio.sleep(5)

        assert "0.05 s" in refused(ask(app, "POST", "/v1/classify", slow()), 408)

    def test_a_client_that_goes(self, app: Starlette) -> None:
        async def main() -> None:
            async def receive() -> dict:
                return {"type": "http.disconnect"}

            async def send(message: dict) -> None:
                pass

            scope = {"type": "http", "method": "POST", "path": "/v1/classify", "headers": [], "query_string": b""}
            await app(scope, receive, send)

        asyncio.run(main())

    def test_a_bug_is_not_told(
        self, bundle: Bundle, frame: Frame, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fails(self: Decoder, frames: object) -> None:
            raise ZeroDivisionError("secret")

        monkeypatch.setattr(Decoder, "answers", fails)
        text = refused(ask(create_app([bundle]), "POST", "/v1/classify", frame.to_bytes()), 500)
        assert "secret" not in text
        assert "secret" in caplog.text

    def test_get_is_not_allowed(self, app: Starlette) -> None:
        there = ask(app, "GET", "/v1/classify")
        assert (there.status_code, there.headers["Allow"]) == (405, "POST")
        for response in (there, ask(app, "POST", "/v1/frame", b"x"), ask(app, "GET", "/nothing")):
            assert response.status_code in (404, 405)
            assert "this server has POST /v1/classify, POST /v1/photo" in response.json()["error"]


class TestStatus:
    def test_health(self, app: Starlette) -> None:
        assert ask(app, "GET", "/healthz").json() == {"status": "ok", "waiting": 0}

    def test_ready(self, app: Starlette, bundle: Bundle) -> None:
        response = ask(app, "GET", "/readyz")
        assert (response.status_code, response.json()) == (200, {"status": "ready", "bundles": 1})
        stopping = create_app([bundle])

        async def stop() -> None:
            await stopping.state.service.stop()

        asyncio.run(stop())
        assert ask(stopping, "GET", "/readyz").status_code == 503
        assert ask(stopping, "GET", "/v2/health/ready").status_code == 503
        assert ask(stopping, "GET", "/healthz").status_code == 200
        assert "shutting down" in refused(
            ask(stopping, "POST", "/v1/classify", Frame(0, 0, bundle.tag, 0, b"").to_bytes()), 503
        )

    def test_metrics(self, bundle: Bundle, frame: Frame) -> None:
        app = create_app([bundle], Limits(max_payload_bytes=1000))
        for content in (frame.to_bytes(), frame.to_bytes(), frame.to_bytes()[:-1], b"x" * 2000):
            ask(app, "POST", "/v1/classify", content)
        ask(app, "POST", "/v1/classify", dataclasses.replace(frame, bundle_tag=b"xyz").to_bytes())
        ask(app, "POST", "/v1/classify", dataclasses.replace(frame, payload=b"\xff\xd9").to_bytes())
        response = ask(app, "GET", "/metrics")
        assert response.headers["content-type"].startswith("text/plain; version=")
        values = dict(line.rsplit(" ", 1) for line in response.text.splitlines() if not line.startswith("#"))
        numbers = {name: float(value) for name, value in values.items() if "_created" not in name}
        assert numbers['bottlenet_requests_total{via="http"}'] == 6
        for kind in ("frame", "payload", "too_large", "unknown_bundle"):
            assert numbers[f'bottlenet_errors_total{{kind="{kind}",via="http"}}'] == 1
        assert numbers["bottlenet_payload_bytes_count"] == 3
        assert numbers["bottlenet_payload_bytes_sum"] == 2 * len(frame.payload) + 2
        assert numbers["bottlenet_batch_frames_sum"] == 3
        assert numbers["bottlenet_decode_seconds_count"] == numbers["bottlenet_tail_seconds_count"] == 2
        assert numbers["bottlenet_queue_seconds_count"] == 3
        assert numbers["bottlenet_queue_frames"] == 0
        assert numbers["bottlenet_bundles"] == 1
        assert numbers['bottlenet_open{via="http"}'] == 1  # this very request

    def test_a_path_is_one_line_of_the_log(self, app: Starlette, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.INFO, "bottlenet"):
            assert ask(app, "GET", "/x%0A2026-01-01%20ERROR%20bottlenet:%20forged%1b[31m").status_code == 404
        (record,) = [record for record in caplog.records if hasattr(record, "fields")]
        for text in (record.getMessage(), record.fields["path"]):
            assert "/x 2026-01-01 ERROR bottlenet: forged" in text
            assert text.isprintable()

    def test_bundles(self, bundle: Bundle, make_bundle: MakeBundle) -> None:
        other = make_bundle(name="other", cut="elsewhere")
        listed = ask(create_app([bundle, other]), "GET", "/v1/bundles").json()
        for one in (bundle, other):
            files = listed[one is other].pop("files")
            assert list(files) == ["manifest.json", "labels.txt", "head.onnx", "uncut.onnx"]
            assert files == {name: (one.path / name).stat().st_size for name in files}
        assert listed == [
            {"id": bundle.id.hex(), "name": "tiny", "model": "means", "cut": "patches"},
            {"id": other.id.hex(), "name": "other", "model": "means", "cut": "elsewhere"},
        ]
        assert ask(create_app([bundle, other], page=False), "GET", "/v1/bundles").json() == listed


class TestCreate:
    def test_no_bundle(self) -> None:
        with pytest.raises(InputError, match="no bundle to serve"):
            create_app([])

    def test_the_same_bundle_twice(self, bundle: Bundle) -> None:
        with pytest.raises(InputError, match="same tag"):
            create_app([bundle, bundle])

    @pytest.mark.parametrize("limit", ["threads", "max_batch"])
    def test_numbers(self, bundle: Bundle, limit: str) -> None:
        with pytest.raises(InputError, match="give 1 or more"):
            create_app([bundle], **{limit: 0})  # type: ignore[arg-type]

    def test_inside_another_app(self, app: Starlette, frame: Frame) -> None:
        from starlette.routing import Mount

        outer = Starlette(routes=[Mount("/vision", app)])
        assert ask(outer, "POST", "/vision/v1/classify", frame.to_bytes()).status_code == 200

    def test_inside_another_app_with_tokens(self, bundle: Bundle, tmp_path: Path) -> None:
        from starlette.routing import Mount

        (tmp_path / "tokens").write_text("abcdefghijklmnop\n")
        outer = Starlette(routes=[Mount("/vision", create_app([bundle], tokens=tmp_path / "tokens"))])
        assert ask(outer, "GET", "/vision/healthz").status_code == 200
        assert ask(outer, "GET", "/vision/v1/bundles").status_code == 401


class HeldUp:
    """Holds the decoder up until `go`, so that frames wait."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go = threading.Event()
        self.busy = threading.Event()
        answers = Decoder.answers

        def slow(decoder: Decoder, frames: object) -> object:
            self.busy.set()
            assert self.go.wait(30)
            return answers(decoder, frames)  # type: ignore[arg-type]

        monkeypatch.setattr(Decoder, "answers", slow)


def three_of_ten_are_read(server: Server, connection: ClientConnection, held_up: HeldUp, frames: list[Frame]) -> None:
    """One at work and two that wait; then all are answered."""
    for frame in frames:
        connection.send(frame.to_stream_bytes())
    assert held_up.busy.wait(30)
    until(lambda: waiting(server) == 2, "two of ten to wait")
    time.sleep(0.2)  # enough for more to be read, if they were
    assert waiting(server) == 2
    held_up.go.set()
    assert [parse_answer(connection.recv(timeout=30)).sequence for _ in range(10)] == list(range(10))


def waiting(server: Server) -> int:
    """Frames that the server has taken and not yet begun."""
    return int(httpx.get(f"{server.http_url}/healthz").json()["waiting"])


@contextlib.contextmanager
def stream(server: Server, bundle: str) -> Iterator[ClientConnection]:
    with connect(f"{server.url}/v1/stream?bundle={bundle}", proxy=None) as connection:
        yield connection


@pytest.fixture(scope="module")
def server(app: Starlette) -> Iterator[Server]:
    """Serves `app`."""
    server = Server(app)
    yield server
    server.stop()


class TestStream:
    def test_many_frames_at_once_each_with_its_number(self, server: Server, bundle: Bundle, frame: Frame) -> None:
        with stream(server, bundle.id.hex().upper()) as connection:
            for sequence in range(100):
                connection.send(dataclasses.replace(frame, sequence=sequence).to_stream_bytes())
            answers = [parse_answer(connection.recv(timeout=30)) for _ in range(100)]
        assert sorted(answer.sequence for answer in answers) == list(range(100))
        assert len({answer.top for answer in answers}) == 1

    def test_a_bad_frame_is_refused_by_number_and_the_rest_answered(
        self, server: Server, bundle: Bundle, frame: Frame
    ) -> None:
        bad = dataclasses.replace(frame, sequence=5, payload=b"\xff\xd9").to_stream_bytes()
        large = dataclasses.replace(frame, sequence=6, payload=b"x" * 1001).to_stream_bytes()
        good = dataclasses.replace(frame, sequence=7).to_stream_bytes()
        with stream(server, bundle.id.hex()) as connection:
            for message, says in [
                (bad, "refused frame 5: jpeg payload"),
                (large, "refused frame 6: payload of 1001 bytes; this side takes up to 1000"),
                (b"", "refused frame 0: .* shorter"),
                (b"\x12", "refused frame 0: .* shorter"),
                (b"\x92\x5a\x00\x08abc", "refused frame 8: .* version 9"),
                ("text", "refused frame 0: a text message came"),
            ]:
                connection.send(message)
                with pytest.raises(FrameError, match=says):
                    parse_answer(connection.recv(timeout=30))
                connection.send(good)
                assert parse_answer(connection.recv(timeout=30)).sequence == 7

    def test_far_too_large(self, server: Server, bundle: Bundle, frame: Frame) -> None:
        """Above what uvicorn was told: it closes, before the message is here."""
        with stream(server, bundle.id.hex()) as connection:
            with contextlib.suppress(ConnectionClosed):
                connection.send(b"x" * 2**18)
            with pytest.raises(ConnectionClosed) as error:
                connection.recv(timeout=30)
            assert error.value.rcvd is not None
            assert error.value.rcvd.code == 1009

    @pytest.mark.parametrize("wanted", ["", "00" * 32, "not-hex", "%ff", "x" * 5000])
    def test_another_bundle(self, server: Server, bundle: Bundle, wanted: str) -> None:
        with stream(server, wanted) as connection:
            with pytest.raises(ConnectionClosed) as error:
                connection.recv(timeout=30)
            assert error.value.rcvd is not None
            assert error.value.rcvd.code == 4404
            assert error.value.rcvd.reason == f"served: {bundle.id.hex()[:12]} (tiny)"

    def test_the_reason_fits_into_a_close_frame(
        self, make_bundle: MakeBundle, serve: Callable[[Starlette], Server]
    ) -> None:
        bundles = [make_bundle(name="ü" * 50), make_bundle(name="é" * 50)]
        with stream(serve(create_app(bundles)), "none") as connection:
            with pytest.raises(ConnectionClosed) as error:
                connection.recv(timeout=30)
            assert error.value.rcvd is not None
            assert error.value.rcvd.code == 4404
            assert 120 <= len(error.value.rcvd.reason.encode()) <= 123

    def test_two_bundles_on_one_server(
        self, bundle: Bundle, make_bundle: MakeBundle, photo: np.ndarray, serve: Callable[[Starlette], Server]
    ) -> None:
        raw = make_bundle(codec="raw", setting=0)
        server = serve(create_app([bundle, raw]))
        for one in (bundle, raw):
            with stream(server, one.id.hex()) as connection:
                connection.send(Encoder(one).encode(photo, 3).frame.to_stream_bytes())
                assert parse_answer(connection.recv(timeout=30)).sequence == 3

    def test_a_full_server_says_so_at_once(
        self, bundle: Bundle, frame: Frame, serve: Callable[[Starlette], Server], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        held_up = HeldUp(monkeypatch)
        server = serve(create_app([bundle], Limits(max_waiting=2), max_batch=1))
        with stream(server, bundle.id.hex()) as connection:
            connection.send(dataclasses.replace(frame, sequence=0).to_stream_bytes())
            assert held_up.busy.wait(30)
            for sequence in (1, 2, 3):
                connection.send(dataclasses.replace(frame, sequence=sequence).to_stream_bytes())
            with pytest.raises(BusyError, match="no room for frame 3: the server is busy") as busy:
                parse_answer(connection.recv(timeout=30))
            assert busy.value.retry_after_s == 1
            response = httpx.post(f"{server.http_url}/v1/classify", content=frame.to_bytes())
            assert "busy" in refused(response, 503)
            assert response.headers["retry-after"] == "1"
            assert httpx.get(f"{server.http_url}/healthz").json()["waiting"] == 2
            held_up.go.set()
            assert [parse_answer(connection.recv(timeout=30)).sequence for _ in range(3)] == [0, 1, 2]

    def test_too_many_streams(self, bundle: Bundle, frame: Frame, serve: Callable[[Starlette], Server]) -> None:
        server = serve(create_app([bundle], Limits(max_connections=2)))
        with stream(server, bundle.id.hex()) as first, stream(server, bundle.id.hex()):
            with stream(server, bundle.id.hex()) as third, pytest.raises(ConnectionClosed) as error:
                third.recv(timeout=30)
            assert error.value.rcvd is not None
            assert error.value.rcvd.code == 1013
            assert "try again in 1 s" in error.value.rcvd.reason
            response = httpx.post(f"{server.http_url}/v1/classify", content=frame.to_bytes())
            assert "2 requests and streams are open" in refused(response, 503)
            assert response.headers["connection"] == "close"
            assert httpx.get(f"{server.http_url}/healthz").status_code == 200
            first.send(frame.to_stream_bytes())
            assert parse_answer(first.recv(timeout=30)).sequence == 77

    def test_one_stream_is_not_read_while_it_has_enough_in_flight(
        self, bundle: Bundle, frame: Frame, serve: Callable[[Starlette], Server], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        held_up = HeldUp(monkeypatch)
        server = serve(create_app([bundle], Limits(max_in_flight=3), max_batch=1))
        with stream(server, bundle.id.hex()) as connection:
            three_of_ten_are_read(
                server, connection, held_up, [dataclasses.replace(frame, sequence=each) for each in range(10)]
            )

    def test_fewer_are_in_flight_where_answers_are_large(
        self, tmp_path: Path, serve: Callable[[Starlette], Server], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bundle = other_bundle(tmp_path / "bundle", "segmentation")
        monkeypatch.setattr("bottlenet.cloud.stream.MAX_UNSENT_BYTES", 3 * most_answer_bytes(bundle.manifest.task))
        held_up = HeldUp(monkeypatch)
        server = serve(create_app([bundle], max_batch=1))
        with stream(server, bundle.id.hex()) as connection:
            three_of_ten_are_read(server, connection, held_up, [frame_of(bundle, each) for each in range(10)])

    def test_stopping_has_a_limit(self, bundle: Bundle, frame: Frame, monkeypatch: pytest.MonkeyPatch) -> None:
        """What is at work then is answered all the same; what waits is told to come again."""
        held_up = HeldUp(monkeypatch)
        service = create_app([bundle], Limits(grace_s=0.05), max_batch=1).state.service

        async def main() -> list[object]:
            (served,) = service.bundles
            tasks = [asyncio.create_task(service.answer(served, frame)) for _ in range(3)]
            assert await asyncio.to_thread(held_up.busy.wait, 30)
            await service.stop()
            held_up.go.set()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            await service.close()
            return results

        assert [type(result) for result in asyncio.run(main())] == [Answer, BusyError, BusyError]

    def test_a_device_that_goes_leaves_no_work_behind(
        self, bundle: Bundle, frame: Frame, serve: Callable[[Starlette], Server], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        held_up = HeldUp(monkeypatch)
        server = serve(create_app([bundle], max_batch=1))
        with stream(server, bundle.id.hex()) as connection:
            for sequence in range(5):
                connection.send(dataclasses.replace(frame, sequence=sequence).to_stream_bytes())
            assert held_up.busy.wait(30)
        held_up.go.set()
        with stream(server, bundle.id.hex()) as connection:
            connection.send(frame.to_stream_bytes())
            assert parse_answer(connection.recv(timeout=30)).sequence == 77
        assert waiting(server) == 0

    def test_a_bug_is_not_told(
        self,
        bundle: Bundle,
        frame: Frame,
        asgi_connect: Callable[[Starlette], Callable[..., AsgiTransport]],
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        def fails(self: Decoder, frames: object) -> None:
            raise ZeroDivisionError("secret")

        monkeypatch.setattr(Decoder, "answers", fails)
        transport = asgi_connect(create_app([bundle]))(f"ws://x/v1/stream?bundle={bundle.id.hex()}", 5)
        transport.send(frame.to_stream_bytes())
        with pytest.raises(FrameError, match="refused frame 77: the server failed"):
            parse_answer(transport.receive(5))
        transport.close()
        assert "secret" in caplog.text


class TestBodies:
    """All together they are bounded, and those of frames come through."""

    def test_many_large_bodies_that_do_not_end(self, bundle: Bundle, frame: Frame) -> None:
        limits = Limits(max_photos=2, max_photo_bytes=100_000, max_payload_bytes=1000, max_in_flight=100)
        app = create_app([bundle], limits)
        part, taken = b"x" * 50_000, 0

        async def main() -> tuple[list[int], int]:
            end = asyncio.Event()

            async def stalled() -> AsyncIterator[bytes]:
                nonlocal taken
                taken += len(part)
                yield part
                await end.wait()

            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
                stalling = [
                    asyncio.create_task(client.post("/v2/models/tiny/infer", content=stalled())) for _ in range(10)
                ]
                refused, _ = await asyncio.wait(stalling, return_when=asyncio.FIRST_COMPLETED)
                while len(refused) < 6:
                    await asyncio.sleep(0)
                    refused = {each for each in stalling if each.done()}
                answered = await client.post("/v1/classify", content=frame.to_bytes())
                statuses = [(await each).status_code for each in refused]
                end.set()
                await asyncio.gather(*stalling)
                after = await client.post("/v2/models/tiny/infer", content=b"x" * 150_000)  # all is given back
                return [*statuses, after.status_code], answered.status_code

        (*statuses, after), answered = asyncio.run(main())
        assert statuses == [503] * 6
        assert answered == 200
        assert after == 400  # no JSON

    def test_they_do_not_keep_the_server_from_stopping(self, bundle: Bundle) -> None:
        app = create_app([bundle])

        async def endless() -> AsyncIterator[bytes]:
            yield b"x"
            await asyncio.sleep(3600)

        async def main() -> list[httpx.Response]:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
                asked = [
                    asyncio.create_task(client.post(path, content=endless())) for path in ("/v1/classify", "/v1/photo")
                ]
                while app.state.service.metrics.open["http"] < 2:
                    await asyncio.sleep(0)
                await app.state.service.stop()
                asked.append(asyncio.create_task(client.post("/v1/classify", content=endless())))
                return await asyncio.gather(*asked)

        for response in asyncio.run(main()):
            assert "shutting down" in refused(response, 503)
            assert response.headers["connection"] == "close"


class TestOtherSites:
    """Any web page can have a browser send requests to a server on loopback that asks for no token."""

    OURS, THEIRS = ("127.0.0.1", 8000), "evil.example"

    def status(self, app: Starlette, server: tuple[str, int], kind: str = "http", **headers: str) -> object:
        came: list[dict[str, Any]] = [{"type": f"{kind}.connect" if kind == "websocket" else "http.request"}]
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return came.pop() if came else {"type": f"{kind}.disconnect", "code": 1000}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        path = "/v1/stream" if kind == "websocket" else "/v1/bundles"
        named = [(name.encode(), value.encode()) for name, value in headers.items()]
        scope = {"type": kind, "method": "GET", "path": path, "headers": named, "query_string": b"", "server": server}
        asyncio.run(app(scope, receive, send))  # type: ignore[arg-type]
        return sent[-1].get("code", sent[0].get("status"))

    @pytest.mark.parametrize(
        ("host", "origin", "allowed"),
        [
            ("127.0.0.1:8000", "", True),
            ("localhost:8000", "http://localhost:8000", True),
            ("LOCALHOST:8000", "http://localhost:8000", True),
            ("[::1]:8000", "http://[::1]:8000", True),
            ("page.localhost", "", True),
            ("127.0.0.1:8000", "http://evil.example", False),
            ("127.0.0.1:8000", "http://127.0.0.1:9000", False),
            ("127.0.0.1:8000", "null", False),
            ("evil.example:8000", "http://evil.example:8000", False),  # its name leads to this machine
            ("evil.example", "", False),
            ("", "", False),
            ("localhost.evil.example", "", False),
        ],
    )
    @pytest.mark.parametrize("kind", ["http", "websocket"])
    def test_on_loopback(self, app: Starlette, kind: str, host: str, origin: str, allowed: bool) -> None:
        headers = {"host": host} | ({"origin": origin} if origin else {})
        status = self.status(app, self.OURS, kind, **headers)
        assert status == ((200 if kind == "http" else 4404) if allowed else (403 if kind == "http" else 4403))

    def test_elsewhere_and_with_tokens(self, app: Starlette, bundle: Bundle, tmp_path: Path) -> None:
        there = ("192.0.2.1", 8000)
        assert self.status(app, there, host="vision.example") == 200
        assert self.status(app, there, host="vision.example", origin="https://vision.example") == 200
        assert self.status(app, there, host="vision.example", origin="https://evil.example") == 403
        insecure = create_app([bundle], insecure=True)
        assert self.status(insecure, self.OURS, host="vision.example", origin="https://evil.example") == 200
        (tmp_path / "tokens").write_text("abcdefghijklmnop\n")
        guarded = create_app([bundle], tokens=tmp_path / "tokens")
        headers = {"host": "vision.example", "origin": "https://x.example", "authorization": "Bearer abcdefghijklmnop"}
        assert self.status(guarded, self.OURS, **headers) == 200


def test_no_redirects(app: Starlette) -> None:
    """They would lead to whatever the header Host says."""
    for path in ("/v1/bundles/", "/page", "/healthz/", "/v2/"):
        assert ask(app, "GET", path).status_code == 404


def test_a_failure_of_the_server_is_counted(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    app = create_app([bundle])
    monkeypatch.setattr("bottlenet.cloud.app.device_files", lambda served: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        ask(app, "GET", "/v1/bundles")
    assert 'bottlenet_errors_total{kind="internal",via="http"} 1.0' in ask(app, "GET", "/metrics").text
