"""Cameras for long: hours of frames at many times their speed, servers that restart, streams that are cut."""

from __future__ import annotations

import gc
import os
import threading
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from bottlenet.bundle import Bundle
from bottlenet.edge import Edge
from bottlenet.edge import camera as module
from bottlenet.edge.camera import Camera
from cameras import free_port, jpeg, motion, needs_gstreamer, picture, rtsp_camera, web_camera, write_video
from processes import serving

pytestmark = pytest.mark.slow

HOURS = int(os.environ.get("BOTTLENET_CAMERA_HOURS", "2"))  # 24 take some minutes
RESTARTS = 20
CUTS = int(os.environ.get("BOTTLENET_CAMERA_CUTS", "15"))
MORE_BYTES = 16 * 2**20  # of memory, from a tenth of the way to the end


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def held() -> tuple[int, dict[str, str]]:
    """How many threads this process has, and what each of its descriptors is."""
    gc.collect()  # a closed connection's, in a circle of an error and its frames
    descriptors = {}
    for path in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the one that lists them, and those that others just closed
            descriptors[path.name] = os.readlink(path)
    return threading.active_count(), descriptors


def check_nothing_is_left(before: tuple[int, dict[str, str]], after: tuple[int, dict[str, str]], rounds: int) -> None:
    """A leak grows with the rounds; a few may be open just now, of a connection, of a server, or of an earlier test."""
    more = rounds // 4
    assert after[0] <= before[0] + more, "threads are left"
    assert len(after[1]) <= len(before[1]) + more, (
        f"descriptors are left: {sorted(after[1].items() - before[1].items())}"
    )


def write_hours(path: Path, hours: int, changes: int) -> Path:
    """A frame a second, which changes that often."""
    every = hours * 3600 // changes
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=1, options={"g": "60", "bf": "0", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt, stream.thread_count = 64, 48, "yuv420p", 1
        for second in range(hours * 3600):
            shown = picture(0)
            shown[14:32, 24:42] = picture(1 + second // every)[14:32, 24:42]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(shown, format="rgb24")))
        container.mux(stream.encode())
    return path


def test_hours_of_frames_while_servers_restart(bundle: Bundle, tmp_path: Path) -> None:
    changes, port = 200, free_port()
    video = write_hours(tmp_path / "hours.mp4", HOURS, changes)
    times: list[str] = []
    first: tuple[int, tuple[int, dict[str, str]]] | None = None
    with Edge(bundle, f"ws://127.0.0.1:{port}") as edge, closing(edge.watch(video, silence_s=1e5)) as seen:
        for restart in range(RESTARTS + 1):
            with serving(bundle.path, "--port", port):
                for each in seen:
                    times.append(each.shot.at)
                    if len(times) >= (restart + 1) * changes // (RESTARTS + 1) and restart < RESTARTS:
                        break
            if restart == RESTARTS // 10:
                first = resident_bytes(), held()
        last = resident_bytes(), held()
    assert len(times) == len(set(times)), "a frame was answered twice"
    assert times == sorted(times, key=lambda at: [float(part) for part in at.split(":")])
    assert 0.9 * changes < len(times) < 2 * changes
    assert first is not None
    assert last[0] - first[0] < MORE_BYTES, f"{last[0] - first[0]} bytes more"
    check_nothing_is_left(first[1], last[1], RESTARTS)


def follow(camera: Camera, cuts: int) -> tuple[list[str], list[float]]:
    """The times of frames until it was lost that often, and how long it was away each time."""
    times: list[str] = []
    away, last, losses = [], time.monotonic(), 0
    while camera.losses < cuts:
        if (shot := camera.take()) is None:
            camera.wait(1)
            continue
        assert np.asarray(shot.read()[1]).size, "a frame without anything"
        times.append(shot.at)
        if camera.losses > losses:
            losses = camera.losses
            away.append(time.monotonic() - last)
        last = time.monotonic()
    return times, away


def check(camera: Camera, cuts: int) -> None:
    """Cut after cut, and nothing is left or comes twice."""
    with closing(camera):
        follow(camera, 3)
        before = resident_bytes(), held()
        times, away = follow(camera, 3 + cuts)
        after = resident_bytes(), held()
    assert times == sorted(set(times)), "a frame came twice, or late"
    assert max(away) < 10 * module.RETRY_S
    assert after[0] - before[0] < MORE_BYTES
    check_nothing_is_left(before[1], after[1], cuts)


def test_a_stream_of_jpegs_that_is_cut_again_and_again() -> None:
    def answer(request: Any) -> None:
        motion([jpeg(number) for number in range(5)], 0.02)(request)
        request.wfile.write(jpeg(6)[:200])  # in mid-frame

    with web_camera(answer) as server:
        check(Camera(f"http://127.0.0.1:{server.port}/"), CUTS)


@needs_gstreamer
def test_an_rtsp_stream_that_ends_again_and_again(tmp_path: Path) -> None:
    video, port = write_video(tmp_path / "v.mp4", [picture(i) for i in range(12)]), free_port()
    with rtsp_camera(video, port):
        check(Camera(f"rtsp://127.0.0.1:{port}/stream"), CUTS)
