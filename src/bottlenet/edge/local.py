"""The tail on the device, for when the server can't answer: slower, perhaps, but the same network.

    frame --codec--> symbols --tail.onnx--> scores --task--> answer

It starts from the frame, as the server does, so that both give the same answer.
"""

from __future__ import annotations

from time import perf_counter_ns

from bottlenet.bundle import Bundle
from bottlenet.edge.outcome import REFUSED, Failed, Outcome, answered_now
from bottlenet.edge.prediction import LOCAL
from bottlenet.edge.seen import seen
from bottlenet.errors import BottleNetError, BundleError
from bottlenet.runtime import open_tail, run_graph
from bottlenet.task import answer_of
from bottlenet.wire.answer import NO_NUMBERS, Answer, microseconds, parse_answer
from bottlenet.wire.frame import Frame


class LocalTail:
    """Answers frames of its bundle. Safe to use from several threads.

    BundleError: tail.onnx can't be loaded or run, or does not have the shapes that the manifest says.
    """

    def __init__(self, bundle: Bundle, threads: int = 1) -> None:
        self.bundle = bundle
        self._tail = open_tail(bundle, threads)

    def answer(self, frame: Frame) -> Answer:
        """What a server would answer.

        FrameError, PayloadError: a frame that does not decode. BundleError: scores that are no numbers.
        """
        started = perf_counter_ns()
        symbols = self.bundle.codec_of(frame.codec, frame.setting).decode(frame.payload)
        decoded = perf_counter_ns()
        scores = run_graph(self._tail, symbols=symbols[None])
        done = perf_counter_ns()
        (found,) = self.bundle.manifest.task.results(scores)
        if found is None:
            raise BundleError(NO_NUMBERS)
        answer = answer_of(frame.sequence, microseconds(decoded - started), microseconds(done - decoded), found)
        return parse_answer(answer.to_bytes())  # rounded as on the wire, so that nothing differs


def helped_out(tail: LocalTail, frame: Frame, photo: str, *, tries: int) -> Outcome:
    """What becomes of a photo whose frame is answered here, after so many tries elsewhere."""
    try:
        found = seen(tail.answer(frame), tail.bundle)
    except BottleNetError as error:
        return Failed(photo, REFUSED, f"{photo}: {error}")
    return answered_now(photo, LOCAL, found, frame_bytes=len(frame.to_stream_bytes()), tries=tries)
