"""Make what the attacker learns from: crops of photos, and what a server would have got of them.

    photo -> crop -> head.onnx -> symbols -> codec, within a budget -> payload -> codec -> symbols_hat
                `--> pixels, small                                                              |
    a record: payload bytes, symbols, symbols_hat, pixels                        <--------------'

Records lie on disk and are read by position. Each has one fixed number of bytes, so that memory does not depend on how
many there are. Photos that an attacker has to rebuild are never among those it learns from.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bottlenet.bundle import Bundle
from bottlenet.errors import InputError
from bottlenet.files import part_of, read_records
from bottlenet.photos.crops import Damaged, Views, centre_views, is_held_out, read_views
from bottlenet.photos.folders import Photo, choose, photos_for
from bottlenet.privacy import PrivacyConfig
from bottlenet.runtime import Head
from bottlenet.wire.codecs import encode_within

FEWEST = 8  # photos to learn from
HEAD_BATCH = 16

Records = NDArray[np.void]
Symbols = NDArray[np.uint8]
Progress = Callable[[int, int], None]
Send = Callable[[Symbols], tuple[int, Symbols]]  # (C, H, W) -> payload bytes, symbols_hat


@dataclass(frozen=True)
class Divided:
    """Photos to learn from and to rebuild, and how many of `data` were left out as they are to be rebuilt."""

    train: Sequence[Photo]
    test: Sequence[Photo]
    left_out: int


def divided(bundle: Bundle, config: PrivacyConfig) -> Divided:
    """Divide photos by `config.test` or by what is held out, the same file once. InputError: too few on one side."""
    known = dict.fromkeys(photo for folder in config.data for photo in photos_for(bundle, folder, None))
    photos = list(choose(list(known), config.photos or None))
    if config.test:
        test = photos_for(bundle, config.test, config.limit)
        train = photos
    else:
        test = choose([photo for photo in photos if is_held_out(photo, config.held_out)], config.limit)
        train = [photo for photo in photos if not is_held_out(photo, config.held_out)]
    rebuilt = {digest(photo) for photo in test}
    kept = [photo for photo in train if digest(photo) not in rebuilt]
    where = ", ".join(config.data)
    if len(kept) < FEWEST:
        raise InputError(f"{where}: {len(kept)} photos to learn from that are not to be rebuilt; give {FEWEST} or more")
    if len(test) < 2:
        raise InputError(f"{config.test or where}: {len(test)} photos to rebuild; give 2 or more")
    return Divided(kept, test, len(train) - len(kept))


def digest(photo: Photo) -> str:
    try:
        return hashlib.sha256(photo.path.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"{photo.path}: can't be read; remove it, or repair it") from error


class Tap:
    """A bundle as an eavesdropper meets it: pixels -> symbols -> what is left of them within a budget."""

    def __init__(self, bundle: Bundle, threads: int = 1) -> None:
        self.bundle = bundle
        self.head = Head(bundle, threads)

    def sent(self, symbols: Symbols, budget: int | None) -> tuple[int, Symbols]:
        """Encode one photo's (C, H, W): return payload bytes and symbols_hat. InputError: nothing fits the budget."""
        codec = self.bundle.codec
        if budget is None:
            payload = codec.encode(symbols)
            return len(payload), codec.decode(payload)
        within = encode_within(codec, symbols, budget)
        return len(within.payload), self.bundle.codec_of(within.codec, within.setting).decode(within.payload)


def record_type(latent: tuple[int, ...], side: int) -> np.dtype[np.void]:
    fields: list[Any] = [
        ("position", "<u4"),  # in the list of photos
        ("payload_bytes", "<u4"),
        ("symbols", "u1", latent),
        ("symbols_hat", "u1", latent),
        ("pixels", "u1", (side, side, 3)),
    ]
    return np.dtype(fields)


class Samples:
    """Records in one file. `make` fills it, whole or not at all; a file that is there is taken as it is."""

    def __init__(self, path: Path, latent: tuple[int, ...], side: int) -> None:
        self.path = path
        self.dtype = record_type(latent, side)

    def __len__(self) -> int:
        return self.path.stat().st_size // self.dtype.itemsize

    def make(self, records: Iterator[Records], total: int, on_progress: Progress) -> None:
        """Write all of `records`, each (n,) of `dtype`, unless the file is there."""
        if self.path.exists():
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        done = 0
        with part_of(self.path) as part, part.open("wb") as file:
            for batch in records:
                file.write(batch.tobytes())
                done += len(batch)
                on_progress(done, total)

    def read(self, positions: Sequence[int]) -> Records:
        return np.frombuffer(read_records(self.path, self.dtype.itemsize, positions), self.dtype)

    def batches(self, size: int, first: int = 0, last: int | None = None) -> Iterator[Records]:
        """Yield records `first` to `last`, or to the end, in their order."""
        end = len(self) if last is None else min(last, len(self))
        for start in range(first, end, size):
            yield self.read(range(start, min(start + size, end)))


def crop_records(
    tap: Tap, photos: Sequence[Photo], side: int, *, crops: int, budgets: Sequence[int | None], seed: int
) -> Iterator[Records]:
    """Yield each photo's crops, the device's and random ones up to `crops`, each within one of `budgets` by chance."""
    rng = np.random.default_rng((seed, 1))
    shuffled = [photos[position] for position in rng.permutation(len(photos))]

    def send(symbols: Symbols) -> tuple[int, Symbols]:
        return tap.sent(symbols, budgets[int(rng.integers(len(budgets)))])

    yield from centre_records(tap, shuffled, side, send)
    for crop in range(1, crops):
        sizes = (tap.bundle.manifest.preprocess.size, side)
        views = read_views(shuffled, sizes, Damaged(len(photos)), seed=seed * 1000 + crop)
        yield from in_records(tap, side, views, send)


def centre_records(
    tap: Tap, photos: Sequence[Photo], side: int, send: Send = lambda symbols: (0, symbols)
) -> Iterator[Records]:
    """Yield each photo's crop as a device makes it, sent or as it is. InputError: most photos are damaged."""
    preprocess = tap.bundle.manifest.preprocess
    views = centre_views(photos, (preprocess.size, side), Damaged(len(photos)), preprocess)
    yield from in_records(tap, side, views, send)


def in_records(tap: Tap, side: int, views: Iterator[tuple[int, Views]], send: Send) -> Iterator[Records]:
    """Turn (position, (head's pixels, small pixels)) into records, HEAD_BATCH at a time."""
    while batch := list(islice(views, HEAD_BATCH)):
        records = np.empty(len(batch), record_type(tap.bundle.manifest.latent, side))
        symbols = tap.head(np.stack([head_pixels for _, (head_pixels, _) in batch]))
        for row, (position, (_, pixels)) in enumerate(batch):
            payload_bytes, symbols_hat = send(symbols[row])
            records[row] = (position, payload_bytes, symbols[row], symbols_hat, pixels)
        yield records


def key_of(*ingredients: object) -> str:
    return hashlib.sha256(repr(ingredients).encode()).hexdigest()[:16]
