"""Frames of many connections, in batches, through one worker thread.

    answer(frame) -> waiting, at most max_waiting -> batch, at most max_batch -> worker thread -> each his answer

A batch is what is waiting when the worker is free: nobody waits for others to come, and under load batches grow by
themselves.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

from bottlenet.errors import BottleNetError, InputError, LinkError
from bottlenet.wire.answer import Answer
from bottlenet.wire.frame import Frame

log = logging.getLogger(__name__)

Work: TypeAlias = Callable[[Sequence[Frame]], Sequence[Answer | BottleNetError]]
"""What to do with a batch: `Decoder.answers`, or something like it."""


class Batcher:
    """Gathers frames and hands them to `work`, one batch after the other. Lives in one event loop at a time.

    InputError: a limit below 1.
    """

    def __init__(self, work: Work, *, max_batch: int = 16, max_waiting: int = 256) -> None:
        if max_batch < 1 or max_waiting < 1:
            raise InputError(f"max_batch is {max_batch} and max_waiting {max_waiting}; give 1 or more for both")
        self._work = work
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._waiting: deque[tuple[Frame, asyncio.Future[Answer]]] = deque()
        self._drain: asyncio.Task[None] | None = None
        self._worker: ThreadPoolExecutor | None = None

    @property
    def waiting(self) -> int:
        """Frames that no batch has taken yet."""
        return len(self._waiting)

    async def answer(self, frame: Frame) -> Answer:
        """The answer to one frame.

        LinkError: too many are waiting, or the batcher was closed. Otherwise what `work` gave for this frame, or
        raised for its whole batch.
        """
        if len(self._waiting) >= self._max_waiting:
            raise LinkError(f"the server is busy: {self._max_waiting} photos are waiting already; try again later")
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((frame, future))
        if self._drain is None or self._drain.done():
            self._drain = asyncio.create_task(self._drain_all())
        return await future

    async def close(self) -> None:
        """Refuse what is waiting, and wait for the batch at work. A later frame starts everything again."""
        self._refuse_waiting()
        if self._drain is not None and not self._drain.done():
            await asyncio.wait([self._drain])
        if self._worker is not None:
            self._worker.shutdown()
            self._worker = None

    async def _drain_all(self) -> None:
        """Batch after batch, until nothing waits."""
        if self._worker is None:
            self._worker = ThreadPoolExecutor(1, thread_name_prefix="bottlenet-decoder")
        try:
            while batch := self._take():
                await self._run(self._worker, batch)
        finally:
            self._refuse_waiting()  # none, unless the event loop is shutting down

    def _take(self) -> list[tuple[Frame, asyncio.Future[Answer]]]:
        batch: list[tuple[Frame, asyncio.Future[Answer]]] = []
        while self._waiting and len(batch) < self._max_batch:
            frame, future = self._waiting.popleft()
            if not future.done():  # else the connection is gone, and nobody waits
                batch.append((frame, future))
        return batch

    async def _run(self, worker: ThreadPoolExecutor, batch: list[tuple[Frame, asyncio.Future[Answer]]]) -> None:
        results: Sequence[Answer | Exception]
        try:
            frames = [frame for frame, _ in batch]
            results = await asyncio.get_running_loop().run_in_executor(worker, self._work, frames)
            assert len(results) == len(batch), "a batch without an answer for each frame"
        except Exception as error:
            log.exception("a batch of %d frames failed", len(batch))
            results = [error] * len(batch)
        for (_, future), result in zip(batch, results, strict=True):
            if future.done():
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)

    def _refuse_waiting(self) -> None:
        while self._waiting:
            _, future = self._waiting.popleft()
            if not future.done():
                future.set_exception(LinkError("the server is shutting down; try again later"))
