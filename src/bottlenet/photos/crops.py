"""Read the photos of a folder, one after the other, as crops. Never more than a batch in memory, and no torch.

    photo -> random box, perhaps mirrored -> views: one (S, S, 3) for each size asked for
    views, views of another photo -> blend -> views

A blend is like no photo, and the teacher's answer to it is still right: the student follows it everywhere, not
just where the photos are (Beyer et al., "Knowledge distillation: a good teacher is patient and consistent", CVPR 2022).
"""

import logging
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image

from bottlenet.bundle import Preprocess
from bottlenet.errors import InputError, PhotoError
from bottlenet.photo import photo_to_pixels, read_photo
from bottlenet.photos.folders import Photo

HELD_OUT = 50  # one photo of this many is kept for the report at the end of each pass, unless told otherwise

log = logging.getLogger(__name__)

Views: TypeAlias = tuple[np.ndarray, ...]  # one crop, once for each size: (S, S, 3) uint8


class Damaged:
    """Counts the photos of `total` that could not be read, names each in the log, and stops when they are most."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.paths: list[Path] = []

    @contextmanager
    def skipping(self, path: Path) -> Iterator[None]:
        """Leave the block where the photo can't be read. InputError: most of them can't."""
        try:
            yield
        except PhotoError as error:
            self.add(path, error)

    def add(self, path: Path, error: PhotoError) -> None:
        self.paths.append(path)
        log.warning("skipped a damaged photo: %s", error)
        if 2 * len(self.paths) > self.total:
            named = ", ".join(str(path) for path in self.paths[:5])
            raise InputError(f"{len(self.paths)} of {self.total} photos are damaged: {named}; remove or mend them")


def is_held_out(photo: Photo, one_of: int = HELD_OUT) -> bool:
    """Tell if a photo is never trained on: by a hash of its name, so that a folder listed twice brings none back."""
    return zlib.crc32(photo.path.name.encode()) % one_of == 0


def centre_views(
    photos: Iterable[Photo], sizes: Sequence[int], damaged: Damaged, preprocess: Preprocess
) -> Iterator[tuple[int, Views]]:
    """Yield (position in `photos`, centre crop as a device makes it) of every photo that can be read."""
    for position, photo in enumerate(photos):
        with damaged.skipping(photo.path):
            pixels = {size: photo_to_pixels(photo.source(), replace(preprocess, size=size)) for size in sizes}
            yield position, tuple(pixels[size] for size in sizes)


def read_views(
    photos: Sequence[Photo],
    sizes: Sequence[int],
    damaged: Damaged,
    *,
    seed: int,
    blended: float = 0.0,
    held_out: int = HELD_OUT,
) -> Iterator[tuple[int, Views]]:
    """Yield (position in `photos`, views) of every photo that can be read; `seed` decides the order and the crops.

    `blended` of them, 0..1, are mixed with the one before; a photo that is held out stays as it is, and out of others.
    """
    before: Views | None = None
    for position in np.random.default_rng(seed).permutation(len(photos)).tolist():
        rng = np.random.default_rng((seed, position))
        with damaged.skipping(photos[position].path):
            views = random_views(read_photo(photos[position].source()), sizes, rng)
            if is_held_out(photos[position], held_out):
                yield position, views
                continue
            mixed = before is not None and rng.random() < blended
            yield position, blend(views, before, rng.uniform(0.5, 1)) if mixed and before is not None else views
            before = views


def random_views(photo: np.ndarray, sizes: Sequence[int], rng: np.random.Generator) -> Views:
    """Crop a random part of the photo, perhaps mirrored. Area 35 to 100 %, aspect 3:4 to 4:3."""
    height, width = photo.shape[:2]
    area = rng.uniform(0.35, 1.0) * height * width
    aspect = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
    w = min(width, np.sqrt(area * aspect))
    h = min(height, np.sqrt(area / aspect))
    left, top = rng.uniform(0, width - w), rng.uniform(0, height - h)
    box = (left, top, left + w, top + h)
    image, mirrored = Image.fromarray(photo), rng.random() < 0.5
    views = [np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box=box)) for size in sizes]
    return tuple(view[:, ::-1] if mirrored else view for view in views)


def blend(views: Views, other: Views, share: float) -> Views:
    """Mix `share` of the first with the rest of the second, rounded."""
    mixed = (share * a.astype(np.float32) + (1 - share) * b for a, b in zip(views, other, strict=True))
    return tuple(np.round(pixels).astype(np.uint8) for pixels in mixed)
