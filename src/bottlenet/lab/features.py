"""The frozen head's work, done once: features and uncut scores of crops, on disk.

One file a crop set: a record for each photo, features and scores in float16, in the order of the list. Records are
read one by one, never mapped: the memory used does not depend on how many there are.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from bottlenet.bundle import Preprocess
from bottlenet.errors import InputError
from bottlenet.files import part_of, write_whole
from bottlenet.lab.crops import HELD_OUT, Damaged, Views, centre_views, read_views
from bottlenet.lab.data import Photo

# pixels for the uncut network (B, S, S, 3) uint8 and for the head (B, T, T, 3)
#   -> features (B, ...), scores (B, classes)
Frozen = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
BATCH = 16


class FeatureCache:
    """Crop sets of one list of photos through one frozen network.

    `network` names it, `shape` is that of a photo's features, `classes` the number of its scores; `sizes` are the sides
    of the pixels that the uncut network and the head take; `seed` decides the crops, and `blended` how many of them are
    mixed with another. One photo of `held_out` is not. With `centre` there are no random crops, but one set of centre
    crops as that says. Where any of this differs, the cache lies in another folder below `folder`.
    """

    def __init__(
        self,
        folder: Path,
        photos: Sequence[Photo],
        sizes: tuple[int, int],
        *,
        network: str,
        shape: tuple[int, ...],
        classes: int,
        seed: int,
        blended: float = 0.0,
        held_out: int = HELD_OUT,
        centre: Preprocess | None = None,
    ) -> None:
        self.photos, self.sizes, self.seed, self.blended = photos, sizes, seed, blended
        self.held_out, self.centre, self.network = held_out, centre, network
        self.shape, self.classes = shape, classes
        self.record_values = int(np.prod(shape)) + classes
        self.record_bytes = 2 * self.record_values
        stats = [(photo.path, photo.file.stat()) for photo in photos]
        names = "\n".join(f"{path} {stat.st_size} {stat.st_mtime_ns}" for path, stat in stats)
        crops = f"{seed} {blended}" if held_out == HELD_OUT else f"{seed} {blended} {held_out}"
        crops = crops if centre is None else f"{centre}"
        key = hashlib.sha256(f"{network} {sizes} {crops}\n{names}".encode()).hexdigest()[:16]
        self.folder = folder / key

    def path(self, crop_set: int) -> Path:
        """Where a set of random crops is kept."""
        return self.folder / f"random-{crop_set:03}.f16"

    def has(self, crop_set: int) -> bool:
        """True once the set is there as a whole."""
        return self.path(crop_set).exists()

    def remove_parts(self) -> None:
        """What a `fill` left that was killed. Only while nobody else fills this cache."""
        for part in self.folder.glob("*.part*"):
            part.unlink(missing_ok=True)

    def fill(self, crop_set: int, frozen: Frozen) -> Iterator[int]:
        """Makes a crop set, yielding how many photos are done. Whole or not at all.

        InputError: more than 1 % of the photos are damaged; fewer are left out and named in the log. Or the network
        gives what float16 can't hold.
        """
        path = self.path(crop_set)
        self.folder.mkdir(parents=True, exist_ok=True)
        damaged = Damaged(len(self.photos))
        missing = set(range(len(self.photos)))
        with part_of(path) as part:
            with part.open("wb") as file:
                file.truncate(len(self.photos) * self.record_bytes)
                for positions, records in self._records(frozen, damaged, crop_set):
                    for position, record in zip(positions, records, strict=True):
                        file.seek(position * self.record_bytes)
                        file.write(record.tobytes())
                    missing -= set(positions)
                    yield len(self.photos) - len(missing)
                file.flush()
                os.fsync(file.fileno())
            write_whole(path.with_suffix(".json"), json.dumps({"missing": sorted(missing)}).encode())

    def _records(self, frozen: Frozen, damaged: Damaged, crop_set: int) -> Iterator[tuple[list[int], np.ndarray]]:
        """Positions, and (B, values) float16. InputError: features or scores that are no such numbers."""
        for positions, uncut_pixels, head_pixels in batched(self._views(damaged, hash_seed(self.seed, crop_set))):
            records = as_records(*frozen(uncut_pixels, head_pixels))
            if not (good := np.isfinite(records).all(axis=1)).all():
                raise InputError(
                    f"{self.photos[positions[int(good.argmin())]].path}: the network's features or scores are not "
                    "all numbers that float16 can hold; give another cut, no_cache, or a network that gives numbers"
                )
            yield positions, records

    def _views(self, damaged: Damaged, seed: int) -> Iterator[tuple[int, Views]]:
        if self.centre is not None:
            return centre_views(self.photos, self.sizes, damaged, self.centre)
        return read_views(self.photos, self.sizes, damaged, seed=seed, blended=self.blended, held_out=self.held_out)

    def positions(self, crop_set: int) -> list[int]:
        """The photos of the set that could be read."""
        missing = set(json.loads(self.path(crop_set).with_suffix(".json").read_text())["missing"])
        return [i for i in range(len(self.photos)) if i not in missing]

    def read(self, crop_set: int, positions: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """features (n, *shape) float32 and uncut scores (n, classes) float32."""
        records = np.empty((len(positions), self.record_values), np.float32)
        with self.path(crop_set).open("rb") as file:
            for row, position in enumerate(positions):
                record = os.pread(file.fileno(), self.record_bytes, position * self.record_bytes)
                records[row] = np.frombuffer(record, np.float16)
        count = self.record_values - self.classes
        return records[:, :count].reshape(-1, *self.shape), records[:, count:]


def as_records(features: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """(B, values) float16, as they are kept; infinite where float16 can't hold a number."""
    with np.errstate(over="ignore"):
        return np.concatenate([features.reshape(len(features), -1), scores], axis=1).astype(np.float16)


def hash_seed(*parts: int) -> int:
    """A seed, 32 bits, that other parts don't have but by chance; (0, 1) and (1, 0) are others."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big")


def batched(crops: Iterator[tuple[int, Views]]) -> Iterator[tuple[list[int], np.ndarray, np.ndarray]]:
    """Positions, pixels for the uncut network and for the head, BATCH at a time; the last one may be smaller."""
    while batch := list(itertools.islice(crops, BATCH)):
        positions, views = zip(*batch, strict=True)
        uncut_pixels, head_pixels = (np.stack(pixels) for pixels in zip(*views, strict=True))
        yield list(positions), uncut_pixels, head_pixels
