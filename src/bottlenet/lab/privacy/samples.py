"""What the attacker learns from: crops of photos, and what a server would have got of them. On disk, read by position.

    photo -> crop -> head.onnx -> symbols -> codec, within a budget -> payload -> codec -> symbols_hat
                `--> pixels, small                                                              |
    a record: payload bytes, symbols, symbols_hat, pixels                        <--------------'

A record is one fixed number of bytes, so that memory does not depend on how many there are.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bottlenet.bundle import Bundle
from bottlenet.files import part_of
from bottlenet.lab.crops import Damaged, Views, centre_views, read_views
from bottlenet.lab.data import Photo
from bottlenet.runtime import open_head, run_graph
from bottlenet.wire.budget import encode_within

Records = NDArray[np.void]
Symbols = NDArray[np.uint8]
Progress = Callable[[int, int], None]
Send = Callable[[Symbols], tuple[int, Symbols]]
"""(C, H, W) -> payload bytes, symbols_hat."""
HEAD_BATCH = 16


class Link:
    """A bundle as who listens meets it: pixels -> symbols -> what is left of them within a budget."""

    def __init__(self, bundle: Bundle, threads: int = 1) -> None:
        self.bundle = bundle
        self._head = open_head(bundle, threads)

    @property
    def own_budget(self) -> int | None:
        """The bundle's; None where it has none."""
        return self.bundle.manifest.budget_bytes or None

    def symbols(self, pixels: NDArray[np.uint8]) -> Symbols:
        """(B, size, size, 3) -> (B, C, H, W)."""
        found: Symbols = run_graph(self._head, pixels=pixels)
        return found

    def sent(self, symbols: Symbols, budget: int | None) -> tuple[int, Symbols]:
        """One photo's (C, H, W) -> payload bytes, and symbols_hat as the server has them.

        `budget` None: a payload as large as it gets. InputError: nothing fits.
        """
        codec = self.bundle.codec
        if budget is None:
            payload = codec.encode(symbols)
            return len(payload), codec.decode(payload)
        within = encode_within(codec, symbols, budget)
        return len(within.payload), self.bundle.codec_of(within.codec, within.setting).decode(within.payload)


class Samples:
    """Records in one file. `make` fills it, whole or not at all; a file that is there is taken as it is."""

    def __init__(self, path: Path, latent: tuple[int, int, int], side: int) -> None:
        self.path = path
        self.dtype = np.dtype(
            [
                ("position", "<u4"),  # in the list of photos
                ("payload_bytes", "<u4"),
                ("symbols", "u1", latent),
                ("symbols_hat", "u1", latent),
                ("pixels", "u1", (side, side, 3)),
            ]
        )

    def __len__(self) -> int:
        return self.path.stat().st_size // self.dtype.itemsize

    def make(self, records: Iterator[Records], total: int, on_progress: Progress | None) -> None:
        """Writes all of `records`, each (n,) of `dtype`, unless the file is there."""
        if self.path.exists():
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        done = 0
        with part_of(self.path) as part, part.open("wb") as file:
            for batch in records:
                file.write(batch.tobytes())
                done += len(batch)
                if on_progress is not None:
                    on_progress(done, total)
            file.flush()
            os.fsync(file.fileno())

    def read(self, positions: Sequence[int]) -> Records:
        """(n,) records, in that order."""
        records = np.empty(len(positions), self.dtype)
        size = self.dtype.itemsize
        with self.path.open("rb") as file:
            for row, position in enumerate(positions):
                records[row] = np.frombuffer(os.pread(file.fileno(), size, position * size), self.dtype)[0]
        return records

    def batches(self, size: int, first: int = 0, last: int | None = None) -> Iterator[Records]:
        """`first` to `last`, or to the end, in their order."""
        end = len(self) if last is None else min(last, len(self))
        for start in range(first, end, size):
            yield self.read(range(start, min(start + size, end)))


def crop_records(
    link: Link, samples: Samples, photos: Sequence[Photo], *, crops: int, budgets: Sequence[int | None], seed: int
) -> Iterator[Records]:
    """Of every photo the crop that a device makes, and random ones up to `crops`, each within one of `budgets`, by
    chance. In an order that `seed` decides, crop by crop.
    """
    rng = np.random.default_rng((seed, 1))
    shuffled = [photos[position] for position in rng.permutation(len(photos))]

    def send(symbols: Symbols) -> tuple[int, Symbols]:
        return link.sent(symbols, budgets[int(rng.integers(len(budgets)))])

    yield from in_records(link, samples, centre_crops(link, samples, shuffled), send)
    size, side = link.bundle.manifest.preprocess.size, samples.dtype["pixels"].shape[0]
    for crop in range(1, crops):
        views = read_views(shuffled, (size, side), Damaged(len(photos)), seed=seed * 1000 + crop)
        yield from in_records(link, samples, views, send)


def centre_records(link: Link, samples: Samples, photos: Sequence[Photo]) -> Iterator[Records]:
    """The crop that a device makes of every photo. Nothing is sent yet: `symbols_hat` are the symbols, of 0 bytes."""
    yield from in_records(link, samples, centre_crops(link, samples, photos), lambda symbols: (0, symbols))


def centre_crops(link: Link, samples: Samples, photos: Sequence[Photo]) -> Iterator[tuple[int, Views]]:
    """(position in `photos`, (head's pixels, small pixels)). InputError: more than 1 % of them are damaged."""
    preprocess = link.bundle.manifest.preprocess
    sizes = (preprocess.size, samples.dtype["pixels"].shape[0])
    return centre_views(photos, sizes, Damaged(len(photos)), preprocess)


def in_records(link: Link, samples: Samples, views: Iterator[tuple[int, Views]], send: Send) -> Iterator[Records]:
    """(position, (head's pixels, small pixels)) -> records, HEAD_BATCH at a time."""
    batch: list[tuple[int, Views]] = []
    for each in views:
        batch.append(each)
        if len(batch) == HEAD_BATCH:
            yield as_records(link, samples, batch, send)
            batch = []
    if batch:
        yield as_records(link, samples, batch, send)


def as_records(link: Link, samples: Samples, batch: Sequence[tuple[int, Views]], send: Send) -> Records:
    """One batch through head and codec."""
    records = np.empty(len(batch), samples.dtype)
    symbols = link.symbols(np.stack([views[0] for _, views in batch]))
    for row, (position, (_, pixels)) in enumerate(batch):
        payload_bytes, symbols_hat = send(symbols[row])
        records[row] = (position, payload_bytes, symbols[row], symbols_hat, pixels)
    return records


def key_of(*parts: object) -> str:
    """A name for what is made of `parts`."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
