"""A server hears what devices answer by themselves, and compares a share of it."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import random
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.applications import Starlette

from bottlenet.bundle import Bundle
from bottlenet.cloud import create_app
from bottlenet.edge import Answered, Backoff, Edge, Encoder, Failed, Outcome, Sender, Spool
from bottlenet.edge.encoder import is_audited
from bottlenet.edge.prediction import Choice, Findings, Photo, answered_now, parse_outcome
from bottlenet.edge.spool import ANSWERED, STORE, WAITING, records
from bottlenet.errors import InputError, LinkError
from bottlenet.photo import photo_to_pixels
from bottlenet.wire.answer import Answer, busy_bytes, parse_answer, refusal_bytes
from bottlenet.wire.frame import AUDIT, REPORT, Frame, Report, parse_report
from conftest import CLASSES
from network import Network, answered, class_of, make_album, numbers_from
from test_app import ask, refused
from test_cli import Run, run
from test_spool import Fast, in_a_child_that_is_killed_at

__all__ = ["run"]  # a fixture

COUNT = 12


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return sorted(make_album(tmp_path_factory.mktemp("album"), COUNT).iterdir())


@pytest.fixture(scope="module")
def bound(exit_bundle: Bundle, photos: list[Path]) -> float:
    """A bound that half of the photos reach."""
    answers = [Encoder(exit_bundle, sure=0).work(photo).result for photo in photos]
    return float(np.median([each.top[0][1] for each in answers if isinstance(each, Answer)]))


@pytest.fixture
def app(exit_bundle: Bundle) -> Starlette:
    return create_app([exit_bundle])


def counted(app: Starlette, bundle: Bundle) -> tuple[int, int, int]:
    """Return the reports, audits and agreements of a bundle."""
    lines = ask(app, "GET", "/metrics").text.splitlines()
    found = [line.rpartition(" ") for line in lines if f'{{bundle="{bundle.id.hex()[:12]}"}}' in line]
    values = {name.partition("{")[0]: int(float(value)) for name, _, value in found}
    reports, audits, agreements = (
        values[f"bottlenet_{name}_total"] for name in ("reports", "audits", "audit_agreements")
    )
    return reports, audits, agreements


class TestServer:
    def test_a_report_is_counted(self, app: Starlette, exit_bundle: Bundle) -> None:
        assert counted(app, exit_bundle) == (0, 0, 0)
        response = ask(app, "POST", "/v1/classify", Report(3, 0.9).to_frame(exit_bundle.tag, 77).to_bytes())
        answer = parse_answer(response.content)
        assert (response.status_code, len(response.content)) == (200, 14)
        assert (answer.sequence, answer.top, answer.server_us) == (77, (), 0)
        assert counted(app, exit_bundle) == (1, 0, 0)

    def test_an_audit_is_answered_and_compared(self, app: Starlette, exit_bundle: Bundle, photos: list[Path]) -> None:
        frame = Encoder(exit_bundle).encode(photos[0], 77).frame
        plain = parse_answer(ask(app, "POST", "/v1/classify", frame.to_bytes()).content)
        best = plain.top[0][0]
        for index in (best, (best + 1) % CLASSES):
            audit = Report(index, 0.9, frame).to_frame(exit_bundle.tag, 77)
            answer = parse_answer(ask(app, "POST", "/v1/classify", audit.to_bytes()).content)
            assert (answer.sequence, answer.top) == (77, plain.top)
        assert counted(app, exit_bundle) == (2, 2, 1)

    @pytest.mark.parametrize(
        ("setting", "payload", "says"),
        [
            (0, bytes(3), "report of 3 bytes, but it should have 4"),
            (0, bytes([0, CLASSES, 255, 255]), f"report of class {CLASSES}, but bundle tiny has {CLASSES} classes"),
            (AUDIT, bytes([0, 0, 0, 0, 9, 0]), "frame is of codec 9; this side knows 0 (raw)"),
            (AUDIT, bytes([0, 0, 0, 0, 2, 90]), "jpeg payload"),
        ],
    )
    def test_what_is_refused_is_not_counted(
        self, app: Starlette, exit_bundle: Bundle, setting: int, payload: bytes, says: str
    ) -> None:
        frame = Frame(REPORT, setting, exit_bundle.tag, 0, payload)
        assert says in refused(ask(app, "POST", "/v1/classify", frame.to_bytes()), 400)
        assert counted(app, exit_bundle) == (0, 0, 0)

    def test_a_bundle_without_an_exit(self, bundle: Bundle) -> None:
        app = create_app([bundle])
        frame = Report(3, 0.9).to_frame(bundle.tag)
        text = "report of class 3, but bundle tiny has no exit"
        assert text in refused(ask(app, "POST", "/v1/classify", frame.to_bytes()), 400)
        assert 'bundle="' not in ask(app, "GET", "/metrics").text


class TestEncoder:
    def test_a_report_says_what_the_device_answered(
        self, exit_bundle: Bundle, photos: list[Path], bound: float
    ) -> None:
        encoder = Encoder(exit_bundle, sure=bound, report_answers=True)
        sure = 0
        for photo in photos:
            processed = encoder.work(photo, 5)
            if isinstance(processed.result, Frame):
                assert (processed.frame, processed.report) == (processed.result, None)
                continue
            sure += 1
            assert processed.frame is not None
            report = parse_report(processed.frame)
            ((index, confidence), *_) = processed.result.top
            assert (len(processed.frame.to_bytes()), processed.frame.sequence) == (16, 5)
            assert (report.class_index, report.audit) == (index, None)
            assert report.confidence == pytest.approx(confidence, abs=1e-5)
        assert sure == COUNT / 2

    def test_which_photos_are_audited_depends_on_their_pixels_alone(
        self, exit_bundle: Bundle, photos: list[Path]
    ) -> None:
        drawn: dict[float, set[int]] = {}
        for share in (0.3, 0.6, 1.0):
            encoder = Encoder(exit_bundle, sure=0, audit=share)
            drawn[share] = {number for number, photo in enumerate(photos) if encoder.work(photo).report is not None}
        pixels = [photo_to_pixels(photo, exit_bundle.manifest.preprocess) for photo in photos]
        digests = [hashlib.sha256(each.tobytes()).hexdigest() for each in pixels]
        assert drawn[0.3] == {number for number, digest in enumerate(digests) if int(digest[:8], 16) < 0.3 * 2**32}
        assert drawn[0.3] < drawn[0.6] < drawn[1.0] == set(range(COUNT))

    def test_the_share_is_kept(self) -> None:
        rng = np.random.default_rng(3)
        noise = rng.integers(0, 256, (4000, 4, 4, 3), np.uint8)
        assert sum(is_audited(each, 0.05) for each in noise) == pytest.approx(200, abs=45)

    def test_an_audit_holds_the_frame_of_an_unsure_device(self, exit_bundle: Bundle, photos: list[Path]) -> None:
        processed = Encoder(exit_bundle, sure=0, audit=1).work(photos[0], 7)
        assert processed.report is not None
        assert isinstance(processed.result, Answer)
        assert processed.report.setting == AUDIT
        assert parse_report(processed.report).audit == Encoder(exit_bundle).encode(photos[0], 7).frame
        assert processed.encode_ms > 0

    def test_audits_and_reports_keep_the_budget(self, exit_bundle: Bundle, photos: list[Path]) -> None:
        plain = len(Encoder(exit_bundle).encode(photos[0]).frame.to_bytes())
        for budget in (plain + 6, plain + 5, plain - 10, 16):
            encoder = Encoder(exit_bundle, sure=0, report_answers=True, audit=int(budget > 16), budget_bytes=budget)
            report = encoder.work(photos[0]).report
            assert report is not None
            assert len(report.to_bytes()) <= budget
            assert (report.setting == AUDIT) == (budget > 16)

    def test_an_audit_that_fits_no_budget_is_a_report(self, exit_bundle: Bundle, photos: list[Path]) -> None:
        for reports in (True, False):
            encoder = Encoder(exit_bundle, sure=0, report_answers=reports, audit=1, budget_bytes=19)
            report = encoder.work(photos[0]).report
            assert (report is None) != reports
            assert report is None or len(report.to_bytes()) == 16

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({"audit": -0.01}, "audit is -0.01; give the share of sure photos that are sent, too, from 0 to 1"),
            ({"audit": 1.01}, "from 0 to 1"),
            ({"audit": float("nan")}, "from 0 to 1"),
            ({"audit": "all"}, "from 0 to 1"),
            ({"report_answers": True, "budget_bytes": 15}, "no room for a report; give 16 or more"),
            ({"audit": 0.5, "budget_bytes": 18}, "no room for an audit; give 19 or more"),
        ],
    )
    def test_refused_options(self, exit_bundle: Bundle, options: dict[str, Any], says: str) -> None:
        with pytest.raises(InputError, match=says):
            Encoder(exit_bundle, **options)

    @pytest.mark.parametrize("options", [{"report_answers": True}, {"audit": 0.5}])
    def test_a_bundle_without_an_exit_has_nothing_to_report(self, bundle: Bundle, options: dict[str, Any]) -> None:
        with pytest.raises(InputError, match="tiny has no exit, so the server has every answer: leave out"):
            Encoder(bundle, **options)
        with pytest.raises(InputError, match="takes no report_answers and no audit"):
            Edge(bundle, "ws://x", partition="auto", **options)


class TestEdge:
    def test_reports_cross_the_connection_of_the_frames(
        self, exit_bundle: Bundle, photos: list[Path], bound: float
    ) -> None:
        network = Network()
        options = {"sure": bound, "report_answers": True}
        with Edge(exit_bundle, "ws://x", connect=network.connect, **options) as edge:  # type: ignore[arg-type]
            found = [edge.classify(photo) for photo in photos]
            many = list(edge.classify_many(photos, in_flight=3))
        assert len(network.opened) == 1
        assert [frame.codec == REPORT for frame in network.frames] == 2 * [
            each.answered_by == "device" for each in found
        ]
        for each in (*found, *many):
            if each.answered_by == "device":
                assert (each.payload_bytes, each.frame_bytes, each.socket_bytes) == (4, 8, 8)
                assert each.times.round_trip_ms > 0
        assert [each.top for each in many] == [each.top for each in found]

    def test_the_devices_answer_stands_whatever_the_audit_says(self, exit_bundle: Bundle, photos: list[Path]) -> None:
        network = Network(lambda frame: [Answer(frame.sequence, 1, 1, ((9, 1.0),)).to_bytes()])
        with Edge(exit_bundle, "ws://x", connect=network.connect, sure=0, audit=1) as edge:
            found = edge.classify(photos[0])
        assert (found.answered_by, found.label) == ("device", "class 6")
        assert found.payload_bytes == len(Encoder(exit_bundle).encode(photos[0]).frame.payload) + 6

    @pytest.mark.parametrize("many", [False, True])
    def test_a_server_that_refuses_reports(
        self, exit_bundle: Bundle, photos: list[Path], many: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        network = Network(lambda frame: [refusal_bytes(frame.sequence, "frame is of codec 13")])
        with Edge(exit_bundle, "ws://x", connect=network.connect, sure=0, report_answers=True) as edge:
            found = list(edge.classify_many(photos[:1])) if many else [edge.classify(photos[0])]
        assert [each.answered_by for each in found] == ["device"]
        assert caplog.messages == [
            "an answer of this device is not reported: the server refused frame 0: frame is of codec 13"
        ]

    def test_without_a_server_it_is_tried_now_and_then(self, exit_bundle: Bundle, photos: list[Path]) -> None:
        network = Network(up=lambda now: False)
        with Edge(exit_bundle, "ws://x", connect=network.connect, sure=0, report_answers=True) as edge:
            found = [edge.classify(photo) for photo in photos]
        assert {each.answered_by for each in found} == {"device"}
        assert {each.socket_bytes for each in found} == {0}
        assert len(network.opened) == 1


class Fleet:
    """A device with a spool, and what came of it; each `send` is as another process."""

    def __init__(self, bundle: Bundle, folder: Path, sure: float) -> None:
        self.bundle, self.folder = bundle, folder
        self.network = Network()
        self.told: list[str] = []
        self.edge: dict[str, Any] = {"sure": sure, "report_answers": True}
        self.spool: dict[str, Any] = {"connection": Fast}
        self.deadline_s = 60.0
        self.waiting: list[str] = []
        self.unreported: list[str] = []

    def send(self, photos: list[Path], **options: Any) -> list[Outcome]:
        return list(self.each(photos, **options))

    def each(self, photos: Iterable[Path | None], patient: bool = True) -> Iterator[Outcome]:
        network = self.network
        backoffs = [
            Backoff(first_s=1, cap_s=8, deadline_s=self.deadline_s, clock=network.clock, rng=numbers_from(0.999999))
            for _ in range(2)
        ]
        with (
            Edge(self.bundle, "ws://x", connect=network.connect, **self.edge) as edge,
            Spool(self.folder, self.bundle, **self.spool) as spool,
        ):
            server, disk = backoffs
            sender = Sender(edge, spool, backoff=server, disk=disk, tell=self.told.append, sleep=network.sleep)
            yield from sender.send(photos, patient=patient)
            self.waiting, self.unreported = sender.waiting, sender.unreported

    @property
    def reports(self) -> list[Frame]:
        return [frame for frame in self.network.frames if frame.codec == REPORT]

    def rows(self, *, report: bool) -> list[str]:
        """Return the statuses of the photos in the spool, or of the reports."""
        return [record.status for record in records(self.folder) if record.report == report]


@pytest.fixture
def fleet(exit_bundle: Bundle, tmp_path: Path, bound: float) -> Fleet:
    return Fleet(exit_bundle, tmp_path / "spool", bound)


def answers(outcomes: list[Outcome], photos: list[Path]) -> dict[str, Answered]:
    """Each photo's answer; it has one."""
    assert sorted(each.photo for each in outcomes) == sorted(map(str, photos))
    found = {each.photo: each for each in outcomes if isinstance(each, Answered)}
    assert len(found) == len(photos)
    return found


class TestSender:
    def test_each_sure_answer_is_reported_once(self, fleet: Fleet, photos: list[Path]) -> None:
        first = answers(fleet.send(photos), photos)
        assert (fleet.waiting, fleet.unreported, fleet.told) == ([], [], [])
        sure = [each for each in first.values() if each.by == "device"]
        assert len(sure) == len(fleet.reports) == COUNT / 2
        assert {(each.payload_bytes, each.frame_bytes, each.tries) for each in sure} == {(4, 8, 0)}
        said = sorted(parse_report(frame).class_index for frame in fleet.reports)
        assert said == sorted(each.top[0].class_index for each in sure)
        assert fleet.rows(report=False) == [ANSWERED] * COUNT
        assert fleet.rows(report=True) == []
        again = answers(fleet.send(photos), photos)
        assert all(each.again for each in again.values())
        assert len(fleet.network.frames) == COUNT

    def test_the_server_counts_them(
        self, exit_bundle: Bundle, photos: list[Path], tmp_path: Path, bound: float, asgi_connect: Any
    ) -> None:
        app = create_app([exit_bundle])
        for number, share in enumerate((0.0, 1.0)):
            options = {"sure": bound, "report_answers": True, "audit": share}
            with (
                Edge(exit_bundle, "ws://x", connect=asgi_connect(app), **options) as edge,
                Spool(tmp_path / str(number), exit_bundle) as spool,
            ):
                got = answers(list(Sender(edge, spool).send(photos)), photos)
            assert sum(each.by == "device" for each in got.values()) == COUNT / 2
            assert counted(app, exit_bundle)[: number + 1] == ((6,), (12, 6))[number]
        own = Encoder(exit_bundle, sure=0)
        mine = {str(photo): own.work(photo).result.top[0][0] for photo in photos}  # type: ignore[union-attr]
        with Edge(exit_bundle, "ws://x", connect=asgi_connect(app), sure=1) as edge:
            theirs = {str(photo): edge.classify(photo).class_index for photo in photos}
        sure = [name for name, each in got.items() if each.by == "device"]
        assert counted(app, exit_bundle) == (12, 6, sum(mine[name] == theirs[name] for name in sure))

    def test_without_a_server_the_answers_come_and_the_reports_wait(self, fleet: Fleet, photos: list[Path]) -> None:
        fleet.network.up = lambda now: False
        outcomes = fleet.send(photos)
        assert {each.by for each in outcomes if isinstance(each, Answered)} == {"device"}
        assert len(outcomes) == len(fleet.unreported) == len(fleet.waiting) == COUNT / 2
        assert sorted(fleet.rows(report=False)) == [ANSWERED] * 6 + [WAITING] * 6
        assert fleet.rows(report=True) == [WAITING] * 6
        fleet.network.up = lambda now: True
        assert len(answers(fleet.send(photos), photos)) == COUNT
        assert len(fleet.reports) == COUNT / 2
        assert (fleet.rows(report=True), fleet.unreported) == ([], [])

    @pytest.mark.parametrize("audit", [0, 1])
    def test_what_is_lost_on_the_way_is_sent_again(self, fleet: Fleet, photos: list[Path], audit: float) -> None:
        fleet.edge["audit"] = audit
        seen: set[bytes] = set()

        def every_second(frame: Frame) -> list[bytes] | Exception:
            if frame.payload in seen:
                return answered(frame)
            seen.add(frame.payload)
            return []

        fleet.network.react = every_second
        answers(fleet.send(photos), photos)
        assert (fleet.waiting, fleet.unreported, fleet.rows(report=True)) == ([], [], [])
        assert {len(frame.payload) == 4 for frame in fleet.reports} == {audit == 0}

    @pytest.mark.parametrize("at", [*range(6)])
    def test_a_power_cut_between_report_and_answer_loses_neither(
        self, fleet: Fleet, photos: list[Path], monkeypatch: pytest.MonkeyPatch, at: int
    ) -> None:
        stored, left = Spool.store, [at]

        def store(spool: Spool, photo: Photo, outcome: Outcome) -> None:
            if isinstance(outcome, Answered) and outcome.by == "device":
                if left[0] == 0:
                    raise KeyboardInterrupt
                left[0] -= 1
            stored(spool, photo, outcome)

        monkeypatch.setattr(Spool, "store", store)
        with pytest.raises(KeyboardInterrupt):
            fleet.send(photos)
        monkeypatch.undo()
        got = answers(fleet.send(photos), photos)
        assert (fleet.waiting, fleet.unreported, fleet.rows(report=True)) == ([], [], [])
        assert fleet.rows(report=False) == [ANSWERED] * COUNT
        assert sorted(each.by for each in got.values()) == ["device"] * 6 + ["server"] * 6
        assert COUNT / 2 <= len(fleet.reports) <= COUNT / 2 + at  # those in flight, which no process waits for any more

    @pytest.mark.parametrize("fallback", [None, "local"])
    def test_a_server_that_knows_no_reports_refuses_in_one_line(
        self, fleet: Fleet, photos: list[Path], fallback: str | None
    ) -> None:
        fleet.edge["fallback"] = fallback

        def old(frame: Frame) -> list[bytes]:
            known = "frame is of codec 13; this side knows 0 (raw)"
            return [refusal_bytes(frame.sequence, known)] if frame.codec == REPORT else answered(frame)

        fleet.network.react = old
        outcomes = fleet.send(photos)
        answers([each for each in outcomes if isinstance(each, Answered)], photos)
        failed = [each for each in outcomes if isinstance(each, Failed)]
        assert [(each.why, each.report) for each in failed] == [("refused", True)] * 6
        assert all("frame is of codec 13; this side knows 0 (raw)" in each.reason for each in failed)
        assert fleet.rows(report=True) == ["refused"] * 6
        assert len(fleet.reports) == 18
        with Spool(fleet.folder, fleet.bundle) as spool:  # the server is a newer one now
            spool.requeue([record.number for record in records(fleet.folder) if record.report])
        fleet.network.react = answered
        assert fleet.send([]) == []
        assert fleet.rows(report=True) == []
        assert len(fleet.reports) == 24

    def test_photos_are_answered_here_and_reports_wait(self, fleet: Fleet, photos: list[Path]) -> None:
        fleet.edge["fallback"] = "local"
        fleet.network.up = lambda now: now > 1030
        got = answers(fleet.send(photos), photos)
        assert sorted(each.by for each in got.values()) == ["device"] * 6 + ["local"] * 6
        assert len(fleet.network.frames) == len(fleet.reports) == COUNT / 2
        assert fleet.network.now < 1060

    def test_with_the_device_helping_out_reports_end_at_the_deadline(self, fleet: Fleet, photos: list[Path]) -> None:
        fleet.edge["fallback"] = "local"
        fleet.network.up = lambda now: False
        answers(fleet.send(photos), photos)
        assert (len(fleet.unreported), fleet.waiting) == (6, [])
        assert fleet.network.now == pytest.approx(1060, abs=1)

    def test_an_answer_that_the_disk_has_no_room_for_outlives_the_reports_deadline(
        self, fleet: Fleet, photos: list[Path], bound: float
    ) -> None:
        network = fleet.network

        class Full(Fast):
            def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
                if sql == STORE and 1065 < network.now < 1090:
                    raise sqlite3.OperationalError("database or disk is full")
                return super().execute(sql, *values)

        def later(sure: Path, unsure: Path) -> Iterator[Path | None]:
            yield sure
            while network.now < 1070:
                yield None
            yield unsure

        fleet.edge["fallback"], fleet.spool["connection"] = "local", Full
        network.up = lambda now: False
        encoder = Encoder(fleet.bundle, sure=bound)
        sent = [isinstance(encoder.work(photo).result, Frame) for photo in photos]
        two = [photos[sent.index(False)], photos[sent.index(True)]]
        got = answers(list(fleet.each(later(*two))), two)
        assert [got[str(photo)].by for photo in two] == ["device", "local"]
        assert network.now >= 1090
        assert fleet.unreported == [str(two[0])]

    def test_a_report_that_the_disk_does_not_forget_is_not_sent_again(self, fleet: Fleet, photos: list[Path]) -> None:
        failures = iter([True] * 3)  # each write is tried twice, with the reserve

        class Full(Fast):
            def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
                if sql.startswith("DELETE FROM photos WHERE number") and next(failures, False):
                    raise sqlite3.OperationalError("database or disk is full")
                return super().execute(sql, *values)

        fleet.spool["connection"] = Full
        answers(fleet.send(photos), photos)
        assert (fleet.unreported, fleet.rows(report=True)) == ([], [])
        assert len(fleet.reports) == COUNT / 2
        assert any("No space left" in line for line in fleet.told)

    @pytest.mark.parametrize("when_full", ["drop-oldest", "drop-newest"])
    def test_a_full_spool_drops_reports_and_keeps_answers(
        self, fleet: Fleet, photos: list[Path], when_full: str
    ) -> None:
        fleet.spool |= {"max_bytes": 2048, "when_full": when_full}
        fleet.edge["sure"] = 0
        fleet.network.up = lambda now: False
        outcomes = fleet.send(photos)
        answers([each for each in outcomes if isinstance(each, Answered)], photos)
        failed = [each for each in outcomes if isinstance(each, Failed)]
        assert {(each.why, each.report) for each in failed} == {("dropped", True)}
        assert len(failed) == COUNT - 2
        assert sorted(fleet.rows(report=True)) == ["dropped"] * (COUNT - 2) + [WAITING] * 2
        assert fleet.rows(report=False) == [ANSWERED] * COUNT

    @pytest.mark.parametrize("fallback", [None, "local"])
    @pytest.mark.parametrize("patient", [False, True])
    def test_a_full_spool_that_refuses_takes_no_photo_without_its_report(
        self, fleet: Fleet, photos: list[Path], patient: bool, fallback: str | None
    ) -> None:
        fleet.spool["max_bytes"] = 2048
        fleet.edge |= {"sure": 0, "fallback": fallback}
        fleet.network.up = lambda now: False
        outcomes = fleet.send(photos[:4], patient=patient)
        assert [type(each) for each in outcomes] == [Answered, Answered, Failed, Failed]
        assert fleet.rows(report=False) == [ANSWERED] * 2
        assert fleet.rows(report=True) == [WAITING] * 2
        fleet.network.up = lambda now: True
        answers(fleet.send(photos), photos)
        assert len(fleet.reports) == COUNT

    def test_a_full_disk(self, fleet: Fleet, photos: list[Path]) -> None:
        writes = itertools.count()

        class Full(Fast):
            def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
                if sql == "COMMIT" and next(writes) % 3 == 0:
                    raise sqlite3.OperationalError("database or disk is full")
                return super().execute(sql, *values)

        fleet.spool["connection"] = Full
        answers(fleet.send(photos), photos)
        assert (fleet.waiting, fleet.unreported, fleet.rows(report=True)) == ([], [], [])
        assert fleet.rows(report=False) == [ANSWERED] * COUNT

    @pytest.mark.parametrize("share", [0, 1])
    @pytest.mark.parametrize("seed", range(6))
    def test_everything_goes_wrong_at_once(self, fleet: Fleet, photos: list[Path], seed: int, share: float) -> None:
        """Frames, answers and connections are lost, the disk is full, and the power fails: again and again."""
        source, seen = random.Random(seed), Counter[bytes]()  # what the server took
        fleet.edge["audit"] = share
        fleet.deadline_s = math.inf

        def server(frame: Frame) -> list[bytes] | Exception:
            fate = source.choices(["well", "lost", "late", "twice", "busy", "cut"], [5, 1, 1, 1, 1, 1])[0]
            if fate == "lost":
                return []
            if fate == "busy":
                return [busy_bytes(frame.sequence, 0.5, "busy")]
            seen[frame.payload] += 1
            if fate == "cut":
                return LinkError("the link is down")
            return {"well": 1, "late": 0, "twice": 2}[fate] * answered(frame)

        class Bad(Fast):
            def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
                fate = source.choices(["well", "full", "before", "after"], [17, 1, 1, 1])[0] if sql == "COMMIT" else ""
                if fate == "full":
                    raise sqlite3.OperationalError("database or disk is full")
                if fate == "before":
                    raise KeyboardInterrupt
                done = super().execute(sql, *values)
                if fate == "after":
                    raise KeyboardInterrupt
                return done

        fleet.network.react, fleet.spool["connection"] = server, Bad
        told: list[Outcome] = []
        cuts = 0
        while True:
            try:
                told += fleet.send(photos)
                break
            except KeyboardInterrupt:
                cuts += 1
        encoder = Encoder(fleet.bundle, **fleet.edge)
        worked = {str(photo): encoder.work(photo) for photo in photos}
        rows = {record.photo: parse_outcome(json.dumps(record.outcome).encode()) for record in records(fleet.folder)}
        assert fleet.rows(report=False) == [ANSWERED] * COUNT
        assert (fleet.rows(report=True), fleet.unreported) == ([], [])
        for name, processed in worked.items():
            answer = rows[name]
            assert isinstance(answer, Answered)
            assert processed.frame is not None
            own = isinstance(processed.result, Answer)
            assert answer.by == ("device" if own else "server")
            index = processed.result.top[0][0] if isinstance(processed.result, Answer) else None
            assert answer.top[0].class_index == (class_of(processed.frame.payload) if index is None else index)
            assert seen.pop(processed.frame.payload) >= 1
        assert not seen
        assert cuts > 0
        assert not [each for each in told if isinstance(each, Failed)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a fork of this process")
def test_kill_at_any_instant(exit_bundle: Bundle, tmp_path: Path) -> None:
    """A report is put, its answer stored, and it arrives; at each line of the spool's code the process may end."""
    fast = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else tmp_path
    photo = Photo("/photos/1.jpg", f"{1:064x}")
    report, frame = replace(photo, report=True), Report(3, 0.9).to_frame(exit_bundle.tag)
    answer = answered_now(photo.name, "device", Findings((Choice("class 3", 3, 0.9),)), frame_bytes=8, tries=0)
    seen = set()
    for line in itertools.count(1, 4):
        folder = fast / f"bottlenet-{os.getpid()}-report-{line}"

        def work(tell: Callable[[str], None], folder: Path = folder) -> None:
            spool = Spool(folder, exit_bundle)
            entry = spool.put(report, frame).entry
            tell("put")
            spool.store(photo, answer)
            tell("stored")
            assert entry is not None
            spool.reported(entry)

        try:
            said = in_a_child_that_is_killed_at(line, work)
            with Spool(folder, exit_bundle) as spool:
                waits = [entry.photo for entry in spool.waiting] == [report]
                assert len(spool) == waits
                assert [spool.frame(entry) for entry in spool.waiting] == [frame] * waits
                found = spool.outcome(photo)
                assert found in (None, replace(answer, again=True))
                assert waits or found is None or "stored" in said, "lost"
                assert waits == ("put" in said) or "stored" in said or not said
                assert (found is not None) or "stored" not in said
                assert spool.used_bytes == 1024 * waits
                seen.add((len(said), waits))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if said and said[-1] == "end":
            break
    assert {(0, False), (0, True), (1, True), (2, True), (3, False)} <= seen


class TestCommand:
    def test_reports_wait_for_a_server_and_then_arrive(
        self, run: Run, exit_bundle: Bundle, photos: list[Path], app: Starlette, serve: Any, tmp_path: Path
    ) -> None:
        command = ("send", *photos, "--bundle", exit_bundle.path, "--spool", tmp_path / "spool", "--sure", 0)
        command += ("--report-answers", "--audit", 0.5)
        first = run(*command, "--to", "ws://127.0.0.1:1", "--deadline", 0.1, "--json")
        lines = [json.loads(line) for line in first.out.splitlines()]
        assert first.code == 1
        assert [(line["status"], line.get("report")) for line in lines] == (
            [("answered", None)] * COUNT + [("waiting", True)] * COUNT
        )
        audits = [line["frame_bytes"] > 8 for line in lines[:COUNT]].count(True)
        assert 0 < audits < COUNT
        listed = run("spool", tmp_path / "spool")
        assert listed.out.endswith(f"{COUNT} photos, {COUNT} answered, {COUNT} reports waiting\n")
        assert listed.out.count("waiting   ") == listed.out.count(": its report, ") == COUNT
        rows = [json.loads(line) for line in run("spool", tmp_path / "spool", "list", "--json").out.splitlines()]
        assert [row.get("report", False) for row in rows] == [row["status"] == "waiting" for row in rows]
        plain = run(*command, "--to", "ws://127.0.0.1:1", "--deadline", 0.1)
        assert plain.out.count("its report waits in the spool; run this again") == COUNT
        done = run(*command, "--to", serve(app).url)
        assert (done.code, done.err, done.out.count("from before")) == (0, "", COUNT)
        assert counted(app, exit_bundle)[:2] == (COUNT, audits)

    def test_exported_reports_can_be_posted(
        self, run: Run, exit_bundle: Bundle, photos: list[Path], app: Starlette, tmp_path: Path
    ) -> None:
        command = ("send", *photos[:3], "--bundle", exit_bundle.path, "--spool", tmp_path / "spool", "--sure", 0)
        run(*command, "--report-answers", "--to", "ws://127.0.0.1:1", "--deadline", 0.1)
        run("spool", tmp_path / "spool", "export", "-o", tmp_path / "out")
        for path in (tmp_path / "out").iterdir():
            done = run("decode", path, "--bundle", exit_bundle.path)
            assert (done.code, done.err.count("\n")) == (2, 1)
            assert " reports class 6, " in done.err
            assert ask(app, "POST", "/v1/classify", path.read_bytes()).status_code == 200
        assert counted(app, exit_bundle) == (3, 0, 0)

    def test_an_audit_is_decoded_as_its_frame(
        self, run: Run, exit_bundle: Bundle, photos: list[Path], tmp_path: Path
    ) -> None:
        frame = Encoder(exit_bundle).encode(photos[0]).frame
        found = []
        for name, each in (("frame", frame), ("audit", Report(3, 0.9, frame).to_frame(exit_bundle.tag))):
            (tmp_path / name).write_bytes(each.to_bytes())
            done = run("decode", tmp_path / name, "--bundle", exit_bundle.path, "--json")
            found.append({**json.loads(done.out), "file": None, "times": None})
        assert found[0] == found[1]

    def test_a_refused_report_is_told_as_one(
        self, run: Run, exit_bundle: Bundle, photos: list[Path], serve: Any, tmp_path: Path
    ) -> None:
        """A server from before there were reports hands them to its decoder, as any frame."""
        app = create_app([exit_bundle])

        async def old(served: Any, frame: Frame) -> Answer:
            return await served.batcher.answer(frame)  # type: ignore[no-any-return]

        app.state.service._take_report = old
        command = ("send", photos[0], "--bundle", exit_bundle.path, "--spool", tmp_path / "spool", "--sure", 0)
        done = run(*command, "--report-answers", "--to", serve(app).url, "--json")
        lines = [json.loads(line) for line in done.out.splitlines()]
        assert done.code == 2
        assert [(line["status"], line.get("report")) for line in lines] == [("answered", None), ("refused", True)]
        (told,) = [line for line in done.err.splitlines() if line.startswith("error: refused report: ")]
        assert "frame is of codec 13; this side knows 0 (raw), 1 (deflate), 2 (jpeg)" in told

    def test_refused_options(self, run: Run, exit_bundle: Bundle, bundle: Bundle, tmp_path: Path) -> None:
        command = ("send", "--to", "ws://x", "--spool", tmp_path, "--bundle")
        for options, says in (
            ((exit_bundle.path, "--audit", 1.5), "audit is 1.5; give the share of sure photos"),
            ((bundle.path, "--report-answers"), "has no exit, so the server has every answer"),
        ):
            done = run(*command, *options)
            assert (done.code, done.err.count("\n"), says in done.err) == (2, 1, True)
