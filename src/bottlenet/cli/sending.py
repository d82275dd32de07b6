"""What `bottlenet send` and `watch` do: photos into a `Sender`, and a line for each that comes out.

PHOTO..., DIR or a camera -> Sender -> lines on stdout, what went wrong on stderr too
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeAlias

from bottlenet.cli.options import require
from bottlenet.cli.planning import prices_of, read_profile
from bottlenet.cli.show import print_error, say
from bottlenet.edge import AutoSender, Backoff, Edge, Folder, Move, Policy, Sender, Spool
from bottlenet.edge.auto import AUTO
from bottlenet.edge.camera import Camera, Shot, shots
from bottlenet.edge.camera import watch as answers
from bottlenet.edge.changes import Changes
from bottlenet.edge.prediction import DAMAGED, FULL, UNREADABLE, UNUSABLE, Answered, Choice, Failed, Outcome
from bottlenet.edge.spool import is_spool
from bottlenet.errors import InputError, LinkError
from bottlenet.files import PASSWORD
from bottlenet.photo import SUFFIXES
from bottlenet.plan.link import Radio, parse_link
from bottlenet.wire.answer import one_line

if TYPE_CHECKING:
    from bottlenet.edge.home_assistant import HomeAssistant

ONE_SHOT_DEADLINE_S = 60.0
MAX_NAMES = 10_000
KEPT = 500  # answers of a camera that stay in the spool, about
HomeOf: TypeAlias = "Callable[[str, Callable[[str], None]], HomeAssistant]"
LOOK_S = 0.02  # how long a camera without a new frame is left alone
ALL_RIGHT, SOME_WAIT, SOME_FAILED = 0, 1, 2


class Stopped(BaseException):
    """SIGTERM came. As KeyboardInterrupt no Exception: it may come while others' errors are translated."""


def auto_options(
    partition: str | None,
    profile: str | None,
    objective: str | None,
    *,
    max_drop: float | None,
    price_mb: float | None,
    price_hour: float | None,
    radio: str | None,
) -> dict[str, Any]:
    """Make the options of an `Edge` that moves between partitions, if any. InputError: another, or half of them."""
    if partition is None:
        if any(each is not None for each in (profile, objective, max_drop, price_mb, price_hour, radio)):
            others = "and so are --objective, its prices and --radio"
            raise InputError(f"--profile and --max-drop are for --partition auto, {others}; give that, too")
        return {}
    if partition != AUTO:
        raise InputError(f"--partition is {partition}; give {AUTO}, or leave it out")
    if profile is None:
        raise InputError(f"--partition {partition} chooses by a profile; give --profile, a file of bottlenet profile")
    policy = Policy(
        max_drop=max_drop,
        objective=objective or "latency",
        prices=prices_of(price_mb, price_hour),
        radio=None if radio is None else radio_of(radio),
    )
    return {"partition": partition, "profile": read_profile(Path(profile)), "policy": policy}


def radio_of(link: str) -> Radio:
    """Return the radio of a link. InputError: its power is not known."""
    found = parse_link(link).radio
    if found is None:
        raise InputError(f"--radio is {link!a:.40}, whose power has no source; give 3g, 4g or wifi")
    return found


def send(
    edge: Edge,
    spool: str,
    photos: Sequence[str],
    *,
    watch: bool,
    in_flight: int,
    deadline_s: float,
    as_json: bool,
    max_bytes: int,
    when_full: str,
) -> int:
    """Send photos and folders of photos, give up after `deadline_s` without success, and return the exit code.

    InputError: no such folder, more than one to watch, or neither photos nor a spool.
    """
    report = Report(as_json)
    folders = {path: Folder(path, unlisted=report.unlisted) for path in photos if os.path.isdir(path)}
    if watch and (len(photos) != 1 or not folders):
        raise InputError(f"--watch takes one folder, not {', '.join(photos) or 'nothing'}; give one that is there")
    if not photos and not is_spool(spool):
        raise InputError(f"{spool}: there is no spool, and so nothing that waits; give photos, or another --spool")
    if not watch and not is_spool(spool) and not any(map(os.path.exists, named(photos, folders, report))):
        for path in photos:
            if path not in folders:
                report.outcome(Failed(path, UNUSABLE, f"{path}: there is no such file; give the path of a photo"))
        return SOME_FAILED if report.failed else ALL_RIGHT
    with Spool(spool, edge.bundle, max_bytes=max_bytes, when_full=when_full) as opened:
        watched = folders[photos[0]] if watch else None
        server, disk = Backoff(deadline_s=deadline_s), Backoff(deadline_s=deadline_s)
        sender: Sender | AutoSender
        if edge.is_auto:
            edge.connect()  # so that the first photo has what is best for it
            sender = AutoSender(edge, opened, disk=disk, moved=report.moved, tell=report.trouble)
        else:
            sender = Sender(edge, opened, in_flight=in_flight, backoff=server, disk=disk, tell=report.trouble)
        found = watched.watch() if watched else named(photos, folders, report)
        send_through(sender, opened, found, report, watched, patient=watched is None)
    if watch and report.stopped:
        return ALL_RIGHT  # as it should be, whatever waits: it is there when the service starts again
    if report.failed and not watch:
        return SOME_FAILED
    return SOME_WAIT if report.waits else ALL_RIGHT


def watch(
    edge: Edge,
    source: str,
    spool: str | None,
    *,
    camera: dict[str, Any],
    changes: Changes | None,
    home: HomeOf | None,
    in_flight: int,
    as_json: bool,
    spool_options: dict[str, Any],
) -> int:
    """Classify what a camera shows, with a spool or without, and return the exit code. InputError: as `Camera`."""
    report = Report(as_json)
    report.changes = changes
    report.stopped = True
    options = {"timeout_s": edge.timeout_s, "tell": report.trouble, **camera}
    try:
        with contextlib.suppress(Stopped), told_to_stop(), contextlib.ExitStack() as stack:
            opened = None if spool is None else stack.enter_context(Spool(spool, edge.bundle, **spool_options))
            report.camera = watched = stack.enter_context(contextlib.closing(Camera(source, **options)))
            report.home = stack.enter_context(contextlib.closing(home(watched.name, print_error))) if home else None
            if edge.is_auto:
                edge.connect()
            if opened is None:
                for seen in answers(edge.classify, watched, changes, report.server_trouble):
                    report.outcome(seen.outcome)
                report.stopped = False
            else:
                keep(edge, opened, report, watched, changes, in_flight)
    except KeyboardInterrupt:
        report.summary()
        raise
    report.summary()
    if report.stopped:
        return ALL_RIGHT
    return SOME_FAILED if report.failed else SOME_WAIT if report.waits else ALL_RIGHT


def keep(edge: Edge, spool: Spool, report: Report, camera: Camera, changes: Changes | None, in_flight: int) -> None:
    """Send a camera's frames through a spool."""
    sender: Sender | AutoSender
    if edge.is_auto:
        sender = AutoSender(edge, spool, moved=report.moved, tell=report.trouble, slice_s=LOOK_S)
    else:
        sender = Sender(edge, spool, in_flight=in_flight, tell=report.server_trouble, slice_s=LOOK_S)
    found = taken(shots(camera, changes, report.trouble), changes, spool, None if camera.waits else camera)
    send_through(sender, spool, found, report, patient=camera.waits)


def home_of(url: str | None, password: str | None, ca: str | None) -> HomeOf | None:
    """Return what shows a camera in Home Assistant. InputError: no broker's address. MissingExtraError: no MQTT."""
    from bottlenet.cloud.admission import trust

    if url is None:
        if password is not None:
            raise InputError("--broker-password is for --home-assistant; give that, too")
        return None
    require("watch --home-assistant", "mqtt")
    from bottlenet.broker import broker_at
    from bottlenet.edge.home_assistant import HomeAssistant

    if password is not None:
        PASSWORD.read(password)  # a wrong path shows now
    ask = None if password is None else lambda: PASSWORD.read(password)
    broker = broker_at(url, password=ask, tls=None if ca is None else trust(ca))
    return lambda name, tell: HomeAssistant(broker, name, tell=tell)


def take_back(home: HomeOf | None, name: str) -> None:
    """Take a camera out of Home Assistant. InputError: no broker is named. LinkError: it can't be reached."""
    if home is None:
        raise InputError("--forget takes a camera out of Home Assistant; give --home-assistant, too")
    with contextlib.closing(home(name, print_error)) as opened:
        if not opened.forget():
            raise LinkError("the broker can't be reached, so Home Assistant still has the camera; try again")
    say(f"{name}: taken out of Home Assistant")


def taken(
    photos: Iterator[Shot | None], changes: Changes | None, spool: Spool, live: Camera | None
) -> Iterator[Shot | None]:
    """Give frames for a spool, where each of them is as good as sent; it forgets now and then what is over."""
    count = 0
    for photo in photos:
        if photo is not None and live is not None and count % KEPT == 0:
            with contextlib.suppress(OSError):  # later, then
                spool.forget_camera(live.name)
        if photo is not None and changes is not None:
            changes.sent()
        count += photo is not None
        yield photo


def send_through(
    sender: Sender | AutoSender,
    spool: Spool,
    photos: Iterator[str | Shot | None],
    report: Report,
    watched: Folder | None = None,
    *,
    patient: bool,
) -> None:
    report.notes(spool)
    for failed in spool.damaged:
        report.outcome(failed)
    report.stopped = True
    with contextlib.suppress(Stopped), told_to_stop():
        for outcome in sender.send(photos, patient=patient):
            report.outcome(outcome)
            report.notes(spool)
            if watched and isinstance(outcome, Failed) and outcome.why in (FULL, UNREADABLE, DAMAGED):
                watched.again(outcome.photo)
        report.stopped = False
    for name in sender.waiting:
        report.waiting(name)
    for name in sender.unreported:
        report.waiting(name, report=True)


def named(photos: Sequence[str], folders: dict[str, Folder], report: Report) -> Iterator[str]:
    for path in photos:
        found = folders[path].photos() if path in folders else iter([path])
        first = next(found, None)
        if first is None:
            report.empty(path)
        else:
            yield first
            yield from found


class Report:
    """A line for each photo; what fails is said once."""

    def __init__(self, as_json: bool) -> None:
        self.failed = False
        self.waits = False
        self.stopped = False  # by SIGTERM
        self.camera: Camera | None = None  # that the photos are of
        self.changes: Changes | None = None
        self.home: HomeAssistant | None = None
        self._as_json = as_json
        self._answers = self._sent_bytes = 0
        self._again: set[str] = set()  # photos that could not be taken when they were last offered
        self._empty: set[str] = set()
        self._troubles: set[str] = set()  # that were told since the last answer

    def outcome(self, outcome: Outcome) -> None:
        """Print an answer on stdout, a failure on stderr, and with JSON on stdout too."""
        if isinstance(outcome, Answered):
            self._answered(outcome)
            return
        if outcome.why in (FULL, UNREADABLE):
            if outcome.photo in self._again:
                return  # it is offered again and again
            if len(self._again) >= MAX_NAMES:
                self._again.clear()
            self._again.add(outcome.photo)
        self.failed = True
        before = " (before)" if outcome.again else ""
        line = f"{outcome.why}{' report' if outcome.report else ''}{before}: {outcome.reason}"
        if self.camera is None:
            print_error(line)
        else:  # whose next frame fails in the same way
            self.camera.failed += not (outcome.again or outcome.report)
            self.trouble(line.replace(outcome.photo, outcome.photo.rpartition("@")[0] or outcome.photo))
        if self._as_json:
            words = {"photo": outcome.photo, "status": outcome.why, "reason": outcome.reason, "again": outcome.again}
            self._line(words | ({"report": True} if outcome.report else {}))

    def unlisted(self, path: str, why: str) -> None:
        """Name a folder, or a file in one, that can't be looked at."""
        self.outcome(Failed(path, UNREADABLE, f"{path}: it can't be looked at ({why}), and nothing in it is sent"))

    def empty(self, path: str) -> None:
        if path not in self._empty:
            self._empty.add(path)
            line = f"{path}: there are no photos in it; their names end in {', '.join(SUFFIXES)}"
            print(one_line(line), file=sys.stderr, flush=True)

    def notes(self, spool: Spool) -> None:
        while spool.notes:
            print_error(spool.notes.pop(0))

    def trouble(self, line: str) -> None:
        """Print why a try failed, once until there is an answer."""
        trouble = line.partition(";")[0]
        if trouble not in self._troubles:
            if len(self._troubles) >= MAX_NAMES:
                self._troubles.clear()
            self._troubles.add(trouble)
            print_error(line)

    def server_trouble(self, line: str) -> None:
        """Print why a try failed; if it was the server's fault, Home Assistant shows it."""
        self.trouble(line)
        if self.home is not None and self.camera is not None and not line.startswith(f"{self.camera.name}: "):
            self.home.lost()

    def moved(self, move: Move) -> None:
        print(one_line(f"{move.source} -> {move.target}: {move.reason}"), file=sys.stderr, flush=True)

    def waiting(self, name: str, *, report: bool = False) -> None:
        self.waits = True
        if self._as_json:
            self._line({"photo": name, "status": "waiting"} | ({"report": True} if report else {}))
        else:
            say(f"{shown(name)}: {'its report ' if report else ''}waits in the spool; run this again")

    def summary(self) -> None:
        """Say what became of a camera's frames."""
        if (camera := self.camera) is None:
            return
        frames = f"{camera.frames:,} frames, {camera.dropped:,} passed over"
        frames += f", {self.changes.unchanged:,} unchanged" if self.changes else ""
        frames += f", {self._answers:,} answered"
        frames += f", {camera.failed:,} failed" if camera.failed else ""
        lost = f", lost {camera.losses} times" if camera.losses else ""
        print(one_line(f"{camera.name}: {frames}, {self._sent_bytes:,} bytes{lost}"), file=sys.stderr, flush=True)

    def _answered(self, answered: Answered) -> None:
        camera, _, at = answered.photo.rpartition("@")
        self._again.discard(answered.photo)
        self._answers += 1
        if not answered.again:
            self._sent_bytes += answered.sent_bytes
            self._troubles.clear()
            if self.home is not None and self.camera is not None and camera == self.camera.name:
                self.home.answered(answered, at if at.endswith("Z") else None)
        if self._as_json:
            best = asdict(answered.top[0] if answered.top else Choice("", -1, 0.0))
            values = asdict(answered)
            if not answered.objects:
                del values["objects"]
            words = {"photo": answered.photo, "status": "answered", **best, **values}
            if self.camera is not None:
                words |= {"at": at}
            if self.camera is not None and camera == self.camera.name:
                words |= {"frames": self.camera.frames, "dropped": self.camera.dropped, "failed": self.camera.failed}
                words |= {"unchanged": self.changes.unchanged} if self.changes else {}
            self._line(words)
            return
        extras = f"{answered.payload_bytes:,} bytes"
        extras += ", answered here" if answered.by == "local" else ""
        extras += ", from before" if answered.again else ""
        sure = f", {answered.top[0].score:.0%}" if answered.top else ""
        say(f"{shown(answered.photo)}: {one_line(answered.label) or 'nothing'}{sure} ({extras})")

    def _line(self, document: dict[str, object]) -> None:
        say(json.dumps(document))


def shown(name: str) -> str:
    """Shorten a path as far as possible, on one line."""
    inside = os.path.relpath(name)
    return one_line(name if inside.startswith(os.pardir) else inside)


@contextlib.contextmanager
def told_to_stop() -> Iterator[None]:
    """Raise Stopped in the block when SIGTERM comes. Nothing is lost: the spool is good at any instant."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
