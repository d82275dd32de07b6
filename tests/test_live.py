"""A day on which link and server change, lived beside an oracle: real sockets, a shaped link, a busy server."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bottlenet.bundle import Bundle
from bottlenet.bundle.ladder import Ladder
from bottlenet.edge.connection import Stream, open_websocket
from bottlenet.edge.encoder import EDGE_ONLY, Device, Processed, Side
from bottlenet.edge.pilot import Move
from bottlenet.errors import InputError
from bottlenet.measure.link import ShapedLink
from bottlenet.photo import Source
from bottlenet.plan.link import Link
from bottlenet.wire.answer import Answer
from bottlenet.wire.frame import STREAM_PATH, Frame
from busy_server import Others, create_busy_app
from conftest import Server, until
from live_day import DAY, Day, Phase, World, busy_server, live, photos_for, slower, summarise
from network import make_album
from test_auto import CLOUD, QUICK, profile
from test_bench import photos  # noqa: F401
from test_benchmarks import launch, record, tiny_classifier  # noqa: F401

LEAST_S = 0.02  # of a photo at the server
FAST = Link("fast", 1e9, 0.001)


def ask(url: str, bundle: Bundle, frame: Frame) -> Answer:
    """One photo on a connection of its own."""
    stream = Stream(lambda: open_websocket(f"{url}{STREAM_PATH}?bundle={bundle.id.hex()}", 30))
    try:
        return stream.ask(frame, 30).answer
    finally:
        stream.close()


@pytest.fixture(scope="module")
def frame(bundle: Bundle, photo: np.ndarray) -> Frame:
    return Device(bundle).encoder.encode(photo).frame


@pytest.fixture
def busy(bundle: Bundle) -> Iterator[tuple[Server, Others]]:
    others = Others(least_s=LEAST_S)
    server = Server(create_busy_app([bundle], others))
    yield server, others
    server.stop()


class TestBusyServer:
    def test_a_photo_waits_for_those_ahead(
        self, busy: tuple[Server, Others], bundle: Bundle, frame: Frame, photo: np.ndarray
    ) -> None:
        server, others = busy
        alone = ask(server.url, bundle, frame)
        assert alone.top[0][0] == ask(server.url, bundle, frame).top[0][0]
        others.count = 3
        until(lambda: ask(server.url, bundle, frame).queue_us >= 2 * LEAST_S * 1e6, "nobody is ahead")
        until(lambda: ask(server.url, bundle, frame).load > 2, "it does not say that it is busy")
        others.count = 0
        until(lambda: ask(server.url, bundle, frame).queue_us < LEAST_S * 1e6, "the others stay")

    def test_as_a_process(self, bundle: Bundle, frame: Frame) -> None:
        with busy_server([bundle.path]) as (port, change):
            url = f"ws://127.0.0.1:{port}"
            top = ask(url, bundle, frame).top
            change(3)
            until(lambda: ask(url, bundle, frame).load > 2, "nobody came")
            assert ask(url, bundle, frame).top == top
            change(10**9)  # not so many


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return sorted(make_album(tmp_path_factory.mktemp("album"), 3).iterdir())


def asleep(seconds: dict[str, float]) -> object:
    """A device that takes at least so long, by the partition's name."""

    def wrap(name: str, side: Side) -> Side:
        def work(photo: Source, sequence: int) -> Processed:
            made = side.work(photo, sequence)
            time.sleep(seconds[name])
            return dataclasses.replace(made, compute_ms=made.compute_ms + seconds[name] * 1e3)

        return dataclasses.replace(side, work=work)

    return wrap


@pytest.mark.slow
def test_a_short_day(
    busy: tuple[Server, Others], bundle: Bundle, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a phone would see in a tunnel. Numbers are far apart: a busy machine changes none of them."""
    monkeypatch.setattr("live_day.ORACLE_PHOTOS", 2)
    server, others = busy
    takes = {"edge-only": 0.4, CLOUD: 0.001, "split at patches": 0.2}
    made = profile(bundle, edge_s=takes["edge-only"], cloud_s=takes[CLOUD], split_s=takes["split at patches"])
    seen: list[tuple[int, int]] = []
    with ShapedLink("127.0.0.1", server.port, FAST) as link:
        world = World(link, lambda count: setattr(others, "count", count))
        day = live(
            [bundle],
            made,
            paths,
            world,
            seconds=1.0,
            day=(Phase("outside", FAST), Phase("tunnel", None, others=2)),
            policy=dataclasses.replace(QUICK, patience_s=1.5),
            wrap=asleep(takes),  # type: ignore[arg-type]
            on_progress=lambda done, total: seen.append((done, total)),
        )
    outside, tunnel = day.phases
    assert day.unanswered == 0
    assert day.photos == outside.photos + tunnel.photos
    assert [phase.oracle for phase in day.phases] == [CLOUD, "edge-only"]
    assert set(outside.measured_ms) == set(takes)
    assert outside.measured_ms["edge-only"] >= 400
    assert set(tunnel.measured_ms) == {"edge-only"}
    assert outside.partitions.get(CLOUD, 0) == outside.photos
    assert [(move.source, move.target) for move in outside.moves] == [("edge-only", CLOUD)]
    assert (tunnel.link, tunnel.others) == (None, 2)
    assert tunnel.partitions == {"edge-only": tunnel.photos}
    assert [(move.source, move.target) for move in tunnel.moves] == [(CLOUD, "edge-only")]
    assert "there is none" in tunnel.moves[0].reason
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert others.count == 2


def test_nothing_to_do(bundle: Bundle, paths: list[Path]) -> None:
    world = World(None, lambda count: None)  # type: ignore[arg-type]
    for given, seconds in (([], 1.0), (paths, 0.0), (paths, float("nan"))):
        with pytest.raises(InputError, match="give one at least, and a time above 0"):
            live([bundle], profile(bundle), given, world, seconds=seconds)


def test_a_slower_device_is_this_one_asleep(bundle: Bundle, paths: list[Path]) -> None:
    device = Device(bundle)
    once = device.work(EDGE_ONLY, paths[0])

    def work(photo: Source, sequence: int) -> Processed:
        ends = time.thread_time() + 0.01
        while time.thread_time() < ends:  # computing, not waiting
            pass
        return dataclasses.replace(once, prepare_ms=4.0, compute_ms=6.0, encode_ms=0.0)

    side = Side(bundle, device.encoder, work)
    assert slower(1.0)("any", side) is side
    started = time.perf_counter()
    made = slower(20.0)("any", side).work(paths[0], 0)
    passed_s = time.perf_counter() - started
    assert 0.2 <= made.device_s <= passed_s
    assert made.compute_ms == pytest.approx(1.5 * made.prepare_ms)  # as it was
    assert made.result is once.result


MOVE = Move("edge-only", CLOUD, "it wins")


def test_what_a_phase_was_like() -> None:
    times = {"edge-only": [0.3, 0.1, 0.2], CLOUD: [0.05, 0.04, 0.06]}
    lived = summarise(Phase("one", FAST, 1), [0.05, 0.07, 0.3], [CLOUD, CLOUD, ""], [MOVE], times)
    assert (lived.name, lived.link, lived.others, lived.photos, lived.unanswered) == ("one", "fast", 1, 3, 1)
    assert (lived.median_ms, lived.p95_ms) == (70, 300)
    assert lived.partitions == {CLOUD: 2, "": 1}
    assert (lived.oracle, lived.oracle_median_ms) == (CLOUD, 50)
    assert lived.measured_ms == {"edge-only": 200, CLOUD: 50}
    calm = dataclasses.replace(lived, moves=())
    day = Day((lived, calm), 6, 1, 115.0, 100.0)
    assert day.excess == pytest.approx(0.15)
    assert day.most_moves == 1


def test_photos_without_an_answer_are_counted(paths: list[Path]) -> None:
    class Silent:
        def classify(self, photo: Source) -> object:
            return type("Prediction", (), {"partition": "edge-only", "top": ()})

    took, used = photos_for(Silent(), iter(paths * 1_000_000), 0.01)  # type: ignore[arg-type]
    assert len(took) == len(used) > 0
    assert set(used) == {""}


@pytest.mark.slow
def test_the_benchmark(bundle: Bundle, photos: Path, tmp_path: Path) -> None:  # noqa: F811
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(dataclasses.asdict(profile(bundle))))
    options = ["--bundle", bundle.path, "--profile", path, "--slowdown", "1", "--seconds", "0.2", "--limit", "2"]
    got = record("live.py", "--data", photos, *options, out=tmp_path / "out")
    (day,) = got["days"]
    assert [phase["name"] for phase in day["phases"]] == [phase.name for phase in DAY]
    assert day["unanswered"] == 0
    assert day["photos"] == sum(phase["photos"] for phase in day["phases"])
    assert day["excess"] == pytest.approx(day["median_ms"] / day["oracle_median_ms"] - 1)
    assert day["most_moves"] == max(len(phase["moves"]) for phase in day["phases"])
    assert got["bundles"] == [bundle.id.hex()]
    assert got["weights"] == "trained"
    assert day["phases"][2]["oracle"] == "edge-only"  # where there is no link


@pytest.mark.slow
def test_heavy_networks(photos: Path, tiny_classifier: Path, tmp_path: Path) -> None:  # noqa: F811
    """A small one stands in: several cuts in a ladder that says what its weights are worth."""
    out = tmp_path / "ladder"
    ran = launch(
        "heavy.py", "tiny_classifier:build", "--data", photos, "--cuts", "0,1", "--out", out, path=tiny_classifier
    )
    assert ran.returncode == 0, ran.stderr
    ladder = Ladder.load(out)
    assert [rung.manifest.cut for rung in ladder.rungs] == ["0", "1"]
    assert all(str(rung.manifest.extra["weights"]).startswith("random") for rung in ladder.rungs)
