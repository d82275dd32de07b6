"""What the link is like just now, from a device's own traffic: `LinkProbe`. Pure: no clock, no network.

    (bytes sent, seconds to the answer less what the server says it took), ... -> fit -> uplink, round trip

    seconds = round trip + 8 * bytes / uplink

One odd exchange tells nothing: it may be chance. Three that are all slower or all faster than they should be, and none
of their size in between that is as it should be, are another link, and what was measured before them is forgotten.

Messages of one size can't tell a long round trip from a slow uplink. Then the uplink is what links of this round trip
have: those of `plan.link.PRESETS`, and those that this device has had itself, which count more. As soon as sizes
differ, as they do with pictures and pings, they decide.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bottlenet.errors import InputError
from bottlenet.plan.link import PRESETS, STREAM_OVERHEAD_BYTES, Link
from bottlenet.plan.predict import Floats
from bottlenet.plan.reason import duration, rate

KEPT = 12  # exchanges
NEWER = 0.85  # of its weight is what an exchange has when the next comes
RUN = 3  # odd ones are another link
SAME_SIZE = 0.5  # of the larger message, at least: what is smaller tells too little about the uplink
TRUSTED = 4  # exchanges for which a message that was overdue says how fast the link can be: it may have been chance
FORGOTTEN = 8  # exchanges after which an odd one is forgotten
# Odd: off by more than this share, these seconds, and so many times what exchanges differ by anyway.
ODD_SHARE, ODD_S, ODD_SPREADS = 0.25, 0.003, 4.0
NOISE_SHARE, NOISE_S = 0.05, 0.0005  # of an exchange, at least
SHORTEST_S = 1e-5
UPLINKS = (1e3, 1e10)  # bits a second, the slowest and the fastest
COARSE, FINE = 0.1, 0.01  # powers of ten
# How sure the guess from the round trip is, in powers of ten, and a value that was measured on this very link.
GUESSED, MEASURED = 0.4, 0.1
GUESS_OFF = 100.0  # times that a guess may be off, before an exchange that it does not fit is odd
NEAR = 0.3  # powers of ten between round trips that are much the same
OWN = 4.0  # links of this device count so many times as much as presets
REMEMBERED = 16


@dataclass(frozen=True)
class Estimate:
    """The link, as far as it is known."""

    uplink_bps: float
    round_trip_s: float
    exchanges: int  # that tell so
    sure: bool  # whether the uplink was measured; else it is guessed from the round trip

    def link(self) -> Link:
        """For the planner."""
        name = f"{rate(self.uplink_bps)}, {duration(self.round_trip_s)}"
        return Link(name, self.uplink_bps, self.round_trip_s, per_message_overhead_bytes=STREAM_OVERHEAD_BYTES)


@dataclass(frozen=True)
class Exchange:
    """One message and its answer. InputError: bytes or seconds below 0, or no numbers."""

    sent_bytes: float  # with what the transport adds
    seconds: float  # without the server's own time

    def __post_init__(self) -> None:
        if not 0 <= self.sent_bytes < math.inf or not 0 <= self.seconds < math.inf:
            raise InputError(f"an exchange of {self.sent_bytes} bytes in {self.seconds} s; give numbers, 0 or more")


class LinkProbe:
    """Fed with exchanges in the order in which they were answered, one at a time on the link."""

    def __init__(self, presets: Sequence[Link] = tuple(PRESETS.values())) -> None:
        # Links that carry streams: the others have no packets of their own.
        self._presets = [(link.round_trip_s, link.uplink_bps) for link in presets if link.max_message_bytes is None]
        self._own: deque[tuple[float, float]] = deque(maxlen=REMEMBERED)
        self._kept: deque[Exchange] = deque(maxlen=KEPT)
        self._odd: list[tuple[int, Exchange]] = []  # with their numbers
        self._count = 0
        self._measured_bps: float | None = None  # of this link, when its sizes told
        self._ceiling_bps, self._trusted = math.inf, TRUSTED  # the uplink is no faster, for so many exchanges
        self.estimate: Estimate | None = None  # None: nothing is known
        self.tolerance_s = ODD_S  # what is off by less is not odd, as it makes no difference

    @property
    def settled(self) -> bool:
        """Whether what came last is as expected, and there was enough of it: of large messages, if there are any."""
        largest = max((each.sent_bytes for each in self._kept), default=0.0)
        large = sum(each.sent_bytes >= SAME_SIZE * largest for each in self._kept)
        return self.estimate is not None and not self._odd and large >= RUN

    def add(self, exchange: Exchange) -> None:
        """One more."""
        self._count += 1
        self._trusted -= 1
        if self._trusted <= 0 or exchange.sent_bytes * 8 > self._ceiling_bps * exchange.seconds:
            self._ceiling_bps = math.inf
        direction = self._oddness(exchange)
        if direction == 0:
            # One that is smaller says nothing about the uplink on which the odd ones were late.
            recent = self._count - FORGOTTEN
            self._odd = [
                (count, each)
                for count, each in self._odd
                if count > recent and exchange.sent_bytes < SAME_SIZE * each.sent_bytes
            ]
            self._kept.append(exchange)
        else:
            same = [(count, each) for count, each in self._odd if self._oddness(each) == direction]
            self._odd = [*same, (self._count, exchange)]
            if len(self._odd) < RUN:
                return
            odd = [each for _, each in self._odd]
            self.forget()
            self._kept.extend(odd)
        self._fit()

    def begin(self, exchanges: Sequence[Exchange], overdue: Exchange | None = None) -> None:
        """Some that follow each other closely, on a link of which nothing is known: none of them is odd.

        `overdue` is a message that had no answer after so long, though the link is there: it can't be faster than that.
        """
        self.forget()
        self._ceiling_bps, self._trusted = math.inf, TRUSTED
        if overdue is not None:
            self._ceiling_bps = max(overdue.sent_bytes * 8 / max(overdue.seconds, SHORTEST_S), 2 * UPLINKS[0])
        self._kept.extend(exchanges)
        self._fit()

    def forget(self) -> None:
        """Nothing is known any more, as when the server could not be reached; but for what links are like."""
        if self.estimate is not None and self.estimate.sure:
            self._own.append((self.estimate.round_trip_s, self.estimate.uplink_bps))
        self.estimate = self._measured_bps = None
        self._kept.clear()
        self._odd = []

    def _oddness(self, exchange: Exchange) -> int:
        """1: much slower than expected, -1: much faster, 0: as expected, or nothing was."""
        if self.estimate is None:
            return 0
        off = 1.0 if self.estimate.sure else GUESS_OFF
        slowest, fastest = self._expected(exchange, 1 / off), self._expected(exchange, off)
        spread = statistics.median(abs(each.seconds - self._expected(each)) for each in self._kept)
        allowed = max(self.tolerance_s, ODD_S, ODD_SPREADS * spread)
        if exchange.seconds > slowest + max(allowed, ODD_SHARE * slowest):
            return 1
        return -1 if exchange.seconds < fastest - max(allowed, ODD_SHARE * fastest) else 0

    def _expected(self, exchange: Exchange, times: float = 1.0) -> float:
        """Seconds, with an uplink so many times as fast."""
        assert self.estimate is not None
        return self.estimate.round_trip_s + exchange.sent_bytes * 8 / (self.estimate.uplink_bps * times)

    def _fit(self) -> None:
        """The uplink and round trip under which what was kept is the least surprising."""
        bits = np.array([each.sent_bytes * 8 for each in self._kept])
        seconds = np.array([each.seconds for each in self._kept])
        weights: Floats = np.power(NEWER, np.arange(len(bits) - 1, -1, -1), dtype=np.float64)
        low, high = (math.log10(min(bps, self._ceiling_bps)) for bps in UPLINKS)
        best = self._least(np.arange(low, high, COARSE), bits, seconds, weights)
        fine = np.arange(best - COARSE, best + COARSE, FINE)
        uplink_bps = 10 ** self._least(fine, bits, seconds, weights)
        round_trip_s = float(round_trips(np.array([uplink_bps]), bits, seconds, weights)[0])
        noise_s = max(NOISE_S, NOISE_SHARE * float(np.median(seconds)))
        sure = float(np.ptp(bits)) / uplink_bps > 2 * noise_s
        if sure:
            self._measured_bps = uplink_bps
        self.estimate = Estimate(uplink_bps, round_trip_s, len(bits), sure or self._measured_bps is not None)

    def _least(self, uplinks: Floats, bits: Floats, seconds: Floats, weights: Floats) -> float:
        """Of uplinks, as powers of ten (G,), the one with the least cost."""
        bps = 10**uplinks
        trips = round_trips(bps, bits, seconds, weights)  # (G,)
        off = np.abs(seconds - trips[:, None] - bits / bps[:, None])  # (G, N)
        noise = np.maximum(NOISE_S, NOISE_SHARE * seconds)
        cost = (weights * off / noise).sum(1)
        if self._measured_bps is not None:
            off_usual = (uplinks - math.log10(self._measured_bps)) / MEASURED
        else:
            off_usual = (uplinks - self._usual(trips)) / GUESSED
        cost += np.log1p(off_usual**2 / 2)  # far from what is usual, twice as far makes no difference
        return float(uplinks[cost.argmin()])

    def _usual(self, round_trips_s: Floats) -> Floats:
        """(G,) uplinks, as powers of ten, that links of such round trips have."""
        known = np.log10([*self._presets, *self._own])  # (K, 2)
        worth = np.array([1.0] * len(self._presets) + [OWN] * len(self._own))
        far = (np.log10(round_trips_s)[:, None] - known[:, 0]) ** 2 / (2 * NEAR**2)  # (G, K)
        near = worth * np.exp(far.min(1, keepdims=True) - far)
        usual: Floats = (near * known[:, 1]).sum(1) / near.sum(1)
        return usual


def round_trips(bps: Floats, bits: Floats, seconds: Floats, weights: Floats) -> Floats:
    """(G,): for each uplink the median of what it leaves for the round trip, by weight."""
    left = seconds - bits / bps[:, None]  # (G, N)
    order = left.argsort(1)
    reached = weights[order].cumsum(1) >= weights.sum() / 2
    middle = np.take_along_axis(left, order, 1)[np.arange(len(bps)), reached.argmax(1)]
    trips: Floats = np.maximum(middle, SHORTEST_S)
    return trips
