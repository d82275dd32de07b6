"""The tables of the codec `entropy`: which passes are sent, in which order, and how likely every decision is.

    symbols --fit_tables--> Tables --to_bytes--> tables.bin, a file of the bundle --parse_tables--> Tables
    symbols --Contexts--> the row of `Tables.frequencies` that each trit takes

All tables hold integers, so that a payload is the same on every machine. docs/wire.md lays the file out byte by byte;
wire/entropy.py codes by it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import islice
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from bottlenet.errors import BundleError, InputError

STEPS = (81, 27, 9, 3, 1)  # of plane 0, 1, ...: five balanced trits reach from -121 to 121
PLANES = len(STEPS)
TOTAL = 2**16  # what the frequencies of one distribution sum to
MAX_THRESHOLDS = 15
MAX_U16 = 2**16 - 1
MAX_SYMBOLS = 2**24  # as wire.mosaic
MAX_TABLES_BYTES = 2**26
MAGIC = b"BNTB"
VERSION = 1
HEADER = struct.Struct(">4sB4H4B")  # magic, version, C, H, W, passes, thresholds of each kind

ZERO = 128  # the symbol that stands for 0
MAX_VALUE = 121
MAX_SUM = 8 * MAX_VALUE  # of the neighbours' magnitudes

Pass = tuple[int, int]  # (channel, plane)
Symbols = NDArray[np.uint8]
Lanes = NDArray[np.intp]
Counts = NDArray[np.uint16]
Floats = NDArray[np.float64]
Totals = NDArray[np.int64]


@dataclass(frozen=True)
class Bins:
    """Thresholds that cut the four contexts of a trit into few bins: rising, 1..65535, at most 15 of each kind.

    A value falls into the bin whose number is how many thresholds it reaches; `()` drops the context. With d the step
    of the pass, q_prev the value known before it and q the value known after it:

        state     |q_prev| / (3d) of the symbol itself
        even      sum of |q_prev| / (3d) over the 8 neighbours; only in the first half of a pass
        odd       sum of |q| / d over the 4 side neighbours; only in the second half
        energy    how many channels are known to be non-zero at this position before the pass

    InputError: thresholds that don't rise, are out of range or too many.
    """

    state: tuple[int, ...] = (1, 2)
    even: tuple[int, ...] = (1, 2, 3)
    odd: tuple[int, ...] = (1, 2, 3)
    energy: tuple[int, ...] = (1, 3, 6)

    def __post_init__(self) -> None:
        for item in fields(self):
            values: object = getattr(self, item.name)
            if not isinstance(values, tuple) or len(values) > MAX_THRESHOLDS or not rising(values):
                wanted = f"a tuple of at most {MAX_THRESHOLDS} rising integers from 1 to {MAX_U16}"
                raise InputError(f"tables: {item.name} thresholds are {values!s:.60}; give {wanted}")

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """Number of bins: state, even, odd, energy."""
        return len(self.state) + 1, len(self.even) + 1, len(self.odd) + 1, len(self.energy) + 1

    @property
    def rows(self) -> int:
        """Distributions of one pass: (state, even, energy) for the first half, then (state, odd, energy)."""
        state, even, odd, energy = self.sizes
        return state * (even + odd) * energy


@dataclass(frozen=True, eq=False)
class Tables:
    """Passes, contexts and frequencies of a bundle's symbols. Two are equal when their files are.

    `passes` lists (channel, plane) by importance. The planes of a channel come in order from 0 and without a gap;
    those that are not listed are never sent, and the receiver's symbols stay that coarse.

    InputError: sizes, passes, shapes or dtypes that are not allowed, or tables that don't sum up.
    """

    channels: int  # C, 1..65535
    height: int  # H
    width: int  # W
    passes: tuple[Pass, ...]  # 1..65535 of them
    bins: Bins
    flags: NDArray[np.uint16]  # (passes, 2): pass is all zero, or not; each at least 1, together 2^16
    frequencies: NDArray[np.uint16]  # (passes, bins.rows, 3) of trit -1, 0, 1; each at least 1, together 2^16

    def __post_init__(self) -> None:
        check_sizes(self.channels, self.height, self.width)
        check_passes(self.passes, self.channels)
        if tables_bytes(len(self.passes), self.bins) > MAX_TABLES_BYTES:
            what = f"{len(self.passes)} passes with {self.bins.rows} contexts take more than {MAX_TABLES_BYTES} bytes"
            raise InputError(f"tables: {what}; list fewer passes or fewer thresholds")
        shapes = {"flags": (len(self.passes), 2), "frequencies": (len(self.passes), self.bins.rows, 3)}
        for name, shape in shapes.items():
            values = np.array(getattr(self, name))  # a copy of our own
            check_distributions(name, values, shape)
            values.flags.writeable = False
            object.__setattr__(self, name, values)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tables) and self._bytes == other._bytes

    def __hash__(self) -> int:
        return hash(self._bytes)

    @cached_property
    def depths(self) -> NDArray[np.intp]:
        """Number of planes of each channel that are ever sent: (C,), 0..5."""
        return np.bincount([channel for channel, _ in self.passes], minlength=self.channels)

    @cached_property
    def _bytes(self) -> bytes:
        bins = self.bins
        thresholds = [*bins.state, *bins.even, *bins.odd, *bins.energy]
        counts = [len(bins.state), len(bins.even), len(bins.odd), len(bins.energy)]
        sizes = [self.channels, self.height, self.width, len(self.passes)]
        passes = b"".join(struct.pack(">HB", channel, plane) for channel, plane in self.passes)
        head = HEADER.pack(MAGIC, VERSION, *sizes, *counts) + np.array(thresholds, ">u2").tobytes()
        return head + passes + self.flags.astype(">u2").tobytes() + self.frequencies.astype(">u2").tobytes()

    def to_bytes(self) -> bytes:
        """Return the content of tables.bin."""
        return self._bytes


def parse_tables(data: bytes) -> Tables:
    """Parse the content of tables.bin. BundleError: not such a file, another length, or a value that is not allowed."""
    if len(data) < HEADER.size or not data.startswith(MAGIC):
        raise BundleError(f"tables of {len(data)} bytes are no tables of BottleNet; export the bundle again")
    _, version, channels, height, width, passes, *counts = HEADER.unpack_from(data)
    if version != VERSION:
        raise BundleError(f"tables are of version {version}, this program reads {VERSION}; export the bundle again")
    try:
        start = HEADER.size + 2 * sum(counts)
        if len(data) < start:
            raise InputError(f"tables of {len(data)} bytes end within their thresholds")
        thresholds = iter(struct.unpack_from(f">{sum(counts)}H", data, HEADER.size))
        bins = Bins(*(tuple(islice(thresholds, count)) for count in counts))
        if len(data) != tables_bytes(passes, bins):
            raise InputError(f"tables have {len(data)} bytes, but their header says {tables_bytes(passes, bins)}")
        listed = tuple(struct.iter_unpack(">HB", data[start : start + 3 * passes]))
        start += 3 * passes
        flags = np.frombuffer(data, ">u2", 2 * passes, start).astype(np.uint16)
        frequencies = np.frombuffer(data, ">u2", 3 * passes * bins.rows, start + 4 * passes).astype(np.uint16)
        shape = (passes, bins.rows, 3)
        return Tables(channels, height, width, listed, bins, flags.reshape(-1, 2), frequencies.reshape(shape))
    except InputError as error:
        raise BundleError(f"{error}; copy or export the bundle again") from error


def tables_bytes(passes: int, bins: Bins) -> int:
    """Compute the exact length of tables.bin."""
    thresholds = sum(bins.sizes) - 4
    return HEADER.size + 2 * thresholds + passes * (3 + 4 + 6 * bins.rows)


def rising(values: tuple[int, ...]) -> bool:
    """Return whether `values` are integers from 1 to 65535, each above the one before."""
    whole = all(type(value) is int and 1 <= value <= MAX_U16 for value in values)
    return whole and list(values) == sorted(set(values))


def check_sizes(channels: int, height: int, width: int) -> None:
    """Raise InputError unless the latent's sizes fit the file and the mosaic."""
    sizes = (channels, height, width)
    if not all(type(size) is int and 1 <= size <= MAX_U16 for size in sizes) or channels * height * width > MAX_SYMBOLS:
        wanted = f"sizes from 1 to {MAX_U16}, at most {MAX_SYMBOLS} together"
        raise InputError(f"tables are for {channels} x {height} x {width} symbols; give {wanted}")


def check_passes(passes: Sequence[Pass], channels: int) -> None:
    """Raise InputError unless every channel's planes come in order from 0, without a gap, each once."""
    if not 1 <= len(passes) <= MAX_U16:
        raise InputError(f"tables list {len(passes)} passes; give 1 to {MAX_U16}")
    following = [0] * channels
    for number, (channel, plane) in enumerate(passes):
        what = f"tables: pass {number} is channel {channel}, plane {plane}"
        if not (0 <= channel < channels and 0 <= plane < PLANES):
            raise InputError(f"{what}; channels are 0 to {channels - 1}, planes 0 to {PLANES - 1}")
        if plane != following[channel]:
            raise InputError(f"{what}, where plane {following[channel]} is due; list each once, coarse to fine")
        following[channel] += 1


def check_distributions(name: str, values: NDArray[np.uint16], shape: tuple[int, ...]) -> None:
    """Raise InputError unless `values` are uint16 of `shape`, at least 1, and sum to 2^16 along the last axis."""
    if values.dtype != np.uint16 or values.shape != shape:
        raise InputError(f"tables: {name} are {values.dtype} of shape {values.shape}; give uint16 of shape {shape}")
    if not values.all():
        raise InputError(f"tables: {name} hold a 0; each must be at least 1")
    sums = values.sum(axis=-1, dtype=np.int64)
    if (sums != TOTAL).any():
        raise InputError(f"tables don't sum up: {name} add up to {sums[sums != TOTAL][0]}; each must give {TOTAL}")


def check_range(symbols: Symbols) -> None:
    """Raise InputError unless all symbols lie in 7..249."""
    low, high = ZERO - MAX_VALUE, ZERO + MAX_VALUE
    if symbols.size and not low <= symbols.min() <= symbols.max() <= high:
        reach = f"{symbols.min()} to {symbols.max()}"
        raise InputError(f"entropy: symbols reach from {reach}; give {low} to {high}: clip in the head")


class Contexts:
    """Look-up tables for the contexts of trits: which row of the tables each trit takes, in latents of (C, H, W).

    A *lane* is one channel of one latent at one plane, padded by one position on each side, as numbers

        key = 256 * plane + symbol                                                    # (L, (H + 2) * (W + 2)) intp

    for then everything about the symbol alone (its trit, state, magnitude) is one look-up. Inside a lane the positions
    are coded in two halves like the fields of a chessboard: y + x even in reading order, then y + x odd.

    A *code* is 4 * row + trit + 1, uint16, with the trit multiplied by the sign of what is known before, and the row
    counted within the pass, behind its flag's.
    """

    def __init__(self, channels: int, height: int, width: int, bins: Bins) -> None:
        self.shape = (channels, height, width)
        self.rows = bins.rows
        y, x = np.indices((height, width))
        inside = ((y + 1) * (width + 2) + x + 1).ravel()  # places in a padded lane, in reading order
        odd = ((y + x) % 2).ravel().astype(bool)
        self.even_places, self.odd_places = inside[~odd], inside[odd]
        self.places = np.concatenate([self.even_places, self.odd_places])  # (H * W,) in coded order
        self.reading = np.concatenate([np.flatnonzero(~odd), np.flatnonzero(odd)])  # coded order -> reading order
        self.row_places = width + 2
        self.lane_places = (height + 2) * (width + 2)

        states, evens, odds, energies = bins.sizes
        magnitudes = np.arange(MAX_VALUE + 1)
        state = binned(magnitudes, bins.state)
        odd_base = states * evens * energies  # the first row of the second half
        # Each value says how far it moves the row; a row is their sum.
        self.state_even = (state * evens * energies).astype(np.uint16)
        self.state_odd = (state * odds * energies + odd_base).astype(np.uint16)
        self.activity_even = (binned(np.arange(MAX_SUM + 1), bins.even) * energies).astype(np.uint16)
        self.activity_odd = (binned(np.arange(MAX_SUM + 1), bins.odd) * energies).astype(np.uint16)
        self.energy = binned(np.arange(channels + 1), bins.energy).astype(np.uint16)

        before, after = known(0), known(1)  # (planes, 256)
        trit = (after - 3 * before) * np.where(before < 0, -1, 1)
        self.before = np.abs(before).astype(np.uint16).ravel()  # key -> |q_prev| / 3d
        self.after = np.abs(after).astype(np.uint16).ravel()  # key -> |q| / d
        self.moves = (trit != 0).ravel()  # key -> the trit is not 0
        self.wakes = ((before == 0) & (after != 0)).astype(np.uint16).ravel()  # key -> becomes non-zero
        self.code_even = (4 * self.state_even[self.before] + trit.ravel() + 1).astype(np.uint16)
        self.code_odd = (4 * self.state_odd[self.before] + trit.ravel() + 1).astype(np.uint16)

    @cached_property
    def halves(self) -> tuple[Half, Half]:
        """Tables for the decoder, of the positions with y + x even and of those with y + x odd."""
        even = (self.even_places, self.state_even, self.activity_even, self.energy)
        odd = (self.odd_places, self.state_odd, self.activity_odd, self.energy)
        return Half(*(each.tolist() for each in even)), Half(*(each.tolist() for each in odd))

    def padded(self, symbols: NDArray[np.uint8]) -> Lanes:
        """Convert symbols (..., C, H, W) to keys of plane 0, (..., C, (H + 2) * (W + 2)); a plane adds 256."""
        lead = symbols.shape[:-2]
        height, width = symbols.shape[-2:]
        keys = np.full((*lead, height + 2, width + 2), ZERO, np.intp)
        keys[..., 1:-1, 1:-1] = symbols
        return keys.reshape(*lead, self.lane_places)

    def codes(self, lanes: Lanes, energy: Counts) -> Counts:
        """Look up codes (L, H * W) for lanes (L, places) and the energy before each, (L, H * W), in coded order."""
        even = self.code_even.take(lanes.take(self.even_places, axis=1))
        odd = self.code_odd.take(lanes.take(self.odd_places, axis=1))
        even += 4 * self.activity_even.take(self.around(self.before.take(lanes)).take(self.even_places, axis=1))
        odd += 4 * self.activity_odd.take(self.beside(self.after.take(lanes)).take(self.odd_places, axis=1))
        codes: Counts = np.concatenate([even, odd], axis=1)
        codes += 4 * self.energy.take(energy)
        return codes

    def around(self, magnitudes: Counts) -> Counts:
        """Sum (..., places) over the 8 neighbours; values on the padding are meaningless."""
        flat, row = magnitudes.ravel(), self.row_places
        sums = np.zeros_like(flat)
        three = flat[:-2] + flat[1:-1]
        three += flat[2:]
        inner = sums[row + 1 : -row - 1]
        np.add(three[: -2 * row], three[2 * row :], out=inner)
        inner += three[row:-row]
        inner -= flat[row + 1 : -row - 1]
        return sums.reshape(magnitudes.shape)

    def beside(self, magnitudes: Counts) -> Counts:
        """Sum (..., places) over the 4 neighbours that share a side; values on the padding are meaningless."""
        flat, row = magnitudes.ravel(), self.row_places
        sums = np.zeros_like(flat)
        inner = sums[row + 1 : -row - 1]
        np.add(flat[1 : -2 * row - 1], flat[2 * row + 1 : -1], out=inner)
        inner += flat[row : -row - 2]
        inner += flat[row + 2 : -row]
        return sums.reshape(magnitudes.shape)


class Half(NamedTuple):
    """Look-up tables of one half of a pass, as lists, which a loop reads faster than arrays."""

    places: list[int]
    state: list[int]
    activity: list[int]
    energy: list[int]


def binned(values: NDArray[np.intp], thresholds: tuple[int, ...]) -> NDArray[np.intp]:
    """Count the thresholds that each value reaches."""
    return np.searchsorted(np.array(thresholds, np.intp), values, side="right")


def known(planes: int) -> NDArray[np.intp]:
    """Tabulate (5, 256) each symbol's value as known after `planes` more planes, in units of the last one's step.

    Row p is about plane p: 0 gives q_prev / 3d, 1 gives q / d. Steps are odd, so there is no tie to round.
    """
    values = np.clip(np.arange(256) - ZERO, -MAX_VALUE, MAX_VALUE)
    rows = [np.zeros(256, np.intp), *((values + step // 2) // step for step in STEPS)]
    return np.stack(rows[planes : planes + PLANES])


DEFAULT_BINS = Bins()
CHUNK_PASSES = 48  # counted at once, of a whole batch


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
    return cast(Floats, (counts + pull * guess) / (counts.sum(axis=-1, keepdims=True) + pull))


def integers(shares: Floats) -> NDArray[np.uint16]:
    """Round shares of 1 (..., n) to frequencies, each at least 1, that sum to 2^16."""
    whole = 1 + np.floor(shares * (TOTAL - shares.shape[-1])).astype(np.int64)
    rest = TOTAL - whole.sum(axis=-1, keepdims=True)
    largest = whole.argmax(axis=-1)[..., None]
    np.put_along_axis(whole, largest, np.take_along_axis(whole, largest, -1) + rest, -1)
    return cast(NDArray[np.uint16], whole.astype(np.uint16))
