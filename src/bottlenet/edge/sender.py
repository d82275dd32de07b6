"""Photos that must not be lost: each is encoded once, kept on disk, and tried until its answer is on disk.

    photo -> Encoder -> Spool.put -> Stream.send -> Stream.receive -> Spool.store -> Answered
             (once)                     ^    `- lost, refused, busy -> Backoff --> LocalTail -> Spool.store -> Answered
                                        `-------------------------------'      (where it may help out)
                      `-> [Spool.put a report ->] Spool.store -> Answered      (where it is sure)

At least once over the network, and exactly once in the spool: a photo whose answer was lost on the way is sent again,
and its answer is stored if there is none yet. A report is sent as a photo is, and leaves the spool when it has arrived.
"""

import os
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import takewhile
from pathlib import Path

from bottlenet.edge.camera import Shot
from bottlenet.edge.client import Edge, LocalTail, check_in_flight
from bottlenet.edge.connection import Backoff, hint_s, too_large
from bottlenet.edge.photo_files import read_file, unreadable, unusable
from bottlenet.edge.pilot import Move
from bottlenet.edge.prediction import (
    DAMAGED,
    DEVICE,
    FULL,
    LOCAL,
    REFUSED,
    SERVER,
    UNREADABLE,
    UNUSABLE,
    Failed,
    Findings,
    Outcome,
    Photo,
    answered_now,
    read_answer,
)
from bottlenet.edge.spool import Entry, Spool
from bottlenet.errors import BottleNetError, BusyError, InputError, LinkError, WireError
from bottlenet.photo import Source
from bottlenet.wire.answer import Answer
from bottlenet.wire.frame import Frame

MAX_REFUSALS = 3  # of one frame: the first may be a bug or a lack of memory on the server that goes away
SLICE_S = 1.0  # how long a source of photos that has none just now is left alone


class Sender:
    """Sends photos through a spool. For one thread; the connection is its own.

        with Edge("my.bundle", "ws://server:8000") as edge, Spool("spool", edge.bundle) as spool:
            for outcome in Sender(edge, spool).send(["cat.jpg", "dog.jpg"]):
                print(outcome)

    `backoff` says when to try a server again, and when to give up; `disk`, the same where an answer can't be written.
    `tell` gets a line for people when a try fails. `edge.timeout_s` is for an answer, as long as none comes.

    InputError: `in_flight` below 1 or above 1,024.
    """

    def __init__(
        self,
        edge: Edge,
        spool: Spool,
        *,
        in_flight: int = 8,
        backoff: Backoff | None = None,
        disk: Backoff | None = None,
        tell: Callable[[str], None] = lambda line: None,
        sleep: Callable[[float], None] = time.sleep,
        slice_s: float = SLICE_S,
    ) -> None:
        self._edge = edge
        self._spool = spool
        self._window = check_in_flight(in_flight)
        self._backoff, self._disk = backoff or Backoff(), disk or Backoff()
        self._tell, self._sleep, self._slice_s = tell, sleep, slice_s
        self._stream = edge.new_stream()
        self._queue = deque(spool.waiting)  # the next one first
        self._flying: dict[int, Entry] = {}  # by the number that its Reply will have
        self._unsaved: list[tuple[Entry, Outcome | None]] = []  # for which the disk had no room
        self._unread: list[str] = []  # photos for which the system had an error
        self._tries: Counter[int] = Counter()  # of entries, by their number
        self._refusals: Counter[int] = Counter()  # the same
        self._allowed = in_flight  # now; a link that was lost gets one frame to begin with, as more would be wasted

    @property
    def waiting(self) -> list[str]:
        """Names of photos without an outcome, the oldest first."""
        return names(self._entries, report=False)

    @property
    def unreported(self) -> list[str]:
        """Names of photos whose reports have not arrived, the oldest first."""
        return names(self._entries, report=True)

    @property
    def gave_up(self) -> bool:
        """Whether a deadline passed. What waits then is in the spool for the next time."""
        return self._disk.expired or (self._backoff.expired and self._edge.local is None)

    def send(self, photos: Iterable[str | Path | Shot | None], *, patient: bool = True) -> Iterator[Outcome]:
        """Send what waits in the spool, and photos, each a path or a camera's; gives what became of each.

        One that has an outcome already isn't sent: it is given `again`. None among the photos means that there is none
        just now: `slice_s` go to what waits, and then the next is asked for. Ends when all of them have an outcome,
        or a deadline has passed: see `gave_up` and `waiting`.

        Where the spool is full and refuses, a photo waits for room until a deadline has passed, and one that can't be
        read is tried once more at the end; unless `patient` is false, when they fail at once, or without a server.
        """
        try:
            for photo in photos:
                if photo is not None:
                    yield from self._take(photo, patient)
                elif not self.gave_up:
                    yield from self._slice()
                else:
                    break
            self._pause(SLICE_S if self._unread else 0)
            for name in self._unread:
                yield from self._take(name, patient, last=True)
            while self._busy and not self.gave_up and not self._hopeless:
                self._pause(self._wait_s())
                yield from self._turn()
        finally:
            self._stream.close()

    @property
    def _entries(self) -> list[Entry]:
        entries = [*self._queue, *self._flying.values(), *(entry for entry, _ in self._unsaved)]
        return sorted(entries, key=lambda entry: entry.number)

    @property
    def _busy(self) -> bool:
        return bool(self._queue or self._flying or self._unsaved)

    @property
    def _hopeless(self) -> bool:
        """Whether a deadline has passed, and what is left is for the server alone."""
        return self._backoff.expired and not self._unsaved and self._helpable is None

    def _slice(self) -> Iterator[Outcome]:
        clock = self._backoff.clock
        ends = clock() + self._slice_s
        while self._busy and not self.gave_up and clock() + self._wait_s() < ends:
            self._pause(self._wait_s())
            yield from self._turn()
        self._pause(ends - clock())

    def _wait_s(self) -> float:
        """Count the seconds until `_turn` can do something."""
        if self._unsaved:
            return self._disk.wait_s
        if self._flying or not self._queue:
            return 0.0
        return self._disk.wait_s or (self._backoff.wait_s if self._helpable is None else 0.0)

    @property
    def _helpable(self) -> Entry | None:
        """The first photo in the queue, where the device can answer without the server; a report is for that alone."""
        if self._edge.local is None:
            return None
        return next((entry for entry in self._queue if not entry.photo.report), None)

    def _pause(self, seconds: float) -> None:
        if seconds > 0:
            self._sleep(seconds)

    def _take(self, source: str | Path | Shot, patient: bool, last: bool = False) -> Iterator[Outcome]:
        """Put one photo into the spool, and send it if it may fly now. An error at the `last` try is its fate."""
        name = name_of(source)
        try:
            photo, data = read(source)
            outcome, held = self._spool.outcome(photo), self._spool.holds(photo)
        except InputError as error:
            yield Failed(name, UNUSABLE, str(error))
            return
        except OSError as error:
            if patient and not last:
                self._unread.append(name)
            else:
                yield unreadable(name, error)
            return
        if outcome is not None:
            yield outcome
        elif not held:
            try:
                processed = self._edge.encoder.work(data)
            except InputError as error:
                yield unusable(name, data, error)
                return
            if isinstance(processed.result, Frame):
                yield from self._put(photo, processed.result, patient)
            else:
                yield from self._answer(photo, processed.result, processed.report, patient)
            if not self.gave_up:
                yield from self._turn(block=False)

    def _answer(self, photo: Photo, answer: Answer, report: Frame | None, patient: bool) -> Iterator[Outcome]:
        """Keep an answer of the device; its report comes first, as otherwise a power cut between them would lose it."""
        about = replace(photo, report=True)
        if report is not None and not self._spool.holds(about) and not (yield from self._put(about, report, patient)):
            return
        frame_bytes = 0 if report is None else len(report.to_stream_bytes())
        found = read_answer(answer, self._edge.bundle)
        answered = answered_now(photo.name, DEVICE, found, frame_bytes=frame_bytes, tries=0)
        store = partial(self._spool.store, photo, answered)
        yield kept(store, answered, self._disk, patient=patient, tell=self._tell, sleep=self._sleep)

    def _put(self, photo: Photo, frame: Frame, patient: bool) -> Generator[Outcome, None, bool]:
        """Put a frame into the spool; if that is full, work until there is room, or no hope. False: it was refused."""
        while True:
            answered = (*self._flying.values(), *(entry for entry, _ in self._unsaved))  # or about to be
            put = self._spool.put(photo, frame, keep={entry.number for entry in answered})
            self._queue = deque(entry for entry in self._queue if entry.number not in put.numbers)
            for counts in (self._tries, self._refusals):
                for number in put.numbers:
                    counts.pop(number, None)
            yield from put.dropped
            if put.entry is not None:
                self._disk.worked()
                self._queue.append(put.entry)
            if not put.refused:
                return True
            if not put.never and not self._busy and patient:
                self._disk.failed()  # nothing of ours can make room: others have to
            wait_s = self._wait_s() if self._busy else self._disk.wait_s
            if put.never or self.gave_up or self._hopeless or (not patient and (wait_s > 0 or not self._busy)):
                yield Failed(photo.name, FULL, f"{photo.name}: not taken: {put.refused}")
                return False
            self._pause(wait_s)
            yield from self._turn()

    def _turn(self, block: bool = True) -> Iterator[Outcome]:
        """Do the next thing that can be done; wait for an answer only if `block`, or where no more may fly."""
        if self._unsaved:
            while self._unsaved and self._disk.wait_s == 0:
                yield from self._keep(*self._unsaved.pop(0))
        elif self._backoff.wait_s > 0:
            if self._disk.wait_s == 0 and (entry := self._helpable) is not None:
                self._queue.remove(entry)
                yield from self._help_out(entry)
            elif self._flying and block:
                yield from self._receive()
        else:
            while self._queue and len(self._flying) < self._allowed and not self._backoff.wait_s + self._disk.wait_s:
                yield from self._send_next()
            if self._flying and (block or len(self._flying) >= self._allowed):
                yield from self._receive()

    def _send_next(self) -> Iterator[Outcome]:
        entry = self._queue[0]
        frame = self._frame(entry)
        if isinstance(frame, Failed):
            self._queue.popleft()
            yield frame
        elif frame is not None:
            try:
                number = self._stream.send(frame)
            except (LinkError, WireError, InputError) as error:  # InputError: the token's file is being replaced
                yield from self._lost(error)
                return
            self._queue.popleft()
            self._flying[number] = entry
            self._tries[entry.number] += 1

    def _frame(self, entry: Entry) -> Frame | Failed | None:
        """Read what waits; Failed: it is damaged. None: the disk can't be read just now."""
        try:
            return self._spool.frame(entry)
        except InputError as error:
            return entry.photo.failed(DAMAGED, str(error))
        except OSError as error:
            self._disk_failed(error)
            return None

    def _receive(self) -> Iterator[Outcome]:
        try:
            reply = self._stream.receive(self._edge.timeout_s)
        except (LinkError, WireError) as error:
            self._stream.close()
            yield from self._lost(error)
            return
        entry, outcome = self._flying.pop(reply.number), reply.outcome
        if isinstance(outcome, Answer) and entry.photo.report:
            self._backoff.worked()
            self._allowed = min(self._allowed + 1, self._window)
            yield from self._keep(entry, None)
        elif isinstance(outcome, Answer):
            try:
                found = read_answer(outcome, self._edge.bundle)
            except WireError as error:  # as good as a refusal: sent again for ever, it would never be used
                yield from self._refused(entry, error)
                return
            self._backoff.worked()
            self._allowed = min(self._allowed + 1, self._window)
            name, tries = entry.photo.name, self._tries[entry.number]
            yield from self._keep(entry, answered_now(name, SERVER, found, frame_bytes=reply.frame_bytes, tries=tries))
        elif isinstance(outcome, BusyError):
            self._queue.appendleft(entry)
            if self._backoff.wait_s == 0:  # those that flew with it are told the same: one failure, not eight
                self._failed(outcome)
        else:
            yield from self._refused(entry, outcome)

    def _lost(self, error: BottleNetError) -> Iterator[Outcome]:
        flying, self._flying = list(self._flying.values()), {}
        self._allowed = 1
        if too_large(error) and len(flying) == 1:  # else it isn't known which; sooner or later it is alone
            photo = flying[0].photo
            yield from self._keep(flying.pop(), photo.failed(REFUSED, f"{photo.name}: {error}"))
        self._queue = deque(sorted((*flying, *self._queue), key=lambda entry: entry.number))
        self._failed(error)

    def _failed(self, error: BottleNetError) -> None:
        wait_s = self._backoff.failed(hint_s(error))
        self._tell(f"{error} ({len(self._entries)} waiting, next try in {wait_s:.1f} s)")

    def _refused(self, entry: Entry, error: BottleNetError) -> Iterator[Outcome]:
        """Try a refused frame again, a few times; an answer that does not fit the bundle counts as a refusal."""
        self._refusals[entry.number] += 1
        if self._edge.local is not None and not entry.photo.report:
            yield from self._help_out(entry)
        elif self._refusals[entry.number] < MAX_REFUSALS:
            self._queue.append(entry)  # so that it doesn't hold up the others
            self._failed(error)
        else:
            yield from self._keep(entry, entry.photo.failed(REFUSED, f"{entry.photo.name}: {error}"))

    def _help_out(self, entry: Entry) -> Iterator[Outcome]:
        """Answer a frame here. It is not sent later: the server has the same network and gets the same answer."""
        frame, tries = self._frame(entry), self._tries[entry.number]
        if isinstance(frame, Failed):
            yield frame
        elif frame is None:
            self._queue.appendleft(entry)
        else:
            assert self._edge.local is not None
            yield from self._keep(entry, helped_out(self._edge.local, frame, entry.photo.name, tries=tries))

    def _keep(self, entry: Entry, outcome: Outcome | None) -> Iterator[Outcome]:
        """Put an outcome on disk; only then it is one. None: a report has arrived, which the spool need not keep."""
        try:
            if outcome is None:
                self._spool.reported(entry)
            else:
                self._spool.store(entry.photo, outcome)
        except InputError as error:
            self._unsaved.append((entry, outcome))
            self._disk_failed(error)
            return
        self._disk.worked()
        self._tries.pop(entry.number, None)
        self._refusals.pop(entry.number, None)
        if outcome is not None:
            yield outcome

    def _disk_failed(self, error: Exception) -> None:
        self._tell(f"{error} (next try in {self._disk.failed():.1f} s)")


def names(entries: Iterable[Entry], *, report: bool) -> list[str]:
    return [entry.photo.name for entry in entries if entry.photo.report == report]


def name_of(source: str | Path | Shot) -> str:
    return source.name if isinstance(source, Shot) else os.path.abspath(source)


def read(source: str | Path | Shot) -> tuple[Photo, Source]:
    """Read a photo and its digest. InputError: it can't be a photo. OSError: it can't be read now."""
    return source.read() if isinstance(source, Shot) else read_file(name_of(source))


def helped_out(tail: LocalTail, frame: Frame, photo: str, *, tries: int) -> Outcome:
    """Answer a photo's frame here, after so many tries elsewhere."""
    try:
        found = read_answer(tail.answer(frame), tail.bundle)
    except BottleNetError as error:
        return Failed(photo, REFUSED, f"{photo}: {error}")
    return answered_now(photo, LOCAL, found, frame_bytes=len(frame.to_stream_bytes()), tries=tries)


def kept(
    write: Callable[[], None],
    outcome: Outcome,
    disk: Backoff,
    *,
    patient: bool,
    tell: Callable[[str], None],
    sleep: Callable[[float], None],
) -> Outcome:
    """Return an outcome that is nowhere else once it is on disk; or that it can't be."""
    while True:
        try:
            write()
        except InputError as error:
            wait_s = disk.failed()
            if not patient or disk.expired:
                return Failed(outcome.photo, FULL, f"{outcome.photo}: its answer is not kept: {error}")
            tell(f"{error} (next try in {wait_s:.1f} s)")
            sleep(wait_s)
        else:
            disk.worked()
            return outcome


class AutoSender:
    """Answers photos at once, by whichever partition is best just now, and keeps the answers. For one thread.

        photo -> Edge(partition="auto") -> Spool.store -> Answered

    Nothing waits for a server here: where there is none, the device answers, as it does what a run of `Sender` left in
    the spool. Until its answer is on disk a photo is where it was, in its file. `disk` says when to try again where an
    answer can't be written, and when to give up. `moved` gets each move from one partition to another, with its reason;
    `tell` a line for people when a try fails. InputError: an `edge` without `partition="auto"`.
    """

    def __init__(
        self,
        edge: Edge,
        spool: Spool,
        *,
        disk: Backoff | None = None,
        moved: Callable[[Move], None] = lambda move: None,
        tell: Callable[[str], None] = lambda line: None,
        sleep: Callable[[float], None] = time.sleep,
        slice_s: float = SLICE_S,
    ) -> None:
        if not edge.is_auto:
            raise InputError("this edge sends to a server alone; make it with partition='auto', or use a Sender")
        self._edge, self._spool = edge, spool
        self._disk = disk or Backoff()
        self._on_move, self._tell, self._sleep, self._slice_s = moved, tell, sleep, slice_s
        self._last: Move | None = None  # that was told

    @property
    def waiting(self) -> list[str]:
        """Names of photos without an outcome: those of frames that could not be answered yet."""
        return names(self._spool.waiting, report=False)

    @property
    def unreported(self) -> list[str]:
        """Names of photos whose reports wait for a `Sender`."""
        return names(self._spool.waiting, report=True)

    def send(self, photos: Iterable[str | Path | Shot | None], *, patient: bool = True) -> Iterator[Outcome]:
        """Answer what waits in the spool, and photos, as `Sender.send` does; None: there is none just now.

        An answer that the disk has no room for is tried again until a deadline has passed, or not if not `patient`.
        """
        if entries := [entry for entry in self._spool.waiting if not entry.photo.report]:
            tail = LocalTail(self._edge.bundle)
            for entry in entries:
                yield self._helped_out(tail, entry, patient)
        unread: list[str] = []
        for photo in photos:
            if photo is None:
                self._sleep(self._slice_s)
                continue
            outcome = self._one(photo, patient)
            if patient and isinstance(outcome, Failed) and outcome.why == UNREADABLE:
                unread.append(outcome.photo)
            else:
                yield outcome
            self._moved()
        if unread:
            self._sleep(SLICE_S)
        for name in unread:
            yield self._one(name, patient)

    def _one(self, source: str | Path | Shot, patient: bool) -> Outcome:
        name = name_of(source)
        try:
            photo, data = read(source)
            outcome = self._spool.outcome(photo)
        except InputError as error:
            return Failed(name, UNUSABLE, str(error))
        except OSError as error:
            return unreadable(name, error)
        if outcome is not None:
            return outcome
        try:
            prediction = self._edge.classify(data)
        except InputError as error:
            return unusable(name, data, error)
        found, tries = Findings(prediction.top), 1 if prediction.socket_bytes else 0
        by, frame_bytes = prediction.answered_by, prediction.frame_bytes
        return self._kept(photo, answered_now(name, by, found, frame_bytes=frame_bytes, tries=tries), patient)

    def _helped_out(self, tail: LocalTail, entry: Entry, patient: bool) -> Outcome:
        name = entry.photo.name
        try:
            frame = self._spool.frame(entry)
        except InputError as error:
            return Failed(name, DAMAGED, str(error))
        except OSError as error:
            return unreadable(name, error)
        return self._kept(entry.photo, helped_out(tail, frame, name, tries=0), patient)

    def _kept(self, photo: Photo, outcome: Outcome, patient: bool) -> Outcome:
        store = partial(self._spool.store, photo, outcome)
        return kept(store, outcome, self._disk, patient=patient, tell=self._tell, sleep=self._sleep)

    def _moved(self) -> None:
        new = list(takewhile(lambda move: move is not self._last, reversed(self._edge.moves)))
        for move in reversed(new):
            self._on_move(move)
            self._last = move
