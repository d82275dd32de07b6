"""Photos that are answered at once, by whichever partition is best just now, and whose answers are kept: `AutoSender`.

    photo -> Edge(partition="auto") -> Spool.keep -> Answered

Nothing waits for a server here: where there is none, the device answers. Until its answer is on disk a photo is where
it was, in its file. What waits in the spool, from a run of `edge.sender.Sender`, is answered by the device, too.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from bottlenet.edge.client import Edge, LocalTail, helped_out
from bottlenet.edge.connection import Backoff
from bottlenet.edge.folder import read_file, unusable
from bottlenet.edge.pilot import Move
from bottlenet.edge.prediction import DAMAGED, FULL, UNUSABLE, Answered, Failed, Outcome
from bottlenet.edge.spool import Spool
from bottlenet.edge.spoolfiles import Entry
from bottlenet.errors import InputError

LOOK_S = 1.0  # after which a source of photos that had none is asked again


class AutoSender:
    """For one thread. `disk` says when to try again where an answer can't be written, and when to give up.

        with Edge(ladder, url, partition="auto", profile=profile) as edge, Spool("spool", edge.bundle) as spool:
            for outcome in AutoSender(edge, spool).send(["cat.jpg", "dog.jpg"]):
                print(outcome)

    `moved` gets each move from one partition to another, with its reason; `tell` a line for people when a try fails.

    InputError: an `edge` without `partition="auto"`.
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
    ) -> None:
        if not edge.is_auto:
            raise InputError("this edge sends to a server alone; make it with partition='auto', or use a Sender")
        self._edge, self._spool = edge, spool
        self._disk = disk or Backoff()
        self._on_move, self._tell, self._sleep = moved, tell, sleep
        self._last: Move | None = None  # that was told

    @property
    def waiting(self) -> list[str]:
        """Names of photos without an outcome: those of frames that could not be answered yet."""
        return [entry.photo.name for entry in self._spool.waiting]

    def send(self, photos: Iterable[str | os.PathLike[str] | None], *, patient: bool = True) -> Iterator[Outcome]:
        """Answer what waits in the spool, and photos, each a path; gives what became of each.

        A photo that has an outcome already is given `again`. None among the photos means that there is none just now.
        An answer that the disk has no room for is tried again until a deadline has passed; unless `patient` is false,
        when its photo fails at once.
        """
        yield from self._waiting(patient)
        for photo in photos:
            if photo is None:
                self._sleep(LOOK_S)
            else:
                yield self._one(os.path.abspath(photo), patient)
                self._moved()

    def _one(self, name: str, patient: bool) -> Outcome:
        try:
            photo, data = read_file(name)
        except InputError as error:
            return Failed(name, UNUSABLE, str(error))
        if (outcome := self._spool.outcome(photo)) is not None:
            return replace(outcome, again=True)
        try:
            prediction = self._edge.classify(data)
        except InputError as error:
            return unusable(name, data, error)
        answered = Answered(
            name,
            prediction.answered_by,
            prediction.top,
            prediction.payload_bytes,
            prediction.frame_bytes,
            tries=1 if prediction.socket_bytes else 0,
            unix_s=time.time(),
        )
        return self._kept(lambda: self._spool.keep(photo, answered), answered, patient)

    def _waiting(self, patient: bool) -> Iterator[Outcome]:
        """Frames of a bundle of ours, oldest first."""
        if entries := self._spool.waiting:
            tail = LocalTail(self._edge.bundle)
            for entry in entries:
                yield self._helped_out(tail, entry, patient)

    def _helped_out(self, tail: LocalTail, entry: Entry, patient: bool) -> Outcome:
        name = entry.photo.name
        try:
            frame = self._spool.frame(entry)
        except InputError as error:
            return Failed(name, DAMAGED, str(error))
        outcome = helped_out(tail, frame, name, tries=0)
        return self._kept(lambda: self._spool.store(entry, outcome), outcome, patient)

    def _kept(self, write: Callable[[], None], outcome: Outcome, patient: bool) -> Outcome:
        """The outcome, once it is on disk; or that it can't be."""
        while True:
            try:
                write()
            except InputError as error:
                wait_s = self._disk.failed()
                if not patient or self._disk.expired:
                    return Failed(outcome.photo, FULL, f"{outcome.photo}: its answer is not kept: {error}")
                self._tell(f"{error}; next try in {wait_s:.1f} s")
                self._sleep(wait_s)
            else:
                self._disk.worked()
                return outcome

    def _moved(self) -> None:
        """Tell of moves since the last time."""
        new: list[Move] = []
        for move in reversed(self._edge.moves):
            if move is self._last:
                break
            new.append(move)
        for move in reversed(new):
            self._on_move(move)
            self._last = move
