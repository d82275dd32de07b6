"""Where the choice changes: at which bandwidth, round trip or server load another candidate wins.

Score and latency of every candidate are straight lines in each of the three (bandwidth: in 1 / uplink). So "candidate i
may be chosen, and beats the choice" holds on one interval of the axis, whose ends are where two lines cross or where a
line meets the deadline: closed forms, nothing is searched. The nearest such interval on either side of where we are,
or the point at which the choice itself misses the deadline, is a flip.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bottlenet.plan.link import Link
from bottlenet.plan.predict import Floats, Terms

Score = Callable[[Link, float], Floats]
"""(link, server load) -> what the objective minimises, (N,)."""
Pick = Callable[[Link, float], int | None]
"""(link, server load) -> the chosen candidate, None: none may be chosen."""

QUANTITIES = ("uplink_bps", "round_trip_s", "server_load")
LARGEST = {"uplink_bps": 1e12, "round_trip_s": 3600.0, "server_load": 1e6}  # flips beyond are of no interest
SLOWEST_BPS = 1.0
TRIED = 16  # points that may be a flip
BESIDE = 1e-9  # relative: who wins is asked just behind the flip


@dataclass(frozen=True)
class Flip:
    """Above or below this value another candidate wins, all else being equal."""

    quantity: str  # "uplink_bps", "round_trip_s" or "server_load"
    value: float  # in the unit that the name says; server_load: photos ahead of ours
    side: str  # "above" or "below"
    winner: str | None  # there; None: no candidate meets the constraints


@dataclass(frozen=True)
class Lines:
    """a + b * x, one a candidate."""

    a: Floats
    b: Floats

    @classmethod
    def through(cls, values: Floats, slopes: Floats, x: float) -> Lines:
        """Those with these values at `x`."""
        return cls(values - slopes * x, slopes)


@dataclass(frozen=True)
class Situation:
    """All that decides, at the link and load of now."""

    link: Link
    server_load: float
    terms: Terms
    allowed: NDArray[np.bool_]  # (N,) all constraints but the deadline, which moves
    deadline_s: float | None
    score: Score
    score_slopes: dict[str, Floats]  # quantity -> (N,) of the score, along x
    pick: Pick

    def x(self, quantity: str) -> float:
        """Where we are."""
        if quantity == "server_load":
            return self.server_load
        return 1 / self.link.uplink_bps if quantity == "uplink_bps" else self.link.round_trip_s

    def at(self, quantity: str, x: float) -> tuple[Link, float]:
        """The link and load with another x."""
        if quantity == "server_load":
            return self.link, x
        if quantity == "uplink_bps":
            return dataclasses.replace(self.link, uplink_bps=1 / x), self.server_load
        return dataclasses.replace(self.link, round_trip_s=x), self.server_load

    def latency(self, quantity: str) -> Lines:
        """Of every candidate."""
        slopes = latency_slopes(self.terms)[quantity]
        return Lines.through(self.terms.latency_s(self.link, self.server_load), slopes, self.x(quantity))


def latency_slopes(terms: Terms) -> dict[str, Floats]:
    """Quantity -> (N,) seconds per x."""
    return {"uplink_bps": terms.bits, "round_trip_s": terms.rounds, "server_load": terms.server_s}


def find_flips(now: Situation, choice: int, names: Callable[[int], str]) -> tuple[Flip, ...]:
    """The nearest on either side, of each quantity; none where nothing ever changes."""
    flips = []
    for quantity in QUANTITIES:
        lines = Lines.through(now.score(now.link, now.server_load), now.score_slopes[quantity], now.x(quantity))
        low, high = intervals(lines, now.latency(quantity), choice, now.allowed, now.deadline_s)
        for up in (True, False):
            for x in nearest(low, high, now.x(quantity), up=up):
                flip = at_flip(now, quantity, x, choice, up=up)
                if flip is not None:
                    value, winner = flip
                    larger = up != (quantity == "uplink_bps")
                    name = None if winner is None else names(winner)
                    flips.append(Flip(quantity, value, "above" if larger else "below", name))
                    break
    return tuple(flips)


def intervals(
    score: Lines, latency: Lines, choice: int, allowed: NDArray[np.bool_], deadline_s: float | None
) -> tuple[Floats, Floats]:
    """Where candidate i may be chosen and beats `choice`, as (low, high); (inf, -inf) where nowhere.

    At i = choice: where that misses the deadline.
    """
    low, high = half_line(score.a - score.a[choice], score.b - score.b[choice])
    if deadline_s is not None:
        # Latencies never fall along x, so a deadline cuts off what is above.
        # To be just in time is to be in time.
        _, in_time = half_line(latency.a - np.nextafter(deadline_s, math.inf), latency.b)
        late = in_time[choice]
        high = np.minimum(high, in_time)
        low[choice], high[choice] = late, math.inf if late < math.inf else -math.inf
    excluded = ~allowed | ~(low < high)
    low[excluded], high[excluded] = math.inf, -math.inf
    return low, high


def half_line(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    """Where a + b * x < 0, as (low, high); (inf, -inf) where never. NaN, not known, is never."""
    low, high = np.full_like(a, math.inf), np.full_like(a, -math.inf)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        cross = -a / b
    up, down, flat = b > 0, b < 0, (b == 0) & (a < 0)
    low[up | flat], high[down | flat] = -math.inf, math.inf
    high[up], low[down] = cross[up], cross[down]
    return low, high


def nearest(low: Floats, high: Floats, x: float, *, up: bool) -> list[float]:
    """Where the first intervals on that side of `x` begin, nearest first.

    One would do, but for those that differ from the choice by less than floats can tell.
    """
    ends = np.maximum(low, x) if up else np.minimum(high, x)
    points = np.sort(ends[high > ends] if up else ends[low < ends])
    nearest_first: list[float] = (points if up else points[::-1])[:TRIED].tolist()
    return nearest_first


def at_flip(now: Situation, quantity: str, x: float, choice: int, *, up: bool) -> tuple[float, int | None] | None:
    """(value, who wins behind it); None where nobody goes there, or nothing changes that floats can tell."""
    slowest = 1 / SLOWEST_BPS if quantity == "uplink_bps" else LARGEST[quantity]
    smallest = 1 / LARGEST["uplink_bps"] if quantity == "uplink_bps" else 0.0
    if not smallest < x < slowest:
        return None
    beside = x * (1 + BESIDE if up else 1 - BESIDE)
    winner = now.pick(*now.at(quantity, beside))
    if winner == choice:
        return None
    return (1 / x if quantity == "uplink_bps" else x), winner
