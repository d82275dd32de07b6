"""The learned codec `entropy`: symbols as passes, most important first, and a payload that may be cut anywhere.

    symbols --contexts--> rows, outcomes --range coder--> payload --cut--> symbols_hat, coarser where it ends

A symbol stands for symbol - 128, which is -121..121 or five balanced trits with the steps 81, 27, 9, 3, 1. A *pass*
sends one trit, -1, 0 or 1, of every position of one channel, and takes its values from one step to the next finer
one. What a cut payload does not reach stays as coarse as it was, and 128 where nothing was sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from bottlenet.errors import InputError, PayloadError, WireError
from bottlenet.wire.contexts import MAX_VALUE, ZERO, Contexts, Counts, Lanes, known
from bottlenet.wire.latents import Latents
from bottlenet.wire.mosaic import Mosaic
from bottlenet.wire.range_coder import WHOLE, Intervals, Outcomes, Rows, make_decoder, make_encoder
from bottlenet.wire.tables import STEPS, TOTAL, Tables

CHUNK_PASSES = 48  # coded at once: enough to make numpy's overhead small, few enough to stop soon after a budget
RESERVED = 2  # the outcome of a flag that no encoder sends

Symbols = NDArray[np.uint8]
Sizes = NDArray[np.int64]


@dataclass(frozen=True)
class Entropy:
    """Embedded: any first bytes of a payload are a payload, of a coarser latent. `setting` is 0.

    Lossless for the planes that `tables` list, see `quantized`. Takes symbols from 7 to 249.

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
        """(C, H, W) uint8 -> payload; with `budget`, its first `budget` bytes, which takes less time than all.

        InputError: another shape or dtype, a symbol outside 7..249, a budget below 1.
        """
        self.mosaic.check(symbols)
        check_range(symbols)
        if budget is not None and (type(budget) is not int or budget < 1):
            raise InputError(f"entropy: budget is {budget!r} bytes; the smallest payload has 1")
        lanes = self._contexts.padded(symbols)
        energy: Counts = np.zeros(len(self._contexts.places), np.uint16)
        encoder = make_encoder(self._intervals)
        for start in range(0, len(self.tables.passes), CHUNK_PASSES):
            rows, outcomes, energy = self._decisions(lanes, energy, slice(start, start + CHUNK_PASSES))
            encoder.encode(rows, outcomes)
            if budget is not None and (cut := encoder.interval().certain(budget)) is not None:
                return cut
        return encoder.interval().shortest()[:budget]

    def decode(self, payload: bytes) -> Symbols:
        """Payload, whole or cut -> (C, H, W) uint8: exactly what is certain whatever bytes were cut off.

        PayloadError: no bytes, bytes after the end, or bytes that no encoder writes.
        """
        (found,) = self.decode_all([payload])
        return accepted(found)

    def decode_all(self, payloads: Sequence[bytes]) -> list[Symbols | PayloadError]:
        """The same of each: where latents are small, in less than half the time that they would take one by one."""
        refused: dict[int, PayloadError] = {
            number: PayloadError("entropy payload of 0 bytes; the smallest has 1")
            for number, payload in enumerate(payloads)
            if not payload
        }
        decoders = [make_decoder(self._intervals, payload) for payload in payloads]
        latents = Latents(self._contexts, len(payloads))

        def read(number: int, rows: Rows) -> Outcomes:
            try:
                return decoders[number].decode(rows)
            except PayloadError as error:
                refused[number] = error
                return rows[:0].astype(np.int32)

        going = [number for number in range(len(payloads)) if number not in refused]
        for pass_number, (channel, _) in enumerate(self.tables.passes):
            row = pass_number * self._pass_rows
            flags = [(number, read(number, self._row_numbers[row : row + 1]).tolist()) for number in going]
            for number, flag in flags:
                if flag == [RESERVED]:
                    size = len(payloads[number])
                    text = f"entropy payload of {size} bytes has a reserved flag in pass {pass_number}"
                    refused[number] = PayloadError(text)
            going = [number for number, flag in flags if flag == [0]]
            latents.deepen(channel, going)
            if live := [number for number, flag in flags if flag == [1]]:
                going = sorted(going + latents.refine(channel, live, read, row + 1))
            if not going:
                break
        for number in going:
            payload, needed = payloads[number], len(decoders[number].interval().shortest())
            if needed < len(payload):
                text = f"entropy payload has {len(payload) - needed} bytes after its end; send none"
                refused[number] = PayloadError(text)
        return [refused.get(number, symbols) for number, symbols in enumerate(latents.symbols())]

    def round_trip(self, symbols: Symbols) -> tuple[Symbols, Sizes]:
        """(B, C, H, W) uint8 -> what whole payloads decode to, and their bytes (B,) int64."""
        self.mosaic.check_batch(symbols)
        return self.quantized(symbols), np.array([len(self.encode(one)) for one in symbols], np.int64)

    def quantized(self, symbols: Symbols) -> Symbols:
        """(..., C, H, W) -> the same, rounded to the finest step that `tables` list for each channel."""
        check_range(symbols)
        return np.take(self._rounded, symbols + self._depth_keys)

    def _decisions(self, lanes: Lanes, energy: Counts, chunk: slice) -> tuple[Rows, Outcomes, Counts]:
        """Rows and outcomes of the passes in `chunk`, and the energy (H * W,), in coded order, after them."""
        contexts = self._contexts
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
        rows, outcomes = np.empty(sizes.sum(), np.intp), np.empty(sizes.sum(), np.int32)
        trits = np.ones(len(rows), bool)
        trits[flags] = False
        flag_rows = np.arange(chunk.start, chunk.start + len(live)) * self._pass_rows
        rows[flags], outcomes[flags] = flag_rows, live
        rows[trits] = ((codes >> 2) + (flag_rows[live, None] + 1)).ravel()
        outcomes[trits] = (codes & 3).ravel()
        return rows, outcomes, after[-1] if len(after) else energy

    @cached_property
    def _contexts(self) -> Contexts:
        return Contexts(*self.mosaic.symbols_shape, self.tables.bins)

    @cached_property
    def _intervals(self) -> Intervals:
        """Pass by pass: the flag's row, then those of the trits. A flag's last unit of 2^-24 is reserved."""
        cuts = np.empty((len(self.tables.passes), self._pass_rows, 2), np.int64)
        cuts[:, 0, 0] = self.tables.flags[:, 0]
        cuts[:, 1:] = self.tables.frequencies[..., :2].cumsum(axis=-1, dtype=np.int64)
        cuts *= WHOLE // TOTAL
        cuts[:, 0, 1] = WHOLE - 1
        return Intervals(cuts.reshape(-1, 2))

    @cached_property
    def _pass_rows(self) -> int:
        return 1 + self.tables.bins.rows

    @cached_property
    def _pass_arrays(self) -> NDArray[np.intp]:
        return np.array(self.tables.passes, np.intp)  # (passes, 2)

    @cached_property
    def _row_numbers(self) -> Rows:
        return np.arange(len(self._intervals.cuts))

    @cached_property
    def _rounded(self) -> Symbols:
        """((1 + 5) * 256,): symbol + 256 * planes known -> symbol."""
        steps = np.array([0, *STEPS])[:, None]
        values = np.concatenate([known(0)[:1], known(1)]) * steps
        rounded: Symbols = (values + ZERO).astype(np.uint8).ravel()
        return rounded

    @cached_property
    def _depth_keys(self) -> NDArray[np.intp]:
        return 256 * self.tables.depths[:, None, None]  # (C, 1, 1)


def accepted(found: Symbols | WireError) -> Symbols:
    """One of what `decode_all` gives. WireError: it is that."""
    if isinstance(found, WireError):
        raise found
    return found


def check_range(symbols: Symbols) -> None:
    """InputError unless all lie in 7..249."""
    low, high = ZERO - MAX_VALUE, ZERO + MAX_VALUE
    if symbols.size and not low <= symbols.min() <= symbols.max() <= high:
        raise InputError(
            f"entropy: symbols reach from {symbols.min()} to {symbols.max()}; give {low} to {high}: clip in the head"
        )
