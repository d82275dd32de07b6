"""Caltech-101 in two: photos to train on, and photos to be judged by. Each a folder of links, with a labels.csv."""

from __future__ import annotations

import csv
import io
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bottlenet.errors import InputError
from bottlenet.photos.folders import LABELS_CSV, list_photos

MARK = "_image_"  # CLASS_image_NNNN.webp
LEAST_OF_A_CLASS = 2  # photos: one on each side


@dataclass(frozen=True)
class Divided:
    """Two folders as `bottlenet.photos.folders` reads them, and the classes in order."""

    train: Path
    test: Path
    classes: tuple[str, ...]
    train_photos: int
    test_photos: int


def divide(data: Path, folder: Path, *, test_share: float, seed: int, limit: int | None = None) -> Divided:
    """Divide every class of `data`: `test_share` of its photos, drawn by `seed`, into `folder`/test, the others into
    `folder`/train. With `limit`, that many photos of a class at most. What is there from a run before must be the same.

    InputError: a photo whose name says no class, a class of one photo, or another division in `folder`.
    """
    by_class: dict[str, list[Path]] = {}
    for photo in list_photos(data):
        name, mark, _ = photo.path.name.partition(MARK)
        if not mark:
            raise InputError(f"{photo.path}: its name says no class; names are CLASS{MARK}NUMBER")
        by_class.setdefault(name, []).append(photo.path)
    classes = tuple(sorted(by_class))
    parts: dict[str, list[tuple[Path, int]]] = {"train": [], "test": []}
    for number, name in enumerate(classes):
        paths = sorted(by_class[name])[:limit]
        if len(paths) < LEAST_OF_A_CLASS:
            raise InputError(f"{data}: class {name} has {len(paths)} photo; give {LEAST_OF_A_CLASS} or more of each")
        order = np.random.default_rng((seed, number)).permutation(len(paths)).tolist()
        count = max(1, round(test_share * len(paths)))
        parts["test"] += [(paths[i], number) for i in order[:count]]
        parts["train"] += [(paths[i], number) for i in order[count:]]
    for part, photos in parts.items():
        link(photos, folder / part)
    return Divided(folder / "train", folder / "test", classes, len(parts["train"]), len(parts["test"]))


def link(photos: Sequence[tuple[Path, int]], folder: Path) -> None:
    """Fill a folder with links and labels, whole or not at all. InputError: it is there and holds others."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["file", "class_index"])
    rows.writerows(sorted((path.name, label) for path, label in photos))
    labels = folder / LABELS_CSV
    if labels.exists():
        if labels.read_text(encoding="utf-8") != text.getvalue():
            raise InputError(f"{folder} holds another division of the photos; give a new --work")
        return
    part = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for path, _ in photos:
        (part / path.name).symlink_to(path.resolve())
    (part / LABELS_CSV).write_text(text.getvalue(), encoding="utf-8")
    part.rename(folder)
