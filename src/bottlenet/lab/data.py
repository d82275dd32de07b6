"""Folders of photos: what is in them.

A folder is one of:
- with `labels.csv` (columns `file,class_index`; files under the folder or its `images/`): those photos are labelled,
  any other photo below the folder is unlabelled;
- without it, with sub-folders that hold photos: a sub-folder is a class, in the order of their names;
- without either: unlabelled photos.

To train on, a folder may hold shards in their place, tar files as WebDataset has them: see shards.py.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bottlenet.errors import InputError
from bottlenet.lab.shards import Piece, read_shards, shards_of

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
