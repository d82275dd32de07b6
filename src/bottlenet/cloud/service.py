"""What all the ways in have in common: they bring a frame and want an answer."""

from __future__ import annotations

import asyncio
import logging

from bottlenet.cloud.batcher import FIRST_RETRY_S, STOPPING
from bottlenet.cloud.limits import Limits
from bottlenet.cloud.metrics import Metrics, kind_of
from bottlenet.cloud.shelf import Served, Shelf
from bottlenet.cloud.tokens import Tokens
from bottlenet.errors import BusyError
from bottlenet.wire.answer import Answer
from bottlenet.wire.frame import Frame
from bottlenet.wire.protocol import RESTARTING

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
        metrics.watch(lambda: shelf.waiting, lambda: len(shelf))

    @property
    def ready(self) -> bool:
        """Whether frames are welcome."""
        return not self.stopping and len(self.shelf) > 0

    async def answer(self, served: Served, frame: Frame) -> Answer:
        """One frame, counted. BusyError, or another BottleNetError: see `Batcher.answer`."""
        if self.stopping:
            raise BusyError(STOPPING, FIRST_RETRY_S)
        self.metrics.payload_bytes.observe(len(frame.payload))
        answer = await served.batcher.answer(frame)
        self.metrics.decode.observe(answer.decode_us / 1e6)
        self.metrics.tail.observe(answer.tail_us / 1e6)
        return answer

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
        drains = [served.drain(RESTARTING, STOPPING) for served in self.shelf]
        try:
            await asyncio.wait_for(asyncio.gather(*drains), self.limits.grace_s)
        except asyncio.TimeoutError:
            log.warning("%d frames wait still after %g s, and are refused", self.shelf.waiting, self.limits.grace_s)
            for served in self.shelf:
                served.batcher.refuse_waiting()

    async def close(self) -> None:
        """End the threads. A later frame starts them again."""
        for served in self.shelf:
            await served.batcher.close()
        self.stopping = False
