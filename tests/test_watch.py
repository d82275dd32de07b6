"""A folder whose bundles come and go, looked at step by step; and once in a process."""

from __future__ import annotations

import asyncio
import dataclasses
import shutil
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import onnx
import pytest
from onnx import helper
from websockets.exceptions import ConnectionClosed

from bottlenet.bundle import Bundle, write_bundle
from bottlenet.cloud import Batcher, Limits, create_app
from bottlenet.cloud import service as module
from bottlenet.cloud.metrics import Metrics
from bottlenet.cloud.service import Bundles, Folder, Service
from bottlenet.cloud.stream import Stream
from bottlenet.errors import InputError
from bottlenet.wire.answer import Answer, parse_answer
from bottlenet.wire.frame import Frame
from conftest import MakeBundle, tiny_manifest, until
from processes import frame_of, serving


@pytest.fixture
def served_bundles() -> Bundles:
    return Bundles(lambda work: Batcher(work))


def names(served_bundles: Bundles) -> set[str]:
    return {served.bundle.manifest.name for served in served_bundles}


def copy(bundle: Bundle, target: Path) -> None:
    """As it should be done: a name that is left alone, then a rename."""
    hidden = target.with_name(f".{target.name}")
    shutil.copytree(bundle.path, hidden)
    hidden.rename(target)


async def settled(folder: Folder) -> None:
    """After the drains, too."""
    await folder.look()
    await asyncio.gather(*folder._drains)


def test_bundles_come_and_go(tmp_path: Path, served_bundles: Bundles, bundle: Bundle, make_bundle: MakeBundle) -> None:
    async def main() -> None:
        folder = Folder(tmp_path, served_bundles, 1, 5)
        await folder.look()
        assert names(served_bundles) == set()
        copy(bundle, tmp_path / "a")
        copy(make_bundle(name="other"), tmp_path / "b")
        await folder.look()
        assert names(served_bundles) == {"tiny", "other"}
        before = {served.bundle.tag: served for served in served_bundles}
        await folder.look()
        assert {served.bundle.tag: served for served in served_bundles} == before  # not once more
        shutil.rmtree(tmp_path / "a")
        await settled(folder)
        assert names(served_bundles) == {"other"}

    asyncio.run(main())


def test_a_half_copied_one_is_not_taken(tmp_path: Path, served_bundles: Bundles, bundle: Bundle) -> None:
    async def main() -> None:
        folder = Folder(tmp_path, served_bundles, 1, 5)
        target = tmp_path / "a"
        target.mkdir()
        for name in ("manifest.json", "labels.txt", "head.onnx", "tail.onnx", "uncut.onnx"):
            data = (bundle.path / name).read_bytes()
            for part in (data[: len(data) // 2], data):
                assert names(served_bundles) == set()
                (target / name).write_bytes(part)
                await folder.look()
        assert names(served_bundles) == {"tiny"}

    asyncio.run(main())


def test_what_does_not_verify_is_not_read_again_and_again(
    tmp_path: Path, served_bundles: Bundles, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = []
    load = Bundle.load

    def counted(path: Path) -> Bundle:
        loads.append(path)
        return load(path)

    monkeypatch.setattr(module.Bundle, "load", counted)

    async def main() -> None:
        folder = Folder(tmp_path, served_bundles, 1, 5)
        copy(bundle, tmp_path / "a")
        (tmp_path / "a" / "tail.onnx").write_bytes(b"damaged")
        for _ in range(5):
            await folder.look()
        assert len(loads) == 1
        shutil.copy(bundle.path / "tail.onnx", tmp_path / "a" / "tail.onnx")
        await folder.look()
        assert names(served_bundles) == {"tiny"}

    asyncio.run(main())


def test_another_one_in_the_same_place(
    tmp_path: Path, served_bundles: Bundles, bundle: Bundle, make_bundle: MakeBundle
) -> None:
    async def main() -> None:
        folder = Folder(tmp_path, served_bundles, 1, 5)
        copy(bundle, tmp_path / "a")
        await folder.look()
        (tmp_path / "a").rename(tmp_path / ".old")
        copy(make_bundle(name="other"), tmp_path / "a")
        await settled(folder)
        assert names(served_bundles) == {"other"}
        (tmp_path / "a" / "labels.txt").touch()  # changed and yet the same
        (before,) = served_bundles
        await settled(folder)
        assert list(served_bundles) == [before]

    asyncio.run(main())


def test_the_same_one_twice_and_one_that_came_another_way(
    tmp_path: Path, served_bundles: Bundles, bundle: Bundle
) -> None:
    async def main() -> None:
        given = served_bundles.add(bundle, lambda frames: [])
        folder = Folder(tmp_path, served_bundles, 1, 5)
        copy(bundle, tmp_path / "a")
        await folder.look()
        assert list(served_bundles) == [given]
        shutil.rmtree(tmp_path / "a")
        await settled(folder)
        assert list(served_bundles) == [given]

    asyncio.run(main())


def test_a_folder_that_is_renamed_and_one_of_two(tmp_path: Path, served_bundles: Bundles, bundle: Bundle) -> None:
    """The same bundle under another name is served at the next look, not a minute later."""

    async def main() -> None:
        folder = Folder(tmp_path, served_bundles, 1, 5)
        copy(bundle, tmp_path / "a")
        await folder.look()
        (tmp_path / "a").rename(tmp_path / "b")
        await settled(folder)
        assert names(served_bundles) == {"tiny"}
        copy(bundle, tmp_path / "c")
        await folder.look()  # not served: b is the same
        shutil.rmtree(tmp_path / "b")
        await settled(folder)
        assert names(served_bundles) == {"tiny"}

    asyncio.run(main())


class BusyDevice:
    """A WebSocket that has another frame to send for each reply; until it is closed."""

    def __init__(self, message: bytes, in_flight: int) -> None:
        self.replies: list[bytes] = []
        self.code = 0
        self._message = message
        self._may_send = asyncio.Semaphore(in_flight)

    async def receive(self) -> dict[str, object]:
        await self._may_send.acquire()
        if self.code:
            return {"type": "websocket.disconnect"}
        return {"type": "websocket.receive", "bytes": self._message}

    async def send(self, message: dict[str, Any]) -> None:
        if message["type"] == "websocket.send":
            self.replies.append(message["bytes"])
        else:
            self.code = message["code"]
        self._may_send.release()


def test_a_busy_stream_does_not_keep_a_bundle(bundle: Bundle) -> None:
    """What was taken is answered, what still comes is told to come later, and then it is over."""

    def work(frames: Sequence[Frame]) -> list[Answer]:
        time.sleep(0.005)
        return [Answer(frame.sequence, 1, 1, ((0, 1.0),)) for frame in frames]

    async def main() -> list[int]:
        served_bundles = Bundles(lambda work: Batcher(work, max_batch=1))
        service = Service(served_bundles, Limits(max_in_flight=4), Metrics(), None)
        served = served_bundles.add(bundle, work)
        device = BusyDevice(frame_of(bundle).to_stream_bytes(), 8)
        scope = {"type": "websocket", "headers": []}
        running = asyncio.create_task(Stream(scope, device.receive, device.send, served, service).run())  # type: ignore[arg-type]
        while not device.replies:
            await asyncio.sleep(0.005)
        await asyncio.wait_for(served_bundles.remove(served, 30), 2)
        assert device.code == 4404
        await asyncio.wait_for(running, 2)
        return [reply[0] & 15 for reply in device.replies]

    kinds = asyncio.run(main())
    assert set(kinds) <= {0, 2}
    assert kinds.count(0) >= 4


def test_a_folder_that_goes_leaves_what_is_served(tmp_path: Path, served_bundles: Bundles, bundle: Bundle) -> None:
    async def main() -> None:
        watched = tmp_path / "watched"
        watched.mkdir()
        folder = Folder(watched, served_bundles, 1, 5)
        copy(bundle, watched / "a")
        await folder.look()
        watched.rename(tmp_path / "gone")
        with pytest.raises(FileNotFoundError):
            await folder.look()
        assert names(served_bundles) == {"tiny"}

    asyncio.run(main())


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no folder"):
        create_app([], watch=tmp_path / "nothing")


def test_a_running_server(tmp_path: Path, bundle: Bundle, make_bundle: MakeBundle) -> None:
    """Empty at first; one goes live, its stream answers; it goes, the stream is told, and another serves meanwhile."""
    other = make_bundle(name="other")
    with serving("--watch", tmp_path) as process:

        def served() -> list[str]:
            return [one["name"] for one in httpx.get(f"{process.http_url}/v1/bundles").json()]

        assert served() == []
        assert httpx.get(f"{process.http_url}/readyz").status_code == 503
        copy(bundle, tmp_path / "a")
        until(lambda: served() == ["tiny"], "the bundle does not go live")
        assert httpx.get(f"{process.http_url}/readyz").status_code == 200
        with process.stream(bundle) as stream:
            stream.send(frame_of(bundle, 1).to_stream_bytes())
            assert parse_answer(stream.recv(timeout=30)).sequence == 1
            copy(other, tmp_path / "b")
            until(lambda: len(served()) == 2, "the second bundle does not go live")
            shutil.rmtree(tmp_path / "a")
            with pytest.raises(ConnectionClosed) as closed:
                stream.recv(timeout=30)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4404
        assert "is not served any more; served: " in closed.value.rcvd.reason
        gone = httpx.post(f"{process.http_url}/v1/classify", content=frame_of(bundle).to_bytes())
        assert gone.status_code == 404
        there = dataclasses.replace(frame_of(other), sequence=2).to_bytes()
        answer = parse_answer(httpx.post(f"{process.http_url}/v1/classify", content=there).content)
        assert answer.sequence == 2


def endless_tail(files: dict[str, bytes]) -> dict[str, bytes]:
    """The tiny bundle's tail behind a loop of 2**62 rounds."""
    model = onnx.load_from_string(files["tail.onnx"])
    kinds = onnx.TensorProto
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Add", ["before", "zero"], ["after"])],
        "body",
        [
            helper.make_tensor_value_info("round", kinds.INT64, []),
            helper.make_tensor_value_info("go", kinds.BOOL, []),
            helper.make_tensor_value_info("before", kinds.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("on", kinds.BOOL, []),
            helper.make_tensor_value_info("after", kinds.FLOAT, None),
        ],
        [helper.make_tensor("zero", kinds.FLOAT, [], [0.0])],
    )
    last = model.graph.node[-1]
    last.output[0] = "inner"
    model.graph.node.append(helper.make_node("Loop", ["rounds", "", "inner"], ["scores"], body=body))
    model.graph.initializer.append(helper.make_tensor("rounds", kinds.INT64, [], [2**62]))
    return {**files, "tail.onnx": model.SerializeToString()}


def test_a_bundle_without_end_costs_only_itself(
    tmp_path: Path, served_bundles: Bundles, bundle: Bundle, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TRY_S", 3.0)
    watched = tmp_path / "watched"
    watched.mkdir()
    write_bundle(watched / "a", tiny_manifest(name="endless"), endless_tail(files))

    async def main() -> None:
        folder = Folder(watched, served_bundles, 1, 5)
        await folder.look()
        assert names(served_bundles) == set()
        monkeypatch.setattr(module, "TRY_S", 60.0)
        copy(bundle, watched / "b")
        await folder.look()
        assert names(served_bundles) == {"tiny"}

    asyncio.run(main())


def test_the_end_does_not_wait_for_a_bundle_without_one(
    tmp_path: Path, bundle: Bundle, files: dict[str, bytes]
) -> None:
    write_bundle(tmp_path / "a", tiny_manifest(name="endless"), endless_tail(files))
    with serving(bundle.path, "--watch", tmp_path) as process:
        time.sleep(2)  # it is tried by now
        assert process.end(signal.SIGTERM) == (0, "")
