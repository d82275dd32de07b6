"""Photos that were not answered yet, on disk: what is in here survives a power cut at any instant.

    put -> frames/NUMBER-KEY.frame -> store -> answers/KEY.json, and the frame goes

    spool/
      lock            held by the one process that uses it
      frames/         what waits: a line of JSON with the photo's name and digest, then its self-contained frame
      answers/        one file a photo, written once
      failed/         one file a photo that was refused or dropped, with the reason; beside it the frame if refused
      aside/          what was found in frames/, answers/ or failed/ and is damaged or not the spool's

A file is written under a temporary name, synced, renamed, and its folder synced; so there is all of it or none of it.
A frame goes only after its answer is there for good. If the power goes between the two, the next start finds both,
and removes the frame. One file an answer rather than lines in one file: a file's name can exist once, and a line
that was half written when the power went would have to be told from a whole one.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path

from bottlenet.bundle import Bundle
from bottlenet.edge.prediction import DAMAGED, DROPPED, REFUSED, Failed, Outcome, Photo, outcome_bytes, parse_outcome
from bottlenet.edge.spoolfiles import (
    PASSING,
    Entry,
    entry_bytes,
    entry_name,
    lock_folder,
    parse_entry,
    prepare_folders,
    read_bounded,
)
from bottlenet.errors import InputError
from bottlenet.files import write_whole
from bottlenet.wire.answer import one_line
from bottlenet.wire.frame import Frame

DEFAULT_MAX_BYTES = 64 * 2**20
MAX_OUTCOME_BYTES = 2**23  # of a thousand boxes whose labels are as long as they can be
MAX_NOTES = 1000
NO_NUMBER = 0  # of an entry that has no frame; the others begin with 1
REFUSE, DROP_OLDEST, DROP_NEWEST = WHEN_FULL = ("refuse", "drop-oldest", "drop-newest")


@dataclass(frozen=True)
class Put:
    """What became of a photo that was put into a spool."""

    entry: Entry | None  # None: not taken
    dropped: tuple[Failed, ...] = ()  # with `drop-newest` it may be the photo itself
    refused: str = ""  # why it was not taken, and may be offered again
    never: bool = False  # it is larger than the spool may be


class Spool:
    """A folder of frames and answers, for one process at a time, and one thread.

    `max_bytes` is the most that all frames together may have; each takes a block of the disk, often 4 KiB. What
    happens to a photo that does not fit is `when_full`: "refuse": it is not taken. "drop-oldest": those that wait
    longest go. "drop-newest": it goes itself, for good. `write` writes a file, whole or not at all.

    InputError: not a folder for this, in use by another process, not writable, or a cap or policy that is none.
    """

    def __init__(
        self,
        path: str | Path,
        bundle: Bundle,
        *,
        max_bytes: int = DEFAULT_MAX_BYTES,
        when_full: str = REFUSE,
        write: Callable[[Path, bytes], None] = write_whole,
    ) -> None:
        if max_bytes < 1:
            raise InputError(f"a spool of {max_bytes} bytes holds nothing; give 1 or more")
        if when_full not in WHEN_FULL:
            raise InputError(f"when_full is {when_full!r}; give one of {', '.join(WHEN_FULL)}")
        self.path = Path(path)
        self.notes: list[str] = []  # what was found and is not the spool's, for people
        self.damaged: list[Failed] = []  # frames that were found and can't be sent
        self.used_bytes = 0
        self._bundle_id = bundle.id.hex()
        self._max_bytes = max_bytes
        self._when_full = when_full
        self._write_file = write
        self._entries: dict[int, Entry] = {}  # by number, the oldest first
        self._numbers: dict[str, int] = {}  # by key
        self._lock = lock_folder(self.path)
        try:
            prepare_folders(self.path)
            self._recover()
        except BaseException:
            self.close()
            raise
        self._next = itertools.count(max(self._entries, default=0) + 1)

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let another process have it."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __len__(self) -> int:
        """Photos that wait, those of other bundles too."""
        return len(self._entries)

    @property
    def waiting(self) -> list[Entry]:
        """What can be sent, the oldest first: frames of this bundle."""
        return [entry for entry in self._entries.values() if entry.bundle == self._bundle_id]

    def holds(self, photo: Photo) -> bool:
        """Whether a frame of it, for this bundle, waits."""
        number = self._numbers.get(photo.key)
        return number is not None and self._entries[number].bundle == self._bundle_id

    def outcome(self, photo: Photo) -> Outcome | None:
        """What became of it, if anything has. A damaged file is set aside."""
        for folder in ("answers", "failed"):
            if (found := self._outcome(self._outcome_path(folder, photo))) is not None:
                return replace(found, again=True)
        return None

    def put(self, photo: Photo, frame: Frame, keep: Collection[int] = ()) -> Put:
        """Take a photo; when it returns, its frame is on the disk. Entries with a number in `keep` are not dropped.

        A frame of it for another bundle goes.
        """
        data = entry_bytes(photo, self._bundle_id, frame)
        if len(data) > self._max_bytes:
            why = f"its frame has {len(data)} bytes, and the spool may have {self._max_bytes}"
            return Put(None, refused=why, never=True)
        entry = Entry(next(self._next), photo, self._bundle_id, len(data))
        dropped: list[Failed] = []
        tries = 0
        while True:
            if self.used_bytes + len(data) > self._max_bytes:
                why = (
                    f"spool {self.path} is full: {self.used_bytes} of {self._max_bytes} bytes, {len(self)} photos wait"
                )
            else:
                try:
                    self._write(self._frame_path(entry), data)
                    self._add(entry)
                    return Put(entry, tuple(dropped))
                except InputError as error:  # most likely the disk is full
                    why = str(error)
                    tries += 1
            if self._when_full == DROP_NEWEST:
                return Put(None, (self._drop(photo, why),))
            # Where the disk is full of other things, dropping one makes room for one, or none does.
            if self._when_full == REFUSE or tries > 1 or not self._drop_oldest(keep, why, dropped):
                return Put(None, tuple(dropped), why)

    def frame(self, entry: Entry) -> Frame:
        """What waits. InputError: it is damaged, or can't be read; it was set aside."""
        path = self._frame_path(entry)
        try:
            return parse_entry(path)[1]
        except InputError as error:
            self._forget(entry)
            self._set_aside(path)
            raise InputError(f"{entry.photo.name}: its frame in the spool can't be used: {error}") from error

    def store(self, entry: Entry, outcome: Outcome) -> None:
        """Keep what became of a photo, once, and then remove its frame; that of one that failed is kept beside it.

        InputError: it can't be written, so the frame stays.
        """
        target = self._outcome_path("failed" if isinstance(outcome, Failed) else "answers", entry.photo)
        if self._outcome(target) is None:
            self._write(target, outcome_bytes(outcome))
        self._finish(entry, outcome)

    def keep(self, photo: Photo, outcome: Outcome) -> None:
        """Keep what became of a photo that needed no frame, or none that waits. InputError: it can't be written."""
        number = self._numbers.get(photo.key, NO_NUMBER)
        self.store(self._entries.get(number) or Entry(NO_NUMBER, photo, self._bundle_id, 0), outcome)

    def _recover(self) -> None:
        """Find what waits, in the order of numbers, and finish what a power cut may have left half done."""
        try:
            found = sorted((self.path / "frames").iterdir())
        except OSError as error:
            raise InputError(f"{self.path}: {error.strerror}; give another folder for the spool") from error
        for path in found:
            try:
                entry, _ = parse_entry(path)
            except InputError as error:
                self._set_aside(path, str(error))
                continue
            self._add(entry)
            if (outcome := self.outcome(entry.photo)) is not None:
                self._finish(entry, outcome)
        if others := len(self) - len(self.waiting):
            self.notes.append(
                f"{others} photos in {self.path} wait for another bundle; run with that one, or send the photos again"
            )

    def _outcome(self, path: Path) -> Outcome | None:
        """What was stored; None where nothing was. OSError: no file can be opened just now; this one stays."""
        try:
            return parse_outcome(read_bounded(path, MAX_OUTCOME_BYTES))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError, InputError) as error:
            if isinstance(error, OSError) and error.errno in PASSING:
                raise
            self._set_aside(path, one_line(str(error)))
            return None

    def _set_aside(self, path: Path, why: str = "") -> None:
        """Move it to where it is in nobody's way; its name stays. With a reason, note it."""
        for number in itertools.count():
            target = self.path / "aside" / (f"{path.name}.{number}" if number else path.name)
            if not os.path.lexists(target):
                break
        with contextlib.suppress(OSError):  # it is left out all the same
            os.rename(path, target)
        if not why:
            return
        if len(self.notes) + len(self.damaged) >= MAX_NOTES:
            return
        if path.parent.name == "frames" and path.suffix == ".frame":
            self.damaged.append(Failed(path.name, DAMAGED, f"{path}: {why}; it is in {target.parent} now"))
        else:
            self.notes.append(f"{path}: {why}; it is in {target.parent} now")

    def _drop_oldest(self, keep: Collection[int], why: str, dropped: list[Failed]) -> bool:
        """False: there is nothing that may go."""
        oldest = next((entry for entry in self._entries.values() if entry.number not in keep), None)
        if oldest is None:
            return False
        self._remove(oldest)  # first, as on a full disk there is no room for the note
        dropped.append(self._drop(oldest.photo, why))
        return True

    def _drop(self, photo: Photo, why: str) -> Failed:
        """Note that it is not to be taken again; on a full disk that is forgotten with the next start."""
        failed = Failed(photo.name, DROPPED, why)
        with contextlib.suppress(InputError):
            self._write(self._outcome_path("failed", photo), outcome_bytes(failed))
        return failed

    def _write(self, path: Path, data: bytes) -> None:
        try:
            self._write_file(path, data)
        except OSError as error:
            raise InputError(f"{path} can't be written: {error.strerror or error}; make room on the disk") from error

    def _frame_path(self, entry: Entry) -> Path:
        return self.path / "frames" / entry_name(entry.number, entry.photo)

    def _outcome_path(self, folder: str, photo: Photo) -> Path:
        return self.path / folder / f"{photo.key}.json"

    def _finish(self, entry: Entry, outcome: Outcome) -> None:
        """What became of it is on the disk, so its frame goes; that of one that was refused may be wanted yet."""
        if isinstance(outcome, Failed) and outcome.why == REFUSED:
            with contextlib.suppress(OSError):
                os.replace(self._frame_path(entry), self._outcome_path("failed", entry.photo).with_suffix(".frame"))
        self._remove(entry)

    def _add(self, entry: Entry) -> None:
        if (old := self._numbers.get(entry.photo.key)) is not None:
            self._remove(self._entries[old])  # it was encoded again, for another bundle
        self._entries[entry.number] = entry
        self._numbers[entry.photo.key] = entry.number
        self.used_bytes += entry.file_bytes

    def _forget(self, entry: Entry) -> None:
        if self._entries.pop(entry.number, None) is not None:
            self.used_bytes -= entry.file_bytes
            if self._numbers.get(entry.photo.key) == entry.number:
                del self._numbers[entry.photo.key]

    def _remove(self, entry: Entry) -> None:
        with contextlib.suppress(OSError):  # else the next start finds its outcome, and removes it
            self._frame_path(entry).unlink(missing_ok=True)
        self._forget(entry)
