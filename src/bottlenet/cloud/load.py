"""How busy a server is, as who waits for it feels it: how many times longer than idle a frame takes just now.

    each batch: (waiting + work) / work of one frame alone, when nothing else runs -> a mean that forgets within seconds

It is the paper's K_cloud, plus 1, and is measured, not counted: frames that wait, and other programs that slow this one
down, are both in it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from time import perf_counter

from bottlenet.wire.answer import MAX_LOAD

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
