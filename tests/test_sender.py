"""Photos that must not be lost: `Sender` on a scripted network, with a clock that the test moves."""

from __future__ import annotations

import builtins
import errno
import os
import resource
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.applications import Starlette
from websockets.exceptions import ConnectionClosedError
from websockets.frames import Close

from bottlenet.bundle import Bundle
from bottlenet.cloud import create_app
from bottlenet.edge import Answered, Backoff, Edge, Encoder, Failed, Folder, Outcome, Sender, Spool, photo_files
from bottlenet.edge.photo_files import SETTLED_S, read_file
from bottlenet.edge.spool import records
from bottlenet.errors import FrameError, InputError, LinkError
from bottlenet.wire.answer import Answer, Box, Boxes, Classes, ClassMap, Result, busy_bytes, refusal_bytes
from bottlenet.wire.frame import Frame
from conftest import CLASSES, Server
from network import Network, answered, class_of, make_album, numbers_from
from other_tasks import COLOURS, other_bundle
from test_spool import PAGE, Fast, damage, disk_with, in_spool

COUNT = 12
FRAME_BYTES = PAGE  # of the disk, each of theirs
MISFITS: dict[str, Result] = {  # a class more than the bundle of that task has
    "multilabel": Classes(((CLASSES, 0.5),)),
    "segmentation": ClassMap(1, 2, bytes([0, len(COLOURS)])),
    "detection": Boxes((Box(len(COLOURS), 0.5, 0, 0, 1, 1),)),
}


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of photos, each different."""
    return make_album(tmp_path_factory.mktemp("album"), COUNT)


@pytest.fixture(scope="module")
def photos(album: Path) -> list[Path]:
    return sorted(album.iterdir())


@pytest.fixture(scope="module")
def classes(bundle: Bundle, photos: list[Path]) -> dict[str, int]:
    """What the scripted server says to each photo."""
    encoder = Encoder(bundle)
    return {str(photo): class_of(encoder.encode(photo).frame.payload) for photo in photos}


class Setup:
    """A sender and all around it; another one for each `send`, as for another process."""

    def __init__(self, bundle: Bundle, folder: Path) -> None:
        self.bundle = bundle
        self.folder = folder
        self.network = Network()
        self.told: list[str] = []
        self.deadline_s = float("inf")
        self.connection: type[sqlite3.Connection] = Fast
        self.max_bytes = 2**20
        self.when_full = "refuse"
        self.fallback: str | None = None
        self.left: list[str] = []
        self.gave_up = False

    def send(
        self, photos: list[Path] | Iterator[Path | None], in_flight: int = 4, patient: bool = True
    ) -> list[Outcome]:
        network = self.network
        limits = {"first_s": 1.0, "cap_s": 8.0, "deadline_s": self.deadline_s}
        backoffs = [Backoff(**limits, clock=network.clock, rng=numbers_from(0.999999)) for _ in range(2)]
        edge = Edge(self.bundle, "ws://x", connect=network.connect, timeout_s=10, fallback=self.fallback)
        limited = {"max_bytes": self.max_bytes, "when_full": self.when_full}
        spool = Spool(self.folder, self.bundle, **limited, connection=self.connection)  # type: ignore[arg-type]
        with edge, spool:
            sender = Sender(
                edge,
                spool,
                in_flight=in_flight,
                backoff=backoffs[0],
                disk=backoffs[1],
                tell=self.told.append,
                sleep=network.sleep,
            )
            outcomes = list(sender.send(photos, patient=patient))
            self.left, self.gave_up = sender.waiting, sender.gave_up
        return outcomes


@pytest.fixture
def setup(bundle: Bundle, tmp_path: Path) -> Setup:
    return Setup(bundle, tmp_path / "spool")


def check(outcomes: list[Outcome], classes: dict[str, int], photos: list[Path]) -> None:
    """Each photo answered once, and rightly."""
    assert sorted(outcome.photo for outcome in outcomes) == sorted(map(str, photos))
    for outcome in outcomes:
        assert isinstance(outcome, Answered), outcome
        assert outcome.top[0].class_index == classes[outcome.photo]


class TestSender:
    def test_all_is_well(self, setup: Setup, photos: list[Path], classes: dict[str, int]) -> None:
        outcomes = setup.send(photos)
        check(outcomes, classes, photos)
        assert len(setup.network.frames) == COUNT
        assert len(setup.network.opened) == 1
        assert setup.network.most_in_flight == 4
        assert (setup.network.slept, setup.told, setup.left) == ([], [], [])
        assert len(in_spool(setup.folder, "answered")) == len(in_spool(setup.folder)) == COUNT
        first = outcomes[0]
        assert isinstance(first, Answered)
        assert (first.by, first.tries, first.again) == ("server", 1, False)
        assert first.frame_bytes == first.payload_bytes + 4

    def test_again_nothing_is_sent(self, setup: Setup, photos: list[Path], classes: dict[str, int]) -> None:
        before = setup.send(photos)
        after = setup.send(photos)
        check(after, classes, photos)
        assert sorted(map(repr, after)) == sorted(repr(replace(outcome, again=True)) for outcome in before)
        assert len(setup.network.frames) == COUNT

    def test_the_same_photo_twice(self, setup: Setup, photos: list[Path], classes: dict[str, int]) -> None:
        outcomes = setup.send([photos[0], photos[0], photos[1]])
        assert len(setup.network.frames) == 2
        assert {outcome.photo for outcome in outcomes} == {str(photos[0]), str(photos[1])}

    def test_a_photo_is_encoded_once_ever(
        self, setup: Setup, photos: list[Path], classes: dict[str, int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It waits through a run without a server; the next one finds its frame."""
        encoded: list[object] = []
        work = Encoder.work
        monkeypatch.setattr(Encoder, "work", lambda self, photo: encoded.append(photo) or work(self, photo))
        setup.network.up = lambda now: False
        setup.deadline_s = 5
        assert setup.send(photos) == []
        assert setup.gave_up
        assert setup.left == [str(photo) for photo in photos]
        assert len(encoded) == COUNT
        setup.network.up = lambda now: True
        check(setup.send([]), classes, photos)
        check(setup.send(photos), classes, photos)
        assert len(encoded) == COUNT

    def test_the_frame_is_on_disk_before_the_first_try(self, setup: Setup, photos: list[Path]) -> None:
        waiting: list[int] = []

        def react(frame: Frame) -> list[bytes]:
            waiting.append(len(in_spool(setup.folder, "waiting")))
            return answered(frame)

        setup.network.react = react
        setup.send(photos[:3], in_flight=1)
        assert waiting == [1, 1, 1]

    def test_it_backs_off_and_goes_on(self, setup: Setup, photos: list[Path], classes: dict[str, int]) -> None:
        setup.network.up = lambda now: now >= 1020
        check(setup.send(photos), classes, photos)
        # At once, and after waits of 1, 2, 4, 8 and 8 seconds.
        assert [round(at - 1000) for at in setup.network.opened] == [0, 1, 3, 7, 15, 23]
        assert "can't connect (1 waiting, next try in 1.0 s)" in setup.told[0]

    def test_the_deadline(self, setup: Setup, photos: list[Path]) -> None:
        setup.network.up = lambda now: False
        setup.deadline_s = 10
        assert setup.send(photos[:2]) == []
        assert setup.gave_up
        assert setup.network.now == pytest.approx(1010)
        assert setup.left == [str(photo) for photo in photos[:2]]

    def test_the_servers_hint(self, setup: Setup, photos: list[Path], classes: dict[str, int]) -> None:
        busy = [True]

        def react(frame: Frame) -> list[bytes]:
            if busy:
                busy.pop()
                return [busy_bytes(frame.sequence, 33, "full")]
            return answered(frame)

        setup.network.react = react
        check(setup.send(photos), classes, photos)
        assert sum(setup.network.slept) == pytest.approx(33 * 1.25, abs=0.1)
        assert len(setup.network.opened) == 1  # the connection was not to blame
        assert "no room for frame 0: full" in setup.told[0]

    def test_busy_eight_times_over_is_one_failure(
        self, setup: Setup, photos: list[Path], classes: dict[str, int]
    ) -> None:
        """All that flew when the line was full are told so, at once."""
        setup.network.react = lambda frame: (
            [busy_bytes(frame.sequence, 0.05, "full")] if len(setup.network.frames) <= 8 else answered(frame)
        )
        check(setup.send(photos[:8], in_flight=8), classes, photos[:8])
        assert len(setup.network.frames) == 16
        assert len(setup.told) == 1
        assert sum(setup.network.slept) == pytest.approx(1, abs=0.01)

    @pytest.mark.parametrize("every", [1, 2, 3, 5])
    def test_the_link_drops(self, setup: Setup, photos: list[Path], classes: dict[str, int], every: int) -> None:
        """With what is in flight, each time that many frames came through."""
        count = 0

        def react(frame: Frame) -> list[bytes] | Exception:
            nonlocal count
            count += 1
            return LinkError("cut") if count % (every + 1) == 0 else answered(frame)

        setup.network.react = react
        check(setup.send(photos), classes, photos)
        assert len(in_spool(setup.folder, "answered")) == COUNT

    def test_answers_get_lost_come_twice_and_in_another_order(
        self, setup: Setup, photos: list[Path], classes: dict[str, int]
    ) -> None:
        held: list[bytes] = []
        rng = np.random.default_rng(8)

        def react(frame: Frame) -> list[bytes]:
            held.extend(answered(frame) * int(rng.integers(0, 3)))
            rng.shuffle(held)  # type: ignore[arg-type]
            return [held.pop() for _ in range(rng.integers(0, len(held) + 1))]

        setup.network.react = react
        check(setup.send(photos), classes, photos)
        assert len(setup.network.frames) > COUNT

    def test_an_answer_from_nowhere(self, setup: Setup, photos: list[Path], classes: dict[str, int]) -> None:
        nonsense: list[bytes] = [b"?", Answer(999, 1, 1, ((1, 0.5),)).to_bytes(), Answer(0, 1, 1, ()).to_bytes()]
        setup.network.react = lambda frame: [nonsense.pop()] if nonsense else answered(frame)
        check(setup.send(photos, in_flight=1), classes, photos)

    def test_a_refusal_may_be_the_servers_mistake(
        self, setup: Setup, photos: list[Path], classes: dict[str, int]
    ) -> None:
        refusals = [1, 1]
        setup.network.react = lambda frame: (
            [refusal_bytes(frame.sequence, "out of memory")] * refusals.pop() if refusals else answered(frame)
        )
        check(setup.send(photos), classes, photos)

    def test_a_frame_that_is_refused_three_times(
        self, setup: Setup, photos: list[Path], classes: dict[str, int]
    ) -> None:
        bad = classes[str(photos[2])]
        wrong = {photo for photo, number in classes.items() if number == bad}
        setup.network.react = lambda frame: (
            [refusal_bytes(frame.sequence, "too green")] if class_of(frame.payload) == bad else answered(frame)
        )
        outcomes = setup.send(photos)
        check([o for o in outcomes if o.photo not in wrong], classes, [p for p in photos if str(p) not in wrong])
        failed = [outcome for outcome in outcomes if isinstance(outcome, Failed)]
        assert {outcome.photo for outcome in failed} == wrong
        assert all(outcome.why == "refused" and "too green" in outcome.reason for outcome in failed)
        assert len(setup.network.frames) == COUNT + 2 * len(wrong)
        refused = [record for record in records(setup.folder) if record.status == "refused"]
        assert {record.photo for record in refused} == wrong
        assert all(record.frame and record.outcome for record in refused)
        assert {o.photo for o in setup.send(photos) if isinstance(o, Failed) and o.again} == wrong
        assert len(setup.network.frames) == COUNT + 2 * len(wrong)

    @pytest.mark.parametrize("name", ["classification", "nothing", *MISFITS])
    def test_answers_that_do_not_fit_the_bundle(
        self, name: str, bundle: Bundle, photos: list[Path], tmp_path: Path
    ) -> None:
        """As a server of another bundle would give them: each photo is tried three times, and its frame is kept."""
        top = ((CLASSES, 0.5),) if name == "classification" else ()
        if name in MISFITS:
            bundle = other_bundle(tmp_path / name, name)
        setup = Setup(bundle, tmp_path / "spool")
        setup.network.react = lambda frame: [Answer(frame.sequence, 1, 1, top, result=MISFITS.get(name)).to_bytes()]
        outcomes = setup.send(photos[:3])
        assert sorted(outcome.photo for outcome in outcomes) == sorted(map(str, photos[:3]))
        says = f"does not fit the {len(bundle.labels)} classes of this bundle: it answers for another bundle, or"
        for outcome in outcomes:
            assert isinstance(outcome, Failed)
            assert outcome.why == "refused"
            assert says in outcome.reason
        assert len(setup.network.frames) == 9
        assert len(in_spool(setup.folder, "refused")) == 3
        assert (setup.left, setup.gave_up) == ([], False)

    def test_a_frame_too_large_for_the_server(self, setup: Setup, photos: list[Path], classes: dict[str, int]) -> None:
        """It closes the connection, and doesn't say for which of those in flight."""
        bad = class_of(Encoder(setup.bundle).encode(photos[5]).frame.payload)
        wrong = {photo for photo, number in classes.items() if number == bad}

        def react(frame: Frame) -> list[bytes] | Exception:
            if class_of(frame.payload) != bad:
                return answered(frame)
            error = FrameError("takes no frame as large as this")
            error.__cause__ = ConnectionClosedError(Close(1009, ""), None)
            return error

        setup.network.react = react
        outcomes = setup.send(photos)
        check([o for o in outcomes if o.photo not in wrong], classes, [p for p in photos if str(p) not in wrong])
        assert {outcome.photo for outcome in outcomes if isinstance(outcome, Failed)} == wrong

    def test_another_bundle_on_the_server_loses_nothing(
        self, setup: Setup, photos: list[Path], classes: dict[str, int]
    ) -> None:
        setup.network.react = lambda frame: (
            FrameError("does not serve this bundle") if setup.network.now < 1020 else answered(frame)
        )
        check(setup.send(photos), classes, photos)

    def test_a_photo_that_is_none(self, setup: Setup, photos: list[Path], tmp_path: Path) -> None:
        (tmp_path / "bad.jpg").write_bytes(b"no photo")
        outcomes = setup.send([tmp_path / "bad.jpg", tmp_path / "gone.jpg", tmp_path, photos[0]])
        reasons = {outcome.photo: outcome.reason for outcome in outcomes if isinstance(outcome, Failed)}
        assert reasons.keys() == {str(tmp_path / "bad.jpg"), str(tmp_path / "gone.jpg"), str(tmp_path)}
        for name, reason in reasons.items():
            assert reason.startswith(f"{name}: ")
            assert "photo of" not in reason
        assert sum(isinstance(outcome, Answered) for outcome in outcomes) == 1
        assert setup.network.frames[0].payload

    def test_a_frame_that_was_damaged_while_it_waited(self, setup: Setup, photos: list[Path]) -> None:
        def react(frame: Frame) -> Exception:
            damage(setup.folder, "UPDATE photos SET frame = x'' WHERE number = 1")
            setup.network.react = answered
            return LinkError("cut")

        setup.network.react = react  # type: ignore[assignment]
        outcomes = setup.send(photos[:2], in_flight=1)
        assert [(outcome.photo, getattr(outcome, "why", "")) for outcome in outcomes] == [
            (str(photos[0]), "damaged"),
            (str(photos[1]), ""),
        ]
        assert isinstance(setup.send(photos[:1])[0], Answered)  # the photo is still there

    @pytest.mark.parametrize("in_flight", [0, 2000])
    def test_limits(self, bundle: Bundle, tmp_path: Path, in_flight: int) -> None:
        with Spool(tmp_path, bundle) as spool, pytest.raises(InputError, match="give 1 to 1024"):
            Sender(Edge(bundle, "ws://x"), spool, in_flight=in_flight)


class TestFallback:
    """The local answer is the answer: the spooled frame goes, as the server would say the same of it."""

    def local(self, setup: Setup, photos: list[Path]) -> list[Outcome]:
        setup.fallback = "local"
        return setup.send(photos)

    def test_nobody_is_there(self, setup: Setup, photos: list[Path]) -> None:
        setup.network.up = lambda now: False
        outcomes = self.local(setup, photos)
        assert {outcome.photo for outcome in outcomes} == {str(photo) for photo in photos}
        assert all(isinstance(outcome, Answered) and outcome.by == "local" for outcome in outcomes)
        assert setup.network.now == 1000  # at once
        assert len(setup.network.opened) == 1
        assert in_spool(setup.folder, "waiting") == setup.left == []
        again = setup.send(photos)
        assert all(isinstance(outcome, Answered) and outcome.again and outcome.by == "local" for outcome in again)
        assert setup.network.frames == []

    def test_it_is_the_servers_answer(
        self, setup: Setup, photos: list[Path], bundle: Bundle, serve: Callable[[Starlette], Server]
    ) -> None:
        setup.network.up = lambda now: False
        outcomes = {outcome.photo: outcome for outcome in self.local(setup, photos[:4])}
        with Edge(bundle, serve(create_app([bundle])).url) as edge:
            for photo in photos[:4]:
                outcome = outcomes[str(photo)]
                assert isinstance(outcome, Answered)
                assert outcome.top == edge.classify(photo).top

    def test_busy_refused_or_lost_and_the_server_is_asked_again_later(self, setup: Setup, photos: list[Path]) -> None:
        reactions: list[Callable[[Frame], list[bytes] | Exception]] = [
            lambda frame: [busy_bytes(frame.sequence, 5, "full")],
            lambda frame: [refusal_bytes(frame.sequence, "no")],
            lambda frame: LinkError("cut"),
            lambda frame: [],
        ]
        for number, reaction in enumerate(reactions):
            setup.network.react = reaction
            (outcome,) = self.local(setup, [photos[number]])
            assert isinstance(outcome, Answered)
            assert (outcome.by, outcome.photo) == ("local", str(photos[number]))
        setup.network.react = answered
        outcome = self.local(setup, photos)[-1]
        assert isinstance(outcome, Answered)
        assert outcome.by == "server"


class TestFull:
    def test_a_spool_for_two_is_enough_while_the_link_is_up(
        self, setup: Setup, photos: list[Path], classes: dict[str, int]
    ) -> None:
        setup.max_bytes = 2 * FRAME_BYTES
        check(setup.send(photos), classes, photos)
        assert setup.network.most_in_flight <= 2

    def test_refuse_waits_for_the_server_until_the_deadline(
        self, setup: Setup, photos: list[Path], classes: dict[str, int]
    ) -> None:
        setup.max_bytes = 2 * FRAME_BYTES
        setup.network.up = lambda now: now > 1020
        check(setup.send(photos), classes, photos)

    def test_refuse_is_loud(self, setup: Setup, photos: list[Path]) -> None:
        setup.max_bytes = 2 * FRAME_BYTES
        setup.network.up = lambda now: False
        setup.deadline_s = 5
        for patient in (True, False):
            outcomes = setup.send(photos, patient=patient)
            full = [outcome for outcome in outcomes if isinstance(outcome, Failed)]
            assert [outcome.photo for outcome in full] == [str(photo) for photo in photos[-len(full) :]]
            assert COUNT - 4 <= len(full) <= COUNT - 2
            assert all(outcome.why == "full" and "is full" in outcome.reason for outcome in full)
            assert in_spool(setup.folder) == [str(photo) for photo in photos[: -len(full)]]  # others may come again

    @pytest.mark.parametrize("when_full", ["drop-oldest", "drop-newest"])
    def test_drop_names_what_goes(
        self, setup: Setup, photos: list[Path], classes: dict[str, int], when_full: str
    ) -> None:
        setup.max_bytes = 3 * FRAME_BYTES
        setup.when_full = when_full
        setup.network.up = lambda now: now > 1020
        outcomes = setup.send(photos)
        dropped = [outcome.photo for outcome in outcomes if isinstance(outcome, Failed)]
        kept = [photo for photo in photos if str(photo) not in dropped]
        assert kept == (photos[-len(kept) :] if when_full == "drop-oldest" else photos[: len(kept)])
        assert len(kept) >= 3
        check([outcome for outcome in outcomes if isinstance(outcome, Answered)], classes, kept)
        again = setup.send(photos)
        assert sorted(o.photo for o in again if isinstance(o, Failed) and o.again) == sorted(dropped)

    def test_no_room_for_answers_and_then_there_is(
        self, setup: Setup, photos: list[Path], classes: dict[str, int]
    ) -> None:
        """What was answered isn't sent again, only written again."""
        setup.connection = disk = disk_with(4)
        real_sleep = setup.network.sleep

        def sleep(seconds: float) -> None:
            real_sleep(seconds)
            disk.room = 100

        setup.network.sleep = sleep  # type: ignore[method-assign]
        check(setup.send(photos[:4]), classes, photos[:4])
        assert len(setup.network.frames) == 4
        assert any("No space left" in line for line in setup.told)

    def test_no_room_for_anything_for_too_long(self, setup: Setup, photos: list[Path]) -> None:
        setup.connection = disk_with(0)
        setup.deadline_s = 20
        outcomes = setup.send(photos[:2])
        assert [getattr(outcome, "why", "") for outcome in outcomes] == ["full", "full"]
        assert "No space left on device" in outcomes[0].reason  # type: ignore[union-attr]
        assert setup.network.frames == []
        assert setup.network.now < 1100

    def test_a_disk_that_fails_now_and_then(self, setup: Setup, photos: list[Path], classes: dict[str, int]) -> None:
        rng = np.random.default_rng(2)

        class Unsure(Fast):
            def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
                if sql == "COMMIT" and rng.random() < 0.4:
                    raise sqlite3.OperationalError("database or disk is full")
                return super().execute(sql, *values)

        setup.connection = Unsure
        check(setup.send(photos), classes, photos)


class TestUnreadable:
    """An I/O error is no verdict about what is in a file: it is tried again."""

    @pytest.mark.parametrize("why", ["disk I/O error", "unable to open database file"])
    @pytest.mark.parametrize("fallback", [None, "local"])
    def test_frames(
        self, setup: Setup, photos: list[Path], classes: dict[str, int], why: str, fallback: str | None
    ) -> None:
        fails = 3

        class Unsure(Fast):
            def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
                nonlocal fails
                if sql.startswith("SELECT frame") and fails:
                    fails -= 1
                    raise sqlite3.OperationalError(why)
                return super().execute(sql, *values)

        setup.connection = Unsure
        setup.fallback = fallback
        if fallback:
            setup.network.up = lambda now: False
        outcomes = setup.send(photos)
        assert sorted(outcome.photo for outcome in outcomes) == list(map(str, photos))
        assert all(isinstance(outcome, Answered) for outcome in outcomes)
        assert fails == 0
        assert why in setup.told[0] or fallback
        assert in_spool(setup.folder, "answered") == [str(photo) for photo in photos]

    @pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.EMFILE, errno.ENFILE, errno.EACCES])
    @pytest.mark.parametrize("place", ["stat", "open", "read"])
    def test_photos(
        self,
        setup: Setup,
        photos: list[Path],
        classes: dict[str, int],
        monkeypatch: pytest.MonkeyPatch,
        number: int,
        place: str,
    ) -> None:
        """One that can't be read is tried again when all others were taken."""
        failing = {str(photos[1]), str(photos[3])}
        real = {"stat": os.stat, "open": builtins.open, "read": photo_files.read_at_most}[place]

        def fails(what: Any, *arguments: Any, **options: Any) -> Any:
            name = getattr(what, "name", what)
            if name in failing:
                failing.discard(name)
                raise OSError(number, os.strerror(number))
            return real(what, *arguments, **options)

        with monkeypatch.context() as patch:
            if place == "read":
                patch.setattr(photo_files, "read_at_most", fails)
            else:
                patch.setattr(os if place == "stat" else builtins, place, fails)
            check(setup.send(photos), classes, photos)
        assert not failing

    def test_photos_for_ever(self, setup: Setup, photos: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
        bad = str(photos[1])
        real = builtins.open

        def fails(what: Any, *arguments: Any, **options: Any) -> Any:
            if what == bad:
                raise OSError(errno.EIO, "Input/output error")
            return real(what, *arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(builtins, "open", fails)
            for patient in (True, False):
                outcomes = setup.send(photos[:3], patient=patient)
                (failed,) = (outcome for outcome in outcomes if isinstance(outcome, Failed))
                assert (failed.photo, failed.why) == (bad, "unreadable")
                assert failed.reason == f"{bad}: it can't be read just now (Input/output error); try again"
                assert len(outcomes) == 3
        assert isinstance(setup.send(photos[1:2])[0], Answered)

    def test_a_photo_that_is_written_while_it_is_read(
        self, photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "new.png"
        path.write_bytes(photos[0].read_bytes()[:1000])
        real = photo_files.read_at_most

        def read(file: Any, limit: int) -> bytes:
            data = real(file, limit)
            path.write_bytes(photos[0].read_bytes())
            return data

        with monkeypatch.context() as patch:
            patch.setattr(photo_files, "read_at_most", read)
            with pytest.raises(OSError, match="it is being written"):
                read_file(str(path))
        assert read_file(str(path))[1] == photos[0].read_bytes()

    def test_short_of_handles(self, setup: Setup, photos: list[Path], classes: dict[str, int]) -> None:
        """All of those of this process, from the moment that the first frame is on its way."""
        handles: list[int] = []

        def react(frame: Frame) -> list[bytes]:
            if len(setup.network.frames) == 2:
                while len(handles) < 5000:
                    try:
                        handles.append(os.dup(0))
                    except OSError:
                        break
            return answered(frame)

        sleep = setup.network.sleep

        def let_go(seconds: float) -> None:
            while handles:
                os.close(handles.pop())
            sleep(seconds)

        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        setup.network.react = react
        setup.network.sleep = let_go  # type: ignore[method-assign]
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(1000, limits[1]), limits[1]))
            check(setup.send(photos), classes, photos)
        finally:
            while handles:
                os.close(handles.pop())
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert setup.network.slept


class Watched:
    """A folder that is looked at, with a clock that the test moves."""

    def __init__(self, path: Path) -> None:
        self.now = 50.0
        self.unlisted: list[tuple[str, str]] = []
        self.folder = Folder(path, unlisted=lambda *what: self.unlisted.append(what), clock=lambda: self.now)
        self.watch = self.folder.watch()

    def look(self, seconds: float = 1.0) -> list[str]:
        """The names that it gives, that much later."""
        self.now += seconds
        return [Path(path).name for path in iter(lambda: next(self.watch), None)]


class TestFolder:
    def test_what_is_there(self, tmp_path: Path) -> None:
        (tmp_path / "b" / "c").mkdir(parents=True)
        (tmp_path / ".trash").mkdir()
        for name in ("z.JPG", "a.png", "b/c/x.webp", ".hidden.jpg", ".trash/old.jpg", "notes.txt", "a.png.part"):
            (tmp_path / name).write_bytes(b"x")
        found = [os.path.relpath(path, tmp_path) for path in Folder(tmp_path).photos()]
        assert found == ["a.png", "z.JPG", "b/c/x.webp"]
        with pytest.raises(InputError, match="it is no folder"):
            Folder(tmp_path / "a.png")

    def test_what_comes(self, tmp_path: Path) -> None:
        old, new = tmp_path / "old.jpg", tmp_path / "new.jpg"
        old.write_bytes(b"old")
        watched = Watched(tmp_path)
        assert [watched.look(), watched.look(), watched.look(), watched.look()] == [[], [], ["old.jpg"], []]
        new.write_bytes(b"half")
        assert watched.look() == []
        new.write_bytes(b"half and half")
        assert [watched.look(), watched.look(), watched.look()] == [[], [], ["new.jpg"]]
        old.write_bytes(b"overwritten")
        assert [watched.look(), watched.look(), watched.look()] == [[], [], ["old.jpg"]]
        watched.folder.again(old)
        assert [watched.look(), watched.look()] == [["old.jpg"], []]
        old.unlink()
        assert watched.look() == []
        old.write_bytes(b"overwritten")
        assert [watched.look(), watched.look(), watched.look()] == [[], [], ["old.jpg"]]

    @pytest.mark.parametrize("clock_s", [-1e6, 0, 1e6])
    def test_a_writer_that_stalls_on_a_share_whose_clock_is_wrong(self, tmp_path: Path, clock_s: float) -> None:
        """Whatever time a server writes down, a file has to be the same for a while."""
        path = tmp_path / "photo.jpg"
        watched = Watched(tmp_path)
        for step in range(5):
            path.write_bytes(bytes(100 + step))
            written = time.time() + clock_s + step
            os.utime(path, (written, written))
            assert watched.look(SETTLED_S - 0.1) == []
        assert watched.look(SETTLED_S - 0.1) == []
        assert watched.look(0.2) == ["photo.jpg"]

    def test_a_photo_that_settles_late_is_sent_once(
        self, setup: Setup, photos: list[Path], classes: dict[str, int], tmp_path: Path
    ) -> None:
        """Its first half stays the same for long enough to be taken; it does not decode, and nothing is sent of it."""
        folder = tmp_path / "in"
        folder.mkdir()
        path = folder / photos[0].name
        whole = photos[0].read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        watched = Watched(folder)

        def looks() -> Iterator[str | None]:
            for step in range(12):
                if step == 6:
                    path.write_bytes(whole)
                watched.now += 1
                yield from iter(lambda: next(watched.watch), None)

        half, answer = setup.send(looks())  # type: ignore[arg-type]
        assert isinstance(half, Failed)
        assert (half.why, "damaged or truncated" in half.reason) == ("unusable", True)
        assert isinstance(answer, Answered)
        assert answer.top[0].class_index == classes[str(photos[0])]
        assert len(setup.network.frames) == 1

    def test_links(self, tmp_path: Path) -> None:
        """To folders they are followed, each folder once, and under its own name if it has one here."""
        card, folder = tmp_path / "card", tmp_path / "in"
        (card / "deep").mkdir(parents=True)
        (folder / "z").mkdir(parents=True)
        for path in (card / "1.jpg", card / "deep" / "2.jpg", folder / "z" / "3.jpg"):
            path.write_bytes(b"x")
        (folder / "a").symlink_to(card)
        (folder / "b").symlink_to(folder / "z")
        (folder / "c").symlink_to(folder)
        (card / "up").symlink_to(folder)
        found = [os.path.relpath(path, folder) for path in Folder(folder).photos()]
        assert found == ["z/3.jpg", "a/1.jpg", "a/deep/2.jpg"]
        watched = Watched(folder)
        watched.look()
        assert watched.look(SETTLED_S) == ["3.jpg", "1.jpg", "2.jpg"]
        assert watched.unlisted == []

    def test_what_cannot_be_looked_at_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Once until it can; and what was in there has not gone."""
        (tmp_path / "closed").mkdir()
        for name in ("a.jpg", "closed/b.jpg"):
            (tmp_path / name).write_bytes(b"x")
        (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere")
        closed = str(tmp_path / "closed")
        scandir = os.scandir

        def fails(path: Any) -> Any:
            if path == closed:
                raise PermissionError(errno.EACCES, "Permission denied", path)
            return scandir(path)

        gone = (str(tmp_path / "gone.jpg"), "No such file or directory")
        watched = Watched(tmp_path)
        watched.look()
        assert watched.look(SETTLED_S) == ["a.jpg", "b.jpg"]
        assert watched.unlisted == [gone]
        with monkeypatch.context() as patch:
            patch.setattr(os, "scandir", fails)
            (tmp_path / "closed" / "c.jpg").write_bytes(b"x")
            told = Watched(tmp_path)
            assert [Path(path).name for path in told.folder.photos()] == ["a.jpg"]
            assert told.unlisted == [gone, (closed, "Permission denied")]
            assert [watched.look(), watched.look(), watched.look()] == [[], [], []]
            assert watched.unlisted == [gone, (closed, "Permission denied")]
        watched.look()
        assert watched.look(SETTLED_S) == ["c.jpg"]

    def test_a_folder_that_goes_and_comes_back(self, tmp_path: Path) -> None:
        """As a share does. Its photos are not new then."""
        folder = tmp_path / "in"
        folder.mkdir()
        (folder / "a.jpg").write_bytes(b"x")
        watched = Watched(folder)
        watched.look()
        assert watched.look(SETTLED_S) == ["a.jpg"]
        folder.rename(tmp_path / "away")
        assert [watched.look(), watched.look()] == [[], []]
        assert watched.unlisted == [(str(folder), "No such file or directory")]
        (tmp_path / "away").rename(folder)
        assert [watched.look(), watched.look(SETTLED_S)] == [[], []]

    def test_a_large_folder_is_cheap_when_nothing_comes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A look at every file takes a fiftieth of the time at most; new names are found in between."""
        for name in range(300):
            (tmp_path / f"{name}.jpg").write_bytes(b"x")
        stats = 0
        stat = os.stat
        watched = Watched(tmp_path)

        def slow(*arguments: Any, **options: Any) -> Any:
            nonlocal stats
            stats += 1
            watched.now += 0.001
            return stat(*arguments, **options)

        monkeypatch.setattr(os, "stat", slow)
        watched.look()
        assert len(watched.look(SETTLED_S)) == 300
        stats = 0
        started = watched.now
        for _ in range(100):
            watched.look()
        assert stats < 0.02 * (watched.now - started) / 0.001 + 300
        (tmp_path / "new.jpg").write_bytes(b"x")
        watched.look()
        assert watched.look(SETTLED_S) == ["new.jpg"]
        (tmp_path / "7.jpg").write_bytes(b"overwritten")
        assert ["7.jpg"] in [watched.look() for _ in range(40)]
