"""The learned codec `entropy`: symbols as passes, most important first, and a payload that can be truncated anywhere.

    symbols --Contexts--> cuts, outcomes --range coder--> payload --cut--> symbols_hat, coarser where it ends

A symbol stands for symbol - 128, which is -121..121 or five balanced trits with the steps 81, 27, 9, 3, 1. A *pass*
sends one trit, -1, 0 or 1, of every position of one channel, and takes its values from one step to the next finer
one. What a cut payload does not reach stays as coarse as it was, and 128 where nothing was sent.

This file defines the codec. If compiled.py has its library, that encodes and decodes to the same bytes in less time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bottlenet.errors import InputError, PayloadError, WireError
from bottlenet.wire import compiled
from bottlenet.wire.compiled import CompiledEntropy
from bottlenet.wire.mosaic import Mosaic
from bottlenet.wire.range_coder import WHOLE, Cuts, Interval, Outcomes, RangeDecoder, RangeEncoder, reserved_flag
from bottlenet.wire.tables import PLANES, STEPS, TOTAL, Bins, Tables

ZERO = 128  # the symbol that stands for 0
MAX_VALUE = 121
MAX_SUM = 8 * MAX_VALUE  # of the neighbours' magnitudes
CHUNK_PASSES = 144  # encoded at once: enough to make numpy's overhead small, few enough to stop soon after a budget
RESERVED = 2  # the outcome of a flag that no encoder sends

Symbols = NDArray[np.uint8]
Sizes = NDArray[np.int64]
Lanes = NDArray[np.intp]
Counts = NDArray[np.uint16]


@dataclass(frozen=True)
class Entropy:
    """Embedded codec: the first bytes of a payload are the payload of a coarser latent. `setting` is 0.

    It is lossless for the planes that `tables` list, see `quantized`, and takes symbols from 7 to 249.

    InputError: tables for latents of another size.
    """

    name: ClassVar[str] = "entropy"
    code: ClassVar[int] = 4
    setting: ClassVar[int] = 0
    embedded: ClassVar[bool] = True
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
        encode = self._encode if compiled.LIBRARY is None else self._compiled.encode
        return encode(symbols, budget).shortest()[:budget]

    def decode(self, payload: bytes) -> Symbols:
        """Decode a whole or truncated payload to (C, H, W) uint8, as far as the missing bytes can't change it.

        PayloadError: no bytes, bytes after the end, or bytes that no encoder writes.
        """
        if not payload:
            raise PayloadError("entropy payload of 0 bytes; the smallest has 1")
        symbols, interval = (self._decode if compiled.LIBRARY is None else self._compiled.decode)(payload)
        if interval is not None and (needed := len(interval.shortest())) < len(payload):
            raise PayloadError(f"entropy payload has {len(payload) - needed} bytes after its end; send none")
        return symbols

    def decode_all(self, payloads: Sequence[bytes]) -> list[Symbols | PayloadError]:
        """Decode several payloads; an error stands in the place of what does not decode."""
        found: list[Symbols | PayloadError] = []
        for payload in payloads:
            try:
                found.append(self.decode(payload))
            except PayloadError as error:
                found.append(error)
        return found

    def round_trip(self, symbols: Symbols) -> tuple[Symbols, Sizes]:
        """Return what whole payloads of (B, C, H, W) uint8 decode to, and payload bytes (B,) int64."""
        self.mosaic.check_batch(symbols)
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
                raise reserved_flag(payload, number)
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
        rounded: Symbols = (values + ZERO).astype(np.uint8).ravel()
        return rounded

    @cached_property
    def _depth_keys(self) -> NDArray[np.intp]:
        return 256 * self.tables.depths[:, None, None]  # (C, 1, 1)


def accepted(found: Symbols | WireError) -> Symbols:
    """Return an entry of `decode_all`, or raise it if it is an error."""
    if isinstance(found, WireError):
        raise found
    return found


def check_range(symbols: Symbols) -> None:
    """Raise InputError unless all symbols lie in 7..249."""
    low, high = ZERO - MAX_VALUE, ZERO + MAX_VALUE
    if symbols.size and not low <= symbols.min() <= symbols.max() <= high:
        raise InputError(
            f"entropy: symbols reach from {symbols.min()} to {symbols.max()}; give {low} to {high}: clip in the head"
        )


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
        outcomes = decoder.decode(
            [
                cuts[1 + state[before[at]] + activity[total] + energies[energy[at]]]
                for at, total in zip(half.places, sums, strict=True)
            ]
        )
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
