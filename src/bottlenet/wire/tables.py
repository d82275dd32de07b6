"""The tables of the codec `entropy`: which passes are sent, in which order, and how likely every decision is.

    Tables --to_bytes--> tables.bin, a file of the bundle --parse_tables--> Tables

Everything in here is an integer, so that a payload is the same on every machine. docs/wire.md lays the file out byte
by byte; wire/fitting.py makes tables from symbols; wire/entropy.py uses them.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property

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

Pass = tuple[int, int]  # (channel, plane)


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
                raise InputError(
                    f"tables: {item.name} thresholds are {values!s:.60}; give a tuple of at most {MAX_THRESHOLDS} "
                    f"rising integers from 1 to {MAX_U16}"
                )

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
            raise InputError(
                f"tables: {len(self.passes)} passes with {self.bins.rows} contexts take more than {MAX_TABLES_BYTES} "
                f"bytes; list fewer passes or fewer thresholds"
            )
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
        return b"".join(
            (
                HEADER.pack(MAGIC, VERSION, *sizes, *counts),
                np.array(thresholds, ">u2").tobytes(),
                b"".join(struct.pack(">HB", channel, plane) for channel, plane in self.passes),
                self.flags.astype(">u2").tobytes(),
                self.frequencies.astype(">u2").tobytes(),
            )
        )

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
        bins = Bins(*read_thresholds(data, counts))
        if len(data) != tables_bytes(passes, bins):
            raise InputError(f"tables have {len(data)} bytes, but their header says {tables_bytes(passes, bins)}")
        start = HEADER.size + 2 * sum(counts)
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


def read_thresholds(data: bytes, counts: Sequence[int]) -> list[tuple[int, ...]]:
    """Read the lists of thresholds that follow the header. InputError: the data ends before."""
    if len(data) < HEADER.size + 2 * sum(counts):
        raise InputError(f"tables of {len(data)} bytes end within their thresholds")
    thresholds, start = [], HEADER.size
    for count in counts:
        thresholds.append(struct.unpack_from(f">{count}H", data, start))
        start += 2 * count
    return thresholds


def rising(values: tuple[int, ...]) -> bool:
    """Return whether `values` are integers from 1 to 65535, each above the one before."""
    whole = all(type(value) is int and 1 <= value <= MAX_U16 for value in values)
    return whole and list(values) == sorted(set(values))


def check_sizes(channels: int, height: int, width: int) -> None:
    """Raise InputError unless the latent's sizes fit the file and the mosaic."""
    sizes = (channels, height, width)
    if not all(type(size) is int and 1 <= size <= MAX_U16 for size in sizes) or channels * height * width > MAX_SYMBOLS:
        raise InputError(
            f"tables are for {channels} x {height} x {width} symbols; give sizes from 1 to {MAX_U16}, "
            f"at most {MAX_SYMBOLS} together"
        )


def check_passes(passes: Sequence[Pass], channels: int) -> None:
    """Raise InputError unless every channel's planes come in order from 0, without a gap, each once."""
    if not 1 <= len(passes) <= MAX_U16:
        raise InputError(f"tables list {len(passes)} passes; give 1 to {MAX_U16}")
    following = [0] * channels
    for number, (channel, plane) in enumerate(passes):
        if not (0 <= channel < channels and 0 <= plane < PLANES):
            raise InputError(
                f"tables: pass {number} is channel {channel}, plane {plane}; channels are 0 to {channels - 1}, "
                f"planes 0 to {PLANES - 1}"
            )
        if plane != following[channel]:
            raise InputError(
                f"tables: pass {number} is plane {plane} of channel {channel}, where plane {following[channel]} is due;"
                f" list each plane once, coarse to fine"
            )
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
