"""Frames of many connections, in batches, through one worker thread.

    submit(frame) -> waiting, at most max_waiting -> batch, at most max_batch -> worker thread -> each his answer

A batch is what is waiting when the worker is free: nobody waits for others to come, but for what sockets hold already,
and under load batches grow by themselves. Each answer says how long its frame waited, and how busy the server is.

How busy a server is, as who waits for it feels it: how many times longer than idle a frame takes just now.

    each batch: (waiting + work) / work of one frame alone, when nothing else runs -> a mean that forgets within seconds

It is the paper's K_cloud, plus 1, and is measured, not counted: frames that wait, and other programs that slow this one
down, are both in it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import statistics
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from time import perf_counter
from typing import TypeAlias

from bottlenet.errors import BottleNetError, BusyError, InputError
from bottlenet.wire.answer import MAX_LOAD, MAX_US, Answer
from bottlenet.wire.frame import Frame

FORGET_S = 1.0  # after which what was counts for 1/e
# What a frame takes alone and undisturbed: it follows shorter times at once and longer ones slowly, as those are load.
SHORTER, LONGER = 0.25, 0.002
LEAST_S = 1e-9  # no clock tells less


class Load:
    """Of one worker. `clock` gives seconds that never go back."""

    def __init__(self, clock: Callable[[], float] = perf_counter) -> None:
        self._clock = clock
        self._idle_s: float | None = None  # what a frame takes alone
        self._excess = 0.0  # load less 1, when the last batch was done
        self._at = -math.inf
        self._busy = False

    @property
    def now(self) -> float:
        """1, idle, to `MAX_LOAD`."""
        # While a batch is at work nothing is known that is newer than the last.
        excess = self._excess if self._busy else self._excess * self._forgotten()
        return min(1.0 + excess, MAX_LOAD)

    def begin(self) -> None:
        """A batch is at work."""
        self._busy = True

    def done(self, waited_s: Sequence[float], work_s: float, *, good: bool = True) -> None:
        """It was: its frames had waited for so long. One that failed may have been too fast to tell anything."""
        self._busy = False
        if not good or work_s < LEAST_S:
            return
        frame_s = work_s / len(waited_s)
        if self._idle_s is None:
            self._idle_s = frame_s
        elif len(waited_s) == 1:  # in a larger one a frame may take less than alone
            self._idle_s += (frame_s - self._idle_s) * (SHORTER if frame_s < self._idle_s else LONGER)
        excess = min(max(0.0, (statistics.fmean(waited_s) + work_s) / self._idle_s - 1), MAX_LOAD)
        kept = self._forgotten()
        self._excess = kept * self._excess + (1 - kept) * excess
        self._at = self._clock()

    def _forgotten(self) -> float:
        """What is left of what was, 0 to 1."""
        return math.exp((self._at - self._clock()) / FORGET_S)


log = logging.getLogger(__name__)

Work: TypeAlias = Callable[[Sequence[Frame]], Sequence[Answer | BottleNetError]]
"""What to do with a batch: `Decoder.answers`, or something like it."""

OnBatch: TypeAlias = Callable[[Sequence[float]], None]
"""Told about each batch that is taken: how long each of its frames has waited, seconds."""

Result: TypeAlias = Answer | Exception
OnResults: TypeAlias = Callable[[Sequence[Result]], None]
"""Told about each batch that is done: what came of each of its frames."""

Done: TypeAlias = Callable[[Result], None]
"""Called once, in the event loop, with what came of a frame. It must not raise."""

STOPPING = "the server is shutting down; try again later"
FIRST_RETRY_S = 1.0  # before it is known how long a frame takes
RETRY_S = (0.05, 60.0)
HERE_S = 0.002  # a batch that takes less is done in the event loop
SLOWER = 1.02  # by so much a frame may take longer each time, for what `Quick` knows
MEMORY = 0.8  # of the mean time of a frame, for what it was before the last batch


class Waiting:
    """A frame in line, or at work. None in place of `done`: nobody waits for it any more."""

    __slots__ = ("done", "frame", "since")

    def __init__(self, frame: Frame, done: Done) -> None:
        self.frame = frame
        self.done: Done | None = done
        self.since = perf_counter()


class Batcher:
    """Gathers frames and hands them to `work`, one batch after the other. Lives in one event loop at a time.

    InputError: a limit below 1.
    """

    def __init__(
        self,
        work: Work,
        *,
        max_batch: int = 16,
        max_waiting: int = 256,
        on_batch: OnBatch | None = None,
        on_results: OnResults | None = None,
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
        self._frame_s: float | None = None  # of late, for one frame
        self._worker: ThreadPoolExecutor | None = None
        self._load = Load()
        self._quick = Quick()

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
        """Frames that wait or are at work."""
        return len(self._waiting) + self._working

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
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        waiting = self.submit(frame, partial(settle, future))
        try:
            return await future
        finally:
            waiting.done = None

    def submit(self, frame: Frame, done: Done) -> Waiting:
        """The same for who does not wait: `done` is called with the answer, or the error. BusyError: no room."""
        if len(self._waiting) >= self._max_waiting:
            text = f"the server is busy: {self._max_waiting} photos are waiting already; try again later"
            raise BusyError(text, self.retry_after_s)
        waiting = Waiting(frame, done)
        self._waiting.append(waiting)
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run_all())
        return waiting

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
            while await self._gathered():
                if not (batch := self._take()):
                    continue  # all of them were given up
                await self._run(self._worker, batch)
                await asyncio.sleep(0)  # where the work was done here: others want their turn
        finally:
            self.refuse_waiting()  # none, unless the event loop is shutting down

    async def _gathered(self) -> int:
        """How many wait. Quick ones are taken with what each further turn of the event loop reads from sockets."""
        there = 0
        while there < len(self._waiting) < self._max_batch and self._quick.enough(len(self._waiting)):
            there = len(self._waiting)
            await asyncio.sleep(0)
        return len(self._waiting)

    def _take(self) -> list[Waiting]:
        batch: list[Waiting] = []
        while self._waiting and len(batch) < self._max_batch:
            one = self._waiting.popleft()
            if one.done is not None:  # else the connection is gone
                batch.append(one)
        return batch

    def _timed(self, frames: Sequence[Frame]) -> tuple[Sequence[Result], float]:
        """The work, and how many seconds it took: in a thread without the time until it is there and back."""
        started = perf_counter()
        return self._work(frames), perf_counter() - started

    async def _run(self, worker: ThreadPoolExecutor, batch: list[Waiting]) -> None:
        results: Sequence[Result]
        started = perf_counter()
        self._working = len(batch)
        waited = [started - one.since for one in batch]
        if self._on_batch is not None:
            self._on_batch(waited)
        self._load.begin()
        try:
            frames = [one.frame for one in batch]
            here = self._quick.enough(len(frames))
            if here:
                results, took_s = self._timed(frames)
            else:
                results, took_s = await asyncio.get_running_loop().run_in_executor(worker, self._timed, frames)
            self._quick.took(len(frames), took_s, here=here)
            assert len(results) == len(batch), "a batch without an answer for each frame"
        except Exception as error:
            log.exception("a batch of %d frames failed", len(batch))
            results = [error] * len(batch)
        self._working = 0
        work_s = perf_counter() - started
        self._load.done(waited, work_s, good=not any(isinstance(result, Exception) for result in results))
        load = self._load.now
        frame_s = work_s / len(batch)
        self._frame_s = frame_s if self._frame_s is None else MEMORY * self._frame_s + (1 - MEMORY) * frame_s
        if self._on_results is not None:
            self._on_results(results)
        for one, waited_s, result in zip(batch, waited, results, strict=True):
            if one.done is None:
                continue
            if isinstance(result, Answer):
                result = result.timed(min(int(waited_s * 1e6), MAX_US), load)
            try:
                one.done(result)
            except Exception:  # which it must not do; but the others' answers are none of its business
                log.exception("an answer could not be given back")

    def refuse_waiting(self) -> None:
        """With BusyError, everything that no batch has taken."""
        while self._waiting:
            done = self._waiting.popleft().done
            if done is not None:
                done(BusyError(STOPPING, FIRST_RETRY_S))


class Quick:
    """Whether a batch is done sooner here, in the event loop, than by a thread: then it is so fast that nobody notices.

    Two threads that take turns with Python's lock cost a small batch several times what it takes; and a thread that
    computes may keep that lock, and with it the event loop, for 5 ms anyway.
    """

    def __init__(self) -> None:
        self._frame_s = math.inf  # the least of late: what is above it is waiting for the lock, or for the processor

    def enough(self, count: int) -> bool:
        """For so many frames."""
        return self._frame_s * count < HERE_S

    def took(self, count: int, seconds: float, *, here: bool) -> None:
        """One batch, which was done here or by a thread. A slow one here is the last for now."""
        frame_s = seconds / count
        self._frame_s = frame_s if here and seconds > HERE_S else min(frame_s, self._frame_s * SLOWER)


def settle(future: asyncio.Future[Answer], result: Result) -> None:
    """For who waits for a future."""
    if future.done():
        return
    if isinstance(result, Answer):
        future.set_result(result)
    else:
        future.set_exception(result)
