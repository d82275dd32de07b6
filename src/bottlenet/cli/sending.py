"""What `bottlenet send` does: photos into a `Sender`, and a line for each that comes out.

PHOTO... or DIR -> Sender -> lines on stdout, what went wrong on stderr too
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import TypedDict

from bottlenet.cli.planning import read_profile
from bottlenet.cli.show import print_error, say
from bottlenet.edge import (
    Answered,
    AutoSender,
    Backoff,
    Choice,
    Edge,
    Failed,
    Folder,
    Move,
    Outcome,
    Policy,
    Sender,
    Spool,
)
from bottlenet.edge.auto import AUTO
from bottlenet.edge.prediction import FULL
from bottlenet.errors import InputError
from bottlenet.plan.profile import Profile
from bottlenet.wire.answer import one_line

ONE_SHOT_DEADLINE_S = 60.0
MAX_NAMES = 10_000
ALL_RIGHT, SOME_WAIT, SOME_FAILED = 0, 1, 2


@dataclass(frozen=True)
class How:
    """How to send."""

    watch: bool = False
    in_flight: int = 8
    deadline_s: float = math.inf  # without success, after which to give up
    as_json: bool = False


class Stopped(BaseException):
    """SIGTERM came. As KeyboardInterrupt no Exception: it may come while others' errors are translated."""


class AutoOptions(TypedDict, total=False):
    """What `Edge` is told so that it moves between partitions. Empty: it does not."""

    partition: str
    profile: Profile
    policy: Policy


def auto_options(partition: str | None, profile: str | None, max_drop: float | None) -> AutoOptions:
    """Of the command line. InputError: another partition, no profile or one that can't be read, half of the options."""
    if partition is None:
        if profile is not None or max_drop is not None:
            raise InputError("--profile and --max-drop are for --partition auto; give that, too")
        return {}
    if partition != AUTO:
        raise InputError(f"--partition is {partition}; give {AUTO}, or leave it out")
    if profile is None:
        raise InputError(f"--partition {partition} chooses by a profile; give --profile, a file of bottlenet profile")
    return {"partition": partition, "profile": read_profile(Path(profile)), "policy": Policy(max_drop=max_drop)}


def send(edge: Edge, spool: Spool, photos: Sequence[str], how: How) -> int:
    """Send photos and folders of photos; gives the exit code. InputError: no such folder, or more than one to watch."""
    folders = {path: Folder(path) for path in photos if os.path.isdir(path)}
    if how.watch and (len(photos) != 1 or not folders):
        raise InputError(f"--watch takes one folder, not {', '.join(photos) or 'nothing'}; give one that is there")
    report = Report(how.as_json)
    server, disk = Backoff(deadline_s=how.deadline_s), Backoff(deadline_s=how.deadline_s)
    sender: Sender | AutoSender
    if edge.is_auto:
        edge.connect()  # so that the first photo has what is best for it
        sender = AutoSender(edge, spool, disk=disk, moved=report.moved, tell=report.trouble)
    else:
        sender = Sender(edge, spool, in_flight=how.in_flight, backoff=server, disk=disk, tell=report.trouble)
    report.notes(spool)
    for failed in spool.damaged:
        report.outcome(failed)
    folder = folders.get(photos[0]) if how.watch else None
    stopped = True
    with contextlib.suppress(Stopped), told_to_stop():
        for outcome in sender.send(folder.watch() if folder else named(photos, folders), patient=folder is None):
            report.outcome(outcome)
            report.notes(spool)
            if folder and isinstance(outcome, Failed) and outcome.why == FULL:
                folder.again(outcome.photo)
        stopped = False
    for name in sender.waiting:
        report.waiting(name)
    if how.watch and stopped:
        return ALL_RIGHT  # as it should be, whatever waits: it is there when the service starts again
    if report.failed and not how.watch:
        return SOME_FAILED
    return SOME_WAIT if sender.waiting else ALL_RIGHT


def named(photos: Sequence[str], folders: dict[str, Folder]) -> Iterator[str | Path]:
    """Photos, and those in folders."""
    for path in photos:
        if path in folders:
            yield from folders[path].photos()
        else:
            yield path


class Report:
    """A line for each photo; what fails is said once."""

    def __init__(self, as_json: bool) -> None:
        self.failed = False
        self._as_json = as_json
        self._full: set[str] = set()  # photos for which there was no room when they were last offered
        self._last_trouble = ""

    def outcome(self, outcome: Outcome) -> None:
        """Answered: on stdout. Failed: on stderr, and with JSON on stdout too."""
        if isinstance(outcome, Answered):
            self._answered(outcome)
            return
        if outcome.why == FULL and outcome.photo in self._full:
            return  # it is offered again and again
        if outcome.why == FULL:
            if len(self._full) >= MAX_NAMES:
                self._full.clear()
            self._full.add(outcome.photo)
        self.failed = True
        before = " (before)" if outcome.again else ""
        print_error(f"{outcome.why}{before}: {outcome.reason}")
        if self._as_json:
            self._line(
                {"photo": outcome.photo, "status": outcome.why, "reason": outcome.reason, "again": outcome.again}
            )

    def notes(self, spool: Spool) -> None:
        """What was found in the spool and set aside since."""
        while spool.notes:
            print_error(spool.notes.pop(0))

    def trouble(self, line: str) -> None:
        """A try failed. The same trouble is told once, until it is another or over."""
        trouble = line.partition(";")[0]
        if trouble != self._last_trouble:
            self._last_trouble = trouble
            print_error(line)

    def moved(self, move: Move) -> None:
        """From one partition to another, and why: on stderr."""
        print(one_line(f"{move.source} -> {move.target}: {move.reason}"), file=sys.stderr, flush=True)

    def waiting(self, name: str) -> None:
        """It is in the spool, for the next time."""
        if self._as_json:
            self._line({"photo": name, "status": "waiting"})
        else:
            say(f"{shown(name)}: waits in the spool; run this again")

    def _answered(self, answered: Answered) -> None:
        self._full.discard(answered.photo)
        if not answered.again:
            self._last_trouble = ""
        if self._as_json:
            best = asdict(answered.top[0] if answered.top else Choice("", -1, 0.0))
            values = asdict(answered)
            if not answered.objects:
                del values["objects"]
            self._line({"photo": answered.photo, "status": "answered", **best, **values})
            return
        extras = f"{answered.payload_bytes:,} bytes"
        extras += ", answered here" if answered.by == "local" else ""
        extras += ", from before" if answered.again else ""
        sure = f", {answered.top[0].score:.0%}" if answered.top else ""
        say(f"{shown(answered.photo)}: {one_line(answered.label) or 'nothing'}{sure} ({extras})")

    def _line(self, document: dict[str, object]) -> None:
        say(json.dumps(document))


def shown(name: str) -> str:
    """A path as short as it can be, on one line."""
    inside = os.path.relpath(name)
    return one_line(name if inside.startswith(os.pardir) else inside)


@contextlib.contextmanager
def told_to_stop() -> Iterator[None]:
    """SIGTERM raises Stopped in the block. Nothing is lost: the spool is good at any instant."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
