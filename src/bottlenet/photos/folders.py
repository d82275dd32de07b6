"""Folders of photos: what is in them.

A folder is one of:
- with `labels.csv` (columns `file,class_index`; files under the folder or its `images/`): those photos are labelled,
  any other photo below the folder is unlabelled;
- without it, with sub-folders that hold photos: a sub-folder is a class, in the order of their names;
- without either: unlabelled photos.

To train on, a folder may hold shards in their place, tar files as WebDataset has them: see shards.py.

Photos in shards: tar files as WebDataset has them, read where they are.

A sample is a photo and, where its class is known, a `.cls` file of the same name with the class index as text:

    000000.tar:  n01440764/10026.jpg  n01440764/10026.cls  n01440764/10027.jpg ...

Only the headers are read, once; a photo is then read from its place in the file. So photos come in any order, and
nothing is ever unpacked: what a name in a shard says about folders leads nowhere.
"""

from __future__ import annotations

import csv
import logging
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bottlenet.bundle import Bundle
from bottlenet.errors import InputError, PhotoError
from bottlenet.photo import MAX_FILE_BYTES

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


SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".avif"}
SUFFIXES_TEXT = ", ".join(sorted(SUFFIXES))
LABELS_CSV = "labels.csv"
LARGEST_LABELS_CSV = 256 * 2**20  # bytes; ImageNet-1k's training list is 60 MB


@dataclass(frozen=True)
class Photo:
    """One file of a folder, or of a shard in it."""

    path: Path  # in a shard: that of the shard, and the photo's name there
    label: int | None  # class index; None where the folder does not say
    piece: Piece | None = None  # where it is, if in a shard

    @property
    def file(self) -> Path:
        """What it is in, on disk."""
        return self.path if self.piece is None else self.piece.shard

    def source(self) -> Path | bytes:
        """What `read_photo` takes. PhotoError: the shard is gone or was cut off."""
        return self.path if self.piece is None else self.piece.read()


def list_samples(folder: Path | str) -> list[Photo]:
    """Every photo to train on: those in the shards of `folder`, or where it has none, of `list_photos`.

    InputError: none, or a shard that can't be used.
    """
    shards = shards_of(Path(folder))
    if not shards:
        return list_photos(folder)
    photos = [Photo(piece.shard / name, label, piece) for name, label, piece in read_shards(shards, SUFFIXES)]
    if not photos:
        raise InputError(f"{folder}: no photos in its {len(shards)} shards; {SUFFIXES_TEXT} are looked for")
    return photos


def list_photos(folder: Path | str) -> list[Photo]:
    """Every photo below `folder`, sorted by path. InputError for a missing or empty folder or a bad labels.csv."""
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; give a folder of photos")
    found = sorted(path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    labels_csv = root / LABELS_CSV
    if labels_csv.exists():
        labels = _read_labels(labels_csv)
        photos = [Photo(path, labels.pop(_key(path, root), None)) for path in found]
        if labels:
            raise InputError(
                f"{labels_csv}: names {len(labels)} files that are not there, such as {next(iter(labels))!r:.200}; "
                "add them, or remove their lines"
            )
    else:
        classes = sorted({path.parent for path in found} - {root})
        index = {parent: i for i, parent in enumerate(classes)}
        labelled = len(classes) > 1
        photos = [Photo(path, index.get(path.parent) if labelled else None) for path in found]
    if not photos:
        raise InputError(f"{root}: no photos in it; {SUFFIXES_TEXT} are looked for, in sub-folders too")
    return photos


def _key(path: Path, root: Path) -> str:
    relative = path.relative_to(root)
    parts = relative.parts[1:] if relative.parts[0] == "images" else relative.parts
    return "/".join(parts)


def _read_labels(path: Path) -> dict[str, int]:
    """File name as `_key` makes it -> class index. UTF-8, with or without a byte-order mark. InputError: all else."""
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
                    raise InputError(
                        f"{where}: {name!r:.200} has class {label}, and class {other} further up; "
                        "a file has one class: remove one of the lines"
                    )
    except OSError as error:
        raise InputError(f"{path}: can't read it ({error.strerror or error}); give a file, or none") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: it is not UTF-8 ({error.reason}); save it as UTF-8") from error
    except csv.Error as error:
        limit = f"a field may have {csv.field_size_limit()} characters"
        raise InputError(f"{path}: it can't be read as CSV ({error}); {limit}: close every quote") from error
    return labels


def _read_row(row: dict[str, str], where: str) -> tuple[str, int]:
    """File name and class index. InputError: there are none in it."""
    given = f"{row}"
    try:
        name, label = row["file"].removeprefix("images/"), int(row["class_index"])
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{where}: {given:.200} is not a file and a whole number; give both, as in a.jpg,7") from error
    if label < 0:
        raise InputError(f"{where}: {given:.200}; classes are 0 and up: leave out a file that has none")
    return name, label


def count_sub_folders(photos: Sequence[Photo], folder: Path | str) -> int | None:
    """How many sub-folders were taken for classes; None if none were. `photos` are what `list_samples(folder)` gives.

    Unless they are as many as a network has classes, their order is not the network's: class 3 would be somebody's
    fourth folder.
    """
    if (Path(folder) / LABELS_CSV).exists() or any(photo.piece for photo in photos):
        return None
    return len({photo.label for photo in photos} - {None}) or None


def choose(photos: Sequence[Photo], limit: int | None) -> Sequence[Photo]:
    """At most `limit` of them, evenly spread: a folder is sorted, and its start may be one class."""
    if limit is None or limit >= len(photos):
        return photos
    if limit < 1:
        raise InputError(f"limit is {limit}; give 1 or more photos")
    return [photos[i * len(photos) // limit] for i in range(limit)]


def check_labels(photos: Sequence[Photo], bundle: Bundle, data: str | Path) -> Sequence[Photo]:
    """As `known_labels`, for the bundle's classes."""
    return known_labels(photos, data, bundle.manifest.num_classes, f"bundle {bundle.manifest.name}")


def known_labels(photos: Sequence[Photo], data: str | Path, classes: int, whose: str) -> Sequence[Photo]:
    """The photos, without labels where those can't be of `whose` classes. InputError: a label that is none of them.

    Sub-folders count as classes only if there are as many as classes; else the accuracy would be nonsense.
    """
    found = count_sub_folders(photos, data)
    if found is not None and found != classes:
        log.warning(
            "%s: %d sub-folders are not the %d classes of %s, so no photo counts as labelled; give a %s",
            *(data, found, classes, whose, LABELS_CSV),
        )
        return [Photo(photo.path, None) for photo in photos]
    for photo in photos:
        if photo.label is not None and not 0 <= photo.label < classes:
            raise InputError(
                f"{data}: {photo.path.name} has class {photo.label}, but {whose} has classes 0 to {classes - 1}; give "
                "photos labelled in its order"
            )
    return photos


log = logging.getLogger(__name__)


def photos_for(bundle: Bundle, data: str | Path, limit: int | None) -> Sequence[Photo]:
    """The photos that `evaluate` takes. InputError: as there."""
    return choose(check_labels(list_photos(data), bundle, data), limit)
