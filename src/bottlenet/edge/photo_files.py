"""Photo files that are to be sent: one by name, those of a folder, and those that come into it.

folder -> Folder.photos, or Folder.watch -> path -> read_file -> photo, its bytes
"""

import errno
import hashlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bottlenet.edge.prediction import UNREADABLE, UNUSABLE, Failed, Photo
from bottlenet.errors import InputError, PhotoError
from bottlenet.files import read_at_most
from bottlenet.photo import MAX_FILE_BYTES, Source, is_photo_name, is_system_name, name_of, open_source

SETTLED_S = 2.0  # a file that has been the same for so long is whole
REST = 50  # a look at every file takes a fiftieth of the time at most
# What the system says of a path that leads to no photo; all else may be over in a moment.
NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP)

Stamp = tuple[int, int]  # bytes, and when they were written last, ns


class Folder:
    """A folder whose photos, and those of folders in it, are to be sent. Names that start with a dot are left out.

    Links to folders are followed once. `unlisted` gets the path of what can't be looked at, and why, once until it can.
    `clock` gives seconds that never go back. InputError: it is no folder.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        unlisted: Callable[[str, str], None] = lambda path, why: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = os.path.abspath(path)
        self._unlisted = unlisted
        self._clock = clock
        self._failing: dict[str, str] = {}  # what can't be looked at, and why
        self._folders: dict[str, int] = {}  # when they last changed, ns
        self._identities: set[tuple[int, int]] = set()  # of the same
        self._given: dict[str, Stamp] = {}
        self._fresh: dict[str, tuple[Stamp, float]] = {}  # not given yet, and since when they have been like this
        if not os.path.isdir(path):
            raise InputError(f"{path}: it is no folder; give one that photos come into")

    def photos(self) -> Iterator[str]:
        return (photo.path for photo in self._walk() if self._stamp(photo.path) is not None)

    def watch(self) -> Iterator[str | None]:
        """Give those that are there and those that come, without end; None when all have been given, or may be written.

        A file is given once it has been the same for `SETTLED_S`, and again when it has changed. New names are looked
        for each time; every file, for those that were overwritten, as often as that takes a fiftieth of the time.
        """
        next_look = self._clock()
        while True:
            started = self._clock()
            if started >= next_look:
                self._look_at_all()
                next_look = self._clock() + REST * (self._clock() - started)
            else:
                self._look_for_new()
            for path, (stamp, since) in list(self._fresh.items()):
                if self._clock() - since >= SETTLED_S:
                    del self._fresh[path]
                    self._given[path] = stamp
                    yield path
            yield None

    def again(self, path: str | Path) -> None:
        """Give a photo once more, as there was no room for it, or it could not be read."""
        if (stamp := self._given.pop(str(path), None)) is not None:
            self._fresh[str(path)] = stamp, self._clock() - SETTLED_S

    def _look_at_all(self) -> None:
        there = {photo.path for photo in self._walk() if self._check(photo.path)}
        lost = tuple(os.path.join(path, "") for path in self._failing)  # what is in there has not gone
        for known in (self._given, self._fresh):
            for path in [path for path in known if path not in there and not path.startswith(lost)]:
                del known[path]

    def _look_for_new(self) -> None:
        """Find new names in folders that have changed, and see what became of files that may be written yet."""
        for path in list(self._fresh):
            if not self._check(path):
                del self._fresh[path]
        changed = [path for path, changed_ns in self._folders.items() if changed_at(path) != changed_ns]
        for photo in self._walk(changed) if changed else ():
            if photo.path not in self._given and photo.path not in self._fresh:
                self._check(photo.path)

    def _check(self, path: str) -> bool:
        """Note a file that has not been given as it is now. False: it is not there, or can't be looked at."""
        stamp = self._stamp(path)
        if stamp is None:
            return False
        if self._given.get(path) == stamp:
            self._fresh.pop(path, None)
        elif path not in self._fresh or self._fresh[path][0] != stamp:
            self._fresh[path] = stamp, self._clock()
        return True

    def _stamp(self, path: str) -> Stamp | None:
        try:
            status = os.stat(path)
        except OSError as error:
            if not isinstance(error, FileNotFoundError) or os.path.islink(path):
                self._fail(path, error)
            return None
        self._failing.pop(path, None)
        return status.st_size, status.st_mtime_ns

    def _walk(self, changed: Sequence[str] = ()) -> Iterator[os.DirEntry[str]]:
        """List the photos in folders that have changed, and in those that are new in there; or in all."""
        if not changed:
            self._folders.clear()
            self._identities.clear()
        folders, linked = list(changed or [self._path])[::-1], deque[str]()
        while folders or linked:  # links last, so that a photo has its own name if it has one
            folder = folders.pop() if folders else linked.popleft()
            entries = self._list(folder, folder in changed)
            folders += [entry.path for entry in reversed(entries) if is_folder(entry) and not entry.is_symlink()]
            linked += [entry.path for entry in entries if is_folder(entry) and entry.is_symlink()]
            yield from (entry for entry in entries if is_photo_name(entry.name) and not is_folder(entry))

    def _list(self, folder: str, known: bool) -> list[os.DirEntry[str]]:
        """Sort what is in a folder, but for system names. Nothing if it can't be listed, or was, under another name."""
        try:
            status = os.stat(folder)
            identity = status.st_dev, status.st_ino
            if identity in self._identities and not known:
                return []
            with os.scandir(folder) as found:
                kept = [entry for entry in found if not is_system_name(entry.name)]
            entries = sorted(kept, key=lambda entry: entry.name)
        except OSError as error:
            self._folders.pop(folder, None)
            if not isinstance(error, FileNotFoundError) or folder == self._path:
                self._fail(folder, error)
            return []
        self._failing.pop(folder, None)
        self._identities.add(identity)
        self._folders[folder] = status.st_mtime_ns
        return entries

    def _fail(self, path: str, error: OSError) -> None:
        why = error.strerror or str(error)
        if self._failing.get(path) != why:
            self._failing[path] = why
            self._unlisted(path, why)


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Follow links. What can't be told is none, and fails where it is read."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def changed_at(folder: str) -> int | None:
    try:
        return os.stat(folder).st_mtime_ns
    except OSError:
        return None


def read_file(name: str) -> tuple[Photo, bytes]:
    """Read a photo and its digest at once. InputError: no such file, or too large. OSError: it can't be read now."""
    try:
        with open_source(name, name) as file:
            before = os.fstat(file.fileno())
            data = read_at_most(file, MAX_FILE_BYTES)
            after = os.fstat(file.fileno())
    except PhotoError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno not in NO_FILE:
            raise error.__cause__ from None
        raise
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise BlockingIOError(errno.EAGAIN, "it is being written")
    return Photo(name, hashlib.sha256(data).hexdigest()), data


def unusable(name: str, data: Source, error: InputError) -> Failed:
    """Name a photo of which nothing can be made: `error` knows the bytes, not where they are from."""
    own = name_of(data) if isinstance(data, bytes) else ""
    return Failed(name, UNUSABLE, f"{name}: {str(error).removeprefix(f'{own}: ')}")


def unreadable(name: str, error: OSError) -> Failed:
    return Failed(name, UNREADABLE, f"{name}: it can't be read just now ({error.strerror or error}); try again")
