"""Photos that are answered at once and whose answers are kept: `AutoSender`, with a real server, and with none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from bottlenet.bundle import Bundle
from bottlenet.edge import Answered, AutoSender, Backoff, Edge, Encoder, Failed, Move, Outcome, Spool
from bottlenet.edge.encoder import EDGE_ONLY, Device
from bottlenet.edge.photo_files import read_file
from bottlenet.edge.prediction import FULL, LOCAL, SERVER, UNUSABLE
from bottlenet.errors import InputError
from bottlenet.wire.frame import Frame
from conftest import MakeBundle, Server
from network import make_album
from test_auto import CLOUD, QUICK, profile, server, slow_device  # noqa: F401
from test_spool import Disk, disk_with, in_spool

NOWHERE = "ws://127.0.0.1:1"
pytestmark = pytest.mark.usefixtures("slow_device")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return sorted(make_album(tmp_path_factory.mktemp("album"), 5).iterdir())


class Setup:
    """A sender and all around it; another one for each `send`, as for another process."""

    def __init__(self, bundle: Bundle, folder: Path) -> None:
        self.bundle, self.folder = bundle, folder
        self.moves: list[Move] = []
        self.told: list[str] = []
        self.slept: list[float] = []
        self.disk: type[Disk] | None = None
        self.waiting: list[str] = []

    def send(self, photos: Sequence[Path | None], url: str = NOWHERE, *, patient: bool = True) -> list[Outcome]:
        disk = Backoff(first_s=1.0, deadline_s=5.0, clock=lambda: 1000.0 + sum(self.slept), rng=lambda: 1.0)
        disk_of = {} if self.disk is None else {"connection": self.disk}
        edge = Edge(self.bundle, url, partition="auto", profile=profile(self.bundle), policy=QUICK)
        with edge, Spool(self.folder, self.bundle, **disk_of) as spool:
            edge.connect()
            sender = AutoSender(
                edge, spool, disk=disk, moved=self.moves.append, tell=self.told.append, sleep=self.slept.append
            )
            outcomes = list(sender.send(photos, patient=patient))
            self.waiting = sender.waiting
        return outcomes


@pytest.fixture
def setup(bundle: Bundle, tmp_path: Path) -> Setup:
    return Setup(bundle, tmp_path / "spool")


def answers(outcomes: list[Outcome]) -> list[Answered]:
    assert all(isinstance(outcome, Answered) for outcome in outcomes), outcomes
    return [outcome for outcome in outcomes if isinstance(outcome, Answered)]


def test_without_a_server(setup: Setup, photos: list[Path]) -> None:
    first = answers(setup.send(photos))
    assert [outcome.photo for outcome in first] == [str(photo) for photo in photos]
    device = Device(setup.bundle)
    assert [outcome.top[0].class_index for outcome in first] == [device.run(EDGE_ONLY, photo) for photo in photos]
    assert {(outcome.by, outcome.payload_bytes, outcome.tries, outcome.again) for outcome in first} == {
        (LOCAL, 0, 0, False)
    }
    second = answers(setup.send(photos))
    assert all(outcome.again for outcome in second)
    assert [outcome.top for outcome in second] == [outcome.top for outcome in first]
    assert not setup.moves


def test_with_one(setup: Setup, photos: list[Path], server: Server) -> None:  # noqa: F811
    outcomes = answers(setup.send(photos, server.url))
    assert {(outcome.by, outcome.tries) for outcome in outcomes} == {(SERVER, 1)}
    assert all(outcome.frame_bytes == outcome.payload_bytes + 4 > 4 for outcome in outcomes)
    (move,) = setup.moves
    assert (move.source, move.target) == ("edge-only", CLOUD)
    assert all(outcome.again for outcome in answers(setup.send(photos)))  # whoever answered


def waits(setup: Setup, path: Path) -> Frame:
    """As after a run of `Sender` without a server."""
    photo, data = read_file(str(path))
    frame = Encoder(setup.bundle).encode(data).frame
    with Spool(setup.folder, setup.bundle) as spool:
        assert spool.put(photo, frame).entry is not None
    return frame


def test_what_waited_before_is_answered_by_the_device(setup: Setup, photos: list[Path], server: Server) -> None:  # noqa: F811
    waits(setup, photos[0])
    waited, again, new = answers(setup.send(photos[:2], server.url))
    assert (waited.photo, waited.by, waited.payload_bytes > 0) == (str(photos[0]), LOCAL, True)
    assert again.again
    assert again.photo == waited.photo
    assert new.by == SERVER
    assert not setup.waiting
    assert in_spool(setup.folder, "waiting") == []


def test_a_frame_of_another_bundle_goes_when_its_photo_is_answered(
    setup: Setup, photos: list[Path], make_bundle: MakeBundle
) -> None:
    mine, setup.bundle = setup.bundle, make_bundle(setting=20)
    waits(setup, photos[0])
    setup.bundle = mine
    (outcome,) = answers(setup.send(photos[:1]))
    assert not outcome.again
    assert in_spool(setup.folder, "waiting") == []


def test_a_full_disk(setup: Setup, photos: list[Path]) -> None:
    """Waits for room until the deadline. The photo is still there for the next time."""
    setup.disk = disk_with(1)
    one, two = setup.send(photos[:2])
    assert isinstance(one, Answered)
    assert isinstance(two, Failed)
    assert two.why == FULL
    assert "its answer is not kept" in two.reason
    assert sum(setup.slept) == pytest.approx(5.0)
    assert "(next try in 1.0 s)" in setup.told[0]
    setup.disk = None
    assert [outcome.again for outcome in answers(setup.send(photos[:2]))] == [True, False]


def test_a_full_disk_and_no_patience(setup: Setup, photos: list[Path]) -> None:
    setup.disk = disk_with(0)
    outcomes = setup.send(photos[:2], patient=False)
    assert [outcome.why for outcome in outcomes if isinstance(outcome, Failed)] == [FULL, FULL]
    assert not setup.slept


def test_what_is_no_photo(setup: Setup, photos: list[Path], tmp_path: Path) -> None:
    bad, gone = tmp_path / "bad.jpg", tmp_path / "gone.jpg"
    bad.write_bytes(b"nothing")
    outcomes = setup.send([bad, gone, photos[0]])
    for path, outcome in zip((bad, gone), outcomes, strict=False):
        assert isinstance(outcome, Failed)
        assert outcome.why == UNUSABLE
        assert outcome.reason.count(path.name) == 1
    assert isinstance(outcomes[2], Answered)


def test_a_source_without_photos_just_now(setup: Setup, photos: list[Path]) -> None:
    assert len(answers(setup.send([None, photos[0], None, photos[1]]))) == 2
    assert setup.slept == [1.0, 1.0]


def test_only_with_auto(bundle: Bundle, tmp_path: Path) -> None:
    with Spool(tmp_path / "spool", bundle) as spool, pytest.raises(InputError, match="partition='auto'"):
        AutoSender(Edge(bundle, NOWHERE), spool)
