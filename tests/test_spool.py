"""What waits on disk: through kills, full disks, damage and other people's files."""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bottlenet.bundle import Bundle
from bottlenet.edge import Answered, Choice, Failed, Spool
from bottlenet.edge.prediction import DAMAGED, DROPPED, REFUSED, Object, Photo, outcome_bytes, parse_outcome
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


def entry_size(bundle: Bundle) -> int:
    """Bytes of a spooled `frame`."""
    line = json.dumps({"photo": photo(0).name, "sha256": DIGESTS[0], "bundle": bundle.id.hex()})
    return len(line) + 1 + 12 + 100


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_longest_answer_comes_back(bundle: Bundle, tmp_path: Path) -> None:
    label = "\N{BOTTLE WITH POPPING CORK}" * 500  # twelve bytes a character, as JSON writes it
    third = 1 / 3
    found = tuple(Object(label, 65535, third, third, third, third, third) for _ in range(MAX_BOXES))
    longest = replace(answer(0), objects=found)
    with Spool(tmp_path, bundle) as spool:
        spool.keep(photo(0), longest)
        assert len(outcome_bytes(longest)) > 6_000_000
        assert spool.outcome(photo(0)) == replace(longest, again=True)


class FullDisk:
    """Writes as long as `room` lasts, counted in files."""

    def __init__(self, room: int = 0) -> None:
        self.room = room

    def __call__(self, path: Path, data: bytes) -> None:
        if self.room <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.room -= 1
        write_whole(path, data)


class TestThereAndBack:
    def test_what_is_put_waits_for_the_next_process(self, bundle: Bundle, tmp_path: Path) -> None:
        with Spool(tmp_path / "new" / "spool", bundle) as spool:
            for number in (2, 0, 1):
                assert spool.put(photo(number), frame(bundle, number)).entry is not None
        with Spool(tmp_path / "new" / "spool", bundle) as spool:
            assert [entry.photo for entry in spool.waiting] == [photo(2), photo(0), photo(1)]
            assert [spool.frame(entry) for entry in spool.waiting] == [frame(bundle, number) for number in (2, 0, 1)]
            assert spool.used_bytes == 3 * entry_size(bundle)
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
            spool.store(entry, answer(1))
            assert (len(spool), spool.used_bytes) == (0, 0)
        assert files_in(tmp_path / "frames") == []
        assert files_in(tmp_path / "answers") == [f"{photo(1).key}.json"]
        with Spool(tmp_path, bundle) as spool:
            assert spool.outcome(photo(1)) == replace(answer(1), again=True)
            assert not spool.waiting

    def test_the_first_answer_stays(self, bundle: Bundle, tmp_path: Path) -> None:
        with Spool(tmp_path, bundle) as spool:
            entry = spool.put(photo(1), frame(bundle, 1)).entry
            assert entry is not None
            spool.store(entry, answer(1))
            spool.store(entry, replace(answer(1), top=(Choice("class 4", 4, 0.9),)))
            assert spool.outcome(photo(1)) == replace(answer(1), again=True)
            assert (len(spool), spool.used_bytes) == (0, 0)

    def test_the_frame_of_one_that_is_refused_is_kept_beside_the_reason(self, bundle: Bundle, tmp_path: Path) -> None:
        failed = Failed(photo(1).name, REFUSED, "too green")
        with Spool(tmp_path, bundle) as spool:
            entry = spool.put(photo(1), frame(bundle, 1)).entry
            assert entry is not None
            name = files_in(tmp_path / "frames")[0]
            spool.store(entry, failed)
            assert spool.outcome(photo(1)) == replace(failed, again=True)
        assert files_in(tmp_path / "failed") == [f"{photo(1).key}.frame", f"{photo(1).key}.json"]
        # Moved back by hand, it is tried again.
        os.rename(tmp_path / "failed" / f"{photo(1).key}.frame", tmp_path / "frames" / name)
        os.unlink(tmp_path / "failed" / f"{photo(1).key}.json")
        with Spool(tmp_path, bundle) as spool:
            assert [spool.frame(entry) for entry in spool.waiting] == [frame(bundle, 1)]

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
            spool.store(entry, replace(answer(0), photo=odd.name))
            outcome = spool.outcome(odd)
            assert outcome is not None
            assert outcome.photo == odd.name

    @pytest.mark.parametrize("name", ["", "x" * 4097])
    def test_names_that_are_none(self, name: str) -> None:
        with pytest.raises(InputError, match="give 1 to 4096 bytes"):
            Photo(name, DIGESTS[0])


class TestOrder:
    def test_of_what_goes_to_the_disk(self, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A kill leaves what the system holds in memory, so only the order tells what a power cut would leave."""
        calls: list[str] = []
        fsync, rename, unlink = os.fsync, os.replace, os.unlink

        def synced(handle: int) -> None:
            is_folder = stat.S_ISDIR(os.fstat(handle).st_mode)
            calls.append(f"sync {Path(os.readlink(f'/proc/self/fd/{handle}')).name}" if is_folder else "sync file")
            fsync(handle)

        def renamed(source: Path, target: Path) -> None:
            calls.append(f"rename into {target.parent.name}")
            rename(source, target)

        def unlinked(self: Path, missing_ok: bool = False) -> None:
            calls.append(f"unlink in {self.parent.name}")
            unlink(self)

        if not Path("/proc/self/fd").exists():
            pytest.skip("asks Linux which folder an open file is")
        with Spool(tmp_path, bundle) as spool:
            monkeypatch.setattr(os, "fsync", synced)
            monkeypatch.setattr(os, "replace", renamed)
            monkeypatch.setattr(Path, "unlink", unlinked)
            entry = spool.put(photo(1), frame(bundle, 1)).entry
            assert calls == ["sync file", "rename into frames", "sync frames"]
            calls.clear()
            assert entry is not None
            spool.store(entry, answer(1))
            assert calls == ["sync file", "rename into answers", "sync answers", "unlink in frames"]


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
            if not frame.f_code.co_filename.endswith(("spool.py", "files.py")):
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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a fork of this process")
def test_kill_at_any_instant(bundle: Bundle, tmp_path: Path) -> None:
    """One photo is put and answered, another put, a third refused; at each line of the code the process may end."""
    fast = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else tmp_path
    seen = set()
    line = 0
    while True:
        line += 1
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
            spool.store(first, answer(1))
            tell("stored-1")
            spool.store(third, Failed(photo(3).name, REFUSED, "no"))
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
                    assert f"{photo(3).key}.frame" in files_in(folder / "failed")
                assert (spool.notes, spool.damaged) == ([], [])
                seen.add((len(said), len(waiting)))
            for part in ("frames", "answers", "failed"):
                assert not [name for name in files_in(folder / part) if name.startswith(".")], "left over"
        finally:
            remove(folder)
        if said and said[-1] == "end":
            break
    assert line > 100
    assert {(0, 0), (0, 1), (1, 2), (2, 3), (2, 2), (3, 1)} <= seen


def remove(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


class TestFull:
    @pytest.fixture
    def limits(self, bundle: Bundle) -> dict[str, int]:
        """Room for two frames."""
        return {"max_bytes": 2 * entry_size(bundle)}

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
            spool.store(spool.waiting[0], answer(1))
            self.put(spool, bundle, 3)  # offered again
        assert files_in(tmp_path / "failed") == []

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
        disk = FullDisk(1)
        with Spool(tmp_path, bundle, write=disk) as spool:
            self.put(spool, bundle, 1)
            put = spool.put(photo(2), frame(bundle, 2))
            assert "No space left on device" in put.refused
            assert (put.entry, self.names(spool)) == (None, [photo(1).name])
            disk.room = 1
            self.put(spool, bundle, 2)

    def test_a_full_disk_drops_one_and_no_more(self, bundle: Bundle, tmp_path: Path) -> None:
        disk = FullDisk(3)
        with Spool(tmp_path, bundle, write=disk, when_full="drop-oldest") as spool:
            self.put(spool, bundle, 1, 2, 3)
            put = spool.put(photo(4), frame(bundle, 4))  # the note about the one that goes has no room either
            assert [failed.photo for failed in put.dropped] == [photo(1).name]
            assert "No space left" in put.refused
            assert self.names(spool) == [photo(2).name, photo(3).name]

    def test_no_room_for_an_answer(self, bundle: Bundle, tmp_path: Path) -> None:
        disk = FullDisk(1)
        with Spool(tmp_path, bundle, write=disk) as spool:
            self.put(spool, bundle, 1)
            (entry,) = spool.waiting
            with pytest.raises(InputError, match="No space left on device; make room"):
                spool.store(entry, answer(1))
            assert spool.waiting == [entry]
            assert spool.outcome(photo(1)) is None
            disk.room = 1
            spool.store(entry, answer(1))
            assert not spool.waiting

    @pytest.mark.parametrize("room_bytes", [0, 1, 200])
    def test_a_file_that_breaks_off_leaves_nothing(self, bundle: Bundle, tmp_path: Path, room_bytes: int) -> None:
        """The real `write_whole`, on a disk that takes some of it."""
        import resource

        with Spool(tmp_path, bundle) as spool:
            before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            limits = resource.getrlimit(resource.RLIMIT_FSIZE)
            try:
                resource.setrlimit(resource.RLIMIT_FSIZE, (room_bytes, limits[1]))
                assert spool.put(photo(1), frame(bundle, 1)).refused
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, limits)
                signal.signal(signal.SIGXFSZ, before)
            assert files_in(tmp_path / "frames") == []
            assert spool.used_bytes == 0
            self.put(spool, bundle, 1)

    @settings(deadline=None, max_examples=50)  # it works on files
    @given(st.data())
    def test_never_more_than_the_cap_and_nothing_gets_lost_unnamed(
        self, bundle: Bundle, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
    ) -> None:
        when_full = data.draw(st.sampled_from(["refuse", "drop-oldest", "drop-newest"]))
        max_bytes = data.draw(st.integers(entry_size(bundle), 5 * entry_size(bundle)))
        limits = {"max_bytes": max_bytes, "when_full": when_full, "write": fast_write}
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
                spool.store(entry, answer(number))
                fate[number] = "answered"
            else:
                spool.close()
                spool = Spool(folder, bundle, **limits)  # type: ignore[arg-type]
            assert spool.used_bytes == sum(path.stat().st_size for path in (folder / "frames").iterdir()) <= max_bytes
            for number, what in fate.items():
                outcome = spool.outcome(photo(number))
                assert spool.holds(photo(number)) == (what == "waits")
                assert isinstance(outcome, Answered) == (what == "answered")
                assert isinstance(outcome, Failed) == (what == "dropped")
        spool.close()


def fast_write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


class TestForeign:
    """What is in the folder and should not be."""

    @pytest.fixture
    def spooled(self, bundle: Bundle, tmp_path: Path) -> Path:
        """The one frame in a spool."""
        with Spool(tmp_path, bundle) as spool:
            spool.put(photo(1), frame(bundle, 1))
        (path,) = (tmp_path / "frames").iterdir()
        return path

    def test_damaged_frames_are_set_aside(self, bundle: Bundle, tmp_path: Path, spooled: Path) -> None:
        whole = spooled.read_bytes()
        changes: list[bytes] = [b"", whole[:-1], whole + b"x", b"{}\n" + whole, b"[1]\n", b"\xff\xfe\n", b"[" * 60000]
        for position in (3, 20, whole.index(b"\n") + 1, len(whole) - 1):
            changed = bytearray(whole)
            changed[position] ^= 0x04
            changes.append(bytes(changed))
        for number, data in enumerate(changes, 1):
            spooled.write_bytes(data)
            with Spool(tmp_path, bundle) as spool:
                assert not spool.waiting
                (failed,) = spool.damaged
                assert failed.why == DAMAGED
                assert spooled.name in failed.reason
            assert len(files_in(tmp_path / "aside")) == number
            assert files_in(tmp_path / "frames") == []

    def test_a_frame_that_is_damaged_while_it_waits(self, bundle: Bundle, tmp_path: Path, spooled: Path) -> None:
        with Spool(tmp_path, bundle) as spool:
            (entry,) = spool.waiting
            spooled.write_bytes(spooled.read_bytes()[:-1])
            with pytest.raises(InputError, match=r"/photos/1\.jpg: its frame in the spool can't be used"):
                spool.frame(entry)
            assert (len(spool), spool.used_bytes, spool.holds(photo(1))) == (0, 0, False)
            assert files_in(tmp_path / "aside") == [spooled.name]
            assert spool.put(photo(1), frame(bundle, 1)).entry is not None  # it may come again

    @pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
    def test_a_frame_that_cannot_be_read_just_now_stays(
        self, bundle: Bundle, tmp_path: Path, spooled: Path, monkeypatch: pytest.MonkeyPatch, number: int
    ) -> None:
        """Too many open files say nothing about this one."""

        def fails(*arguments: object) -> int:
            raise OSError(number, os.strerror(number))

        with Spool(tmp_path, bundle) as spool:
            (entry,) = spool.waiting
            with monkeypatch.context() as patched:
                patched.setattr(os, "open", fails)
                with pytest.raises(OSError, match=os.strerror(number)):
                    spool.frame(entry)
            assert spool.waiting == [entry]
            assert files_in(tmp_path / "aside") == []
            assert spool.frame(entry) == frame(bundle, 1)

    def test_strangers_are_set_aside_and_named(self, bundle: Bundle, tmp_path: Path, spooled: Path) -> None:
        frames = tmp_path / "frames"
        (frames / "README.txt").write_text("hello")
        (frames / "folder").mkdir()
        (frames / f"{7:012d}-{'0' * 32}.frame").symlink_to("/etc/passwd")
        os.mkfifo(frames / "pipe")
        (frames / ".bottlenet-0123abcd.part").write_bytes(b"half")
        with Spool(tmp_path, bundle) as spool:
            assert [entry.photo for entry in spool.waiting] == [photo(1)]
            said = "\n".join([*spool.notes, *(failed.reason for failed in spool.damaged)])
        for name in ("README.txt", "folder", "pipe", f"{7:012d}-{'0' * 32}.frame"):
            assert name in said
            assert name in files_in(tmp_path / "aside")
        assert files_in(frames) == [spooled.name]
        assert Path("/etc/passwd").exists()

    @pytest.mark.parametrize(
        "content", [b"", b"{}", b"not json", b"\xff", b"[]", b'{"photo": 1}', b"[" * 60000, b"{" * 70000]
    )
    def test_a_damaged_answer_is_none(self, bundle: Bundle, tmp_path: Path, content: bytes) -> None:
        with Spool(tmp_path, bundle) as spool:
            (tmp_path / "answers" / f"{photo(1).key}.json").write_bytes(content)
            assert spool.outcome(photo(1)) is None
            assert files_in(tmp_path / "aside") == [f"{photo(1).key}.json"]
            assert photo(1).key in spool.notes[0]

    def test_frames_of_another_bundle_wait(
        self, bundle: Bundle, make_bundle: MakeBundle, tmp_path: Path, spooled: Path
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
            assert len(files_in(tmp_path / "frames")) == 1

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
