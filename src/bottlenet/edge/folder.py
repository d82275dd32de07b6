"""Photo files that are to be sent: one by name, those of a folder, and those that come into it."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bottlenet.edge.prediction import UNUSABLE, Failed, Photo
from bottlenet.errors import InputError, PhotoError
from bottlenet.files import read_at_most
from bottlenet.photo import MAX_FILE_BYTES, name_of, open_source

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".avif", ".tif", ".tiff", ".bmp", ".gif"}
SETTLED_S = 2.0  # a file that nobody has written to for so long is whole

Stamp = tuple[int, int]  # bytes, and when they were written last, ns


class Folder:
    """A folder whose photos, and those of folders in it, are to be sent. Names that start with a dot are left out.

    InputError: it is no folder.
    """

    def __init__(self, path: str | Path, *, clock: Callable[[], float] = time.time) -> None:
        self._path = Path(path)
        self._clock = clock
        self._given: dict[Path, Stamp] = {}
        if not self._path.is_dir():
            raise InputError(f"{path}: it is no folder; give one that photos come into")

    def photos(self) -> Iterator[Path]:
        """Those that are there now, by name."""
        for path, _ in self._files():
            yield path

    def watch(self) -> Iterator[Path | None]:
        """Those that are there and those that come, without end; None when all have been given, or are being written.

        A file is given when it was the same twice, or is old enough, and again when it has changed.
        """
        before: dict[Path, Stamp] = {}
        while True:
            now = dict(self._files())
            self._given = {path: stamp for path, stamp in self._given.items() if path in now}
            for path, stamp in now.items():
                settled = before.get(path) == stamp or self._clock() - stamp[1] / 1e9 > SETTLED_S
                if settled and self._given.get(path) != stamp:
                    self._given[path] = stamp
                    yield path
            before = now
            yield None

    def again(self, path: str | Path) -> None:
        """Give a photo once more, as there was no room for it."""
        self._given.pop(Path(path), None)

    def _files(self) -> Iterator[tuple[Path, Stamp]]:
        for folder, folders, names in os.walk(os.path.abspath(self._path)):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(names):
                path = Path(folder, name)
                if name.startswith(".") or path.suffix.lower() not in SUFFIXES:
                    continue
                try:
                    status = path.stat()
                except OSError:
                    continue  # it went while this was looked at
                yield path, (status.st_size, status.st_mtime_ns)


def read_file(name: str) -> tuple[Photo, bytes]:
    """A file, whatever is in it, read once: what is sent is what its digest is of.

    InputError: no such file, above 200 MB, or not readable.
    """
    try:
        with open_source(name, name) as file:
            data = read_at_most(file, MAX_FILE_BYTES)
    except OSError as error:
        raise PhotoError(f"{name}: can't read it ({error.strerror or error}); try again") from error
    return Photo(name, hashlib.sha256(data).hexdigest()), data


def unusable(name: str, data: bytes, error: InputError) -> Failed:
    """A file of which nothing can be made, by its name: `error` knows the bytes, not where they are from."""
    return Failed(name, UNUSABLE, f"{name}: {str(error).removeprefix(f'{name_of(data)}: ')}")
