"""List the photos of a folder, and their classes.

A folder is one of:
- with `labels.csv` (columns `file,class_index`; files under the folder or its `images/`): those photos are labelled,
  any other photo below the folder is unlabelled;
- without it, with sub-folders that hold photos: a sub-folder is a class, in the order of their names; hidden folders
  and those of a system (`__MACOSX`) are none, links are followed, and one that can't be listed is an error;
- without either: unlabelled photos;
- to train on, shards: tar files as WebDataset has them. A sample is a photo and, where its class is known, a `.cls`
  file of the same name with the class index as text:

      000000.tar:  n01440764/10026.jpg  n01440764/10026.cls  n01440764/10027.jpg ...

  Only the headers are read, once; a photo is then read from its place in the file. So photos come in any order, and
  nothing is ever unpacked: whatever a name in a shard says about folders leads nowhere.
"""

from __future__ import annotations

import csv
import logging
import os
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bottlenet.bundle import Bundle
from bottlenet.errors import InputError, PhotoError
from bottlenet.photo import MAX_FILE_BYTES, SUFFIXES, is_photo_name, is_system_name, photo_files

KINDS = ", ".join(sorted(SUFFIXES))
LABELS_CSV = "labels.csv"
LARGEST_LABELS_CSV = 256 * 2**20  # bytes; ImageNet-1k's training list is 60 MB

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Photo:
    """One file of a folder, or of a shard in it."""

    path: Path  # in a shard: that of the shard, and the photo's name there
    label: int | None  # class index; None where the folder does not say
    piece: Piece | None = None  # where it is, if in a shard

    @property
    def file(self) -> Path:
        """The file on disk that holds it."""
        return self.path if self.piece is None else self.piece.shard

    def source(self) -> Path | bytes:
        """Return the argument for `read_photo`. PhotoError: the shard is gone or was cut off."""
        return self.path if self.piece is None else self.piece.read()


def list_samples(folder: Path | str) -> list[Photo]:
    """List the photos in a folder's shards, or as `list_photos`. InputError: none, or a shard that can't be used."""
    shards = shards_of(Path(folder)) if folder != "" else None
    if not shards:
        return list_photos(folder)
    photos = [Photo(piece.shard / name, label, piece) for name, label, piece in read_shards(shards)]
    if not photos:
        raise InputError(f"{folder}: no photos in its {len(shards)} shards; {KINDS} are looked for")
    return photos


def list_photos(folder: Path | str) -> list[Photo]:
    """List every photo below `folder`, sorted by path. InputError: no folder, an empty one, or a bad labels.csv."""
    root = Path(folder)
    if folder == "":  # a variable of a shell that is not set, and Path would take the current folder
        raise InputError("the name of the folder is empty; give a folder of photos")
    if not root.is_dir():
        raise InputError(f"{root}: {'it is no' if root.exists() else 'no such'} folder; give a folder of photos")
    found = sorted(photo_files(root))
    labels_csv = root / LABELS_CSV
    if labels_csv.exists():
        labels = _read_labels(labels_csv)
        photos = [Photo(path, labels.pop(_key(path, root), None)) for path in found]
        if labels:
            what = f"names {len(labels)} files that are not there, such as {next(iter(labels))!r:.200}"
            raise InputError(f"{labels_csv}: {what}; add them, or remove their lines")
    else:
        classes = sorted({path.parent for path in found} - {root})
        index = {parent: i for i, parent in enumerate(classes)}
        labelled = len(classes) > 1
        photos = [Photo(path, index.get(path.parent) if labelled else None) for path in found]
    if not photos:
        raise InputError(f"{root}: no photos in it; {KINDS} are looked for, in sub-folders too")
    return photos


def _key(path: Path, root: Path) -> str:
    relative = path.relative_to(root)
    parts = relative.parts[1:] if relative.parts[0] == "images" else relative.parts
    return "/".join(parts)


def _read_labels(path: Path) -> dict[str, int]:
    """Map file names as `_key` makes them to class indices. InputError: the file is not UTF-8, or does not fit."""
    labels: dict[str, int] = {}
    try:
        if (size := path.stat().st_size) > LARGEST_LABELS_CSV:
            raise InputError(f"{path}: {size} bytes; a labels.csv may have {LARGEST_LABELS_CSV}: divide the folder")
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            if not {"file", "class_index"} <= set(rows.fieldnames or ()):
                columns = f"{rows.fieldnames}"
                raise InputError(f"{path}: its columns are {columns:.200}; file,class_index are needed: name them so")
            for row in rows:
                where = f"{path}, line {rows.line_num}"
                name, label = _read_row(row, where)
                if (other := labels.setdefault(name, label)) != label:
                    what = f"{name!r:.200} has class {label}, and class {other} further up"
                    raise InputError(f"{where}: {what}; a file has one class: remove one of the lines")
    except OSError as error:
        raise InputError(f"{path}: can't read it ({error.strerror or error}); give a file, or none") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: it is not UTF-8 ({error.reason}); save it as UTF-8") from error
    except csv.Error as error:
        limit = f"a field may have {csv.field_size_limit()} characters"
        raise InputError(f"{path}: it can't be read as CSV ({error}); {limit}: close every quote") from error
    return labels


def _read_row(row: dict[str, str], where: str) -> tuple[str, int]:
    """Read file name and class index. InputError: there are none in it."""
    text = f"{row}"
    try:
        name, label = row["file"].removeprefix("images/"), int(row["class_index"])
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{where}: {text:.200} is not a file and a whole number; give both, as in a.jpg,7") from error
    if label < 0:
        raise InputError(f"{where}: {text:.200}; classes are 0 and up: leave out a file that has none")
    return name, label


def choose(photos: Sequence[Photo], limit: int | None) -> Sequence[Photo]:
    """Select at most `limit` of them, evenly spread: a folder is sorted, and its start may be one class."""
    if limit is None or limit >= len(photos):
        return photos
    if limit < 1:
        raise InputError(f"limit is {limit}; give 1 or more photos")
    return [photos[i * len(photos) // limit] for i in range(limit)]


def label_array(photos: Iterable[Photo]) -> NDArray[np.int64]:
    """Return (N,) class indices; -1 where one is not known."""
    return np.array([-1 if photo.label is None else photo.label for photo in photos], np.int64)


def photos_for(bundle: Bundle, data: str | Path, limit: int | None) -> Sequence[Photo]:
    """List the photos that `evaluate` takes. InputError: as there."""
    manifest = bundle.manifest
    return choose(known_labels(list_photos(data), data, manifest.num_classes, f"bundle {manifest.name}"), limit)


def known_labels(photos: Sequence[Photo], data: str | Path, classes: int, whose: str) -> Sequence[Photo]:
    """Drop labels that can't be of `whose` classes, as sub-folders that are not as many. InputError: a wrong label."""
    found = count_sub_folders(photos, data)
    if found is not None and found != classes:
        text = "%s: %d sub-folders are not the %d classes of %s, so no photo counts as labelled; give a %s"
        log.warning(text, data, found, classes, whose, LABELS_CSV)
        return [Photo(photo.path, None) for photo in photos]
    for photo in photos:
        if photo.label is not None and not 0 <= photo.label < classes:
            what = f"{photo.path.name} has class {photo.label}, but {whose} has classes 0 to {classes - 1}"
            raise InputError(f"{data}: {what}; give photos labelled in its order")
    return photos


def count_sub_folders(photos: Sequence[Photo], folder: Path | str) -> int | None:
    """Count the sub-folders taken for classes, whose order is a network's only if it has as many; None: none were."""
    if (Path(folder) / LABELS_CSV).exists() or any(photo.piece for photo in photos):
        return None
    return len({photo.label for photo in photos} - {None}) or None


SHARD, CLASS = ".tar", ".cls"
COMPRESSED = re.compile(r"\.(tar\.\w+|tgz|tbz2?|txz)$")
MAX_SAMPLES = 100_000_000  # in all shards of a folder
MAX_CLASS_BYTES = 32


@dataclass(frozen=True)
class Piece:
    """Where in a shard a photo is."""

    shard: Path
    offset: int
    size: int

    def read(self) -> bytes:
        """Read the photo's file. PhotoError: the shard is gone, or shorter than it was."""
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
    """List a folder's tar files by name. InputError: one is compressed, or the folder can't be listed."""
    try:
        names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    except OSError as error:
        raise InputError(f"{folder}: can't list it ({error.strerror}); make it readable") from error
    names = [name for name in names if not is_system_name(name)]
    shards = [folder / name for name in names if name.lower().endswith(SHARD) and (folder / name).is_file()]
    if shards and (packed := [name for name in names if COMPRESSED.search(name.lower())]):
        raise InputError(f"{folder / packed[0]} is no plain tar file; give shards that are not compressed")
    return shards


def read_shards(shards: Sequence[Path]) -> Iterator[tuple[str, int | None, Piece]]:
    """Yield (name, class index or None, place) of each photo, in the order of the files.

    As WebDataset has it, a sample's name ends at the first dot of its files' names: `10.jpg` beside `10.depth.png` is
    its photo. Where it has no such file, `10.left.jpg` and `10.right.jpg` are photos of it, each with the class of
    `10.cls`, or of `10.left.cls`.

    InputError: a shard that is no plain tar file or is cut off, a class that is no whole number, too many photos.
    """
    found = 0
    for shard in shards:
        photos: dict[str, tuple[str, Piece]] = {}  # by key: a sample's files stand together, but in any order
        labels: dict[str, int] = {}
        for name, piece in read_headers(shard):
            key, suffix = os.path.splitext(name)
            if suffix.lower() == CLASS:
                labels[key] = class_of(name, piece)
            elif is_photo_name(name):
                if key in photos:
                    raise InputError(f"{shard}: two photos are called {key!r:.200}; give each sample its own name")
                if piece.size > MAX_FILE_BYTES:
                    what = f"{name!r:.200} has {piece.size} bytes"
                    raise InputError(f"{shard}: {what}; up to {MAX_FILE_BYTES} are allowed")
                photos[key] = (name, piece)
        samples = {key: sample_of(key) for key in photos}
        taken = [key for key, sample in samples.items() if key == sample or sample not in photos]
        if len(taken) < len(photos):
            log.warning("%s: left out %d pictures that are not a sample's photo", shard, len(photos) - len(taken))
        found += len(taken)
        if found > MAX_SAMPLES:
            raise InputError(f"{shard.parent}: more than {MAX_SAMPLES} photos; divide the folder")
        for key in taken:
            yield photos[key][0], labels.get(key, labels.get(samples[key])), photos[key][1]


def sample_of(key: str) -> str:
    """Return the sample's name: up to the first dot behind the last slash."""
    folder, slash, last = key.rpartition("/")
    return f"{folder}{slash}{last.partition('.')[0]}"


def read_headers(shard: Path) -> Iterator[tuple[str, Piece]]:
    """Yield name and place of each plain file of a shard; links, folders and devices are passed over."""
    try:
        length = shard.stat().st_size
        with tarfile.open(shard, "r:") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined] # it would keep all of them
                system = any(is_system_name(folder) for folder in member.name.split("/") if folder not in (".", ".."))
                if system or not member.isreg() or member.issparse():
                    continue
                if member.offset_data + member.size > length:
                    raise InputError(f"{shard}: it ends within {member.name!r:.200}; copy it again")
                yield member.name, Piece(shard, member.offset_data, member.size)
    except tarfile.TarError as error:
        raise InputError(f"{shard} is no plain tar file ({error}); give shards that are not compressed") from error
    except OSError as error:
        raise InputError(f"{shard}: can't read it ({error.strerror}); give a readable file") from error


def class_of(name: str, piece: Piece) -> int:
    """Read the class index in a .cls file. InputError: it holds something else."""
    text = b"" if piece.size > MAX_CLASS_BYTES else piece.read().strip()
    if not text.isdigit():
        raise InputError(f"{piece.shard}: {name!r:.200} holds no class; a {CLASS} file is a whole number as text")
    return int(text)
