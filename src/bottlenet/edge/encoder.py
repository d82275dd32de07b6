"""The device's half: photo to frame.

    photo --prepare--> pixels --head.onnx--> symbols --codec--> payload, in a frame

Every step is timed, as a planner wants to know where the time goes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from bottlenet.bundle import Bundle
from bottlenet.errors import InputError
from bottlenet.photo import Source, Square, photo_to_crop, photo_to_pixels
from bottlenet.runtime import open_head, run_graph
from bottlenet.wire.budget import encode_within
from bottlenet.wire.contexts import ZERO
from bottlenet.wire.frame import HEADER_BYTES, Frame


@dataclass(frozen=True)
class Encoded:
    """One photo, ready to be sent, and what it took."""

    frame: Frame
    symbols: NDArray[np.uint8] = field(repr=False)  # (C, H, W)
    prepare_ms: float  # read, decode, crop, resize
    head_ms: float
    encode_ms: float  # symbols to payload
    square: Square | None = None  # what of the photo the head saw


class Encoder:
    """Runs the head of a bundle and its codec. Safe to use from several threads.

    With `budget_bytes` no frame is larger than that, header of 12 bytes included: 340 is one Iridium SBD message, 222
    and 51 are LoRaWAN payloads. What the bundle's codec makes too large is made again, coarser. Without it the bundle's
    own budget holds, if it has one.

    BundleError: head.onnx can't be loaded or run, or does not have the shapes that the manifest says. InputError: a
    budget that leaves no room for a payload.
    """

    def __init__(self, bundle: Bundle, threads: int = 1, *, budget_bytes: int | None = None) -> None:
        if budget_bytes is not None and budget_bytes <= HEADER_BYTES:
            raise InputError(
                f"a budget of {budget_bytes} bytes has no room beside the frame's header of {HEADER_BYTES}; give "
                f"{HEADER_BYTES + 1} or more"
            )
        self.bundle = bundle
        own = bundle.manifest.budget_bytes
        self._payload_limit = budget_bytes - HEADER_BYTES if budget_bytes is not None else own or None
        self._head = open_head(bundle, threads)
        # as the graph is: the first photo is not slower
        bundle.codec.encode(np.full(bundle.manifest.latent, ZERO, np.uint8))

    def symbols(self, photo: Source) -> NDArray[np.uint8]:
        """Photo -> (C, H, W) uint8. PhotoError: see `bottlenet.photo.read_photo`."""
        return self._run_head(photo_to_pixels(photo, self.bundle.manifest.preprocess))

    def encode(self, photo: Source, sequence: int = 0) -> Encoded:
        """Photo -> frame with that sequence number, 0..65535.

        PhotoError: see `bottlenet.photo.read_photo`. InputError: not even the coarsest frame fits the budget.
        """
        started = perf_counter()
        preprocess = self.bundle.manifest.preprocess
        pixels, square = photo_to_crop(photo, preprocess)
        prepared = perf_counter()
        symbols = self._run_head(pixels)
        ran = perf_counter()
        frame = self._pack(symbols, sequence)
        encoded = perf_counter()
        return Encoded(
            frame,
            symbols,
            prepare_ms=(prepared - started) * 1e3,
            head_ms=(ran - prepared) * 1e3,
            encode_ms=(encoded - ran) * 1e3,
            square=square,
        )

    def _pack(self, symbols: NDArray[np.uint8], sequence: int) -> Frame:
        """(C, H, W) -> frame, within the budget."""
        codec, limit = self.bundle.codec, self._payload_limit
        if limit is None:
            return Frame(codec.code, codec.setting, self.bundle.tag, sequence, codec.encode(symbols))
        try:
            within = encode_within(codec, symbols, limit)
        except InputError as error:
            whole = limit + HEADER_BYTES
            raise InputError(f"no frame fits {whole} bytes, {HEADER_BYTES} of them its header: {error}") from error
        assert len(within.payload) <= limit, "a payload above the budget"
        return Frame(within.codec, within.setting, self.bundle.tag, sequence, within.payload)

    def _run_head(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(size, size, 3) -> (C, H, W)."""
        symbols: NDArray[np.uint8] = run_graph(self._head, pixels=pixels[None])[0]
        return symbols
