"""Photos that were not answered yet, and their answers, on disk: what is in here survives a power cut at any instant.

    put -> a row with a frame -> store -> the same row with an outcome
    put -> a row with a report -> reported -> no row; its photo has another, with its outcome

    spool/
      spool.db    an SQLite database, one row a photo; spool.db-journal beside it is SQLite's own
      reserve     blocks of the disk for answers, should it be full
      lock        held by the one process that sends
      aside/      what an older version or somebody else left in here, and could not be taken over

A row takes whole pages from the start, and as much as an answer needs, so an answer fits where its frame was even when
the disk has no block left. Versions before used a file a frame (frames/) and a file an answer (answers/, failed/):
opening such a spool moves them into the database.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import math
import os
import sqlite3
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from bottlenet.bundle import Bundle
from bottlenet.edge.old_spool import ASIDE, OLD_FOLDERS, OldPhoto, free_name, old_photos
from bottlenet.edge.prediction import DAMAGED, DROPPED, Failed, Outcome, Photo, outcome_bytes, parse_outcome
from bottlenet.errors import FrameError, InputError
from bottlenet.files import lock_file, sync_folder
from bottlenet.wire.answer import one_line
from bottlenet.wire.frame import MAX_PAYLOAD_BYTES, TAG_BYTES, Frame, parse_frame

T = TypeVar("T")
Row = tuple[object, ...]  # of the database

DEFAULT_MAX_BYTES = 64 * 2**20
REFUSE, DROP_OLDEST, DROP_NEWEST = WHEN_FULL = ("refuse", "drop-oldest", "drop-newest")
WAITING, ANSWERED = "waiting", "answered"  # of a row; else why it failed
BATCH = 64  # photos of an older version that are taken over at once
MAX_NOTES = 1000
MAX_DROPS = 1000  # frames that may go for one that comes
MAX_ROOM_BYTES = 2**14  # that a frame keeps for its answer

DATABASE, RESERVE, LOCK = "spool.db", "reserve", "lock"
APPLICATION_ID, VERSION = 0x42744C4E, 1
BUSY_S = 30.0  # how long another process may read before a write fails, and is tried again
FULL = "database or disk is full"  # as SQLite says it
DAMAGED_DATABASE = errno.EBADMSG  # once: it was repaired
RESERVE_BYTES = 2**16
MAX_PAGES = 2**30
PAGE_BYTES = 1024
OVERFLOW_BYTES = PAGE_BYTES - 4  # of a row, in each page after its first: SQLite's file format, section 1.6
LOCAL_MOST_BYTES = PAGE_BYTES - 35  # of a row that has one page
LOCAL_LEAST_BYTES = 103  # of a row that has several, in its first
ROW_BYTES = 980  # of a row at least, so that it has a page to itself, and an answer fits in it
FIXED_BYTES = 110  # of a row, besides name, frame, room and outcome; with its place in the index
SCHEMA = f"""
PRAGMA page_size = {PAGE_BYTES};
PRAGMA auto_vacuum = INCREMENTAL;
BEGIN IMMEDIATE;
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {VERSION};
CREATE TABLE IF NOT EXISTS photos (
    number INTEGER PRIMARY KEY,  -- in the order in which they came
    key BLOB NOT NULL UNIQUE,    -- stands for name and content
    name BLOB NOT NULL,
    sha256 BLOB,                 -- of the file
    bundle BLOB,                 -- its id
    status TEXT NOT NULL,
    frame BLOB,                  -- self-contained; of those that wait or were refused
    room BLOB,                   -- zeros, in whose place the outcome comes
    outcome TEXT                 -- JSON
);
CREATE INDEX IF NOT EXISTS waiting ON photos (number) WHERE status = 'waiting';
COMMIT;
"""
COLUMNS = "number, key, name, sha256, bundle, status, frame, outcome"
PUT = "INSERT INTO photos (key, name, sha256, bundle, status, frame, room) VALUES (?, ?, ?, ?, ?, ?, ?)"
DROP = "UPDATE photos SET status = 'dropped', frame = NULL, room = NULL, outcome = ? WHERE number = ?"
STORE = """
INSERT INTO photos (key, name, sha256, bundle, status, outcome) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (key) DO UPDATE SET status = excluded.status, outcome = excluded.outcome, room = NULL,
    frame = CASE excluded.status WHEN 'refused' THEN frame END
WHERE photos.status IN ('waiting', 'damaged')
"""
TAKE_OVER = """
INSERT OR IGNORE INTO photos (key, name, sha256, bundle, status, frame, outcome, room) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
"""


@dataclass(frozen=True)
class Entry:
    """A frame that waits in a spool."""

    number: int  # those that came earlier have smaller ones
    photo: Photo
    bundle: str  # id, 64 hex digits
    disk_bytes: int


@dataclass(frozen=True)
class Put:
    """What became of a photo that was put into a spool."""

    entry: Entry | None  # None: not taken
    dropped: tuple[Failed, ...] = ()  # with `drop-newest` it may be the photo itself
    refused: str = ""  # why it was not taken, and may be offered again
    never: bool = False  # it is larger than the spool may be
    numbers: tuple[int, ...] = ()  # of the entries that were dropped


@dataclass(frozen=True)
class Record:
    """A photo in a spool, for people and exports."""

    number: int
    photo: str
    key: str  # 32 hex digits
    status: str  # WAITING, ANSWERED, or why it failed
    sha256: str | None  # None: answered by a version that did not keep it
    bundle: str | None
    frame: bytes | None
    outcome: dict[str, Any] | None
    report: bool = False  # not the photo itself, but what is to be reported of its answer


class Spool:
    """A folder of frames and answers, for one process at a time, and one thread.

    `max_bytes` is the most that all waiting frames together may take of the disk, whole pages of 1,024 bytes each.
    `when_full`: "refuse": a photo that does not fit is not taken. "drop-oldest": those that wait longest go.
    "drop-newest": it goes itself, for good. A full disk counts as a full spool. `connection` opens the database.

    OSError, by methods that read: the disk can't be read just now. InputError: not a folder for this, in use by
    another process, not writable, or a cap or policy that is none.
    """

    def __init__(
        self,
        path: str | Path,
        bundle: Bundle | None = None,
        *,
        max_bytes: int = DEFAULT_MAX_BYTES,
        when_full: str = REFUSE,
        connection: type[sqlite3.Connection] = sqlite3.Connection,
    ) -> None:
        if max_bytes < 1:
            raise InputError(f"a spool of {max_bytes} bytes holds nothing; give 1 or more")
        if when_full not in WHEN_FULL:
            raise InputError(f"when_full is {when_full!r}; give one of {', '.join(WHEN_FULL)}")
        self.path = Path(path)
        self.notes: list[str] = []  # what was found and is not the spool's, for people
        self.damaged: list[Failed] = []  # frames that were found and can't be sent
        self.used_bytes = 0
        self._room = 0  # bytes of the longest answer lately
        self._bundle = b"" if bundle is None else bundle.id
        self._max_bytes = max_bytes
        self._when_full = when_full
        self._connection = connection
        self._db: sqlite3.Connection | None = None
        self._lock: int | None = lock_folder(self.path)
        try:
            self._open()
        except OSError as error:
            self.close()
            why = error.strerror or str(error)
            raise InputError(f"{self.path} can't be used: {why}; try again, or give another") from error
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let another process have it."""
        self._disconnect()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __len__(self) -> int:
        """Count the photos that wait, those of other bundles too."""
        return int(self._read("SELECT count(*) FROM photos WHERE status = 'waiting'")[0][0])

    @property
    def waiting(self) -> list[Entry]:
        """What can be sent, the oldest first: frames of this bundle."""
        return self._entries("status = 'waiting' AND bundle = ? ORDER BY number", self._bundle)

    def holds(self, photo: Photo) -> bool:
        found = self._read("SELECT status, bundle FROM photos WHERE key = ?", key_of(photo))
        return found == [(WAITING, self._bundle)]

    def outcome(self, photo: Photo) -> Outcome | None:
        """Look up what became of it; None: nothing yet, or its frame or answer was damaged, and it may come again."""
        sql = "SELECT CAST(outcome AS BLOB) FROM photos WHERE key = ? AND status NOT IN ('waiting', 'damaged')"
        for (data,) in self._read(sql, key_of(photo)):
            try:
                return replace(parse_outcome(data), again=True)
            except (ValueError, TypeError, RecursionError) as error:
                self._note(f"{photo.name}: its answer in {self.path} is damaged ({one_line(str(error))}): sent again")
                self._set_damaged(photo, "its answer in the spool was damaged")
        return None

    def put(self, photo: Photo, frame: Frame, keep: Collection[int] = ()) -> Put:
        """Take a photo; when it returns, its frame is on the disk. Entries with a number in `keep` are not dropped."""
        name, data = os.fsencode(photo.name), frame.to_bytes()
        room = room_for(name, data, self._room)
        need = disk_bytes(len(name) + len(data) + room)
        if need > self._max_bytes:
            why = f"its frame takes {need} bytes of the disk, and the spool may have {self._max_bytes}"
            return Put(None, refused=why, never=True)
        row = (key_of(photo), name, bytes.fromhex(photo.sha256), self._bundle, WAITING, data, bytes(room))
        self._fill_reserve()
        try:
            return self._place(photo, row, need, keep)
        except OSError as error:
            return Put(None, refused=f"{self.path / DATABASE} can't be used: {error.strerror}; try again")

    def _place(self, photo: Photo, row: Row, need: int, keep: Collection[int]) -> Put:
        """Write a row that takes `need` bytes, as far as cap and disk allow. OSError: the disk has another fault."""
        oldest: list[Entry] | None = None  # that may go
        going: list[Entry] = []
        why, disk_is_full = "", False
        while True:
            more = 1
            if self.used_bytes + need - sum(entry.disk_bytes for entry in going) > self._max_bytes:
                used = f"{self.used_bytes} of {self._max_bytes} bytes, {len(self)} photos wait"
                why = f"spool {self.path} is full: {used}"
            else:
                dropped = tuple(entry.photo.failed(DROPPED, why) for entry in going)
                try:
                    entry = self._insert(row, going, dropped, grow=not disk_is_full)
                    return Put(entry, dropped, numbers=tuple(each.number for each in going))
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    disk_is_full = True
                    why = f"{self.path / DATABASE} can't be written: {error.strerror}; make room on the disk"
                    more = max(1, len(going))
            if self._when_full == DROP_NEWEST:
                return Put(None, (self._drop_newest(photo, why),))
            if oldest is None:
                found = self._entries("status = 'waiting' ORDER BY number LIMIT ?", MAX_DROPS + len(keep))
                oldest = [entry for entry in found if entry.number not in keep]
            if self._when_full == REFUSE or len(going) == len(oldest):
                return Put(None, refused=why)
            going = oldest[: len(going) + more]

    def frame(self, entry: Entry) -> Frame:
        """Read what waits. InputError: it is damaged; it is not sent, and its photo may come again."""
        tag = bytes.fromhex(entry.bundle)[:TAG_BYTES]
        found = self._read("SELECT frame FROM photos WHERE number = ? AND status = 'waiting'", entry.number)
        try:
            ((data,),) = found
            return parse_frame(data, max_payload_bytes=MAX_PAYLOAD_BYTES, bundle_tag=tag)
        except (ValueError, TypeError, FrameError) as error:
            reason = f"{entry.photo.name}: its frame in the spool can't be used: {one_line(str(error))}"
            if found:
                self.used_bytes -= entry.disk_bytes
                self._set_damaged(entry.photo, reason)
            raise InputError(reason) from error

    def store(self, photo: Photo, outcome: Outcome) -> None:
        """Keep what became of a photo, once, in the place of its frame. InputError: it can't be written."""
        row = self._stored(photo, outcome)
        try:
            freed = sum(entry.disk_bytes for entry in self._entries("key = ? AND status = 'waiting'", row[0]))
            self._write(lambda db: db.execute(STORE, row), urgent=True)
        except OSError as error:
            raise self._unwritten(error) from error
        self.used_bytes -= freed
        self._room = min(max(self._room, len(row[-1])), MAX_ROOM_BYTES)

    def reported(self, entry: Entry) -> None:
        """Remove a report that has arrived. InputError: it can't be written."""
        try:
            self._write(lambda db: db.execute("DELETE FROM photos WHERE number = ?", (entry.number,)), urgent=True)
        except OSError as error:
            raise self._unwritten(error) from error
        self.used_bytes -= entry.disk_bytes

    def _unwritten(self, error: OSError) -> InputError:
        return InputError(f"{self.path / DATABASE} can't be written: {error.strerror}; make room on the disk")

    def _stored(self, photo: Photo, outcome: Outcome) -> tuple[bytes, bytes, bytes, bytes, str, str]:
        name, sha256, text = os.fsencode(photo.name), bytes.fromhex(photo.sha256), outcome_bytes(outcome).decode()
        return key_of(photo), name, sha256, self._bundle, status_of(outcome), text

    def requeue(self, numbers: Sequence[int]) -> None:
        """Queue refused photos again. OSError: it can't be written; none waits."""
        sql = "UPDATE photos SET status = 'waiting', outcome = NULL WHERE number = ? AND status = 'refused'"
        self._write(lambda db: db.executemany(sql, [(number,) for number in numbers]), urgent=True)
        self._count()

    def forget(self, numbers: Sequence[int]) -> None:
        """Remove what became of photos, which are new ones from then on; what waits stays. OSError: it can't be."""
        sql = "DELETE FROM photos WHERE number = ? AND status <> 'waiting'"
        self._write_each(sql, [((number,), None) for number in numbers], lambda nothing: None)
        self._read("PRAGMA incremental_vacuum")

    def forget_camera(self, name: str) -> None:
        """Remove what became of a camera's frames, but for those that wait or were refused. OSError: it can't be."""
        start = os.fsencode(f"{name}@")
        sql = "DELETE FROM photos WHERE status NOT IN ('waiting', 'refused') AND substr(name, 1, ?) = ?"
        self._write(lambda db: db.execute(sql, (len(start), start)))
        self._read("PRAGMA incremental_vacuum")

    def _open(self) -> None:
        try:
            self._find()
        except OSError as error:
            if error.errno != DAMAGED_DATABASE:
                raise
            self.damaged.clear()
            self._find()

    def _find(self) -> None:
        self._count()
        self._take_over()
        for entry in self._entries("status = 'waiting' ORDER BY number"):
            try:
                self.frame(entry)
            except InputError as error:
                self.damaged.append(entry.photo.failed(DAMAGED, str(error)))
        if others := len(self) - len(self.waiting) if self._bundle else 0:
            advice = "run with that one, or send the photos again"
            self.notes.append(f"{others} photos in {self.path} wait for another bundle; {advice}")

    def _count(self) -> None:
        self.used_bytes = sum(entry.disk_bytes for entry in self._entries("status = 'waiting'"))
        longest = "SELECT length(outcome) FROM photos WHERE outcome NOTNULL ORDER BY number DESC LIMIT 100"
        self._room = min(max((size for (size,) in self._read(longest)), default=0), MAX_ROOM_BYTES)

    def _entries(self, where: str, *values: object) -> list[Entry]:
        content = "length(name) + length(frame) + ifnull(length(room), 0)"
        rows = self._read(f"SELECT number, key, name, sha256, bundle, {content} FROM photos WHERE {where}", *values)
        return [
            Entry(number, photo_of(key, name, sha256), bundle.hex(), disk_bytes(size))
            for number, key, name, sha256, bundle, size in rows
        ]

    def _insert(self, row: Row, going: Sequence[Entry], dropped: Sequence[Failed], *, grow: bool) -> Entry:
        """Take a photo and drop others, both or neither; in their place if it may not `grow`. OSError: neither."""
        notes = [(outcome_bytes(failed).decode(), entry.number) for entry, failed in zip(going, dropped, strict=True)]
        gone = [(entry.number,) for entry in going]  # without a note, which would keep the page

        def work(db: sqlite3.Connection) -> None:
            if grow:
                db.executemany(DROP, notes)
            else:
                db.executemany("DELETE FROM photos WHERE number = ?", gone)
            db.execute("DELETE FROM photos WHERE key = ?", row[:1])  # of another bundle, or damaged
            db.execute(PUT, row)

        before = self._entries("key = ? AND status = 'waiting'", row[0])
        self._write(work, urgent=not grow, grow=grow)
        (entry,) = self._entries("key = ?", row[0])
        self.used_bytes += entry.disk_bytes - sum(each.disk_bytes for each in (*before, *going))
        return entry

    def _drop_newest(self, photo: Photo, why: str) -> Failed:
        """Note that it is not to be taken again; on a full disk that is forgotten with the next start."""
        failed = photo.failed(DROPPED, why)
        with contextlib.suppress(OSError):
            self._write(lambda db: db.execute(STORE, self._stored(photo, failed)))
        return failed

    def _set_damaged(self, photo: Photo, reason: str) -> None:
        """Note that it is, for people; where that can't be written, it is found out again."""
        text = outcome_bytes(Failed(photo.name, DAMAGED, reason)).decode()
        sql = "UPDATE photos SET status = 'damaged', room = NULL, outcome = ? WHERE key = ?"
        with contextlib.suppress(OSError):
            self._write(lambda db: db.execute(sql, (text, key_of(photo))))

    def _note(self, line: str) -> None:
        if len(self.notes) < MAX_NOTES:
            self.notes.append(line)

    def _read(self, sql: str, *values: object) -> list[Any]:
        with self._database() as db:
            return db.execute(sql, values).fetchall()

    def _write(self, work: Callable[[sqlite3.Connection], object], *, urgent: bool = False, grow: bool = True) -> None:
        """Write all of `work`, or nothing; what is `urgent` may use up the reserve. OSError: nothing was written."""
        try:
            with self._database() as db:
                (pages,) = db.execute("PRAGMA page_count").fetchone()
                db.execute(f"PRAGMA max_page_count = {MAX_PAGES if grow else pages}")
                db.execute("BEGIN IMMEDIATE")
                work(db)
                db.execute("COMMIT")
        except OSError as error:
            if error.errno != errno.ENOSPC or not urgent:
                raise
            (self.path / RESERVE).unlink(missing_ok=True)
            self._write(work, grow=grow)

    def _write_each(self, sql: str, rows: Sequence[tuple[Row, T]], done: Callable[[T], object]) -> None:
        """Write rows at once, and call `done` with what belongs to each; where the disk is full, fewer at a time."""
        try:
            self._write(lambda db: db.executemany(sql, [row for row, _ in rows]), urgent=True)
        except OSError as error:
            if error.errno != errno.ENOSPC or len(rows) < 2:
                raise
            for half in (rows[: len(rows) // 2], rows[len(rows) // 2 :]):
                self._write_each(sql, half, done)
        else:
            for _, each in rows:
                done(each)

    @contextlib.contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        """Connect where it isn't, and give errors as OSError. After one, the next call connects anew."""
        try:
            if self._db is None:
                self._db = connect(self.path / DATABASE, self._connection)
            yield self._db
        except sqlite3.OperationalError as error:
            self._disconnect()
            number = errno.ENOSPC if str(error) == FULL else errno.EIO
            raise OSError(number, os.strerror(number) if number == errno.ENOSPC else str(error)) from error
        except sqlite3.DatabaseError as error:
            self._disconnect()
            self._repair(str(error))
            text = f"it was damaged ({error}), and what could be read of it was saved"
            raise OSError(DAMAGED_DATABASE, text) from error

    def _disconnect(self) -> None:
        if self._db is not None:
            db, self._db = self._db, None
            with contextlib.suppress(sqlite3.Error):
                db.close()

    def _fill_reserve(self) -> None:
        """Keep room for answers; as much as there is where the disk is full, as nothing else is to have it."""
        with contextlib.suppress(OSError):
            handle = os.open(self.path / RESERVE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                lacking = RESERVE_BYTES - os.fstat(handle).st_size
                while lacking > 0:
                    lacking -= os.write(handle, bytes(lacking))
                    os.fsync(handle)
            finally:
                os.close(handle)

    def _repair(self, why: str) -> None:
        """Save what can be read of a damaged database in a new one, and keep the old one beside it."""
        old, new = self.path / DATABASE, self.path / f"{DATABASE}.new"
        for path in (new, journal_of(new)):
            path.unlink(missing_ok=True)
        try:
            with contextlib.closing(connect(new)) as target:
                target.execute("BEGIN IMMEDIATE")
                copy_rows(old, target)
                target.execute("COMMIT")
                saved = target.execute("SELECT count(*) FROM photos").fetchone()[0]
        except sqlite3.Error as error:
            raise OSError(errno.EIO, f"it is damaged ({why}), and can't be repaired: {error}") from error
        kept = free_name(old.with_name(f"{DATABASE}.damaged"))
        with contextlib.suppress(OSError):  # not every file system has links
            os.link(old, kept)
        journal_of(old).unlink(missing_ok=True)
        os.replace(new, old)
        journal_of(new).unlink(missing_ok=True)
        sync_folder(self.path)
        self._note(f"{old}: {why}; {saved} photos could be read and were kept, and {kept} is what it was")
        self._count()

    def _take_over(self) -> None:
        """Move what a version that used files left in here into the database. OSError: not all of it could be read."""
        if not is_old_spool(self.path):
            return
        found = old_photos(self.path, self._note)
        while batch := list(itertools.islice(found, BATCH)):
            rows = [(row_of(photo), photo.paths) for photo in batch]
            self._write_each(TAKE_OVER, rows, remove)
        for name in OLD_FOLDERS:
            with contextlib.suppress(OSError):
                (self.path / name).rmdir()
        self._count()


def records(path: str | Path) -> Iterator[Record]:
    """Read a spool, the oldest first, also while a process sends from it. InputError: there is none to be read."""
    database = Path(path) / DATABASE
    if not database.is_file():
        raise InputError(f"{path}: there is no spool in it; give the folder that bottlenet send had as --spool")
    sql = f"SELECT {COLUMNS} FROM photos WHERE number > ? ORDER BY number LIMIT 16"  # so that nobody waits for long
    try:
        with contextlib.closing(connect(database)) as db:
            last = 0
            while rows := db.execute(sql, (last,)).fetchall():
                yield from map(record_of, rows)
                last = rows[-1][0]
    except (OSError, ValueError, sqlite3.Error) as error:
        raise InputError(f"{database} can't be read: {one_line(str(error))}; try again") from error


def record_of(row: tuple[Any, ...]) -> Record:
    number, key, name, sha256, bundle, status, frame, outcome = row
    digests = sha256 and sha256.hex(), bundle and bundle.hex()
    report = sha256 is not None and photo_of(key, name, sha256).report
    return Record(
        number, os.fsdecode(name), key.hex(), status, *digests, frame, outcome and json.loads(outcome), report
    )


def is_spool(path: str | Path) -> bool:
    return (Path(path) / DATABASE).exists() or is_old_spool(path)


def is_old_spool(path: str | Path) -> bool:
    return any((Path(path) / name).is_dir() for name in OLD_FOLDERS)


def row_of(photo: OldPhoto) -> Row:
    key, sha256, bundle = (each and bytes.fromhex(each) for each in (photo.key, photo.sha256, photo.bundle))
    name = os.fsencode(photo.name)
    if photo.outcome is None and photo.frame is not None:
        return key, name, sha256, bundle, WAITING, photo.frame, None, bytes(room_for(name, photo.frame))
    assert photo.outcome is not None
    return key, name, sha256, bundle, status_of(photo.outcome), photo.frame, outcome_bytes(photo.outcome).decode(), None


def remove(paths: Sequence[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def room_for(name: bytes, frame: bytes, longest_answer: int = 0) -> int:
    """Count the zeros that a row needs for its answer: one as long as others were, or what a page has."""
    return max(0, max(ROW_BYTES - FIXED_BYTES - len(name), longest_answer) - len(frame))


def status_of(outcome: Outcome) -> str:
    return outcome.why if isinstance(outcome, Failed) else ANSWERED


def photo_of(key: bytes, name: bytes, sha256: bytes) -> Photo:
    """Tell a photo from its report, which has another key."""
    photo, report = (Photo(os.fsdecode(name), sha256.hex(), each) for each in (False, True))
    return report if key_of(report) == key else photo


def key_of(photo: Photo) -> bytes:
    return bytes.fromhex(photo.key)


def disk_bytes(content_bytes: int) -> int:
    """Count the pages of a row with so much in name, frame, room and outcome together, at most."""
    row_bytes = FIXED_BYTES + content_bytes
    if row_bytes <= LOCAL_MOST_BYTES:
        return PAGE_BYTES
    return PAGE_BYTES * (1 + math.ceil((row_bytes - LOCAL_LEAST_BYTES) / OVERFLOW_BYTES))


def connect(path: Path, factory: type[sqlite3.Connection] = sqlite3.Connection) -> sqlite3.Connection:
    """Open a spool's database, made where there is none, which only its owner may read.

    sqlite3.Error, OSError: it can't be. InputError: it is another program's, or of a newer version.
    """
    if not path.exists():
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        sync_folder(path.parent)
    db = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False, factory=factory)
    try:
        # The journal keeps its blocks, so that a full disk has some for it, and is on the disk before a page changes.
        db.execute("PRAGMA journal_mode = PERSIST")
        db.execute("PRAGMA synchronous = FULL")
        if marks_of(db) == [0, 0] and not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            db.executescript(SCHEMA)  # where another process has just done so, it does nothing
        if marks_of(db) != [APPLICATION_ID, VERSION]:
            raise InputError(f"{path} is no spool of this version; give another folder")
    except BaseException:
        db.close()
        raise
    return db


def marks_of(db: sqlite3.Connection) -> list[int]:
    return [db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")]


def copy_rows(damaged: Path, target: sqlite3.Connection) -> None:
    """Copy the rows before a damaged place and after it. sqlite3.OperationalError: another fault, or a full disk."""
    for order in ("ASC", "DESC"):
        try:
            with contextlib.closing(connect(damaged)) as source:
                for row in source.execute(f"SELECT {COLUMNS} FROM photos ORDER BY number {order}"):
                    target.execute(f"INSERT OR IGNORE INTO photos ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError) and not str(error).startswith("no such"):  # table, column
                raise


def journal_of(database: Path) -> Path:
    return database.with_name(f"{database.name}-journal")


def lock_folder(path: Path) -> int | None:
    """Make a folder, and hold it for this process. InputError: another has it, it has other things, or can't be."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        sync_folder(path.parent)
        if not is_spool(path) and {each.name for each in path.iterdir()} - {LOCK, RESERVE, ASIDE}:
            raise InputError(f"{path} is full of other things; give a new folder for the spool")
        handle = lock_file(path / LOCK)
    except OSError as error:
        raise InputError(f"{path} can't be a spool: {error.strerror}; give another folder") from error
    if handle is None:
        raise InputError(f"{path} is in use by another process; stop that one, or give another spool")
    return handle
