"""What was measured of late, one value after the other: `Recent`, and `Factors` of several candidates. Pure."""

from __future__ import annotations

import math
import statistics
from collections import deque

import numpy as np

from bottlenet.plan.predict import Floats

RECENT = 5  # values whose median counts: it takes three to change it
ENOUGH = 3  # of them
FORGOTTEN = 0.005  # with each photo, of how candidates differ


class Recent:
    """The median of the last few values; one or two odd ones change nothing."""

    def __init__(self) -> None:
        self._values: deque[float] = deque(maxlen=RECENT)

    def add(self, value: float) -> None:
        self._values.append(value)

    def set(self, value: float) -> None:
        """Known from now on, whatever came before."""
        self._values.clear()
        self._values.append(value)

    def clear(self) -> None:
        """Nothing is known."""
        self._values.clear()

    @property
    def enough(self) -> bool:
        """Whether the median is more than chance."""
        return len(self._values) >= ENOUGH

    def value(self, unknown: float) -> float:
        """`unknown` where there is none yet."""
        return statistics.median(self._values) if self._values else unknown


class Factors:
    """How many times what the profile says things take, for each candidate: some may be further off than others.

    Only one candidate is seen at a time. When it takes longer than it did, so will those that were seen before; those
    that never were take what this one does. What was seen long ago becomes that, too, slowly.
    """

    def __init__(self, count: int) -> None:
        self._factors = np.full(count, math.nan)
        self._recent = Recent()
        self._seen = -1

    def add(self, i: int, factor: float, *, alone: bool = False) -> None:
        """What candidate `i` took this time. `alone`: that says nothing about the others."""
        if i != self._seen:
            self._seen = i
            self._recent.clear()
        self._recent.add(factor)
        if math.isnan(self._factors[i]):
            self._factors[i] = factor
        elif self._recent.enough:
            latest = self._recent.value(1.0)
            if not alone:
                self._factors *= latest / self._factors[i]
            self._factors[i] = latest
        if not alone:
            self._factors += FORGOTTEN * (self._factors[i] - self._factors)

    def values(self) -> Floats:
        """(N,)."""
        latest = 1.0 if self._seen < 0 else self._factors[self._seen]
        values: Floats = np.where(np.isnan(self._factors), latest, self._factors)
        return values
