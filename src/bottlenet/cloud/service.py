"""What all the ways in have in common: they bring a frame and want an answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from bottlenet.cloud.batcher import FIRST_RETRY_S, STOPPING, Done, Result, Waiting, settle
from bottlenet.cloud.limits import Limits
from bottlenet.cloud.metrics import Metrics, kind_of
from bottlenet.cloud.shelf import Served, Shelf
from bottlenet.cloud.tokens import Tokens
from bottlenet.errors import BusyError
from bottlenet.wire.answer import Answer, busy_bytes, refusal_bytes
from bottlenet.wire.frame import STREAM_HEADER_BYTES, Frame, parse_stream_frame
from bottlenet.wire.protocol import PHOTO, PROBE, RESTARTING

log = logging.getLogger(__name__)

INTERNAL = "the server failed on this frame; its log says why"


class Service:
    """The bundles that are served, within limits, for those who have a token."""

    def __init__(self, shelf: Shelf, limits: Limits, metrics: Metrics, tokens: Tokens | None) -> None:
        self.shelf = shelf
        self.limits = limits
        self.metrics = metrics
        self.tokens = tokens
        self.stopping = False
        self.leaving: list[Callable[[], Coroutine[Any, Any, None]]] = []  # what else has to end with `stop`
        metrics.watch(lambda: shelf.waiting, lambda: len(shelf))

    @property
    def ready(self) -> bool:
        """Whether frames are welcome."""
        return not self.stopping and len(self.shelf) > 0

    @property
    def ongoing(self) -> int:
        """Frames that wait or are at work."""
        return sum(line.ongoing for served in self.shelf for line in served.lines)

    async def answer(self, served: Served, frame: Frame) -> Answer:
        """One frame, counted; a probe waits in no line. BusyError, or another BottleNetError: see `Batcher.answer`."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        waiting = self.submit(served, frame, partial(settle, future))
        try:
            return await future
        finally:
            if waiting is not None:
                waiting.done = None

    def submit(self, served: Served, frame: Frame, done: Done) -> Waiting | None:
        """The same for who does not wait: see `Batcher.submit`. None: `done` has been called already."""
        if self.stopping:
            raise BusyError(STOPPING, FIRST_RETRY_S)
        if frame.codec == PROBE:
            done(Answer(frame.sequence, 0, 0, (), load=max(line.load for line in served.lines)))
            return None
        self.metrics.payload_bytes.observe(len(frame.payload))
        line = served.photos if frame.codec == PHOTO else served.batcher
        return line.submit(frame, done)

    def take(
        self, via: str, served: Served, message: bytes, done: Callable[[bytes], None], *, ended: str = ""
    ) -> Waiting | None:
        """A frame in stream form, counted. `done` is called with what to send back: an answer, a refusal, or "busy", as
        after `ended`. None: it has been called already.
        """
        self.metrics.came(via)
        whole = len(message) >= STREAM_HEADER_BYTES
        sequence = int.from_bytes(message[2:4], "big") if whole else 0
        try:
            if ended:
                raise BusyError(ended, FIRST_RETRY_S)
            limit = self.limits.max_payload_bytes
            frame = parse_stream_frame(message, bundle_tag=served.bundle.tag, max_payload_bytes=limit)
            return self.submit(served, frame, lambda result: done(self.reply_bytes(via, sequence, result)))
        except Exception as error:
            done(self.reply_bytes(via, sequence, error))
            return None

    async def reply(self, via: str, served: Served, message: bytes) -> bytes:
        """The same for who waits."""
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        waiting = self.take(via, served, message, future.set_result)
        try:
            return await future
        finally:
            if waiting is not None:
                waiting.done = None

    def reply_bytes(self, via: str, sequence: int, result: Result) -> bytes:
        """What to send back, counted where it is an error."""
        if isinstance(result, Answer):
            return result.to_bytes()
        text = self.failed(via, result)
        if isinstance(result, BusyError):
            return busy_bytes(sequence, result.retry_after_s, text)
        return refusal_bytes(sequence, text)

    def failed(self, via: str, error: Exception) -> str:
        """Counts an error, logs one that nobody expects, and gives the text for the other side."""
        kind = kind_of(error)
        self.metrics.refused(via, kind)
        if kind != "internal":
            return str(error)
        log.error("a frame failed", exc_info=error)
        return INTERNAL

    async def stop(self) -> None:
        """Take no more frames, answer those that were taken, close the streams. After `grace_s` refuse what waits."""
        self.stopping = True
        drains = [served.drain(RESTARTING, STOPPING) for served in self.shelf] + [leave() for leave in self.leaving]
        try:
            await asyncio.wait_for(asyncio.gather(*drains), self.limits.grace_s)
        except asyncio.TimeoutError:
            log.warning("%d frames wait still after %g s, and are refused", self.shelf.waiting, self.limits.grace_s)
            for line in (line for served in self.shelf for line in served.lines):
                line.refuse_waiting()

    async def close(self) -> None:
        """End the threads. A later frame starts them again."""
        for served in self.shelf:
            await served.close()
        self.stopping = False
