"""The server's half: a batch of frames to answers. The one function that every way of serving scales out.

    frames       --codec--> symbols (B, C, H, W) --tail.onnx--> scores (B, classes) --task--> answers
    whole photos --decode, crop, resize--> pixels --uncut.onnx--> scores --task--> answers

A classifier gives scores; what another task gives in their place stands in `task.py`. A frame that does not decode
costs no other frame of the batch its answer.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from time import perf_counter_ns
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bottlenet.bundle import Bundle
from bottlenet.errors import BottleNetError, BundleError, FrameError, InputError, PayloadError, PhotoError, WireError
from bottlenet.photo import photo_to_pixels
from bottlenet.runtime import InferenceSession, open_tail, open_uncut, run_graph
from bottlenet.task import Port, Task, answer_of
from bottlenet.wire.answer import NO_NUMBERS, Answer, microseconds
from bottlenet.wire.frame import NETWORK_INPUT, WHOLE_PHOTO, Frame
from bottlenet.wire.pictures import decode


@dataclass(frozen=True)
class Scored:
    """The scores of a batch of B frames, in their order, and the times of the batch: each photo in it waits for all."""

    # (B, classes), logits, or what the task has; blank where there is an error
    scores: NDArray[Any] = field(repr=False)
    decode_us: int
    tail_us: int
    errors: tuple[WireError | None, ...]  # of each frame that does not decode


class Decoder:
    """Runs a bundle's tail, and the codec and setting that a frame names. Safe to use from several threads.

    BundleError: tail.onnx can't be loaded or run, or does not have the shapes that the manifest says.
    """

    def __init__(self, bundle: Bundle, threads: int = 1) -> None:
        self.bundle = bundle
        self._tail = open_tail(bundle, threads)
        self._codec = lru_cache(maxsize=256)(bundle.codec_of)

    def decode(self, frame: Frame) -> NDArray[np.uint8]:
        """Decode a frame to symbols (C, H, W). FrameError, PayloadError: it does not decode."""
        if frame.bundle_tag != self.bundle.tag:
            what = f"frame is for bundle {frame.bundle_tag.hex()}, but this is bundle {self.bundle.tag.hex()}"
            raise FrameError(f"{what}; use the same bundle on both sides")
        return self._codec(frame.codec, frame.setting).decode(frame.payload)

    def scores(self, frames: Sequence[Frame]) -> Scored:
        """Score frames; those that do not decode are left out of the run. BundleError: tail.onnx does not run."""
        manifest = self.bundle.manifest
        return scored(frames, self.decode, manifest.latent, self._tail, "symbols", manifest.output)

    def answers(self, frames: Sequence[Frame]) -> list[Answer | BottleNetError]:
        return answers_of(frames, self.scores(frames), self.bundle.manifest.task)


def scored(
    frames: Sequence[Frame],
    decode: Callable[[Frame], NDArray[np.uint8]],
    shape: tuple[int, ...],
    graph: InferenceSession,
    name: str,
    output: Port,
) -> Scored:
    """Score frames: `decode` makes one input (*shape) of a frame, `graph` an `output` of (B, *shape) as its `name`."""
    inputs = np.empty((len(frames), *shape), np.uint8)
    errors: list[WireError | None] = [None] * len(frames)
    started = perf_counter_ns()
    for number, frame in enumerate(frames):
        try:
            inputs[number] = decode(frame)
        except WireError as error:
            errors[number] = error
    decoded = perf_counter_ns()
    good = [number for number, error in enumerate(errors) if error is None]
    if len(good) == len(frames):
        scores = run_graph(graph, **{name: inputs})
    else:
        scores = output.blank(len(frames))
        if good:
            scores[good] = run_graph(graph, **{name: inputs[good]})
    tail_us = microseconds(perf_counter_ns() - decoded) if good else 0
    return Scored(scores, microseconds(decoded - started), tail_us, tuple(errors))


def answers_of(frames: Sequence[Frame], batch: Scored, task: Task) -> list[Answer | BottleNetError]:
    """Make an answer for each frame, or the error that says why there is none."""
    answers: list[Answer | BottleNetError] = []
    for frame, error, found in zip(frames, batch.errors, task.results(batch.scores), strict=True):
        if error is not None:
            answers.append(error)
        elif found is None:
            answers.append(BundleError(NO_NUMBERS))
        else:
            answers.append(answer_of(frame.sequence, batch.decode_us, batch.tail_us, found))
    return answers


MAX_PIXELS = 25_000_000  # of a photo that anybody may send


class Photos:
    """Runs a bundle's whole network, loaded with the first photo, on picture files. For several threads."""

    def __init__(self, bundle: Bundle, threads: int = 1) -> None:
        self.bundle = bundle
        self._threads = threads
        self._lock = threading.Lock()
        self._uncut: InferenceSession | None = None

    def answers(self, frames: Sequence[Frame]) -> list[Answer | BottleNetError]:
        manifest = self.bundle.manifest
        try:
            with self._lock:
                uncut = self._uncut = self._uncut or open_uncut(self.bundle, self._threads)
        except InputError:
            text = f"bundle {manifest.name} has no whole network on this server; send frames of its head"
            return [FrameError(text) for _ in frames]
        size = manifest.uncut_preprocess.size
        batch = scored(frames, self.pixels, (size, size, 3), uncut, "pixels", manifest.output)
        return answers_of(frames, batch, manifest.task)

    def pixels(self, frame: Frame) -> NDArray[np.uint8]:
        """Decode a picture to (size, size, 3), uint8. PayloadError: it can't be. FrameError: unknown setting."""
        preprocess = self.bundle.manifest.uncut_preprocess
        if frame.setting == NETWORK_INPUT:
            return decode(frame.payload, preprocess.size)
        if frame.setting != WHOLE_PHOTO:
            known = f"{WHOLE_PHOTO} (a photo) and {NETWORK_INPUT} (the network's input)"
            raise FrameError(f"photo frame of setting {frame.setting}; this side knows {known}")
        try:
            return photo_to_pixels(frame.payload, preprocess, max_pixels=MAX_PIXELS)
        except PhotoError as error:
            raise PayloadError(str(error)) from error
