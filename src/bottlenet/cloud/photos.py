"""Whole photos, for devices that leave all of the network to the server.

    picture file --decode, and crop and resize where it is a photo--> pixels --uncut.onnx--> scores --task--> answer

It is made when the first photo comes: most devices send frames, and the whole network takes memory.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from time import perf_counter_ns

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from bottlenet.bundle import Bundle
from bottlenet.cloud.decoder import Made, answers_of, scored
from bottlenet.errors import BottleNetError, FrameError, InputError, PayloadError, PhotoError, WireError
from bottlenet.photo import photo_to_pixels
from bottlenet.runtime import open_uncut, run_graph
from bottlenet.wire.answer import Answer
from bottlenet.wire.frame import Frame
from bottlenet.wire.inputs import decode
from bottlenet.wire.protocol import NETWORK_INPUT, WHOLE_PHOTO

MAX_PIXELS = 25_000_000  # of a photo that anybody may send


class Photos:
    """Runs a bundle's whole network on picture files. Safe to use from several threads."""

    def __init__(self, bundle: Bundle, threads: int = 1) -> None:
        self.bundle = bundle
        self._threads = threads
        self._lock = threading.Lock()
        self._uncut: onnxruntime.InferenceSession | None = None

    def answers(self, frames: Sequence[Frame]) -> list[Answer | BottleNetError]:
        """Photo frames -> for each what to send back; as `Decoder.answers`."""
        try:
            uncut = self._open()
        except InputError:
            text = f"bundle {self.bundle.manifest.name} has no whole network on this server; send frames of its head"
            return [FrameError(text) for _ in frames]
        manifest = self.bundle.manifest
        size = manifest.uncut_preprocess.size
        batch = scored(
            frames,
            lambda frames: [self._pixels(frame) for frame in frames],
            lambda pixels: run_graph(uncut, pixels=pixels),
            shape=(size, size, 3),
            output=manifest.output,
        )
        return answers_of(frames, batch, manifest.task)

    def _pixels(self, frame: Frame) -> Made:
        started = perf_counter_ns()
        made: NDArray[np.uint8] | WireError
        try:
            made = self.pixels(frame)
        except WireError as error:
            made = error
        return made, perf_counter_ns() - started

    def pixels(self, frame: Frame) -> NDArray[np.uint8]:
        """(size, size, 3). PayloadError: no picture that can be used. FrameError: an unknown setting."""
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

    def _open(self) -> onnxruntime.InferenceSession:
        """InputError: the bundle has no uncut.onnx. BundleError: it does not load."""
        with self._lock:
            if self._uncut is None:
                self._uncut = open_uncut(self.bundle, self._threads)
            return self._uncut
