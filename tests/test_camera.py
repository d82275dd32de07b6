"""Cameras of every kind, real ones as far as a machine without any has them, and `bottlenet watch` in a process."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bottlenet.bundle import Bundle
from bottlenet.cli import sending
from bottlenet.cloud import create_app
from bottlenet.edge import Edge
from bottlenet.edge import camera as module
from bottlenet.edge.camera import Camera, Shot, check_source, clock_face, jpegs, name_of, pace_of
from bottlenet.edge.spool import records
from bottlenet.errors import InputError, LinkError, MissingExtraError
from cameras import (
    free_port,
    jpeg,
    motion,
    needs_gstreamer,
    picture,
    rtsp_camera,
    still,
    web_camera,
    write_video,
)
from conftest import Server, until
from processes import BOTTLENET, LIMIT_S, serving, write_certificate


@pytest.fixture(scope="module")
def url(bundle: Bundle) -> Iterator[str]:
    """A server's address."""
    server = Server(create_app([bundle]))
    yield server.url
    server.stop()


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four seconds, each of a colour of its own."""
    return write_video(tmp_path_factory.mktemp("video") / "v.mp4", [picture(i // 25) for i in range(100)])


@pytest.fixture
def edge(bundle: Bundle, url: str) -> Iterator[Edge]:
    with Edge(bundle, url) as opened:
        yield opened


def label(edge: Edge, number: int) -> str:
    return edge.classify(picture(number)).label


@contextlib.contextmanager
def watching(
    source: object, bundle: Bundle, url: str, *options: object, stdin: Any = None
) -> Iterator[subprocess.Popen]:
    command = [*BOTTLENET, "watch", source, "--to", url, "--bundle", bundle.path, "--json", *options]
    pipe = subprocess.PIPE
    with subprocess.Popen([str(each) for each in command], stdin=stdin, stdout=pipe, stderr=pipe, text=True) as popen:
        try:
            yield popen
        finally:
            popen.kill()


def watched(source: object, bundle: Bundle, url: str, *options: object) -> tuple[int, list[dict[str, Any]], str]:
    """Exit code, lines and standard error of one that ends by itself."""
    with watching(source, bundle, url, *options) as popen:
        out, err = popen.communicate(timeout=LIMIT_S)
    return popen.returncode, [json.loads(line) for line in out.splitlines()], err


def stopped(popen: subprocess.Popen) -> tuple[int, str]:
    """Exit code and standard error after SIGTERM."""
    popen.send_signal(signal.SIGTERM)
    _, err = popen.communicate(timeout=LIMIT_S)
    return popen.returncode, err


def answers(popen: subprocess.Popen, count: int) -> list[dict[str, Any]]:
    assert popen.stdout is not None
    lines = [popen.stdout.readline() for _ in range(count)]
    assert all(lines), popen.stderr and popen.stderr.read()
    return [json.loads(line) for line in lines]


def first(camera: Camera) -> Shot:
    while (shot := camera.take()) is None:
        assert not camera.ended, "no frame came"
        camera.wait(1)
    return shot


def test_a_video_file_is_looked_at_at_its_own_pace(video: Path, bundle: Bundle, url: str, edge: Edge) -> None:
    code, lines, err = watched(video, bundle, url, "--name", "porch", "--when", 1)
    assert code == 0
    assert [line["at"] for line in lines] == [f"0:00:0{second}.000" for second in range(4)]
    assert [line["label"] for line in lines] == [label(edge, second) for second in range(4)]
    assert lines[0] | {"photo": "porch@0:00:00.000", "by": "server", "status": "answered"} == lines[0]
    assert err.startswith("porch: 100 frames, 96 passed over, 4 answered")


def test_every_frame_of_a_file_where_that_is_wanted(video: Path, edge: Edge) -> None:
    assert len(list(edge.watch(video, when="always"))) == 100
    assert [seen.shot.at_s for seen in edge.watch(video, when="always", key_frames=True)] == [0, 1, 2, 3]
    assert [seen.shot.at_s for seen in edge.watch(video, when=2.5)] == [0, 2.52]


def test_with_a_spool_each_frame_is_answered_once(video: Path, bundle: Bundle, url: str, tmp_path: Path) -> None:
    for again in (False, True):
        code, lines, err = watched(video, bundle, url, "--spool", tmp_path / "spool", "--when", 1)
        assert code == 0
        assert [(line["at"], line["again"]) for line in lines] == [
            (f"0:00:0{second}.000", again) for second in range(4)
        ]
        assert ("4 answered, 0 bytes" in err) == again  # none goes out again


def test_frames_of_a_camera_wait_in_a_spool(bundle: Bundle, tmp_path: Path) -> None:
    port, spool = free_port(), tmp_path / "spool"
    parts = [jpeg(number) for number in range(400)]
    with web_camera(motion(parts)) as camera:
        options = [
            f"http://127.0.0.1:{camera.port}/",
            bundle,
            f"ws://127.0.0.1:{port}",
            "--spool",
            spool,
            "--when",
            0.3,
        ]
        with watching(*options) as popen:
            assert popen.stderr is not None
            assert "next try in" in popen.stderr.readline()
            until(lambda: len(list(records(spool))) >= 3, "nothing waits")
            code, err = stopped(popen)
        assert code == 0
        waiting = [record.photo for record in records(spool)]
        with serving(bundle.path, "--port", port), watching(*options) as popen:
            assert [line["photo"] for line in answers(popen, len(waiting))] == waiting
            assert answers(popen, 1)[0]["at"] > waiting[-1].rpartition("@")[2]
            assert stopped(popen)[0] == 0
    assert "0 answered" in err


def test_frames_that_fail_are_counted_and_why_is_said_once(bundle: Bundle, url: str, tmp_path: Path) -> None:
    port = free_port()
    with web_camera(motion([jpeg(number) for number in range(4000)], 0.02)) as camera:
        source, to = f"http://127.0.0.1:{camera.port}/", f"ws://127.0.0.1:{port}"
        with watching(source, bundle, to, "--when", "0.1") as popen:
            assert popen.stderr is not None
            popen.stderr.readline()
            time.sleep(0.5)
            with serving(bundle.path, "--port", port):
                assert answers(popen, 1)[0]["failed"] > 0
            code, err = stopped(popen)
        assert " failed" in err
        options = ["--spool", tmp_path / "spool", "--spool-bytes", 5000, "--when", "0.05"]
        with watching(source, bundle, "ws://127.0.0.1:1", *options) as popen:
            lines = answers(popen, 5)
            code, err = stopped(popen)
    assert code == 0
    assert {line["status"] for line in lines} == {"dropped"}
    assert err.count("error: dropped: ") == 1


def test_a_server_that_is_away_is_waited_for(video: Path, bundle: Bundle) -> None:
    port = free_port()
    with watching(video, bundle, f"ws://127.0.0.1:{port}", "--when", 1) as popen:
        assert popen.stderr is not None
        assert "next try in" in popen.stderr.readline()
        with serving(bundle.path, "--port", port):
            assert len(answers(popen, 4)) == 4


def test_answered_here_while_there_is_no_server(video: Path, bundle: Bundle) -> None:
    code, lines, errors = watched(video, bundle, "ws://127.0.0.1:1", "--fallback", "local", "--when", 1)
    assert code == 0
    assert [line["by"] for line in lines] == ["local"] * 4
    assert " 4 answered, 0 bytes" in errors


def test_jpegs_on_standard_input(bundle: Bundle, url: str, edge: Edge) -> None:
    with watching("-", bundle, url, "--when", "always", stdin=subprocess.PIPE) as popen:
        assert popen.stdin is not None
        pipe = popen.stdin.buffer  # type: ignore[attr-defined]
        for number in range(3):
            pipe.write(b"rubbish" + jpeg(number, (64 + number, 48)))  # one of another size each time
            pipe.flush()
            assert answers(popen, 1)[0]["label"] == label(edge, number)  # without waiting for the next one
        pipe.write(b"\xff\xd8\xff\xe0 no JPEG" + jpeg(1)[:300] + jpeg(4))
        pipe.close()
        assert answers(popen, 1)[0]["label"] == label(edge, 4)
        assert popen.wait(LIMIT_S) == 0


def test_mjpeg_over_http_that_wants_a_password(bundle: Bundle, url: str, edge: Edge) -> None:
    parts = [jpeg(1, (64, 48)), b"garbage", jpeg(1, (128, 96))] * 200
    with web_camera(motion(parts), user="me:s3cret") as camera:
        source = f"http://me:s3cret@127.0.0.1:{camera.port}/video?key=s3cret"
        with watching(source, bundle, url, "--when", "0.2") as popen:
            lines = answers(popen, 3)
            code, err = stopped(popen)
        assert code == 0
        assert {line["label"] for line in lines} == {label(edge, 1)}
        assert [line["photo"].partition("@")[0] for line in lines] == [f"127.0.0.1:{camera.port}"] * 3
        assert lines[2]["dropped"] > 0
        with watching(source.replace("me:s3cret@", "me:wr0ng@"), bundle, url) as popen:
            assert popen.stderr is not None
            line = popen.stderr.readline()
            assert "401" in line
            code, more = stopped(popen)
    assert code == 0
    assert not {"s3cret", "wr0ng"} & set(f"{lines} {err} {line} {more}".replace(":", " ").split())
    assert "s3cret" not in f"{lines}{err}{line}{more}"
    assert "wr0ng" not in f"{line}{more}"


def test_a_jpeg_is_fetched_again_and_again(bundle: Bundle, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STILL_S", 0.05)
    told: list[str] = []
    with web_camera(still(jpeg(3))) as server:
        with closing(Camera(f"http://127.0.0.1:{server.port}/now.jpg", tell=told.append)) as camera:
            first(camera)
            until(lambda: len(server.requests) > 3, "it is fetched once")
        assert camera.losses == 0
    assert not told  # nor that it ended, when it is closed


def test_a_camera_that_is_lost_is_opened_again(edge: Edge) -> None:
    port, told = free_port(), []
    with closing(Camera(f"http://127.0.0.1:{port}/", tell=told.append)) as camera:
        until(lambda: bool(told), "nothing is said")
        assert told[0].startswith(f"127.0.0.1:{port}: it can't be read (connection refused); the camera is tried again")
        for number in range(3):
            with web_camera(motion([jpeg(number)] * 5), port=port):
                while edge.classify(first(camera).read()[1]).label != label(edge, number):
                    pass  # one of the camera before
        until(lambda: camera.losses >= 4, "it is not missed")


def test_a_camera_that_says_nothing_is_opened_again(edge: Edge) -> None:
    told: list[str] = []
    quiet = threading.Event()

    def answer(request: Any) -> None:
        motion([jpeg(1)])(request)
        quiet.wait(30)

    with web_camera(answer) as server:
        with closing(Camera(f"http://127.0.0.1:{server.port}/", timeout_s=0.2, tell=told.append)) as camera:
            until(lambda: camera.frames >= 2, "it is waited for without end")
        quiet.set()
    assert "it can't be read (timed out)" in told[0] or "timeouterror" in told[0]


def test_a_camera_that_sends_no_more_jpegs_is_opened_again() -> None:
    told: list[str] = []

    def answer(request: Any) -> None:
        motion([jpeg(1)])(request)
        while True:
            request.wfile.write(b"--frame\r\nContent-Type: text/plain\r\n\r\nno signal\r\n")
            time.sleep(0.02)

    with (
        web_camera(answer) as server,
        closing(Camera(f"http://127.0.0.1:{server.port}/", timeout_s=0.3, tell=told.append)) as camera,
    ):
        until(lambda: camera.frames >= 2, "it is waited for without end")
    assert "no frame came for 0.3 s" in told[0]


def test_a_video_stream_that_says_nothing_is_opened_again() -> None:
    told: list[str] = []
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        closing(Camera(f"rtsp://127.0.0.1:{server.getsockname()[1]}/", timeout_s=0.3, tell=told.append)),
    ):
        until(lambda: bool(told), "it is waited for without end")
    assert "no frame came for 0.3 s" in told[0]


def test_what_a_camera_answers_is_not_repeated() -> None:
    """It may have the address in it."""

    def named(request: Any) -> None:
        request.wfile.write(b"HTTP/1.0 404 no such thing: " + request.path.encode() + b"\r\n\r\n")

    def elsewhere(request: Any) -> None:
        request.send_response(302)
        request.send_header("Location", f"file://{request.path}")
        request.end_headers()

    def other(request: Any) -> None:
        request.send_response(401)
        request.send_header("WWW-Authenticate", "Bearer realm=s3cret")
        request.end_headers()

    for answer, words in ((named, "404 Not Found"), (elsewhere, "302 Found"), (other, "it asks for a password")):
        told: list[str] = []
        with web_camera(answer) as server:
            source = f"http://me:s3cret@127.0.0.1:{server.port}/x?key=s3cret"
            with closing(Camera(source, tell=told.append)):
                until(lambda told=told: bool(told), "nothing is said")
        assert words in told[0]
        assert "s3cret" not in told[0]


def test_an_address_with_spaces_and_letters_of_any_kind() -> None:
    with web_camera(motion([jpeg(1)])) as server:
        with closing(Camera(f"http://127.0.0.1:{server.port}/Tür 1?a=ö b&c=%20")) as camera:
            until(lambda: camera.frames > 0, "no frame comes")
        assert server.requests[0] == "/T%C3%BCr%201?a=%C3%B6%20b&c=%20"


def test_a_camera_with_a_certificate_of_its_own(tmp_path: Path, bundle: Bundle, url: str) -> None:
    certificate = write_certificate(tmp_path)
    with web_camera(motion([jpeg(1)] * 400), certificate=certificate) as server:
        source = f"https://127.0.0.1:{server.port}/"
        with watching(source, bundle, url, "--ca", certificate[0]) as popen:
            assert answers(popen, 1)[0]["by"] == "server"
        with watching(source, bundle, url) as popen:
            assert popen.stderr is not None
            assert "certificate verify failed" in popen.stderr.readline()


def test_only_the_newest_frame_is_taken() -> None:
    colours = [jpeg(number) for number in range(50)]
    over = threading.Event()

    def answer(request: Any) -> None:
        motion(colours, 0.01)(request)
        over.wait(60)

    with web_camera(answer) as server, closing(Camera(f"http://127.0.0.1:{server.port}/", name="c")) as camera:
        shot = first(camera)
        until(lambda: camera.frames == 50, "frames wait for their turn")
        latest = first(camera)
        assert latest.read()[1] == colours[-1]
        assert latest.at > shot.at
        assert camera.dropped == 48
        over.set()
    assert not [each for each in threading.enumerate() if each.name == "bottlenet-camera-c"]


@pytest.mark.slow
@needs_gstreamer
def test_rtsp(video: Path, bundle: Bundle, url: str, edge: Edge) -> None:
    port = free_port()
    source = f"rtsp://me:s3cret@127.0.0.1:{port}/stream"
    with watching(source, bundle, url, "--key-frames", "--when", "always") as popen:
        with rtsp_camera(video, port, "me", "s3cret"):
            lines = answers(popen, 6)  # the file ends after four, and begins again
        with rtsp_camera(video, port, "me", "s3cret"):
            lines += answers(popen, 2)
        with rtsp_camera(video, port, "me", "other"):
            assert popen.stderr is not None
            errors = popen.stderr.readline()
            while "401" not in errors:
                errors += popen.stderr.readline()
        code, err = stopped(popen)
    assert code == 0
    assert {line["label"] for line in lines} == {label(edge, number) for number in range(4)}
    assert "s3cret" not in f"{lines}{errors}{err}"
    assert len({line["photo"] for line in lines}) == 8


def test_a_resolution_that_changes_in_mid_stream(tmp_path: Path, edge: Edge) -> None:
    parts = [
        write_video(tmp_path / f"{side}.h264", [picture(side, (side, side))] * 25).read_bytes() for side in (64, 96, 48)
    ]
    path = tmp_path / "whole.h264"
    path.write_bytes(b"".join(parts))
    seen = list(edge.watch(path, when="always"))
    assert len(seen) == 75
    assert {each.prediction.label for each in seen} == {label(edge, side) for side in (64, 96, 48)}


@pytest.mark.parametrize("key_frames", [False, True])
def test_a_video_without_times_has_its_rate(key_frames: bool, tmp_path: Path, edge: Edge) -> None:
    path = write_video(tmp_path / "v.h264", [picture(i // 25) for i in range(100)])
    assert [seen.shot.at_s for seen in edge.watch(path, when=1, key_frames=key_frames)] == [0, 1, 2, 3]


def test_what_is_damaged_in_a_video_is_left_out(video: Path, tmp_path: Path, edge: Edge) -> None:
    with av.open(str(video)) as container, av.open(str(tmp_path / "whole.ts"), "w") as copy:
        stream = copy.add_stream_from_template(container.streams.video[0])
        for packet in container.demux(container.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                copy.mux(packet)
    data = bytearray((tmp_path / "whole.ts").read_bytes())
    rng = np.random.default_rng(0)
    data[4000:5000] = rng.bytes(1000)
    (tmp_path / "damaged.ts").write_bytes(data)
    assert 2 <= len(list(edge.watch(tmp_path / "damaged.ts", when=1))) <= 4


def test_a_video_that_lies_on_its_side_is_turned() -> None:
    frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
    assert np.asarray(module.rgb(frame)).shape == (48, 64, 3)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("ftp://camera/x", "that is no source of frames"),
        ("rtsp://", "that is no source of frames"),
        ("http://me:s3cret@[::1/x", "that is no source of frames"),
        (".", "bottlenet send . --watch"),
        ("nowhere.mp4", "nowhere.mp4: there is no such file"),
        ("", "that is no source of frames"),
        ("me:s3cret@camera/stream", "that source: there is no such file"),
        ("rtsp//me:s3cret@camera", "that source: there is no such file"),
        ("camera:554/user=me_password=s3cret", "that source: there is no such file"),
        ("rtsp://me:12/s3cret@camera/stream", "write %2F for /"),
        ("rtsp://me:s3cret/x@camera/stream", "write %2F for /"),
        ("http://me:12#s3cret@camera/", "write %2F for /"),
    ],
)
def test_a_source_that_is_none(source: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        check_source(source)
    assert "s3cret" not in str(caught.value)


def test_a_source_that_ps_does_not_show(bundle: Bundle) -> None:
    command = [*BOTTLENET, "watch", "--to", "ws://127.0.0.1:1", "--bundle", str(bundle.path)]
    environment = {**os.environ, "BOTTLENET_SOURCE": "ftp://me:s3cret@camera"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False, env=environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: that is no source of frames")
    assert "s3cret" not in done.stderr


def test_a_clock_that_jumps_and_frames_of_one_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([5000, 5000, 5000, 5001, 1000, 1000, 9000, *[9000] * 30])
    with closing(Camera("http://127.0.0.1:1/x")) as camera:
        monkeypatch.setattr(module.time, "time_ns", lambda: next(clock) * 10**6)
        assert [camera._now_ms() for _ in range(7)] == [5000, 5001, 5002, 5003, 1000, 1001, 9000]
        assert [camera._now_ms() for _ in range(30)] == list(range(9001, 9031))  # of a burst


@pytest.mark.parametrize("data", [b"", b"garbage" * 1000, b"\0\0\0\1\x67" * 100])
def test_a_file_that_is_no_video(data: bytes, tmp_path: Path, bundle: Bundle) -> None:
    path = tmp_path / "v.mp4"
    path.write_bytes(data)
    code, lines, err = watched(path, bundle, "ws://127.0.0.1:1")
    assert (code, lines) == (2, [])
    assert "v.mp4: " in err
    assert err.count("error: ") == 1


def test_standard_input_without_jpegs(bundle: Bundle) -> None:
    with watching("-", bundle, "ws://127.0.0.1:1", stdin=subprocess.DEVNULL) as popen:
        _, err = popen.communicate(timeout=LIMIT_S)
    assert popen.returncode == 2
    assert err.startswith("error: stdin: there is no picture in it")
    endless = io.BytesIO(b"\0" * (module.MAX_NO_JPEG_BYTES + 2**18))
    with pytest.raises(LinkError, match="--codec mjpeg"):
        next(jpegs(endless.read))


def test_a_device_that_is_not_plugged_in(bundle: Bundle) -> None:
    with watching("/dev/video99", bundle, "ws://127.0.0.1:1") as popen:
        assert popen.stderr is not None
        assert "/dev/video99: it can't be read (no such file or directory)" in popen.stderr.readline()
        code, _ = stopped(popen)
    assert code == 0


def test_a_wrong_source_leaves_nothing_behind(bundle: Bundle, tmp_path: Path) -> None:
    code, _, _ = watched("nowhere.mp4", bundle, "ws://127.0.0.1:1", "--spool", tmp_path / "spool")
    assert code == 2
    assert not (tmp_path / "spool").exists()


def test_sigterm_while_it_starts(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "Camera", lambda *_, **__: signal.raise_signal(signal.SIGTERM))
    options: dict[str, Any] = {"camera": {}, "changes": None, "home": None, "spool_options": {}}
    assert sending.watch(edge, "-", None, in_flight=1, as_json=True, **options) == 0


def test_interrupted_it_says_what_became_of_the_frames(bundle: Bundle, url: str) -> None:
    with (
        web_camera(motion([jpeg(1)] * 400)) as camera,
        watching(f"http://127.0.0.1:{camera.port}/", bundle, url, "--name", "porch") as popen,
    ):
        answers(popen, 1)
        popen.send_signal(signal.SIGINT)
        _, err = popen.communicate(timeout=LIMIT_S)
    assert popen.returncode == 130
    assert err.startswith("porch: ")
    assert " 1 answered, " in err


def test_what_needs_pyav_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="video"):
        Camera("rtsp://127.0.0.1:1/x")
    Camera("http://127.0.0.1:1/x").close()  # JPEGs don't


@pytest.mark.parametrize("when", ["", "0", "-1", "nan", "inf", "often", 0, -2.0])
def test_a_pace_that_is_none(when: str | float) -> None:
    with pytest.raises(InputError, match="when is"):
        pace_of(when)


@pytest.mark.parametrize("name", ["", "x" * 201, "  ", "\x01\x1b", "\udcff"])
def test_a_name_that_is_none(name: str) -> None:
    with pytest.raises(InputError, match="a camera's name"):
        Camera("http://127.0.0.1:1/x", name=name)


def test_a_name_is_one_line() -> None:
    assert name_of("-", "front\nporch\x1b[31m @ home\udcff") == "front porch [31m @ home"
    assert name_of("rtsp://me:s3cret@camera:554/user=me") == "camera:554"


def thumbnailed() -> bytes:
    """A JPEG with another in its EXIF."""
    inner = jpeg(7, (8, 8))
    return b"\xff\xd8\xff\xe1" + (len(inner) + 2).to_bytes(2, "big") + inner + jpeg(8)[2:]


PHOTOS = [jpeg(1), jpeg(2, progressive=True), jpeg(3, quality=100, subsampling=0), thumbnailed()]


@given(st.data())
def test_jpegs_are_found_however_they_are_cut_up(data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.sampled_from(PHOTOS), max_size=4))
    between = data.draw(
        st.lists(st.sampled_from([b"", b"\r\n--frame\r\n", b"\xff", b"\xff\xd8"]), min_size=4, max_size=4)
    )
    stream = io.BytesIO(b"".join(filler + each for filler, each in zip(between, chosen, strict=False)))
    sizes = data.draw(st.lists(st.integers(1, 2000), min_size=1, max_size=20))
    size = itertools.cycle(sizes)
    assert list(jpegs(lambda most: stream.read(min(most, next(size))))) == chosen


@given(st.binary(max_size=3000), st.integers(1, 600))
def test_bytes_of_any_kind_end(rubbish: bytes, place: int) -> None:
    damaged = bytearray(PHOTOS[0])
    damaged[place : place + 3] = rubbish[:3]
    stream = io.BytesIO(rubbish + bytes(damaged) + rubbish)
    for each in jpegs(stream.read):
        assert each.startswith(b"\xff\xd8\xff")
        assert each.endswith(b"\xff\xd9")


def test_all_jpegs_that_pillow_writes_are_whole() -> None:
    assert all(Image.open(io.BytesIO(each)).convert("RGB") for each in jpegs(io.BytesIO(b"".join(PHOTOS)).read))


def test_times_of_a_video_as_people_write_them() -> None:
    assert [clock_face(seconds) for seconds in (0, 12.48, 59.9999, 3600 * 25 + 61.5)] == [
        "0:00:00.000",
        "0:00:12.480",
        "0:01:00.000",
        "25:01:01.500",
    ]
