"""The tail on the device, for when the server can't answer: slower, perhaps, but the same network.

    frame --codec--> symbols --tail.onnx--> scores --softmax--> answer

It starts from the frame, as the server does, so that both give the same answer.
"""

from __future__ import annotations

from time import perf_counter_ns

import numpy as np
from numpy.typing import NDArray

from bottlenet.bundle import Bundle
from bottlenet.edge.prediction import TOP
from bottlenet.errors import BundleError
from bottlenet.runtime import Port, open_graph, run_graph
from bottlenet.wire.answer import Answer, parse_answer
from bottlenet.wire.codecs import CODES, Codec, make_codec
from bottlenet.wire.frame import Frame

MAX_US = 2**32 - 1


class LocalTail:
    """Answers frames of its bundle. Safe to use from several threads.

    BundleError: tail.onnx can't be loaded or run, or does not have the shapes that the manifest says.
    """

    def __init__(self, bundle: Bundle, threads: int = 1) -> None:
        self.bundle = bundle
        takes = Port("symbols", "tensor(uint8)", bundle.manifest.latent)
        gives = Port("scores", "tensor(float)", (bundle.manifest.num_classes,))
        self._tail = open_graph(bundle.tail_path, takes, gives, threads)

    def answer(self, frame: Frame) -> Answer:
        """What a server would answer.

        PayloadError: a frame that does not decode. BundleError: scores that are no numbers.
        """
        started = perf_counter_ns()
        symbols = self._codec(frame).decode(frame.payload)
        decoded = perf_counter_ns()
        scores = run_graph(self._tail, symbols=symbols[None])[0]
        done = perf_counter_ns()
        if not np.isfinite(scores).all():
            raise BundleError("the network gave scores that are no numbers; export the bundle again")
        took_us = [min(ns // 1000, MAX_US) for ns in (decoded - started, done - decoded)]
        answer = Answer(frame.sequence, took_us[0], took_us[1], best(scores))
        return parse_answer(answer.to_bytes())  # rounded as on the wire, so that nothing differs

    def _codec(self, frame: Frame) -> Codec:
        codec = self.bundle.codec
        if (frame.codec, frame.setting) == (codec.code, codec.setting):
            return codec
        return make_codec(CODES[frame.codec], codec.mosaic, frame.setting)  # coarser, for a budget


def best(scores: NDArray[np.float32]) -> tuple[tuple[int, float], ...]:
    """The five largest of finite logits (classes,), best first, as (class index, probability)."""
    shares = np.exp(scores.astype(np.float64) - scores.max())
    shares /= shares.sum()
    order = np.argsort(-shares, kind="stable")[:TOP]
    return tuple((int(index), float(shares[index])) for index in order)
