"""Frames of many connections, in batches, through one worker thread.

    answer(frame) -> waiting, at most max_waiting -> batch, at most max_batch -> worker thread -> answer

A batch is what waits when the worker is free: no frame waits for others to come, and under load batches grow by
themselves. Each answer says how long its frame waited, and how busy the server is.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import queue
import statistics
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import Any, TypeAlias, TypeVar

from bottlenet.errors import BottleNetError, BusyError, InputError
from bottlenet.wire.answer import MAX_LOAD, MAX_US, Answer
from bottlenet.wire.frame import Frame

log = logging.getLogger(__name__)

Result: TypeAlias = Answer | Exception
Work: TypeAlias = Callable[[Sequence[Frame]], Sequence[Answer | BottleNetError]]
"""Answers a batch: `Decoder.answers`, or something like it."""

T = TypeVar("T")
STOPPING = "the server is shutting down; try again later"
FIRST_RETRY_S = 1.0  # before it is known how long a frame takes
RETRY_S = (0.05, 60.0)
CLOSE_S = 2.0  # for a batch at work to end
MEMORY = 0.8  # weight of earlier batches in the mean time of a frame


@dataclass(eq=False)
class Waiting:
    """A frame in line or at work. Its future is done early where nobody waits for it any more."""

    frame: Frame
    future: asyncio.Future[Answer]
    since: float = field(default_factory=perf_counter)


class Batcher:
    """Gathers frames and hands them to `work`, one batch after the other. Lives in one event loop at a time.

    `on_batch` gets the seconds that each frame has waited, `on_results` the results. InputError: a limit below 1.
    """

    def __init__(
        self,
        work: Work,
        *,
        max_batch: int = 16,
        max_waiting: int = 256,
        on_batch: Callable[[Sequence[float]], None] | None = None,
        on_results: Callable[[Sequence[Result]], None] | None = None,
    ) -> None:
        if max_batch < 1 or max_waiting < 1:
            raise InputError(f"max_batch is {max_batch} and max_waiting {max_waiting}; give 1 or more for both")
        self._work = work
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._on_batch, self._on_results = on_batch, on_results
        self._waiting: deque[Waiting] = deque()
        self._working = 0
        self._running: asyncio.Task[None] | None = None
        self._frame_s: float | None = None  # recent mean for one frame
        self._worker: Worker | None = None
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
    def ongoing(self) -> int:
        return len(self._waiting) + self._working

    @property
    def retry_after_s(self) -> float:
        """Seconds until about everything that waits now will be answered."""
        if self._frame_s is None:
            return FIRST_RETRY_S
        low, high = RETRY_S
        return min(max(len(self._waiting) * self._frame_s, low), high)

    async def answer(self, frame: Frame) -> Answer:
        """Answer one frame. BusyError: too many wait, or it was closed. Else as `work` gave or raised it."""
        if len(self._waiting) >= self._max_waiting:
            text = f"the server is busy: {self._max_waiting} photos are waiting already; try again later"
            raise BusyError(text, self.retry_after_s)
        waiting = Waiting(frame, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run_all())
        return await waiting.future

    async def drain(self) -> None:
        """Wait until everything is answered. Keep new frames away, or there is no end."""
        while self._running is not None and not self._running.done():
            await asyncio.wait([self._running])

    async def close(self) -> None:
        """Refuse what waits, and after `CLOSE_S` the batch at work, too. A later frame starts everything again."""
        self.refuse_waiting()
        if self._running is not None and not self._running.done():
            await asyncio.wait([self._running], timeout=CLOSE_S)
            self._running.cancel()
        if self._worker is not None:
            self._worker.end()
            self._worker = None

    async def _run_all(self) -> None:
        if self._worker is None:
            self._worker = Worker("bottlenet-decoder")
        try:
            while self._waiting:
                if batch := self._take():
                    await self._run(self._worker, batch)
        finally:
            self._working = 0
            self.refuse_waiting()  # nothing waits, unless this was cancelled

    def _take(self) -> list[Waiting]:
        batch: list[Waiting] = []
        while self._waiting and len(batch) < self._max_batch:
            waiting = self._waiting.popleft()
            if not waiting.future.done():
                batch.append(waiting)
        return batch

    async def _run(self, worker: Worker, batch: list[Waiting]) -> None:
        started = perf_counter()
        self._working = len(batch)
        waited = [started - one.since for one in batch]
        if self._on_batch is not None:
            self._on_batch(waited)
        self._load.begin()
        results: Sequence[Result]
        try:
            results = await worker.run(self._work, [one.frame for one in batch])
            assert len(results) == len(batch), "a batch without an answer for each frame"
        except asyncio.CancelledError:
            self._waiting.extendleft(reversed(batch))  # to be refused
            raise
        except Exception as error:
            log.exception("a batch of %d frames failed", len(batch))
            results = [error] * len(batch)
        self._working = 0
        work_s = perf_counter() - started
        self._load.done(waited, work_s, good=not any(isinstance(result, Exception) for result in results))
        frame_s = work_s / len(batch)
        self._frame_s = frame_s if self._frame_s is None else MEMORY * self._frame_s + (1 - MEMORY) * frame_s
        if self._on_results is not None:
            self._on_results(results)
        load = self._load.now
        for one, waited_s, result in zip(batch, waited, results, strict=True):
            if one.future.done():
                continue
            if isinstance(result, Answer):
                queue_us = min(int(waited_s * 1e6), MAX_US)
                times = (result.sequence, result.decode_us, result.tail_us)
                one.future.set_result(Answer(*times, result.top, queue_us, load, result.result))
            else:
                one.future.set_exception(result)

    def refuse_waiting(self) -> None:
        """Refuse, with BusyError, everything that no batch has taken."""
        while self._waiting:
            future = self._waiting.popleft().future
            if not future.done():
                future.set_exception(BusyError(STOPPING, FIRST_RETRY_S))


def start(work: Coroutine[Any, Any, None], tasks: set[asyncio.Task[None]]) -> None:
    """Start a task that is in `tasks` until it is done."""
    task = asyncio.create_task(work)
    tasks.add(task)
    task.add_done_callback(tasks.discard)


class Worker:
    """A daemon thread: unlike those of an executor it keeps no process alive, however long its work takes."""

    def __init__(self, name: str) -> None:
        self._jobs: queue.SimpleQueue[tuple[Callable[[], Any], asyncio.Future[Any]] | None] = queue.SimpleQueue()
        threading.Thread(target=self._run_all, name=name, daemon=True).start()

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function in the thread, after those before it. Raises what it raises."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._jobs.put((partial(function, *arguments), future))
        return await future

    def end(self) -> None:
        self._jobs.put(None)

    def _run_all(self) -> None:
        while (job := self._jobs.get()) is not None:
            function, future = job
            settle: Callable[[Any], None] = future.set_result
            try:
                result = function()
            except Exception as error:
                settle, result = future.set_exception, error
            with contextlib.suppress(RuntimeError):  # the event loop is gone
                future.get_loop().call_soon_threadsafe(settle_once, future, settle, result)
            del job, function, future, settle, result  # rather than keep them until the next comes


def settle_once(future: asyncio.Future[Any], settle: Callable[[Any], None], result: object) -> None:
    """Settle a future in its own event loop, unless nobody waits for it any more."""
    if not future.done():
        settle(result)


FORGET_S = 1.0  # after which earlier load counts for 1/e
# The time of a frame alone follows shorter times at once and longer ones slowly, as those are load.
SHORTER, LONGER = 0.25, 0.002
LEAST_S = 1e-9  # no clock tells less


class Load:
    """How many times longer than idle a frame takes just now: the paper's K_cloud, plus 1, measured and not counted.

    each batch: (waiting + work) / work of one frame alone, when nothing else runs -> a mean that forgets in seconds
    """

    def __init__(self, clock: Callable[[], float] = perf_counter) -> None:
        self._clock = clock
        self._idle_s: float | None = None  # time of a frame alone
        self._excess = 0.0  # load less 1, when the last batch was done
        self._at = -math.inf
        self._busy = False

    @property
    def now(self) -> float:
        """1, idle, to `MAX_LOAD`."""
        # While a batch is at work nothing is known that is newer than the last.
        excess = self._excess if self._busy else self._excess * self._kept()
        return min(1.0 + excess, MAX_LOAD)

    def begin(self) -> None:
        self._busy = True

    def done(self, waited_s: Sequence[float], work_s: float, *, good: bool = True) -> None:
        """Count a batch whose frames had waited for so long. One that failed may have been too fast to say anything."""
        self._busy = False
        if not good or work_s < LEAST_S:
            return
        frame_s = work_s / len(waited_s)
        if self._idle_s is None:
            self._idle_s = frame_s
        elif len(waited_s) == 1:  # in a larger one a frame may take less than alone
            self._idle_s += (frame_s - self._idle_s) * (SHORTER if frame_s < self._idle_s else LONGER)
        excess = min(max(0.0, (statistics.fmean(waited_s) + work_s) / self._idle_s - 1), MAX_LOAD)
        kept = self._kept()
        self._excess = kept * self._excess + (1 - kept) * excess
        self._at = self._clock()

    def _kept(self) -> float:
        return math.exp((self._at - self._clock()) / FORGET_S)
