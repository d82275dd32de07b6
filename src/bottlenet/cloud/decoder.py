"""The server's half: a batch of frames to class scores. The one function that every way of serving scales out.

    frames --codec--> symbols (B, C, H, W) --tail.onnx--> scores (B, classes) --softmax--> answers

One frame that does not decode costs nobody else in the batch his answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from time import perf_counter_ns

import numpy as np
from numpy.typing import NDArray

from bottlenet.bundle import Bundle
from bottlenet.errors import BottleNetError, BundleError, FrameError, InputError, WireError
from bottlenet.runtime import Port, open_graph, run_graph
from bottlenet.wire.answer import Answer
from bottlenet.wire.codecs import CODES, Codec, make_codec
from bottlenet.wire.frame import Frame

TOP = 5
MAX_US = 2**32 - 1


@dataclass(frozen=True)
class Scored:
    """What came of a batch of B frames, in their order."""

    scores: NDArray[np.float32] = field(repr=False)  # (B, classes), logits; NaN where there is an error
    decode_us: tuple[int, ...]  # of each frame
    tail_us: int  # of the whole batch, which is what each photo in it waited for
    errors: tuple[WireError | None, ...]  # of each frame that does not decode


class Decoder:
    """Runs a bundle's codec and its tail. Safe to use from several threads.

    A frame says which codec and setting it was made with, and is decoded accordingly, whatever the bundle's own are:
    a device on a bad link may turn the quality down.

    BundleError: tail.onnx can't be loaded or run, or does not have the shapes that the manifest says.
    """

    def __init__(self, bundle: Bundle, threads: int = 1) -> None:
        self.bundle = bundle
        manifest = bundle.manifest
        takes = Port("symbols", "tensor(uint8)", manifest.latent)
        gives = Port("scores", "tensor(float)", (manifest.num_classes,))
        self._tail = open_graph(bundle.tail_path, takes, gives, threads)
        self._codec = lru_cache(maxsize=256)(self._make_codec)

    def decode(self, frames: Sequence[Frame]) -> NDArray[np.uint8]:
        """Frames -> symbols (B, C, H, W). FrameError, PayloadError: the first frame that does not decode."""
        symbols = np.empty((len(frames), *self.bundle.manifest.latent), np.uint8)
        for number, frame in enumerate(frames):
            symbols[number] = self._decode_one(frame)
        return symbols

    def scores(self, frames: Sequence[Frame]) -> Scored:
        """Frames -> scores; those that do not decode are left out of the run. BundleError: tail.onnx does not run."""
        symbols = np.empty((len(frames), *self.bundle.manifest.latent), np.uint8)
        errors: list[WireError | None] = [None] * len(frames)
        decode_us = []
        for number, frame in enumerate(frames):
            started = perf_counter_ns()
            try:
                symbols[number] = self._decode_one(frame)
            except WireError as error:
                errors[number] = error
            decode_us.append(microseconds_since(started))
        good = [number for number, error in enumerate(errors) if error is None]
        scores = np.full((len(frames), self.bundle.manifest.num_classes), np.nan, np.float32)
        started = perf_counter_ns()
        if good:
            scores[good] = run_graph(self._tail, symbols=symbols if len(good) == len(frames) else symbols[good])
        return Scored(scores, tuple(decode_us), microseconds_since(started) if good else 0, tuple(errors))

    def answers(self, frames: Sequence[Frame]) -> list[Answer | BottleNetError]:
        """Frames -> for each what to send back: the five best classes, or the error that says why there are none."""
        scored = self.scores(frames)
        answers: list[Answer | BottleNetError] = []
        for number, frame in enumerate(frames):
            error = scored.errors[number]
            scores = scored.scores[number]
            if error is not None:
                answers.append(error)
            elif not np.isfinite(scores).all():
                answers.append(BundleError("the network gave scores that are no numbers; export the bundle again"))
            else:
                answers.append(Answer(frame.sequence, scored.decode_us[number], scored.tail_us, best(scores)))
        return answers

    def _decode_one(self, frame: Frame) -> NDArray[np.uint8]:
        if frame.bundle_tag != self.bundle.tag:
            raise FrameError(
                f"frame is for bundle {frame.bundle_tag.hex()}, but this is bundle {self.bundle.tag.hex()}; "
                "use the same bundle on both sides"
            )
        return self._codec(frame.codec, frame.setting).decode(frame.payload)

    def _make_codec(self, code: int, setting: int) -> Codec:
        if code not in CODES:
            known = ", ".join(f"{number} ({name})" for number, name in CODES.items())
            raise FrameError(f"frame is of codec {code}; this server knows {known}")
        try:
            return make_codec(CODES[code], self.bundle.mosaic, setting, self.bundle.tables)
        except InputError as error:
            raise FrameError(f"frame can't be decoded: {error}") from error


def best(scores: NDArray[np.float32]) -> tuple[tuple[int, float], ...]:
    """The five largest of finite logits (classes,), best first, as (class index, probability)."""
    shares = np.exp(scores.astype(np.float64) - scores.max())
    shares /= shares.sum()
    order = np.argsort(-shares, kind="stable")[:TOP]
    return tuple((int(index), float(shares[index])) for index in order)


def microseconds_since(started_ns: int) -> int:
    """Whole ones, as an answer can hold them."""
    return min((perf_counter_ns() - started_ns) // 1000, MAX_US)
