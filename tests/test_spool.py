"""What waits on disk: through kills, full disks, damage and other people's files."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import random
import resource
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bottlenet.bundle import Bundle
from bottlenet.edge import Answered, Choice, Failed, Spool
from bottlenet.edge.prediction import DAMAGED, DROPPED, REFUSED, Object, Photo, outcome_bytes, parse_outcome
from bottlenet.edge.spool import connect, records
from bottlenet.errors import InputError
from bottlenet.files import write_whole
from bottlenet.wire.answer import MAX_BOXES
from bottlenet.wire.frame import Frame
from conftest import MakeBundle

DIGESTS = [f"{number:064x}" for number in range(20)]


def photo(number: int) -> Photo:
    return Photo(f"/photos/{number}.jpg", DIGESTS[number])


def frame(bundle: Bundle, number: int, payload_bytes: int = 100) -> Frame:
    return Frame(2, 90, bundle.tag, number, bytes([number]) * payload_bytes)


def answer(number: int) -> Answered:
    return Answered(photo(number).name, "server", (Choice("class 3", 3, 0.5),), 100, 104, 1, 1.5)


PAGE = 1024  # that each small frame takes, alone


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def in_spool(folder: Path, *status: str) -> list[str]:
    """Photos with one of these statuses, or of any, in the order in which they came."""
    return [record.photo for record in records(folder) if not status or record.status in status]


def test_the_longest_answer_comes_back(bundle: Bundle, tmp_path: Path) -> None:
    label = "\N{BOTTLE WITH POPPING CORK}" * 500  # twelve bytes a character, as JSON writes it
    third = 1 / 3
    found = tuple(Object(label, 65535, third, third, third, third, third) for _ in range(MAX_BOXES))
    longest = replace(answer(0), objects=found)
    with Spool(tmp_path, bundle) as spool:
        spool.store(photo(0), longest)
        assert len(outcome_bytes(longest)) > 6_000_000
        assert spool.outcome(photo(0)) == replace(longest, again=True)


class Fast(sqlite3.Connection):
    """Does not wait for the disk."""

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
        return super().execute("PRAGMA synchronous = OFF" if sql == "PRAGMA synchronous = FULL" else sql, *values)


class Disk(Fast):
    """A disk that is full once so much was written."""

    room = 0  # transactions
    error = "database or disk is full"

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
        if sql == "COMMIT":
            if type(self).room <= 0:
                raise sqlite3.OperationalError(type(self).error)
            type(self).room -= 1
        return super().execute(sql, *values)


def disk_with(room: int) -> type[Disk]:
    return type("DiskOfTest", (Disk,), {"room": room})


class TestThereAndBack:
    def test_what_is_put_waits_for_the_next_process(self, bundle: Bundle, tmp_path: Path) -> None:
        with Spool(tmp_path / "new" / "spool", bundle) as spool:
            for number in (2, 0, 1):
                assert spool.put(photo(number), frame(bundle, number)).entry is not None
        with Spool(tmp_path / "new" / "spool", bundle) as spool:
            assert [entry.photo for entry in spool.waiting] == [photo(2), photo(0), photo(1)]
            assert [spool.frame(entry) for entry in spool.waiting] == [frame(bundle, number) for number in (2, 0, 1)]
            assert spool.used_bytes == 3 * PAGE
            assert spool.holds(photo(2))
            assert not spool.holds(photo(3))
            later = spool.put(photo(3), frame(bundle, 3)).entry
            assert [entry.photo for entry in spool.waiting][-1] == photo(3)
            assert later is not None

    def test_an_answer_takes_the_frames_place(self, bundle: Bundle, tmp_path: Path) -> None:
        with Spool(tmp_path, bundle) as spool:
            entry = spool.put(photo(1), frame(bundle, 1)).entry
            assert entry is not None
            assert spool.outcome(photo(1)) is None
            spool.store(entry.photo, answer(1))
            assert (len(spool), spool.used_bytes) == (0, 0)
        assert in_spool(tmp_path, "answered") == in_spool(tmp_path) == [photo(1).name]
        with Spool(tmp_path, bundle) as spool:
            assert spool.outcome(photo(1)) == replace(answer(1), again=True)
            assert not spool.waiting

    def test_the_first_answer_stays(self, bundle: Bundle, tmp_path: Path) -> None:
        with Spool(tmp_path, bundle) as spool:
            entry = spool.put(photo(1), frame(bundle, 1)).entry
            assert entry is not None
            spool.store(entry.photo, answer(1))
            spool.store(entry.photo, replace(answer(1), top=(Choice("class 4", 4, 0.9),)))
            assert spool.outcome(photo(1)) == replace(answer(1), again=True)
            assert (len(spool), spool.used_bytes) == (0, 0)

    def test_the_frame_of_one_that_is_refused_is_kept_beside_the_reason(self, bundle: Bundle, tmp_path: Path) -> None:
        failed = Failed(photo(1).name, REFUSED, "too green")
        with Spool(tmp_path, bundle) as spool:
            entry = spool.put(photo(1), frame(bundle, 1)).entry
            assert entry is not None
            spool.store(entry.photo, failed)
            assert spool.outcome(photo(1)) == replace(failed, again=True)
        (record,) = records(tmp_path)
        assert (record.status, record.frame) == (REFUSED, frame(bundle, 1).to_bytes())
        with Spool(tmp_path, bundle) as spool:
            assert not spool.waiting
            spool.requeue([record.number])
            assert [spool.frame(entry) for entry in spool.waiting] == [frame(bundle, 1)]
            assert spool.used_bytes == PAGE
            assert spool.outcome(photo(1)) is None

    def test_what_is_forgotten_may_come_again(self, bundle: Bundle, tmp_path: Path) -> None:
        with Spool(tmp_path, bundle) as spool:
            for number in range(20):
                spool.put(photo(number), frame(bundle, number, 3000))
            for number in range(15):
                spool.store(photo(number), answer(number))
            before = (tmp_path / "spool.db").stat().st_size
            spool.forget([record.number for record in records(tmp_path)])
            assert (tmp_path / "spool.db").stat().st_size < before  # the disk has its blocks again
            assert spool.outcome(photo(1)) is None
            assert [entry.photo for entry in spool.waiting] == [
                photo(number) for number in range(15, 20)
            ]  # what waits stays
            assert spool.put(photo(1), frame(bundle, 1)).entry is not None

    def test_a_photo_is_its_name_and_its_content(self) -> None:
        assert len({Photo(name, digest).key for name in "ab" for digest in DIGESTS}) == 2 * len(DIGESTS)
        assert Photo("a", DIGESTS[0]).key == Photo("a", DIGESTS[0]).key

    def test_names_that_are_no_text(self, bundle: Bundle, tmp_path: Path) -> None:
        odd = Photo("/photos/caf\udce9\n\u56fe.jpg", DIGESTS[0])
        with Spool(tmp_path, bundle) as spool:
            spool.put(odd, frame(bundle, 1))
        with Spool(tmp_path, bundle) as spool:
            (entry,) = spool.waiting
            assert entry.photo == odd
            spool.store(entry.photo, replace(answer(0), photo=odd.name))
            outcome = spool.outcome(odd)
            assert outcome is not None
            assert outcome.photo == odd.name

    @pytest.mark.parametrize("name", ["", "x" * 4097])
    def test_names_that_are_none(self, name: str) -> None:
        with pytest.raises(InputError, match="give 1 to 4096 bytes"):
            Photo(name, DIGESTS[0])


class TestOnTheDisk:
    def test_what_is_done_is_synced(self, bundle: Bundle, tmp_path: Path) -> None:
        """A kill leaves what the system holds in memory, so only SQLite's own settings tell what a power cut leaves."""
        seen = []

        class Connection(sqlite3.Connection):
            def close(self) -> None:
                seen.extend(self.execute(f"PRAGMA {name}").fetchone()[0] for name in ("synchronous", "journal_mode"))
                super().close()

        with Spool(tmp_path, bundle, connection=Connection) as spool:
            assert spool.put(photo(1), frame(bundle, 1)).entry is not None
        assert seen == [2, "persist"]  # FULL

    def test_only_its_owner_can_read_it(self, bundle: Bundle, tmp_path: Path) -> None:
        before = os.umask(0)
        try:
            with Spool(tmp_path / "spool", bundle) as spool:
                spool.put(photo(1), frame(bundle, 1))
                spool.store(photo(1), answer(1))
                paths = [tmp_path / "spool", *(tmp_path / "spool").rglob("*")]
                assert len(paths) >= 4
                for path in paths:
                    assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
        finally:
            os.umask(before)

    def test_frames_take_no_more_of_the_disk_than_they_may(self, bundle: Bundle, tmp_path: Path) -> None:
        for size in (0, 100, 800, 900, 1500, 5000):
            folder = tmp_path / str(size)
            with Spool(folder, bundle, max_bytes=200_000) as spool:
                for number in itertools.count():
                    one = Photo(f"/photos/{number}.jpg", f"{number:064x}")
                    if spool.put(one, Frame(2, 90, bundle.tag, 1, bytes(size))).refused:
                        break
                assert 150_000 < spool.used_bytes <= 200_000
                assert 100_000 < (folder / "spool.db").stat().st_size < 220_000  # an index, and where pages are


def in_a_child_that_is_killed_at(line: int, work: Callable[[Callable[[str], None]], None]) -> list[str]:
    """What `work` said before it was killed as the `line`-th line of the spool's code ran, or "end"."""
    told, telling = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fork and threads: the child touches nothing but files
        child = os.fork()
    if child == 0:
        count = 0

        def trace(frame: FrameType, event: str, argument: object) -> object:
            nonlocal count
            if not frame.f_code.co_filename.endswith(("edge/spool.py", "files.py")):
                return None
            if event == "line":
                count += 1
                if count == line:
                    os.kill(os.getpid(), signal.SIGKILL)
            return trace

        try:
            sys.settrace(trace)  # type: ignore[arg-type]
            work(lambda text: os.write(telling, f"{text}\n".encode()))
            os.write(telling, b"end\n")
        finally:
            os._exit(1)
    os.close(telling)
    with os.fdopen(told) as file:
        said = file.read().split()
    os.waitpid(child, 0)
    return said


@pytest.mark.parametrize("when", ["is it new?", "make it"])
def test_a_spool_that_another_process_has_just_made(bundle: Bundle, tmp_path: Path, when: str) -> None:
    """As `bottlenet spool` may find it, while a device makes its first one."""

    def other() -> None:
        with Spool(tmp_path / "spool", bundle, connection=Fast) as spool:
            assert spool.put(photo(1), frame(bundle, 1)).entry is not None

    class Late(Fast):
        def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
            if "sqlite_master" in sql and when == "is it new?":
                other()
            return super().execute(sql, *values)

        def executescript(self, script: str) -> sqlite3.Cursor:
            if when == "make it":
                other()
            return super().executescript(script)

    (tmp_path / "spool").mkdir()
    with contextlib.closing(connect(tmp_path / "spool" / "spool.db", Late)) as db:
        assert db.execute("SELECT status FROM photos").fetchall() == [("waiting",)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a fork of this process")
def test_kill_at_any_instant(bundle: Bundle, tmp_path: Path) -> None:
    """One photo is put and answered, another put, a third refused; at each line of the code the process may end."""
    fast = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else tmp_path
    seen = set()
    line = -1
    while True:
        line += 3
        folder = fast / f"bottlenet-{os.getpid()}-{line}"

        def work(tell: Callable[[str], None], folder: Path = folder) -> None:
            spool = Spool(folder, bundle)
            first = spool.put(photo(1), frame(bundle, 1)).entry
            tell("put-1")
            spool.put(photo(2), frame(bundle, 2))
            tell("put-2")
            third = spool.put(photo(3), frame(bundle, 3)).entry
            assert first is not None
            assert third is not None
            spool.store(first.photo, answer(1))
            tell("stored-1")
            spool.store(third.photo, Failed(photo(3).name, REFUSED, "no"))
            tell("failed-3")

        try:
            said = in_a_child_that_is_killed_at(line, work)
            with Spool(folder, bundle) as spool:
                waiting = [entry.photo for entry in spool.waiting]
                assert [spool.frame(entry) for entry in spool.waiting] == [
                    frame(bundle, DIGESTS.index(one.sha256)) for one in waiting
                ]
                outcomes = {number: spool.outcome(photo(number)) for number in (1, 2, 3)}
                for number in (1, 3):
                    assert not (outcomes[number] is not None and photo(number) in waiting), "both"
                assert outcomes[2] is None
                if "put-1" in said:
                    assert photo(1) in waiting or outcomes[1] == replace(answer(1), again=True)
                if "put-2" in said:
                    assert photo(2) in waiting
                if "stored-1" in said:
                    assert outcomes[1] is not None
                if outcomes[3] is not None:
                    assert [record.frame for record in records(folder)][2] == frame(bundle, 3).to_bytes()
                assert spool.notes == []
                seen.add((len(said), len(waiting)))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if said and said[-1] == "end":
            break
    assert line > 100
    assert {(0, 0), (0, 1), (1, 2), (2, 3), (2, 2), (3, 1)} <= seen


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a fork of this process")
def test_kill_at_any_moment(bundle: Bundle, tmp_path: Path) -> None:
    """The same spool for twenty processes: each puts and answers photos until it is killed, in SQLite most likely."""
    rng = random.Random(7)
    count = 0
    done: dict[int, str] = {}  # what was said to be on the disk
    for _ in range(20):
        told, telling = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            child = os.fork()
        if child == 0:
            try:
                put_and_answer(tmp_path, bundle, count, telling)
            finally:
                os._exit(1)
        os.close(telling)
        with os.fdopen(told) as file:
            first = file.readline()
            time.sleep(rng.uniform(0, 0.03))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            said = [line.split() for line in [first, *file]]
        done.update((int(number), what) for what, number in said)
        there = {int(Path(record.photo).stem): record.status for record in records(tmp_path)}
        assert all(there[number] in (what, "answered") for number, what in done.items())
        with Spool(tmp_path, bundle) as spool:
            assert spool.notes == []
            assert len([spool.frame(entry) for entry in spool.waiting]) == len(spool)
        count = max(there) + 1
    assert count >= 20


def put_and_answer(folder: Path, bundle: Bundle, first: int, telling: int) -> None:
    """Photo after photo, without end; each third one stays without an answer."""
    with Spool(folder, bundle) as spool:
        for number in itertools.count(first):
            one = Photo(f"/photos/{number}.jpg", f"{number:064x}")
            assert spool.put(one, Frame(2, 90, bundle.tag, number % 2**16, bytes(number % 2000))).entry
            os.write(telling, f"waiting {number}\n".encode())
            if number % 3:
                spool.store(one, replace(answer(0), photo=one.name))
                os.write(telling, f"answered {number}\n".encode())


class TestFull:
    @pytest.fixture
    def limits(self, bundle: Bundle) -> dict[str, int]:
        """Room for two frames."""
        return {"max_bytes": 2 * PAGE}

    def put(self, spool: Spool, bundle: Bundle, *numbers: int) -> None:
        for number in numbers:
            assert spool.put(photo(number), frame(bundle, number)).entry is not None

    def names(self, spool: Spool) -> list[str]:
        return [entry.photo.name for entry in spool.waiting]

    def test_refuse(self, bundle: Bundle, tmp_path: Path, limits: dict[str, int]) -> None:
        with Spool(tmp_path, bundle, **limits) as spool:
            self.put(spool, bundle, 1, 2)
            put = spool.put(photo(3), frame(bundle, 3))
            assert (put.entry, put.dropped, put.never) == (None, (), False)
            assert f"{tmp_path} is full" in put.refused
            assert "2 photos wait" in put.refused
            assert self.names(spool) == [photo(1).name, photo(2).name]
            spool.store(photo(1), answer(1))
            self.put(spool, bundle, 3)  # offered again
        assert in_spool(tmp_path) == [photo(number).name for number in (1, 2, 3)]

    def test_drop_oldest(self, bundle: Bundle, tmp_path: Path, limits: dict[str, int]) -> None:
        with Spool(tmp_path, bundle, **limits, when_full="drop-oldest") as spool:
            self.put(spool, bundle, 1, 2)
            put = spool.put(photo(3), frame(bundle, 3))
            assert [(failed.photo, failed.why) for failed in put.dropped] == [(photo(1).name, DROPPED)]
            assert self.names(spool) == [photo(2).name, photo(3).name]
            assert spool.used_bytes == limits["max_bytes"]
        with Spool(tmp_path, bundle) as spool:
            assert self.names(spool) == [photo(2).name, photo(3).name]
            outcome = spool.outcome(photo(1))
            assert isinstance(outcome, Failed)
            assert outcome.why == DROPPED

    def test_drop_oldest_leaves_what_is_in_flight(self, bundle: Bundle, tmp_path: Path, limits: dict[str, int]) -> None:
        with Spool(tmp_path, bundle, **limits, when_full="drop-oldest") as spool:
            self.put(spool, bundle, 1, 2)
            first, second = (entry.number for entry in spool.waiting)
            assert [f.photo for f in spool.put(photo(3), frame(bundle, 3), keep={first}).dropped] == [photo(2).name]
            assert self.names(spool) == [photo(1).name, photo(3).name]
            put = spool.put(photo(4), frame(bundle, 4), keep={entry.number for entry in spool.waiting} | {second})
            assert (put.entry, put.dropped) == (None, ())
            assert "is full" in put.refused

    def test_drop_newest(self, bundle: Bundle, tmp_path: Path, limits: dict[str, int]) -> None:
        with Spool(tmp_path, bundle, **limits, when_full="drop-newest") as spool:
            self.put(spool, bundle, 1, 2)
            put = spool.put(photo(3), frame(bundle, 3))
            assert ([failed.photo for failed in put.dropped], put.refused) == ([photo(3).name], "")
            assert self.names(spool) == [photo(1).name, photo(2).name]
            assert isinstance(spool.outcome(photo(3)), Failed)

    @pytest.mark.parametrize("when_full", ["refuse", "drop-oldest", "drop-newest"])
    def test_a_frame_larger_than_all_of_it(
        self, bundle: Bundle, tmp_path: Path, limits: dict[str, int], when_full: str
    ) -> None:
        with Spool(tmp_path, bundle, **limits, when_full=when_full) as spool:
            self.put(spool, bundle, 1)
            put = spool.put(photo(2), frame(bundle, 2, 2000))
            assert put.never
            assert self.names(spool) == [photo(1).name]

    def test_a_full_disk_refuses(self, bundle: Bundle, tmp_path: Path) -> None:
        disk = disk_with(1)
        with Spool(tmp_path, bundle, connection=disk) as spool:
            self.put(spool, bundle, 1)
            put = spool.put(photo(2), frame(bundle, 2))
            assert "No space left on device" in put.refused
            assert (put.entry, self.names(spool)) == (None, [photo(1).name])
            disk.room = 1
            self.put(spool, bundle, 2)

    def test_nothing_is_dropped_for_what_is_not_taken(self, bundle: Bundle, tmp_path: Path) -> None:
        disk = disk_with(3)
        with Spool(tmp_path, bundle, connection=disk, when_full="drop-oldest") as spool:
            self.put(spool, bundle, 1, 2, 3)
            put = spool.put(photo(4), frame(bundle, 4))  # however many go, there is no room
            assert (put.entry, put.dropped) == (None, ())
            assert "No space left" in put.refused
            assert self.names(spool) == [photo(1).name, photo(2).name, photo(3).name]

    @pytest.mark.parametrize("when_full", ["refuse", "drop-oldest", "drop-newest"])
    def test_another_fault_of_the_disk_drops_nothing(self, bundle: Bundle, tmp_path: Path, when_full: str) -> None:
        disk = disk_with(2)
        with Spool(tmp_path, bundle, connection=disk, when_full=when_full) as spool:
            self.put(spool, bundle, 1, 2)
            disk.error = "disk I/O error"
            put = spool.put(photo(3), frame(bundle, 3))
            assert (put.entry, put.dropped, put.never) == (None, (), False)
            assert "disk I/O error; try again" in put.refused
            disk.room = 2
            self.put(spool, bundle, 3)
        assert in_spool(tmp_path, "waiting") == [photo(number).name for number in (1, 2, 3)]

    def test_no_room_for_an_answer(self, bundle: Bundle, tmp_path: Path) -> None:
        disk = disk_with(1)
        with Spool(tmp_path, bundle, connection=disk) as spool:
            self.put(spool, bundle, 1)
            (entry,) = spool.waiting
            with pytest.raises(InputError, match="No space left on device; make room"):
                spool.store(entry.photo, answer(1))
            assert spool.waiting == [entry]
            assert spool.outcome(photo(1)) is None
            disk.room = 1
            spool.store(entry.photo, answer(1))
            assert not spool.waiting

    @pytest.mark.parametrize("room_bytes", [0, 1, 200])
    def test_a_file_that_breaks_off_leaves_nothing(self, bundle: Bundle, tmp_path: Path, room_bytes: int) -> None:
        """SQLite itself, on a disk that takes some of it."""
        with Spool(tmp_path, bundle) as spool:
            before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            limits = resource.getrlimit(resource.RLIMIT_FSIZE)
            try:
                resource.setrlimit(resource.RLIMIT_FSIZE, (room_bytes, limits[1]))
                assert spool.put(photo(1), frame(bundle, 1)).refused
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, limits)
                signal.signal(signal.SIGXFSZ, before)
            assert in_spool(tmp_path) == []
            assert spool.used_bytes == 0
            self.put(spool, bundle, 1)

    @settings(deadline=None, max_examples=50)  # it works on files
    @given(st.data())
    def test_never_more_than_the_cap_and_nothing_gets_lost_unnamed(
        self, bundle: Bundle, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
    ) -> None:
        when_full = data.draw(st.sampled_from(["refuse", "drop-oldest", "drop-newest"]))
        max_bytes = data.draw(st.integers(PAGE, 5 * PAGE))
        limits = {"max_bytes": max_bytes, "when_full": when_full, "connection": Fast}
        folder = tmp_path_factory.mktemp("spool")
        spool = Spool(folder, bundle, **limits)  # type: ignore[arg-type]
        fate: dict[int, str] = {}
        for step in data.draw(st.lists(st.sampled_from(["put", "store", "reopen"]), max_size=12)):
            if step == "put":
                number = len(fate)
                put = spool.put(photo(number), frame(bundle, number, data.draw(st.integers(0, 200))))
                fate[number] = "waits" if put.entry is not None else "refused"
                for failed in put.dropped:
                    fate[int(Path(failed.photo).stem)] = "dropped"
            elif step == "store" and spool.waiting:
                entry = data.draw(st.sampled_from(spool.waiting))
                number = int(Path(entry.photo.name).stem)
                spool.store(entry.photo, answer(number))
                fate[number] = "answered"
            else:
                spool.close()
                spool = Spool(folder, bundle, **limits)  # type: ignore[arg-type]
            assert spool.used_bytes == PAGE * len(spool) <= max_bytes
            for number, what in fate.items():
                outcome = spool.outcome(photo(number))
                assert spool.holds(photo(number)) == (what == "waits")
                assert isinstance(outcome, Answered) == (what == "answered")
                assert isinstance(outcome, Failed) == (what == "dropped")
        spool.close()


def on_a_small_disk(folder: Path, kib: int) -> bool:
    """Mount one; False: this user may not."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(folder)]
    return not subprocess.run(command, check=False, capture_output=True).returncode


class TestFullDisk:
    """A file system that the spool fills itself."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Iterator[Path]:
        folder = tmp_path / "disk"
        try:
            if not on_a_small_disk(folder, 256):
                pytest.skip("may not mount a file system")
        except FileNotFoundError:
            pytest.skip("mounts a file system as Linux does")
        yield folder / "spool"
        subprocess.run(["umount", "-l", str(folder)], check=True)

    def photo(self, number: int) -> Photo:
        return Photo(f"/photos/{number}.jpg", f"{number:064x}")

    def put(self, spool: Spool, bundle: Bundle, count: int) -> Counter[str]:
        """Offer so many, each of another size."""
        done: Counter[str] = Counter()
        for number in range(count):
            put = spool.put(self.photo(number), frame(bundle, number % 200, 50 + number * 7 % 400))
            done["taken"] += put.entry is not None
            done["refused"] += bool(put.refused)
            done["dropped"] += len(put.dropped)
        return done

    @pytest.mark.parametrize(
        ("again", "answer_bytes"), [(False, 500), (True, 10)], ids=["same process", "next process"]
    )
    @pytest.mark.parametrize("when_full", ["refuse", "drop-oldest", "drop-newest"])
    def test_each_that_waits_is_answered(
        self, bundle: Bundle, folder: Path, when_full: str, again: bool, answer_bytes: int
    ) -> None:
        spool = Spool(folder, bundle, when_full=when_full)
        done = self.put(spool, bundle, 220)
        assert done["refused" if when_full == "refuse" else "dropped"] > 20
        assert done["taken"] > 100 if when_full != "drop-oldest" else done["taken"] == 220
        if again:
            spool.close()
            spool = Spool(folder, bundle, when_full=when_full)
        waiting = spool.waiting
        assert len(waiting) > 50
        for entry in waiting:
            spool.frame(entry)
            found = replace(answer(0), photo=entry.photo.name, top=(Choice("x" * answer_bytes, 3, 0.5),))
            spool.store(entry.photo, found)
        assert len(spool) == 0
        one = Photo("/photos/new.jpg", f"{1000:064x}")
        assert isinstance(spool.outcome(waiting[0].photo), Answered)
        spool.put(one, frame(bundle, 1))
        spool.forget([record.number for record in records(folder)])
        assert spool.put(one, frame(bundle, 1)).entry is not None  # and it goes on
        spool.close()

    def test_the_oldest_go_and_the_newest_stay(self, bundle: Bundle, folder: Path) -> None:
        with Spool(folder, bundle, when_full="drop-oldest") as spool:
            done = self.put(spool, bundle, 300)
            assert done["taken"] == 300
            left = [entry.photo for entry in spool.waiting]
            assert len(left) > 40
            assert left == [self.photo(number) for number in range(300 - len(left), 300)]
            assert done["dropped"] == 300 - len(left)

    def test_others_fill_the_disk_and_make_room_again(self, bundle: Bundle, folder: Path) -> None:
        other = folder.parent / "other"
        with Spool(folder, bundle) as spool:
            spool.put(self.photo(0), frame(bundle, 0))
            with contextlib.suppress(OSError), open(other, "wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
            for number in range(1, 20):
                spool.put(self.photo(number), frame(bundle, number))
            assert spool.put(self.photo(20), frame(bundle, 20)).refused
            for entry in spool.waiting:
                spool.store(entry.photo, answer(0))
            other.unlink()
            assert spool.put(self.photo(20), frame(bundle, 20)).entry is not None


def damage(folder: Path, sql: str, *values: object) -> None:
    """Change the database from outside."""
    with contextlib.closing(sqlite3.connect(folder / "spool.db", isolation_level=None)) as db:
        db.execute(sql, values)


class TestForeign:
    """What is in the folder and should not be."""

    @pytest.fixture
    def spooled(self, bundle: Bundle, tmp_path: Path) -> bytes:
        """The one frame in a spool."""
        with Spool(tmp_path, bundle) as spool:
            spool.put(photo(1), frame(bundle, 1))
        return frame(bundle, 1).to_bytes()

    def test_a_frame_that_is_damaged_while_it_waits(self, bundle: Bundle, tmp_path: Path, spooled: bytes) -> None:
        flipped = spooled[:-1] + bytes([spooled[-1] ^ 4])
        for data in (b"", b"x", spooled[:-1], spooled + b"x", flipped, "text", 7):
            with Spool(tmp_path, bundle) as spool:  # found by the next process
                damage(tmp_path, "UPDATE photos SET frame = ?", data)
            with Spool(tmp_path, bundle) as spool:
                (failed,) = spool.damaged
                assert (failed.photo, failed.why) == (photo(1).name, DAMAGED)
                assert (len(spool), spool.used_bytes) == (0, 0)
                assert spool.put(photo(1), frame(bundle, 1)).entry is not None
            with Spool(tmp_path, bundle) as spool:  # and by this one
                (entry,) = spool.waiting
                damage(tmp_path, "UPDATE photos SET frame = ?", data)
                with pytest.raises(InputError, match=r"/photos/1\.jpg: its frame in the spool can't be used"):
                    spool.frame(entry)
                assert (len(spool), spool.used_bytes, spool.holds(photo(1))) == (0, 0, False)
                assert (spool.outcome(photo(1)), in_spool(tmp_path, "damaged")) == (None, [photo(1).name])
                assert spool.put(photo(1), frame(bundle, 1)).entry is not None  # it may come again

    @pytest.mark.parametrize("why", ["disk I/O error", "unable to open database file", "database is locked"])
    def test_what_cannot_be_read_just_now_stays(self, bundle: Bundle, tmp_path: Path, why: str) -> None:
        """An I/O error says nothing about what is in a file."""

        class Failing(sqlite3.Connection):
            fails = False

            def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
                if Failing.fails:
                    raise sqlite3.OperationalError(why)
                return super().execute(sql, *values)

        with Spool(tmp_path, bundle, connection=Failing) as spool:
            spool.put(photo(1), frame(bundle, 1))
            spool.put(photo(2), frame(bundle, 2))
            spool.store(photo(2), answer(2))
            (entry,) = spool.waiting
            Failing.fails = True
            for read in (
                lambda: spool.frame(entry),
                lambda: spool.outcome(photo(2)),
                lambda: spool.holds(photo(1)),
                lambda: spool.waiting,
            ):
                with pytest.raises(OSError, match=why):
                    read()
            Failing.fails = False
            assert spool.waiting == [entry]
            assert spool.frame(entry) == frame(bundle, 1)
            assert spool.outcome(photo(2)) == replace(answer(2), again=True)
            assert in_spool(tmp_path, "damaged") == []

    @pytest.mark.parametrize("place", [0, 16, 100, 3000, 20_000, 60_000, "all", "cut"])
    def test_a_database_that_is_damaged(self, bundle: Bundle, tmp_path: Path, place: int | str) -> None:
        """What can be read of it goes on; the photos of the rest may come again."""
        database = tmp_path / "spool.db"
        with Spool(tmp_path, bundle) as spool:
            for number in range(100):
                spool.put(Photo(f"/photos/{number}.jpg", f"{number:064x}"), frame(bundle, number))
        whole = database.read_bytes()
        if place == "all":
            database.write_bytes(b"\xff" * 1000)
        elif place == "cut":
            database.write_bytes(whole[: len(whole) // 2])
        else:
            assert isinstance(place, int)
            database.write_bytes(whole[:place] + b"\xff" * 2000 + whole[place + 2000 :])
        for _ in range(2):
            with Spool(tmp_path, bundle) as spool:
                for number in range(100):
                    one = Photo(f"/photos/{number}.jpg", f"{number:064x}")
                    with contextlib.suppress(OSError):  # as it is found out, and saved
                        spool.outcome(one)
                    if not spool.holds(one):
                        assert spool.put(one, frame(bundle, number)).entry is not None
                for entry in spool.waiting:
                    with contextlib.suppress(InputError):
                        spool.frame(entry)
        with Spool(tmp_path, bundle) as spool:
            good = {entry.photo.name for entry in spool.waiting}
        assert len(good) >= 98

    def test_a_damaged_database_stays_while_there_is_no_room_to_save_it(self, bundle: Bundle, tmp_path: Path) -> None:
        database = tmp_path / "spool.db"
        with Spool(tmp_path, bundle) as spool:
            for number in range(100):
                spool.put(Photo(f"/photos/{number}.jpg", f"{number:064x}"), frame(bundle, number))
        whole = database.read_bytes()
        database.write_bytes(whole[:60_000] + b"\xff" * 2000 + whole[62_000:])
        before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, limits[1]))
            with pytest.raises(InputError, match="can't be repaired: disk I/O error; try again"):
                Spool(tmp_path, bundle)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, before)
        with Spool(tmp_path, bundle) as spool:
            assert len(spool) >= 96
            assert "photos could be read and were kept" in spool.notes[0]

    def test_strangers_are_left_alone(self, bundle: Bundle, tmp_path: Path, spooled: bytes) -> None:
        (tmp_path / "README.txt").write_text("hello")
        with Spool(tmp_path, bundle) as spool:
            assert [entry.photo for entry in spool.waiting] == [photo(1)]
        assert (tmp_path / "README.txt").exists()

    @pytest.mark.parametrize(
        "content", [b"", b"{}", b"not json", b"\xff", b"[]", b'{"photo": 1}', b"[" * 60000, b"{" * 70000, None]
    )
    def test_a_damaged_answer_is_none(self, bundle: Bundle, tmp_path: Path, content: bytes | None) -> None:
        with Spool(tmp_path, bundle) as spool:
            spool.store(photo(1), answer(1))
            damage(tmp_path, "UPDATE photos SET outcome = ?", content)
            assert spool.outcome(photo(1)) is None
            assert photo(1).name in spool.notes[0]
            spool.store(photo(1), answer(1))
            assert spool.outcome(photo(1)) == replace(answer(1), again=True)

    def test_databases_of_others(self, bundle: Bundle, tmp_path: Path) -> None:
        damage(tmp_path, "CREATE TABLE mine (x)")
        with pytest.raises(InputError, match="is no spool of this version; give another folder"):
            Spool(tmp_path, bundle)
        damage(tmp_path, "PRAGMA application_id = 1")
        with pytest.raises(InputError, match="is no spool of this version"):
            list(records(tmp_path))

    def test_frames_of_another_bundle_wait(
        self, bundle: Bundle, make_bundle: MakeBundle, tmp_path: Path, spooled: bytes
    ) -> None:
        other = make_bundle(name="other")
        with Spool(tmp_path, other) as spool:
            assert (spool.waiting, len(spool)) == ([], 1)
            assert "1 photos" in spool.notes[0]
            assert "another bundle" in spool.notes[0]
            assert not spool.holds(photo(1))
        with Spool(tmp_path, bundle) as spool:
            assert [entry.photo for entry in spool.waiting] == [photo(1)]
        with Spool(tmp_path, other) as spool:  # the photo itself is still there, and comes again
            spool.put(photo(1), frame(other, 1))
            assert [entry.photo for entry in spool.waiting] == [photo(1)]
            assert in_spool(tmp_path) == [photo(1).name]

    def test_a_folder_of_other_things(self, bundle: Bundle, tmp_path: Path) -> None:
        (tmp_path / "cat.jpg").write_bytes(b"")
        with pytest.raises(InputError, match="full of other things; give a new folder"):
            Spool(tmp_path, bundle)
        assert files_in(tmp_path) == ["cat.jpg"]
        with pytest.raises(InputError, match="can't be a spool"):
            Spool(tmp_path / "cat.jpg", bundle)

    def test_one_process_at_a_time(self, bundle: Bundle, tmp_path: Path) -> None:
        with Spool(tmp_path, bundle) as spool:
            with pytest.raises(InputError, match="in use by another process"):
                Spool(tmp_path, bundle)
            spool.close()
            Spool(tmp_path, bundle).close()

    @pytest.mark.parametrize("limits", [{"max_bytes": 0}, {"when_full": "drop"}])
    def test_limits(self, bundle: Bundle, tmp_path: Path, limits: dict[str, object]) -> None:
        with pytest.raises(InputError, match="give"):
            Spool(tmp_path, bundle, **limits)  # type: ignore[arg-type]


def write_old(folder: Path, bundle: Bundle, number: int, place: str = "frames", payload_bytes: int = 100) -> Path:
    one = photo(number)
    line = json.dumps({"photo": one.name, "sha256": one.sha256, "bundle": bundle.id.hex()})
    name = f"{number:012d}-{one.key}.frame" if place == "frames" else f"{one.key}.frame"
    path = folder / place / name
    path.write_bytes(line.encode() + b"\n" + frame(bundle, number, payload_bytes).to_bytes())
    return path


class TestOld:
    """A spool of a version that used files is taken over."""

    @pytest.fixture
    def old(self, bundle: Bundle, tmp_path: Path) -> Path:
        """Three that wait, one that is answered though its frame was not removed yet, one refused, one dropped."""
        folder = tmp_path / "old"
        for name in ("frames", "answers", "failed", "aside"):
            (folder / name).mkdir(parents=True)
        for number in (3, 2, 1, 4):
            write_old(folder, bundle, number)
        for number in (4, 5):
            (folder / "answers" / f"{photo(number).key}.json").write_bytes(outcome_bytes(answer(number)))
        for number, why in ((6, REFUSED), (7, DROPPED)):
            failed = Failed(photo(number).name, why, "no")
            (folder / "failed" / f"{photo(number).key}.json").write_bytes(outcome_bytes(failed))
        write_old(folder, bundle, 6, "failed")
        return folder

    def check(self, old: Path, bundle: Bundle) -> None:
        with Spool(old, bundle) as spool:
            assert spool.notes == []
            assert [entry.photo for entry in spool.waiting] == [photo(1), photo(2), photo(3)]
            assert [spool.frame(entry) for entry in spool.waiting] == [frame(bundle, number) for number in (1, 2, 3)]
            for number in (4, 5):
                assert spool.outcome(photo(number)) == replace(answer(number), again=True)
            for number, why in ((6, REFUSED), (7, DROPPED)):
                assert spool.outcome(photo(number)) == Failed(photo(number).name, why, "no", again=True)
        refused = next(record for record in records(old) if record.status == REFUSED)
        assert refused.frame == frame(bundle, 6).to_bytes()

    def test_all_of_it(self, bundle: Bundle, old: Path) -> None:
        self.check(old, bundle)
        assert files_in(old) == ["aside", "lock", "spool.db", "spool.db-journal"]
        self.check(old, bundle)

    @pytest.mark.slow
    @pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a fork of this process")
    def test_kill_at_any_instant(self, bundle: Bundle, old: Path, tmp_path: Path) -> None:
        line = 0
        said: list[str] = []
        while not said:
            line += 7
            copy = tmp_path / str(line)
            shutil.copytree(old, copy)
            said = in_a_child_that_is_killed_at(line, lambda tell, copy=copy: Spool(copy, bundle).close())  # type: ignore[misc]
            self.check(copy, bundle)
        assert line > 100

    @pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.EMFILE, errno.ENOMEM])
    def test_files_that_cannot_be_read_just_now_stay(
        self, bundle: Bundle, old: Path, monkeypatch: pytest.MonkeyPatch, number: int
    ) -> None:
        opens = os.open

        def fails(path: Any, *arguments: Any) -> int:
            if str(path).endswith((".frame", ".json")):
                raise OSError(number, os.strerror(number))
            return opens(path, *arguments)

        with monkeypatch.context() as patched:
            patched.setattr(os, "open", fails)
            with pytest.raises(InputError, match=f"{os.strerror(number)}; try again"):
                Spool(old, bundle)
        self.check(old, bundle)

    @pytest.mark.parametrize("number", ["000000000001", "999999999999", "\u0660" * 12])
    def test_numbers_that_people_gave(self, bundle: Bundle, old: Path, number: str) -> None:
        """As the documentation had it for frames that are to be tried again."""
        path = write_old(old, bundle, 8)
        path.rename(path.with_name(f"{number}-{photo(8).key}.frame"))
        for _ in range(2):
            with Spool(old, bundle) as spool:
                assert {entry.photo for entry in spool.waiting} == {photo(number) for number in (1, 2, 3, 8)}
                assert all(spool.frame(entry) for entry in spool.waiting)
                assert spool.notes == []
                assert spool.put(photo(9), frame(bundle, 9)).entry is not None
                spool.store(photo(9), answer(9))

    def test_damaged_files_are_set_aside(self, bundle: Bundle, old: Path) -> None:
        path = write_old(old, bundle, 8)
        whole = path.read_bytes()
        changes: list[bytes] = [b"", whole[:-1], whole + b"x", b"{}\n" + whole, b"[1]\n", b"\xff\xfe\n", b"[" * 60000]
        for position in (3, 20, whole.index(b"\n") + 1, len(whole) - 1):
            changed = bytearray(whole)
            changed[position] ^= 0x04
            changes.append(bytes(changed))
        for number, data in enumerate(changes, 1):
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
            with Spool(old, bundle) as spool:
                assert len(spool) == 3
                (note,) = spool.notes
                assert path.name in note
            assert len(files_in(old / "aside")) == number

    def test_strangers_are_set_aside_and_named(self, bundle: Bundle, old: Path) -> None:
        frames = old / "frames"
        (frames / "README.txt").write_text("hello")
        (frames / "folder").mkdir()
        (frames / f"{7:012d}-{'0' * 32}.frame").symlink_to("/etc/passwd")
        os.mkfifo(frames / "pipe")
        (frames / ".bottlenet-0123abcd.part").write_bytes(b"half")
        (old / "answers" / f"{photo(9).key}.json").write_bytes(b"{")
        with Spool(old, bundle) as spool:
            assert len(spool) == 3
            said = "\n".join(spool.notes)
        for name in ("README.txt", "folder", "pipe", f"{7:012d}-{'0' * 32}.frame", f"{photo(9).key}.json"):
            assert name in said
            assert name in files_in(old / "aside")
        assert Path("/etc/passwd").exists()

    def test_on_a_full_disk(self, bundle: Bundle, tmp_path: Path) -> None:
        folder = tmp_path / "disk"
        if not on_a_small_disk(folder, 256):
            pytest.skip("may not mount a file system")
        try:
            for name in ("frames", "answers", "failed", "aside"):
                (folder / "spool" / name).mkdir(parents=True)
            count = 0
            with contextlib.suppress(OSError):
                for count in itertools.count():
                    one = Photo(f"/photos/{count}.jpg", f"{count:064x}")
                    path = folder / "spool" / "answers" / f"{one.key}.json"
                    write_whole(path, outcome_bytes(replace(answer(0), photo=one.name)))
            for name in files_in(path.parent)[:8]:
                (path.parent / name).unlink()
            count -= 8
            assert count > 40
            with Spool(folder / "spool", bundle) as spool:
                assert spool.notes == []
            assert len(in_spool(folder / "spool", "answered")) == count
        finally:
            subprocess.run(["umount", "-l", str(folder)], check=True)


texts = st.text(max_size=30)
choices = st.builds(Choice, texts, st.integers(0, 65535), st.floats(0, 1))
outcomes = st.one_of(
    st.builds(Failed, texts, texts, texts),
    st.builds(
        Answered,
        texts,
        st.sampled_from(["server", "local"]),
        st.lists(choices, min_size=1, max_size=5).map(tuple),
        st.integers(0, 2**24),
        st.integers(0, 2**24),
        st.integers(0, 1000),
        st.floats(0, 1e10),
    ),
)


@given(outcomes)
def test_outcomes_are_read_as_they_were_written(outcome: Answered | Failed) -> None:
    data = outcome_bytes(outcome)
    assert data.count(b"\n") == 1
    assert parse_outcome(data) == outcome


VALUES = st.none() | st.booleans() | st.floats() | texts
FIELDS = st.sampled_from(["photo", "top", "why", "by"])
NEARLY = st.dictionaries(FIELDS, VALUES | st.lists(VALUES | st.dictionaries(FIELDS, VALUES), max_size=3), max_size=4)


@given(st.binary(max_size=200) | (VALUES | NEARLY).map(lambda document: json.dumps(document).encode()))
def test_anything_else_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):
        parse_outcome(data)
