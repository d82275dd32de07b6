"""Latents and tables for the tests of the codec `entropy`, and a second implementation of its contexts, without numpy's
help, as docs/wire.md words them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bottlenet.wire.entropy import Entropy
from bottlenet.wire.mosaic import Mosaic
from bottlenet.wire.tables import PLANES, STEPS, Bins, Tables

# docs/wire.md: the golden tables and symbols.
GOLDEN_BINS = Bins(state=(1, 2), even=(1, 4), odd=(2, 6), energy=(1, 2))
GOLDEN_PASSES = tuple((channel, plane) for plane in range(PLANES) for channel in (1, 0))
GOLDEN_SYMBOLS = (128 + 10 * np.array([1, 2])[:, None, None] * (np.indices((4, 4))[0] - np.indices((4, 4))[1])).astype(
    np.uint8
)


def golden_tables() -> Tables:
    number, row = np.arange(len(GOLDEN_PASSES)), np.arange(GOLDEN_BINS.rows)
    minus = 9000 + 100 * row + 10 * number[:, None]
    plus = 12000 + 50 * row + 20 * number[:, None]
    zero = 20000 + 1000 * number
    return Tables(
        *GOLDEN_SYMBOLS.shape,
        GOLDEN_PASSES,
        GOLDEN_BINS,
        np.stack([zero, 65536 - zero], -1).astype(np.uint16),
        np.stack([minus, 65536 - minus - plus, plus], -1).astype(np.uint16),
    )


def flat_tables(channels: int, height: int, width: int, bins: Bins = GOLDEN_BINS) -> Tables:
    """Every pass, plane by plane, and every outcome as likely as the others."""
    passes = tuple((channel, plane) for plane in range(PLANES) for channel in range(channels))
    flags = np.full((len(passes), 2), 2**15, np.uint16)
    frequencies = np.broadcast_to(np.array([21845, 21846, 21845], np.uint16), (len(passes), bins.rows, 3))
    return Tables(channels, height, width, passes, bins, flags, frequencies)


def random_tables(generator: np.random.Generator, channels: int, height: int, width: int) -> Tables:
    """Anything that is allowed: some passes in any order, any bins, frequencies from 1 to 65534."""
    depths = generator.integers(0, PLANES + 1, channels)
    depths[generator.integers(channels)] = PLANES  # at least one pass
    following = np.zeros(channels, int)
    passes = []
    for channel in generator.permutation(np.repeat(np.arange(channels), depths)):
        passes.append((int(channel), int(following[channel])))
        following[channel] += 1
    kinds = (
        tuple(int(each) for each in np.unique(generator.integers(1, high, generator.integers(0, 4))))
        for high in (5, 12, 12, channels + 2)
    )
    bins = Bins(*kinds)
    flags = 1 + generator.integers(0, 65534, len(passes)) * generator.integers(0, 2, len(passes))
    weights = generator.random((len(passes), bins.rows, 3)) ** generator.choice([1, 20])
    shares = weights / weights.sum(-1, keepdims=True)
    frequencies = 1 + np.floor(shares * 65533).astype(int)
    frequencies[..., 1] += 65536 - frequencies.sum(-1)
    return Tables(
        channels,
        height,
        width,
        tuple(passes),
        bins,
        np.stack([flags, 65536 - flags], -1).astype(np.uint16),
        frequencies.astype(np.uint16),
    )


def random_symbols(generator: np.random.Generator, channels: int, height: int, width: int) -> np.ndarray:
    """(C, H, W) uint8, 7..249: from silence to noise."""
    spread = 121 * generator.random((channels, 1, 1)) ** generator.choice([1, 4, 30])
    values = np.clip(np.round(spread * generator.standard_normal((channels, height, width))), -121, 121)
    symbols: np.ndarray = (values + 128).astype(np.uint8)
    return symbols


def random_entropy(seed: int, largest: int = 5) -> tuple[Entropy, np.ndarray]:
    """A codec and a latent that go together."""
    generator = np.random.default_rng(seed)
    shape = tuple(int(each) for each in generator.integers(1, largest + 1, 3))
    return Entropy(Mosaic(*shape), random_tables(generator, *shape)), random_symbols(generator, *shape)


def realistic_latents(seed: int, count: int, channels: int, height: int, width: int) -> np.ndarray:
    """(B, C, H, W) uint8: smooth, a few strong channels and many weak ones, busy and calm places."""
    generator = np.random.default_rng(seed)
    noise = generator.standard_normal((count, channels, height + 1, width + 1))
    smooth = noise[..., 1:, 1:] + noise[..., :-1, 1:] + noise[..., 1:, :-1]
    scale = np.exp(np.linspace(2.7, -3, channels))[:, None, None]
    busy = np.exp(0.8 * generator.standard_normal((count, 1, height, width)))
    latents: np.ndarray = (np.clip(np.round(smooth * scale * busy), -121, 121) + 128).astype(np.uint8)
    return latents


def decisions(symbols: np.ndarray, tables: Tables) -> Iterator[tuple[int, int, int | None, tuple[int, int, int]]]:
    """Every decision in order: (row, outcome, index of the symbol or None for a flag, what it is known as after)."""
    channels, height, width = symbols.shape
    value = {at: int(symbols[at]) - 128 for at in np.ndindex(symbols.shape)}
    known = dict.fromkeys(value, 0)
    bins = tables.bins
    states, evens, odds, energies = bins.sizes

    def total(values: dict[tuple[int, int, int], int], places: list[tuple[int, int]]) -> int:
        return sum(abs(values.get((channel, *place), 0)) for place in places)

    def bin_of(amount: int, thresholds: tuple[int, ...]) -> int:
        return sum(amount >= threshold for threshold in thresholds)

    for number, (channel, plane) in enumerate(tables.passes):
        step = STEPS[plane]
        rounded = {(y, x): round(value[channel, y, x] / step) * step for y in range(height) for x in range(width)}
        zero = all(rounded[y, x] == known[channel, y, x] for y, x in rounded)
        first_row = number * (1 + bins.rows)
        yield first_row, int(not zero), None, (0, 0, 0)
        if zero:
            continue
        earlier = dict(known)
        energy = {(y, x): sum(known[each, y, x] != 0 for each in range(channels)) for y, x in rounded}
        for half in (0, 1):
            for y, x in sorted(rounded):
                if (y + x) % 2 != half:
                    continue
                before = known[channel, y, x]
                state = bin_of(abs(before) // (3 * step), bins.state)
                if half == 0:
                    around = [(y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)]
                    activity = bin_of(total(earlier, around) // (3 * step), bins.even)
                    row = (state * evens + activity) * energies
                else:
                    beside = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
                    activity = bin_of(total(known, beside) // step, bins.odd)
                    row = states * evens * energies + (state * odds + activity) * energies
                row += bin_of(energy[y, x], bins.energy)
                trit = (rounded[y, x] - before) // step * (-1 if before < 0 else 1)
                known[channel, y, x] = rounded[y, x]
                yield first_row + 1 + row, trit + 1, number, (channel, y, x)
