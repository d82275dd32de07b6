"""The learned codec `entropy`: symbols as passes, most important first, and a payload that can be truncated anywhere.

    symbols --Contexts--> cuts, outcomes --range coder--> payload --cut--> symbols_hat, coarser where it ends

A symbol stands for symbol - 128, which is -121..121 or five balanced trits with the steps 81, 27, 9, 3, 1. A *pass*
sends one trit, -1, 0 or 1, of every position of one channel, and takes its values from one step to the next finer
one. What a cut payload does not reach stays as coarse as it was, and 128 where nothing was sent.

`Entropy` defines the codec. entropy.c produces the same bytes dozens of times faster. hatch_build.py builds its library
if there is a C compiler; where that is missing, or of another entropy.c than the one beside it, LIBRARY is None.
"""

from __future__ import annotations

import ctypes
import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from bottlenet.errors import InputError, PayloadError
from bottlenet.wire.mosaic import Mosaic
from bottlenet.wire.range_coder import WHOLE, Cuts, Interval, Outcomes, RangeDecoder, RangeEncoder, bad_flag, leads_past
from bottlenet.wire.tables import STEPS, TOTAL, ZERO, Contexts, Counts, Half, Lanes, Symbols, Tables, check_range, known

NO_BUDGET = 2**31  # bytes, which no payload has, and any integer of C
CHUNK_PASSES = 144  # encoded at once: enough to make numpy's overhead small, few enough to stop soon after a budget
RESERVED = 2  # the outcome of a flag that no encoder sends

Sizes = NDArray[np.int64]


@dataclass(frozen=True)
class Entropy:
    """Embedded codec: the first bytes of a payload are the payload of a coarser latent. `setting` is 0.

    It is lossless for the planes that `tables` list, see `quantized`, and takes symbols from 7 to 249.

    InputError: tables for latents of another size.
    """

    name: ClassVar[str] = "entropy"
    code: ClassVar[int] = 4
    setting: ClassVar[int] = 0
    mosaic: Mosaic
    tables: Tables

    def __post_init__(self) -> None:
        shape, latent = (self.tables.channels, self.tables.height, self.tables.width), self.mosaic.symbols_shape
        if shape != latent:
            raise InputError(f"entropy: the tables are for symbols of shape {shape}, the latent has {latent}")

    def encode(self, symbols: Symbols, budget: int | None = None) -> bytes:
        """Encode (C, H, W) uint8 as a payload, or its first `budget` bytes, which takes less time.

        InputError: another shape or dtype, a symbol outside 7..249, a budget below 1.
        """
        self.mosaic.check(symbols)
        check_range(symbols)
        if budget is not None and (type(budget) is not int or budget < 1):
            raise InputError(f"entropy: budget is {budget!r} bytes; the smallest payload has 1")
        encode = self._encode if LIBRARY is None else self._compiled.encode
        return encode(symbols, budget).shortest()[:budget]

    def decode(self, payload: bytes) -> Symbols:
        """Decode a whole or truncated payload to (C, H, W) uint8, as far as the missing bytes can't change it.

        PayloadError: no bytes, bytes after the end, or bytes that no encoder writes.
        """
        if not payload:
            raise PayloadError("entropy payload of 0 bytes; the smallest has 1")
        symbols, interval = (self._decode if LIBRARY is None else self._compiled.decode)(payload)
        if interval is not None and (needed := len(interval.shortest())) < len(payload):
            raise PayloadError(f"entropy payload has {len(payload) - needed} bytes after its end; send none")
        return symbols

    def round_trip(self, symbols: Symbols) -> tuple[Symbols, Sizes]:
        """Return what whole payloads of (B, C, H, W) uint8 decode to, and payload bytes (B,) int64."""
        self.mosaic.check(symbols, batch=True)
        return self.quantized(symbols), np.array([len(self.encode(one)) for one in symbols], np.int64)

    def quantized(self, symbols: Symbols) -> Symbols:
        """Round symbols (..., C, H, W) to the finest step that `tables` list for each channel."""
        check_range(symbols)
        return np.take(self._rounded, symbols + self._depth_keys)

    def _encode(self, symbols: Symbols, budget: int | None) -> Interval:
        """Encode all passes, or as many as `budget` bytes need."""
        lanes = self._contexts.padded(symbols)
        energy: Counts = np.zeros(len(self._contexts.places), np.uint16)
        encoder = RangeEncoder(budget)
        for start in range(0, len(self.tables.passes), CHUNK_PASSES):
            rows, outcomes, energy = self._decisions(lanes, energy, slice(start, start + CHUNK_PASSES))
            encoder.encode(self._cuts.reshape(-1, 2).take(rows, axis=0), outcomes)
            if encoder.settled:
                break
        return encoder.interval()

    def _decisions(self, lanes: Lanes, energy: Counts, chunk: slice) -> tuple[Outcomes, Outcomes, Counts]:
        """Return rows and outcomes of the passes in `chunk`, and the energy (H * W,), in coded order, after them."""
        contexts, pass_rows = self._contexts, self._cuts.shape[1]
        channels, planes = self._pass_arrays[chunk].T
        lanes = lanes.take(channels, axis=0)  # (passes, places)
        lanes += 256 * planes[:, None]
        keys = lanes.take(contexts.places, axis=1)  # (passes, H * W) in coded order
        live = contexts.moves.take(keys).any(axis=1)  # (passes,): not all trits are 0
        wakes = contexts.wakes.take(keys[live])
        after = wakes.cumsum(axis=0, dtype=np.uint16)
        after += energy
        codes = contexts.codes(lanes[live], after - wakes)

        sizes = 1 + live * keys.shape[1]
        flags = sizes.cumsum() - sizes
        rows, outcomes = np.empty(sizes.sum(), np.intp), np.empty(sizes.sum(), np.intp)
        trits = np.ones(len(rows), bool)
        trits[flags] = False
        flag_rows = np.arange(chunk.start, chunk.start + len(live)) * pass_rows
        rows[flags], outcomes[flags] = flag_rows, live
        rows[trits] = ((codes >> 2) + (flag_rows[live, None] + 1)).ravel()
        outcomes[trits] = (codes & 3).ravel()
        return rows, outcomes, after[-1] if len(after) else energy

    def _decode(self, payload: bytes) -> tuple[Symbols, Interval | None]:
        """Decode what is certain; return the interval too if no pass is missing. PayloadError: not from an encoder."""
        decoder, latent = RangeDecoder(payload), Latent(self._contexts)
        for number, (channel, _) in enumerate(self.tables.passes):
            cuts: list[list[int]] = self._cuts[number].tolist()
            flag = decoder.decode(cuts[:1])
            if flag == [RESERVED]:
                raise bad_flag(payload, number)
            if not flag or not latent.refine(channel, flag == [1], cuts, decoder):
                return latent.symbols(), None
        return latent.symbols(), decoder.interval()

    @cached_property
    def _contexts(self) -> Contexts:
        return Contexts(*self.mosaic.symbols_shape, self.tables.bins)

    @cached_property
    def _cuts(self) -> Cuts:
        """Cuts (passes, rows, 2): the flag's row, then those of the trits. A flag's last unit of 2^-24 is reserved."""
        cuts = np.empty((len(self.tables.passes), 1 + self.tables.bins.rows, 2), np.uint32)
        cuts[:, 0, 0] = self.tables.flags[:, 0]
        cuts[:, 1:] = self.tables.frequencies[..., :2].cumsum(axis=-1, dtype=np.uint32)
        cuts *= WHOLE // TOTAL
        cuts[:, 0, 1] = WHOLE - 1
        return cuts

    @cached_property
    def _compiled(self) -> CompiledEntropy:
        contexts, (pass_channel, pass_plane) = self._contexts, self._pass_arrays.T
        arrays = {
            "pass_channel": pass_channel,
            "pass_plane": pass_plane,
            "cuts": self._cuts,
            "places": contexts.places,
            "reading": contexts.reading,
            "known": known(1),
            "state": (contexts.state_even, contexts.state_odd),
            "activity": (contexts.activity_even, contexts.activity_odd),
            "energy": contexts.energy,
        }
        return CompiledEntropy(self.mosaic.symbols_shape, len(contexts.even_places), arrays)

    @cached_property
    def _pass_arrays(self) -> NDArray[np.intp]:
        return np.array(self.tables.passes, np.intp)  # (passes, 2)

    @cached_property
    def _rounded(self) -> Symbols:
        """Map symbol + 256 * planes known to the rounded symbol: ((1 + 5) * 256,)."""
        steps = np.array([0, *STEPS])[:, None]
        values = np.concatenate([known(0)[:1], known(1)]) * steps
        return cast(Symbols, (values + ZERO).astype(np.uint8).ravel())

    @cached_property
    def _depth_keys(self) -> NDArray[np.intp]:
        return 256 * self.tables.depths[:, None, None]  # (C, 1, 1)


class Latent:
    """State of a decoder: magnitudes and signs, in lanes, of each channel that is not all 0."""

    def __init__(self, contexts: Contexts) -> None:
        self._contexts = contexts
        self._lanes: dict[int, tuple[list[int], list[int]]] = {}  # magnitudes are in units of the channel's last step
        self._depths = [0] * contexts.shape[0]  # planes known
        self._energy = [0] * contexts.lane_places  # channels that are not 0 there

    def refine(self, channel: int, live: bool, cuts: list[list[int]], decoder: RangeDecoder) -> bool:
        """Decode a pass, whose trits are all 0 unless `live`; return whether all of them were certain."""
        self._depths[channel] += 1
        if channel in self._lanes:
            before, signs = self._lanes[channel]
        elif live:
            before, signs = [0] * len(self._energy), [0] * len(self._energy)
        else:
            return True
        after = [3 * magnitude for magnitude in before]
        self._lanes[channel] = after, signs
        if not live:
            return True
        even, odd = self._contexts.halves
        up, down = -self._contexts.row_places, self._contexts.row_places
        sums = [
            before[up + at - 1] + before[up + at] + before[up + at + 1] + before[at - 1]
            + before[at + 1] + before[down + at - 1] + before[down + at] + before[down + at + 1]
            for at in even.places
        ]  # fmt: skip
        if not self._receive(even, sums, before, self._lanes[channel], cuts, decoder):
            return False
        sums = [after[up + at] + after[at - 1] + after[at + 1] + after[down + at] for at in odd.places]
        return self._receive(odd, sums, before, self._lanes[channel], cuts, decoder)

    def _receive(
        self,
        half: Half,
        sums: list[int],
        before: list[int],
        lanes: tuple[list[int], list[int]],
        cuts: list[list[int]],
        decoder: RangeDecoder,
    ) -> bool:
        """Decode one half, given the sums over its neighbours; return whether all trits were certain."""
        state, activity, energy, energies = half.state, half.activity, self._energy, half.energy
        places = zip(half.places, sums, strict=True)
        rows = [cuts[1 + state[before[at]] + activity[total] + energies[energy[at]]] for at, total in places]
        outcomes = decoder.decode(rows)
        after, signs = lanes
        for at, outcome in zip(half.places, outcomes, strict=False):
            if before[at]:
                after[at] += outcome - 1
            elif outcome != 1:
                after[at], signs[at] = 1, outcome - 1
                energy[at] += 1
        return len(outcomes) == len(sums)

    def symbols(self) -> Symbols:
        """Return the latent (C, H, W) as far as it is known."""
        channels, height, width = self._contexts.shape
        symbols = np.full((channels, height * width), ZERO, np.uint8)
        for channel, (magnitudes, signs) in self._lanes.items():
            values = np.array(magnitudes)[self._contexts.places] * np.array(signs)[self._contexts.places]
            symbols[channel, self._contexts.reading] = ZERO + values * STEPS[self._depths[channel] - 1]
        return symbols.reshape(self._contexts.shape)


SOURCE = Path(__file__).with_name("entropy.c")
BUILT = Path(__file__).with_name("_entropy.so")
POINTER, INT32, INT64 = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64
COMPLETE, PAST, FLAG, FULL = 0, -2, -3, -4  # of the enum in entropy.c
PAIRS = ("state", "activity")  # one array for each half of a pass
ARRAYS: dict[str, type[np.generic]] = {  # in the order of entropy.c
    "pass_channel": np.int32,
    "pass_plane": np.int32,
    "cuts": np.uint32,
    "places": np.int32,
    "reading": np.int32,
    "known": np.int16,
    "state": np.uint16,
    "activity": np.uint16,
    "energy": np.uint16,
}


class TablesStruct(ctypes.Structure):
    """`Tables` of entropy.c."""

    _fields_ = (
        *((name, INT32) for name in ("channels", "area", "lane", "row", "passes", "pass_rows", "evens")),
        *((name, POINTER * 2 if name in PAIRS else POINTER) for name in ARRAYS),
    )


class CompiledEntropy:
    """Encoder and decoder for symbols of `shape` (C, H, W). Safe to use from several threads."""

    def __init__(self, shape: tuple[int, int, int], evens: int, arrays: dict[str, Any]) -> None:
        """Keep the ARRAYS, two for each name in PAIRS; `evens` positions of a channel are in the first half."""
        self._arguments = shape, evens, arrays
        channels, height, width = shape
        lane = (height + 2) * (width + 2)
        self._shape, self._area = shape, height * width
        self._work_size = channels * (2 * lane + 1) + 2 * lane
        passes, pass_rows = arrays["cuts"].shape[:2]
        self._struct = TablesStruct(channels, height * width, lane, width + 2, passes, pass_rows, evens)
        self._kept: list[NDArray[Any]] = []  # what the struct points to
        for name, dtype in ARRAYS.items():
            one = [np.ascontiguousarray(each, dtype) for each in (arrays[name] if name in PAIRS else [arrays[name]])]
            pointers = [each.ctypes.data for each in one]
            setattr(self._struct, name, (POINTER * 2)(*pointers) if name in PAIRS else pointers[0])
            self._kept += one
        self._tables = ctypes.addressof(self._struct)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle as the arguments, because pointers can't be copied."""
        return CompiledEntropy, self._arguments

    def encode(self, symbols: NDArray[np.uint8], budget: int | None) -> Interval:
        """Encode all passes, or as many as `budget` bytes need."""
        assert LIBRARY is not None
        symbols, state = np.ascontiguousarray(symbols), np.empty(2, np.uint64)
        budget = min(budget or 0, NO_BUDGET)
        count, capacity = FULL, min(budget or symbols.size, symbols.size) // 4 + 2 * self._area + 64
        while count == FULL:
            capacity *= 2
            work, words = np.zeros(self._work_size, np.int16), np.empty(capacity, np.uint32)
            pointers = symbols.ctypes.data, budget, work.ctypes.data, words.ctypes.data
            count = LIBRARY.bottlenet_encode(self._tables, *pointers, capacity, state.ctypes.data)
        low, width = state.tolist()
        return Interval.behind(words[:count].astype(">u4").tobytes(), low, width)

    def decode(self, payload: bytes) -> tuple[NDArray[np.uint8], Interval | None]:
        """Decode what is certain; return the interval too if no pass is missing. PayloadError: not from an encoder."""
        assert LIBRARY is not None
        symbols, work = np.empty(self._shape, np.uint8), np.zeros(self._work_size, np.int16)
        state = np.empty(4, np.uint64)
        pointers = work.ctypes.data, symbols.ctypes.data, state.ctypes.data
        status = LIBRARY.bottlenet_decode(self._tables, payload, len(payload), *pointers)
        pass_number, *window = state.tolist()
        if status == PAST:
            raise leads_past(payload)
        if status == FLAG:
            raise bad_flag(payload, pass_number)
        return symbols, Interval.before(payload, *window) if status == COMPLETE else None


def load_library(built: Path = BUILT, source: Path = SOURCE) -> ctypes.CDLL | None:
    """Load the library; return None if it is missing, for another machine, or built from another source."""
    try:
        library = ctypes.CDLL(str(built))
        digest = (ctypes.c_char * 65).in_dll(library, "bottlenet_source").value.decode()
        if digest != hashlib.sha256(source.read_bytes()).hexdigest():
            return None
    except (OSError, ValueError):  # no such file, or no such name in it
        return None
    library.bottlenet_encode.argtypes = (POINTER, POINTER, INT64, POINTER, POINTER, INT64, POINTER)
    library.bottlenet_decode.argtypes = (POINTER, ctypes.c_char_p, INT64, POINTER, POINTER, POINTER)
    library.bottlenet_encode.restype = library.bottlenet_decode.restype = INT64
    return library


LIBRARY = load_library()
