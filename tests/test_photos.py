"""Whole photos for the server: posted, or over a stream; and probes, which ask for nothing but the load."""

from __future__ import annotations

import asyncio
import dataclasses
import io
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from starlette.applications import Starlette

from bottlenet.bundle import Bundle, write_bundle
from bottlenet.cloud import Limits, create_app
from bottlenet.cloud.decoder import MAX_PIXELS, Photos
from bottlenet.edge.connection import open_websocket
from bottlenet.edge.encoder import EDGE_ONLY, Device, cloud_only
from bottlenet.errors import FrameError, PayloadError
from bottlenet.photo import photo_to_pixels
from bottlenet.wire.answer import parse_answer
from bottlenet.wire.frame import NETWORK_INPUT, PHOTO, PROBE, STREAM_PATH, WHOLE_PHOTO, Frame, parse_stream_frame
from bottlenet.wire.pictures import InputCodec
from conftest import MakeBundle, Server, tiny_manifest
from test_app import ask, refused


@pytest.fixture(scope="module")
def app(bundle: Bundle) -> Starlette:
    return create_app([bundle], Limits(max_photo_bytes=20_000, max_photos=2))


@pytest.fixture(scope="module")
def file(photo: np.ndarray) -> bytes:
    """A photo as a camera gives it."""
    made = io.BytesIO()
    Image.fromarray(photo).save(made, "PNG")
    return made.getvalue()


@pytest.fixture(scope="module")
def bare(files: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Without the whole network."""
    without = {name: content for name, content in files.items() if name != "uncut.onnx"}
    return write_bundle(tmp_path_factory.mktemp("bare") / "bare", tiny_manifest(name="bare"), without)


def photo_frame(bundle: Bundle, payload: bytes, setting: int = WHOLE_PHOTO) -> Frame:
    return Frame(PHOTO, setting, bundle.tag, 5, payload)


class TestPost:
    def test_the_answer_is_that_of_the_device(self, app: Starlette, bundle: Bundle, file: bytes) -> None:
        for path in ("/v1/photo", f"/v1/photo?bundle={bundle.id.hex()}"):
            response = ask(app, "POST", path, file)
            assert response.status_code == 200
            answer = parse_answer(response.content)
            assert answer.top[0][0] == Device(bundle).run(EDGE_ONLY, file)
            assert len(answer.top) == 5
            assert answer.tail_us > 0

    def test_no_photo(self, app: Starlette) -> None:
        assert "is no photo" in refused(ask(app, "POST", "/v1/photo", b"GIF87"), 400)
        assert "it is empty" in refused(ask(app, "POST", "/v1/photo", b""), 400)

    def test_which_bundle(self, app: Starlette, bundle: Bundle, make_bundle: MakeBundle, file: bytes) -> None:
        assert "no such bundle; served: " in refused(ask(app, "POST", "/v1/photo?bundle=ab", file), 404)
        both = create_app([bundle, make_bundle(cut="elsewhere")])
        assert "say which bundle" in refused(ask(both, "POST", "/v1/photo", file), 400)
        assert ask(both, "POST", f"/v1/photo?bundle={bundle.id.hex()}", file).status_code == 200

    def test_too_large(self, app: Starlette) -> None:
        assert "20000 bytes" in refused(ask(app, "POST", "/v1/photo", b"x" * 20_001), 413)

    def test_too_many_pixels(self, bundle: Bundle) -> None:
        made = io.BytesIO()
        Image.new("1", (MAX_PIXELS // 1000 + 1, 1000)).save(made, "PNG")
        with pytest.raises(PayloadError, match="allowed are 8x8 pixels to 25 megapixels"):
            Photos(bundle).pixels(photo_frame(bundle, made.getvalue()))

    def test_too_many_at_once(self, app: Starlette, file: bytes) -> None:
        async def main() -> list[int]:
            statuses: list[int] = []
            go = asyncio.Event()

            async def post(wait: bool) -> None:
                async def receive() -> dict:
                    if wait:
                        await go.wait()
                    return {"type": "http.request", "body": file, "more_body": False}

                async def send(message: dict) -> None:
                    if message["type"] == "http.response.start":
                        statuses.append(message["status"])

                scope = {"type": "http", "method": "POST", "path": "/v1/photo", "headers": [], "query_string": b""}
                await app(scope, receive, send)

            slow = [asyncio.create_task(post(True)) for _ in range(2)]
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            await post(False)
            assert statuses == [503]
            go.set()
            await asyncio.gather(*slow)
            await post(False)
            return statuses

        assert asyncio.run(main()) == [503, 200, 200, 200]

    def test_a_body_that_never_ends_frees_its_place(self, bundle: Bundle, file: bytes) -> None:
        slow = create_app([bundle], Limits(max_photos=1, request_s=0.05))

        async def chunks() -> AsyncIterator[bytes]:
            yield b"x"
            await asyncio.sleep(30)

        refused(ask(slow, "POST", "/v1/photo", chunks()), 408)
        assert ask(slow, "POST", "/v1/photo", file).status_code == 200

    def test_a_bundle_without_the_whole_network(self, bare: Bundle, file: bytes) -> None:
        text = refused(ask(create_app([bare]), "POST", "/v1/photo", file), 400)
        assert "bundle bare has no whole network on this server" in text


class TestFrames:
    def test_as_a_self_contained_frame(self, app: Starlette, bundle: Bundle, file: bytes) -> None:
        answer = parse_answer(ask(app, "POST", "/v1/classify", photo_frame(bundle, file).to_bytes()).content)
        assert answer.sequence == 5
        assert answer.top[0][0] == Device(bundle).run(EDGE_ONLY, file)

    def test_the_networks_input_is_taken_as_it_is(self, bundle: Bundle, file: bytes) -> None:
        partition = cloud_only(InputCodec("JPEG", 95))
        frame = Device(bundle).run(partition, file, 5)
        assert isinstance(frame, Frame)
        assert (frame.codec, frame.setting) == (PHOTO, NETWORK_INPUT)
        pixels = Photos(bundle).pixels(frame)
        wanted = photo_to_pixels(file, bundle.manifest.uncut_preprocess)
        assert np.abs(pixels.astype(int) - wanted).mean() < 3
        # As a photo it is cropped once more.
        again = Photos(bundle).pixels(dataclasses.replace(frame, setting=WHOLE_PHOTO))
        assert np.abs(again.astype(int) - wanted).mean() > 3

    def test_an_unknown_setting(self, bundle: Bundle, file: bytes) -> None:
        with pytest.raises(FrameError, match=r"setting 2; this side knows 0 \(a photo\) and 1"):
            Photos(bundle).pixels(photo_frame(bundle, file, 2))

    def test_over_a_stream_with_frames_and_probes(
        self, serve: Callable[[Starlette], Server], bundle: Bundle, photo_path: Path, file: bytes
    ) -> None:
        device = Device(bundle)
        url = f"{serve(create_app([bundle])).url}{STREAM_PATH}?bundle={bundle.id.hex()}"
        transport = open_websocket(url, 10)
        sent = {
            1: device.encoder.encode(photo_path, 1).frame,
            2: dataclasses.replace(photo_frame(bundle, file), sequence=2),
            3: Frame(PROBE, 0, bundle.tag, 3, b""),
        }
        for frame in sent.values():
            transport.send(frame.to_stream_bytes())
        answers = {answer.sequence: answer for answer in (parse_answer(transport.receive(10)) for _ in sent)}
        transport.close()
        assert answers[2].top[0][0] == device.run(EDGE_ONLY, photo_path)
        assert len(answers[1].top) == 5
        probe = answers[3]
        assert (probe.top, probe.queue_us, probe.decode_us, probe.tail_us) == ((), 0, 0, 0)
        assert probe.load >= 1
        assert parse_stream_frame(sent[3].to_stream_bytes(), bundle_tag=bundle.tag) == sent[3]
        assert len(sent[3].to_stream_bytes()) == 4

    def test_a_probe_is_for_the_stream_and_the_post_and_not_for_v2(self, app: Starlette, bundle: Bundle) -> None:
        probe = Frame(PROBE, 0, bundle.tag, 9, b"").to_bytes()
        assert parse_answer(ask(app, "POST", "/v1/classify", probe).content).top == ()
        from test_v2 import infer, request

        assert "a probe has no choices" in infer(app, request([probe])).json()["error"]
