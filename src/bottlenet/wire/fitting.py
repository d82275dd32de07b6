"""Fitting of the codec's tables to symbols: counts, smoothed where there are few."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from bottlenet.errors import InputError
from bottlenet.wire.entropy import Contexts, check_range
from bottlenet.wire.tables import PLANES, TOTAL, Bins, Pass, Tables, check_passes, check_sizes

DEFAULT_BINS = Bins()
CHUNK_PASSES = 48  # counted at once, of a whole batch

Floats = NDArray[np.float64]
Totals = NDArray[np.int64]


def fit_tables(
    symbols: Iterable[NDArray[np.uint8]], passes: Sequence[Pass], *, bins: Bins = DEFAULT_BINS, pull: float = 8.0
) -> Tables:
    """Fit tables that code `symbols`, and latents like them, in few bytes.

    `symbols` are batches (B, C, H, W) uint8, 7..249, read once, one at a time. `passes` are (channel, plane) by
    importance. A distribution with few counts is drawn to a guess that weighs `pull` counts: how its pass differs
    from its plane, times how its contexts do in the whole plane.

    InputError: no symbols, batches of different shapes, symbols out of range, passes or bins not allowed.
    """
    if not pull > 0:
        raise InputError(f"tables: pull is {pull}; give a number above 0, such as 8")
    counter: Counter | None = None
    for batch in symbols:
        if batch.ndim != 4 or batch.dtype != np.uint8 or (counter and batch.shape[1:] != counter.contexts.shape):
            raise InputError(f"tables: a batch is {batch.dtype} {batch.shape}; give uint8 (B, C, H, W), all alike")
        check_range(batch)
        if counter is None:
            channels, height, width = batch.shape[1:]
            counter = Counter(Contexts(channels, height, width, bins), passes)
        counter.add(batch)
    if counter is None or not counter.flags.any():
        raise InputError("tables: there are no symbols to fit them to; give at least one latent")
    flags = integers((counter.flags + 0.5) / (counter.flags + 0.5).sum(axis=-1, keepdims=True))
    shares = smoothed(counter.trits, np.array([plane for _, plane in passes]), pull)
    return Tables(*counter.contexts.shape, tuple(passes), bins, flags, integers(shares))


class Counter:
    """Counts of each flag and of each trit in each context."""

    def __init__(self, contexts: Contexts, passes: Sequence[Pass]) -> None:
        check_sizes(*contexts.shape)
        check_passes(passes, contexts.shape[0])
        self.contexts, self.passes = contexts, np.array(passes, np.intp)
        self.flags: Totals = np.zeros((len(passes), 2), np.int64)
        self.trits: Totals = np.zeros((len(passes), contexts.rows, 3), np.int64)

    def add(self, symbols: NDArray[np.uint8]) -> None:
        """Count a batch (B, C, H, W) uint8, 7..249."""
        contexts = self.contexts
        batch = contexts.padded(symbols).swapaxes(0, 1)  # (C, B, places)
        energy = np.zeros((len(symbols), len(contexts.places)), np.uint16)
        for start in range(0, len(self.passes), CHUNK_PASSES):
            channels, planes = self.passes[start : start + CHUNK_PASSES].T
            lanes = batch[channels] + 256 * planes[:, None, None]  # (passes, B, places)
            keys = lanes.take(contexts.places, axis=2)
            live = contexts.moves.take(keys).any(axis=2)  # (passes, B)
            wakes = contexts.wakes.take(keys)
            after = energy + wakes.cumsum(axis=0, dtype=np.uint16)
            codes = contexts.codes(lanes[live], (after - wakes)[live])
            energy = after[-1]

            count = live.sum(axis=1)
            self.flags[start : start + len(live)] += np.stack([len(symbols) - count, count], axis=1)
            stride = 4 * contexts.rows
            keys = codes + stride * np.repeat(np.arange(len(live)), count)[:, None]
            found = np.bincount(keys.ravel(), minlength=stride * len(live)).reshape(len(live), -1, 4)
            self.trits[start : start + len(live)] += found[..., :3]


def smoothed(counts: Totals, planes: NDArray[np.intp], pull: float) -> Floats:
    """Turn counts (passes, rows, 3) into shares of 1, none of them 0."""
    by_plane = np.stack([counts[planes == plane].sum(axis=0) for plane in range(PLANES)])  # (5, rows, 3)
    plane = shares(by_plane.sum(axis=1), np.full((PLANES, 3), 1 / 3), 3.0)  # (5, 3)
    context = shares(by_plane, plane[:, None], pull)  # (5, rows, 3)
    own = shares(counts.sum(axis=1), plane[planes], pull)  # (passes, 3)
    guess = own[:, None] * context[planes] / plane[planes][:, None]
    return shares(counts, guess / guess.sum(axis=-1, keepdims=True), pull)


def shares(counts: Totals, guess: Floats, pull: float) -> Floats:
    """Turn counts (..., 3), and `pull` more distributed as `guess`, into shares of 1."""
    result: Floats = (counts + pull * guess) / (counts.sum(axis=-1, keepdims=True) + pull)
    return result


def integers(shares: Floats) -> NDArray[np.uint16]:
    """Round shares of 1 (..., n) to frequencies, each at least 1, that sum to 2^16."""
    whole = 1 + np.floor(shares * (TOTAL - shares.shape[-1])).astype(np.int64)
    rest = TOTAL - whole.sum(axis=-1, keepdims=True)
    largest = whole.argmax(axis=-1)[..., None]
    np.put_along_axis(whole, largest, np.take_along_axis(whole, largest, -1) + rest, -1)
    frequencies: NDArray[np.uint16] = whole.astype(np.uint16)
    return frequencies
