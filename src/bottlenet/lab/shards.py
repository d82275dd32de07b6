"""Photos in shards: tar files as WebDataset has them, read where they are.

A sample is a photo and, where its class is known, a `.cls` file of the same name with the class index as text:

    000000.tar:  n01440764/10026.jpg  n01440764/10026.cls  n01440764/10027.jpg ...

Only the headers are read, once; a photo is then read from its place in the file. So photos come in any order, and
nothing is ever unpacked: what a name in a shard says about folders leads nowhere.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bottlenet.decode import MAX_FILE_BYTES
from bottlenet.errors import InputError, PhotoError

SHARD, CLASS = ".tar", ".cls"
MAX_SAMPLES = 100_000_000  # in all shards of a folder
MAX_CLASS_BYTES = 32


@dataclass(frozen=True)
class Piece:
    """Where in a shard a photo is."""

    shard: Path
    offset: int
    size: int

    def read(self) -> bytes:
        """The photo's file. PhotoError: the shard is gone, or shorter than it was."""
        try:
            with self.shard.open("rb") as file:
                file.seek(self.offset)
                data = file.read(self.size)
        except OSError as error:
            raise PhotoError(f"{self.shard}: can't read it ({error.strerror})") from error
        if len(data) < self.size:
            raise PhotoError(f"{self.shard}: it ends before the photo at byte {self.offset} does")
        return data


def shards_of(folder: Path) -> list[Path]:
    """The tar files in a folder, by name; none where it is no folder of shards."""
    return sorted(path for path in folder.glob(f"*{SHARD}") if path.is_file())


def read_shards(shards: Sequence[Path], suffixes: set[str]) -> Iterator[tuple[str, int | None, Piece]]:
    """(name, class index or None, place) of each photo whose name ends in one of `suffixes`, in the order of the files.

    InputError: a shard that is no plain tar file or is cut off, a class that is no whole number, too many photos.
    """
    found = 0
    for shard in shards:
        photos: dict[str, tuple[str, Piece]] = {}  # by key: a sample's files stand together, but in any order
        labels: dict[str, int] = {}
        for name, piece in read_headers(shard):
            key, suffix = divided(name)
            if suffix in suffixes:
                if key in photos:
                    raise InputError(f"{shard}: two photos are called {key!r:.200}; give each sample its own name")
                if piece.size > MAX_FILE_BYTES:
                    raise InputError(
                        f"{shard}: {name!r:.200} has {piece.size} bytes; up to {MAX_FILE_BYTES} are allowed"
                    )
                photos[key] = (name, piece)
            elif suffix == CLASS:
                labels[key] = class_of(name, piece)
        found += len(photos)
        if found > MAX_SAMPLES:
            raise InputError(f"{shard.parent}: more than {MAX_SAMPLES} photos; divide the folder")
        for key, (name, piece) in photos.items():
            yield name, labels.get(key), piece


def divided(name: str) -> tuple[str, str]:
    """What a sample's files have in common, and the rest in small letters: at the first dot behind the last slash."""
    folder, slash, last = name.rpartition("/")
    stem, dot, suffix = last.partition(".")
    return f"{folder}{slash}{stem}", f"{dot}{suffix}".lower()


def read_headers(shard: Path) -> Iterator[tuple[str, Piece]]:
    """Name and place of each plain file of a shard; links, folders and devices are passed over."""
    try:
        length = shard.stat().st_size
        with tarfile.open(shard, "r:") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined] # it would keep all of them
                if not member.isreg() or member.issparse():
                    continue
                if member.offset_data + member.size > length:
                    raise InputError(f"{shard}: it ends within {member.name!r:.200}; copy it again")
                yield member.name, Piece(shard, member.offset_data, member.size)
    except tarfile.TarError as error:
        raise InputError(f"{shard} is no plain tar file ({error}); give shards that are not compressed") from error
    except OSError as error:
        raise InputError(f"{shard}: can't read it ({error.strerror}); give a readable file") from error


def class_of(name: str, piece: Piece) -> int:
    """The class index in a .cls file. InputError: it holds something else."""
    text = b"" if piece.size > MAX_CLASS_BYTES else piece.read().strip()
    if not text.isdigit():
        raise InputError(f"{piece.shard}: {name!r:.200} holds no class; a {CLASS} file is a whole number as text")
    return int(text)
