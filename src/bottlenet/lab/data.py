"""Folders of photos: what is in them, and crops of them. Never more than one batch in memory, and no torch.

A folder is one of:
- with `labels.csv` (columns `file,class_index`; files under the folder or its `images/`): those photos are labelled,
  any other photo below the folder is unlabelled;
- without it, with sub-folders that hold photos: a sub-folder is a class, in the order of their names;
- without either: unlabelled photos.
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from bottlenet.bundle import Preprocess
from bottlenet.edge.photo import prepare, read_photo
from bottlenet.errors import InputError, PhotoError

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".avif"}
LARGEST_LABELS_CSV = 256 * 2**20  # bytes; ImageNet-1k's training list is 60 MB
DAMAGED_SHARE = 0.01  # more damaged photos than this is an error, not bad luck

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Photo:
    """One file of a folder."""

    path: Path
    label: int | None  # class index; None where the folder does not say


def list_photos(folder: Path | str) -> list[Photo]:
    """Every photo below `folder`, sorted by path. InputError for a missing or empty folder or a bad labels.csv."""
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; give a folder of photos")
    found = sorted(path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    labels_csv = root / "labels.csv"
    if labels_csv.exists():
        labels = _read_labels(labels_csv)
        photos = [Photo(path, labels.pop(_key(path, root), None)) for path in found]
        if labels:
            raise InputError(
                f"{labels_csv}: names {len(labels)} files that are not there, such as {next(iter(labels))}"
            )
    else:
        classes = sorted({path.parent for path in found} - {root})
        index = {parent: i for i, parent in enumerate(classes)}
        labelled = len(classes) > 1
        photos = [Photo(path, index.get(path.parent) if labelled else None) for path in found]
    if not photos:
        raise InputError(f"{root}: no photos in it; {', '.join(sorted(SUFFIXES))} are looked for, in sub-folders too")
    return photos


def _key(path: Path, root: Path) -> str:
    relative = path.relative_to(root)
    parts = relative.parts[1:] if relative.parts[0] == "images" else relative.parts
    return "/".join(parts)


def _read_labels(path: Path) -> dict[str, int]:
    if path.stat().st_size > LARGEST_LABELS_CSV:
        raise InputError(f"{path}: {path.stat().st_size} bytes; a labels.csv may have {LARGEST_LABELS_CSV}")
    labels: dict[str, int] = {}
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        if not {"file", "class_index"} <= set(rows.fieldnames or ()):
            raise InputError(f"{path}: its columns are {rows.fieldnames}; file,class_index are needed")
        for number, row in enumerate(rows, start=2):
            try:
                labels[row["file"].removeprefix("images/")] = int(row["class_index"])
            except (TypeError, ValueError, AttributeError) as error:
                raise InputError(f"{path}, line {number}: {row} is not a file and a whole number") from error
    return labels


def random_crop(photo: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """A random part of the photo, perhaps mirrored: (size, size, 3) uint8. Area 35 to 100 %, aspect 3:4 to 4:3."""
    height, width = photo.shape[:2]
    area = rng.uniform(0.35, 1.0) * height * width
    aspect = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
    w = min(width, np.sqrt(area * aspect))
    h = min(height, np.sqrt(area / aspect))
    left, top = rng.uniform(0, width - w), rng.uniform(0, height - h)
    crop = Image.fromarray(photo).resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + w, top + h))
    pixels = np.asarray(crop)
    return pixels[:, ::-1] if rng.random() < 0.5 else pixels


class Damaged:
    """Counts the photos that could not be read, names each in the log, and stops when they are too many."""

    def __init__(self, total: int) -> None:
        self.allowed = int(total * DAMAGED_SHARE)
        self.paths: list[Path] = []

    def add(self, path: Path, error: PhotoError) -> None:
        self.paths.append(path)
        log.warning("skipped a damaged photo: %s", error)
        if len(self.paths) > self.allowed:
            named = ", ".join(str(p) for p in self.paths[:5])
            raise InputError(
                f"{len(self.paths)} damaged photos, more than {DAMAGED_SHARE:.0%} of all: {named}; remove or mend them"
            )


def read_crops(
    photos: Iterable[Photo], preprocess: Preprocess, damaged: Damaged, *, seed: int | None = None
) -> Iterator[tuple[int, np.ndarray]]:
    """(position in `photos`, (S, S, 3) uint8): the centre crop, or a random one that (seed, position) decides."""
    for position, photo in enumerate(photos):
        try:
            pixels = read_photo(photo.path)
        except PhotoError as error:
            damaged.add(photo.path, error)
            continue
        if seed is None:
            yield position, prepare(pixels, preprocess)
        else:
            yield position, random_crop(pixels, preprocess.size, np.random.default_rng((seed, position)))
