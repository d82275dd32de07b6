"""Values on an axis: where they are, and where its ticks are."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

FEWEST = 1e-12  # a logarithmic scale has no zero


@dataclass(frozen=True)
class Scale:
    """From `low` to `high`, which differ; logarithmic ones are above 0."""

    low: float
    high: float
    log: bool = False

    def share(self, value: float) -> float:
        """0 at its low end, 1 at its high end; what is beyond an end is at it."""
        if self.log:
            value = math.log(max(value, FEWEST) / self.low) / math.log(self.high / self.low)
        else:
            value = (value - self.low) / (self.high - self.low)
        return min(1.0, max(0.0, value))

    def ticks(self) -> list[float]:
        """Round numbers within."""
        return decades(self.low, self.high) if self.log else round_steps(self.low, self.high)


def percents(values: Iterable[float]) -> Scale:
    """For rates of 0 to 100."""
    scale = spanning(values, margin=0.08)
    return Scale(max(0.0, scale.low), min(100.0, scale.high))


def spanning(values: Iterable[float], *, log: bool = False, margin: float = 0.0) -> Scale:
    """From the least of the values to the greatest, with a share of that as margin; 1 to 10, or 0 to 1, of none."""
    found = [value for value in values if math.isfinite(value) and (value > 0 or not log)]
    if not found:
        return Scale(1.0, 10.0, True) if log else Scale(0.0, 1.0)
    low, high = min(found), max(found)
    if log:
        factor = max((high / low) ** margin, 1.2)
        return Scale(max(low / factor, FEWEST), high * factor, True)
    room = (high - low) * margin or abs(high) * 0.1 or 1.0
    return Scale(low - room, high + room)


def decades(low: float, high: float) -> list[float]:
    """1, 10, 100 ... within; with 2 and 5 where those are few; and even steps where those are."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = (1,) if last - first > 3 else (1, 2, 5)
    ticks = [step * 10.0**power for power in range(first, last + 1) for step in steps]
    within = [tick for tick in ticks if low <= tick <= high]
    return within if len(within) > 2 else round_steps(low, high, 5)


def round_steps(low: float, high: float, at_most: int = 7) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10((high - low) / at_most))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor * at_most >= high - low)
    first = math.ceil(low / step - 1e-9)
    return [round(step * number, 12) for number in range(first, math.floor(high / step + 1e-9) + 1)]
