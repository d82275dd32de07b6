"""What counts as a change, and what a camera then sends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bottlenet.bundle import Bundle
from bottlenet.cloud import create_app
from bottlenet.edge import Edge, Spool
from bottlenet.edge.changes import FLOOR, LOOKS, Changes, distance
from bottlenet.errors import InputError
from cameras import picture, write_video
from conftest import Server

SHAPE = (4, 7, 7)


@pytest.fixture
def edge(bundle: Bundle) -> Iterator[Edge]:
    server = Server(create_app([bundle]))
    with Edge(bundle, server.url) as opened:
        yield opened
    server.stop()


class View:
    """Symbols with noise of one step, as a camera has it."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.still = self.rng.integers(80, 160, SHAPE)

    def look(self, something: int = 0, light: int = 0) -> np.ndarray:
        symbols = self.still + self.rng.integers(-1, 2, SHAPE) + light
        symbols[:, 2:4, 2:4] += something
        return symbols.astype(np.uint8)


def quiet(view: View, **options: float) -> Changes:
    """One that has seen a minute of it."""
    changes = Changes(lambda symbols: symbols, **options)  # type: ignore[arg-type, return-value]
    for second in range(LOOKS):
        assert changes.look(view.look(), second) == (second == 0)
        if second == 0:
            changes.sent()
    return changes


def test_noise_is_no_change_and_something_is() -> None:
    view = View()
    changes = quiet(view)
    assert changes.unchanged == LOOKS - 1
    assert changes.look(view.look(something=10), 60)
    changes.sent()
    assert not changes.look(view.look(something=10), 61)  # it stays
    assert changes.look(view.look(), 62)  # it has gone


def test_what_was_not_sent_is_offered_again() -> None:
    view = View()
    changes = quiet(view)
    assert changes.look(view.look(something=10), 60)
    assert changes.look(view.look(something=10), 61)


def test_light_that_changes_everywhere_is_no_change() -> None:
    view = View()
    changes = quiet(view)
    assert not any(changes.look(view.look(light=level), 60 + level) for level in range(20))


def test_what_moves_all_the_time_is_noise_after_a_minute() -> None:
    view = View()
    changes = quiet(view)
    sent = 0
    for second in range(300):
        if changes.look(view.look(something=int(view.rng.integers(0, 12))), 60 + second):
            changes.sent()
            sent += second >= LOOKS
    assert sent < 120  # of 240; all but a few if it weren't


def test_a_picture_that_stands_still_has_no_noise() -> None:
    still = np.full(SHAPE, 128, np.uint8)
    one_step = still.copy()
    one_step[0, 0, 0] += 1
    changes = Changes(lambda symbols: symbols)  # type: ignore[arg-type, return-value]
    assert changes.look(still, 0)
    changes.sent()
    assert not changes.look(still, 1)
    assert not changes.look(one_step, 2)
    assert distance(one_step, still) < FLOOR


def test_the_longest_silence() -> None:
    view = View()
    changes = quiet(view, silence_s=100)
    assert not changes.look(view.look(), 99.9)
    assert changes.look(view.look(), 100)
    changes.sent()
    assert not changes.look(view.look(), 101)


@pytest.mark.parametrize("options", [{"bound": 0}, {"bound": float("nan")}, {"silence_s": -1}, {"silence_s": True}])
def test_bounds_that_are_none(options: dict[str, float]) -> None:
    with pytest.raises(InputError, match="give"):
        Changes(lambda symbols: symbols, **options)  # type: ignore[arg-type, return-value]


def test_a_camera_sends_what_changed(tmp_path: Path, edge: Edge) -> None:
    still = np.add.outer(np.arange(48) * 2, np.add.outer(np.arange(64), (30, 50, 70))).astype(np.uint8)
    pictures = []
    for second in range(20):
        shown = still.copy()
        if 8 <= second < 12:
            shown[12:36, 20:44] = picture(5)[12:36, 20:44]
        pictures += [shown] * 25
    video = write_video(tmp_path / "v.mp4", pictures)
    times = [seen.shot.at_s for seen in edge.watch(video)]
    assert {0, 8, 12} <= set(times)
    assert len(times) < 8  # H.264's own changes at the start are some, too
    assert max(np.diff([seen.shot.at_s for seen in edge.watch(video, silence_s=3)])) <= 3


def test_a_spool_forgets_what_a_camera_showed(tmp_path: Path, bundle: Bundle) -> None:
    from bottlenet.edge.prediction import DROPPED, REFUSED, Failed, Photo

    with Spool(tmp_path, bundle) as spool:
        names = ["porch@1", "porch@2", "porch2@1", "/photos/cat.jpg"]
        for number, name in enumerate(names):
            spool.store(Photo(name, f"{number:064}"), Failed(name, DROPPED if number else REFUSED, "full"))
        spool.forget_camera("porch")
        left = [name for number, name in enumerate(names) if spool.outcome(Photo(name, f"{number:064}"))]
        assert left == ["porch@1", "porch2@1", "/photos/cat.jpg"]
