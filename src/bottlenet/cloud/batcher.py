"""Frames of many connections, in batches, through one worker thread.

    answer(frame) -> waiting, at most max_waiting -> batch, at most max_batch -> worker thread -> each his answer

A batch is what is waiting when the worker is free: nobody waits for others to come, and under load batches grow by
themselves. Each answer says how long its frame waited, and how busy the server is.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import NamedTuple, TypeAlias

from bottlenet.cloud.load import Load
from bottlenet.errors import BottleNetError, BusyError, InputError
from bottlenet.wire.answer import MAX_US, Answer
from bottlenet.wire.frame import Frame

log = logging.getLogger(__name__)

Work: TypeAlias = Callable[[Sequence[Frame]], Sequence[Answer | BottleNetError]]
"""What to do with a batch: `Decoder.answers`, or something like it."""

OnBatch: TypeAlias = Callable[[Sequence[float]], None]
"""Told about each batch that is taken: how long each of its frames has waited, seconds."""

STOPPING = "the server is shutting down; try again later"
FIRST_RETRY_S = 1.0  # before it is known how long a frame takes
RETRY_S = (0.05, 60.0)
MEMORY = 0.8  # of the mean time of a frame, for what it was before the last batch


class Waiting(NamedTuple):
    """A frame in line."""

    frame: Frame
    future: asyncio.Future[Answer]
    since: float  # perf_counter


class Batcher:
    """Gathers frames and hands them to `work`, one batch after the other. Lives in one event loop at a time.

    InputError: a limit below 1.
    """

    def __init__(
        self, work: Work, *, max_batch: int = 16, max_waiting: int = 256, on_batch: OnBatch | None = None
    ) -> None:
        if max_batch < 1 or max_waiting < 1:
            raise InputError(f"max_batch is {max_batch} and max_waiting {max_waiting}; give 1 or more for both")
        self._work = work
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._on_batch = on_batch
        self._waiting: deque[Waiting] = deque()
        self._running: asyncio.Task[None] | None = None
        self._frame_s: float | None = None  # of late, for one frame
        self._worker: ThreadPoolExecutor | None = None
        self._load = Load()

    @property
    def load(self) -> float:
        """How many times longer than on an idle server a frame takes just now."""
        return self._load.now

    @property
    def waiting(self) -> int:
        """Frames that no batch has taken yet."""
        return len(self._waiting)

    @property
    def retry_after_s(self) -> float:
        """In how many seconds about everything that waits now will be answered."""
        if self._frame_s is None:
            return FIRST_RETRY_S
        low, high = RETRY_S
        return min(max(len(self._waiting) * self._frame_s, low), high)

    async def answer(self, frame: Frame) -> Answer:
        """The answer to one frame.

        BusyError: too many are waiting, or the batcher was closed. Otherwise what `work` gave for this frame, or
        raised for its whole batch.
        """
        if len(self._waiting) >= self._max_waiting:
            text = f"the server is busy: {self._max_waiting} photos are waiting already; try again later"
            raise BusyError(text, self.retry_after_s)
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append(Waiting(frame, future, perf_counter()))
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run_all())
        return await future

    async def drain(self) -> None:
        """Wait until everything is answered. Keep new frames away, or there is no end."""
        while self._running is not None and not self._running.done():
            await asyncio.wait([self._running])

    async def close(self) -> None:
        """Refuse what is waiting, and wait for the batch at work. A later frame starts everything again."""
        self.refuse_waiting()
        await self.drain()
        if self._worker is not None:
            self._worker.shutdown()
            self._worker = None

    async def _run_all(self) -> None:
        """Batch after batch, until nothing waits."""
        if self._worker is None:
            self._worker = ThreadPoolExecutor(1, thread_name_prefix="bottlenet-decoder")
        try:
            while batch := self._take():
                await self._run(self._worker, batch)
        finally:
            self.refuse_waiting()  # none, unless the event loop is shutting down

    def _take(self) -> list[Waiting]:
        batch: list[Waiting] = []
        while self._waiting and len(batch) < self._max_batch:
            one = self._waiting.popleft()
            if not one.future.done():  # else the connection is gone, and nobody waits
                batch.append(one)
        return batch

    async def _run(self, worker: ThreadPoolExecutor, batch: list[Waiting]) -> None:
        results: Sequence[Answer | Exception]
        started = perf_counter()
        waited = [started - one.since for one in batch]
        if self._on_batch is not None:
            self._on_batch(waited)
        self._load.begin()
        try:
            frames = [one.frame for one in batch]
            results = await asyncio.get_running_loop().run_in_executor(worker, self._work, frames)
            assert len(results) == len(batch), "a batch without an answer for each frame"
        except Exception as error:
            log.exception("a batch of %d frames failed", len(batch))
            results = [error] * len(batch)
        work_s = perf_counter() - started
        self._load.done(waited, work_s, good=not any(isinstance(result, Exception) for result in results))
        load = self._load.now
        frame_s = work_s / len(batch)
        self._frame_s = frame_s if self._frame_s is None else MEMORY * self._frame_s + (1 - MEMORY) * frame_s
        for one, waited_s, result in zip(batch, waited, results, strict=True):
            if one.future.done():
                continue
            if isinstance(result, Exception):
                one.future.set_exception(result)
            else:
                queue_us = min(int(waited_s * 1e6), MAX_US)
                one.future.set_result(dataclasses.replace(result, queue_us=queue_us, load=load))

    def refuse_waiting(self) -> None:
        """With BusyError, everything that no batch has taken."""
        while self._waiting:
            future = self._waiting.popleft().future
            if not future.done():
                future.set_exception(BusyError(STOPPING, FIRST_RETRY_S))
