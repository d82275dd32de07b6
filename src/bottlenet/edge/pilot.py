"""Which partition to use now, and when to move to another: `Pilot`. Pure: no clock, no network, no thread.

    what the device took   --> how much slower it is than in the profile ------.
    what round trips took  --> LinkProbe: uplink, round trip -------------------+--> latency of each candidate
    what the server says   --> how many times longer than in the profile -------'      |
                                                                what is to be least: stay, or Move, and why

A move needs a gain that is worth it, and figures that have settled: so a link that changes costs one move, not three,
and two candidates that are much the same don't take turns. Only a server that is gone is left at once.
"""

from __future__ import annotations

import logging
import math
import statistics
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
from numpy.typing import NDArray

from bottlenet.edge.encoder import Processed
from bottlenet.errors import InputError
from bottlenet.plan.link import PRESETS, STREAM_OVERHEAD_BYTES, Link, Radio
from bottlenet.plan.planner import Wish, choose, duration, rate, score_of, with_rounding
from bottlenet.plan.predict import Columns, Floats, Prices, Terms
from bottlenet.plan.profile import Candidate, Detail, Profile
from bottlenet.wire.answer import Answer

log = logging.getLogger(__name__)

LITTLE = 0.25  # of the most that a candidate computes
CALM = 1.25  # the load of a server that is as good as idle
NOTICED = 0.1  # of what a photo takes: a link that changes less than this makes no difference
MAX_MOVES = 1000  # that are remembered
MAX_REFUSALS = 3  # of one partition in a row; then it is not used any more

WINDOW = 5  # values whose median counts: it takes three to change it
ENOUGH = 3  # of them, for the median to be more than chance
FORGOTTEN = 0.005  # with each photo, of how candidates differ

KEPT = 12  # round trips
NEWER = 0.85  # of its weight is what a round trip has when the next comes
RUN = 3  # odd ones are another link
SAME_SIZE = 0.5  # of the larger message, at least: what is smaller tells too little about the uplink
TRUSTED = 4  # round trips for which a message that was overdue says how fast the link can be: it may have been chance
ODD_KEPT = 8  # round trips after which an odd one is forgotten
# Odd: off by more than this share, these seconds, and so many times what they differ by anyway.
ODD_SHARE, ODD_S, ODD_SPREADS = 0.25, 0.003, 4.0
NOISE_SHARE, NOISE_S = 0.05, 0.0005  # of a round trip, at least
SHORTEST_S = 1e-5
UPLINKS = (1e3, 1e10)  # bits a second, the slowest and the fastest
COARSE, FINE = 0.1, 0.01  # powers of ten
# How sure the guess from the round trip is, in powers of ten, and a value that was measured on this very link.
GUESSED, MEASURED = 0.4, 0.1
GUESS_OFF = 100.0  # times that a guess may be off, before one that it does not fit is odd
NEAR = 0.3  # powers of ten between round trips that are much the same
OWN = 4.0  # links of this device count so many times as much as presets
REMEMBERED = 16


@dataclass(frozen=True)
class Policy:
    """How to move. InputError: a value that makes no sense."""

    max_drop: float | None = None  # points of top-1 below the uncut network; None: any
    objective: str = "latency"  # what is to be least: latency, energy, bytes or cost
    prices: Prices | None = None  # for the objective cost
    radio: Radio | None = None  # that sends, for the objective energy: PRESETS["3g"].radio
    margin: float = 0.1  # what another has to take less, as a share, to be worth a move
    patience_s: float = 1.0  # that an answer may take, at least, before the server counts as gone
    ping_s: float = 5.0  # without an exchange, after which the link is asked; twice as long each time without a photo
    longest_ping_s: float = 600.0
    longest_away_s: float = 60.0  # between two tries to reach a server that is gone

    def __post_init__(self) -> None:
        if (self.objective == "energy") != (self.radio is not None):
            raise InputError(
                "the objective energy needs the power of a radio, and no other does; give both, or neither"
            )
        _ = self.wish  # checks the rest
        if not 0 <= self.margin < 1:
            raise InputError(f"margin is {self.margin}; give a share, 0 or more and below 1")
        for name in ("patience_s", "ping_s", "longest_ping_s", "longest_away_s"):
            if not 0 < getattr(self, name) < 1e6:
                raise InputError(f"{name} is {getattr(self, name)}; give seconds, above 0")

    @property
    def wish(self) -> Wish:
        return Wish(self.objective, self.max_drop, prices=self.prices)


@dataclass(frozen=True)
class Move:
    """From one partition to another, by their names, and why, in one sentence."""

    source: str
    target: str
    reason: str


class Pilot:
    """Says which candidate to use, by what it is told of photos, probes and errors; first one that needs no server.

    For one thread.

    InputError: the profile has no edge-only, nothing in it is within `policy.max_drop`, or for the objective energy it
    knows none.
    """

    def __init__(self, profile: Profile, policy: Policy) -> None:
        self.policy = policy
        self.moves: deque[Move] = deque(maxlen=MAX_MOVES)
        self.link = LinkProbe()
        self._profile = profile
        self.candidates = profile.candidates
        self._columns = Columns.of(self.candidates)
        self._allowed = allowed(profile, policy.wish)
        self._index = {each.name: i for i, each in enumerate(self.candidates)}
        self._edge_only = next(i for i, each in enumerate(self.candidates) if each.kind == "edge-only")
        # The photo's size is in what it takes to prepare it, and not in the rest.
        self._prepares = np.array([each.device_s * prepare_share(each.detail) for each in self.candidates])
        count = len(self.candidates)
        self._prepare_s, self._load = RunningMedian(), RunningMedian()
        self._device, self._server = Factors(count), Factors(count)  # the server, idle
        self._computes = np.maximum(self._columns.device_s - self._prepares, 0.0)
        self._current = self._index[self.alone.name]
        self._refusals = [0] * count
        self._computed: set[int] = set()
        self._answered: set[int] = set()
        self.away = True  # the server can't be reached, or nobody has tried yet
        self._overdue: RoundTrip | None = None  # what had no answer when the server was lost

    @property
    def choice(self) -> Candidate:
        return self.candidates[self._current]

    @property
    def alone(self) -> Candidate:
        """The best of those that need no server; the whole network, where none is allowed."""
        own = [i for i, each in enumerate(self.candidates) if each.kind == "edge-only" and self._allowed[i]]
        takes = self._columns.compute_mj if self.policy.objective == "energy" else self._device_s()
        return self.candidates[min(own, key=lambda i: takes[i], default=self._edge_only)]

    def computed(self, name: str, processed: Processed) -> None:
        """Take note of what the device took for a photo; of the first under each candidate not, as that is slower."""
        i = self._index[name]
        if i not in self._computed:
            self._computed.add(i)
            return
        used = self.candidates[i]
        own = used.exit if isinstance(processed.result, Answer) else None
        compute_s = (used.device_s if own is None else own.device_s) - float(self._prepares[i])
        took_s = processed.device_s
        if self._prepares[i] > 0:
            self._prepare_s.add(processed.prepare_ms / 1e3)
            took_s -= processed.prepare_ms / 1e3
        if compute_s > 0:
            # Where little is computed, as to encode a picture, chance is a large share of it.
            self._device.add(i, took_s / compute_s, alone=compute_s < LITTLE * float(self._computes.max()))

    def answered(self, name: str, payload_bytes: int, round_trip_s: float, answer: Answer) -> None:
        i = self._index[name]
        self._refusals[i] = 0
        if i not in self._answered:
            self._answered.add(i)
            return
        server_s = answer.server_us / 1e6
        self._add_round_trip(payload_bytes, round_trip_s - server_s)
        usual_s = float(self._server_s()[i])
        # A busy server doesn't show what it takes when idle; and what our photo took is newer than what it says.
        self._load.add(answer.load if answer.load < CALM or usual_s == 0 else max(1.0, server_s / usual_s))
        if answer.load < CALM and self.candidates[i].server_s > 0:
            self._server.add(i, server_s / self.candidates[i].server_s)

    def pinged(self, round_trip_s: float, load: float) -> None:
        self._add_round_trip(0, round_trip_s)
        self._load.set(load)
        self.reconsider()

    def reconsider(self) -> None:
        known = self._known()
        if self.away or known is None or not self.link.settled:
            return
        link, terms, latencies = known
        scores = np.where(self._allowed, score_of(self.policy.wish, terms, link, latencies), math.inf)
        best, now, most = int(np.lexsort((latencies, scores))[0]), self._current, 1 - self.policy.margin
        # Of two that send nothing the faster one is better, whatever is to be least.
        faster = scores[best] <= scores[now] and latencies[best] < most * latencies[now]
        if scores[best] < most * scores[now] or faster:
            self._move(best, self._reason(best))

    def lost(self, why: str, overdue: RoundTrip | None = None) -> None:
        """Turn to what needs no server, as that is gone or full. `overdue`: the message that had no answer in time."""
        self.away, self._overdue = True, overdue
        self._answered.clear()  # the server may be another when it is there again
        self.link.forget()
        if self.choice.kind != "edge-only":
            alone = self.alone.name
            self._move(self._index[alone], f"{alone} needs no server, and there is none: {why}")

    def found(self, round_trips_s: Sequence[float], load: float) -> None:
        """Take note of a server that answers probes; if a photo was overdue, it was the link that was too slow."""
        self.away = False
        self.link.begin([RoundTrip(network_bytes(0), seconds) for seconds in round_trips_s], self._overdue)
        self._overdue = None
        self._load.set(load)
        self.reconsider()

    def refused(self, name: str, why: str) -> None:
        """Take note of a server that refuses what this candidate sends; after some times it is not used again."""
        i = self._index[name]
        self._refusals[i] += 1
        if self._refusals[i] >= MAX_REFUSALS and i != self._edge_only:
            self._allowed[i] = False
            if i == self._current:
                self._move(self._index[self.alone.name], f"the server refuses {name}: {why}")

    def patience_s(self, payload_bytes: int) -> float:
        """Return how long to wait for the answer to a photo of so many bytes before the server counts as gone."""
        estimate = self.link.estimate
        if estimate is None:
            return 3 * self.policy.patience_s
        server_s = float(self._server_s().max()) * self._load.value(1.0)
        return max(self.policy.patience_s, 3 * (estimate.link().exchange_s(network_bytes(payload_bytes)) + server_s))

    def _add_round_trip(self, payload_bytes: int, seconds: float) -> None:
        known = self._known()
        if known is not None:
            self.link.tolerance_s = NOTICED * float(known[-1][self._current])
        self.link.add(RoundTrip(network_bytes(payload_bytes), max(seconds, 0.0)))

    def _known(self) -> tuple[Link, Terms, Floats] | None:
        """Return the link, the terms on it and latencies (N,) s, as things are now; None: the link is not known."""
        estimate = self.link.estimate
        if estimate is None:
            return None
        link = replace(estimate.link(), radio=self.policy.radio)
        columns = replace(self._columns, device_s=self._device_s(), server_s=self._server_s())
        terms = Terms.of(columns, link)
        return link, terms, terms.latency_s(link, self._load.value(1.0) - 1)

    def _device_s(self) -> Floats:
        compute = self._computes * self._device.values()
        prepare_s = self._prepare_s.value(math.nan)
        prepare = self._prepares if math.isnan(prepare_s) else prepare_s * (self._prepares > 0)
        return cast(Floats, compute + prepare)

    def _server_s(self) -> Floats:
        return self._columns.server_s * self._server.values()

    def _reason(self, best: int) -> str:
        estimate = self.link.estimate
        assert estimate is not None
        load = self._load.value(1.0)
        device_s, server_s = self._device_s(), self._server_s()
        rows = tuple(
            as_now(self.candidates[i], float(device_s[i]), float(server_s[i])) for i in np.flatnonzero(self._allowed)
        )
        link, policy = estimate.link(), self.policy
        link = replace(link, name=f"{link.name} and a server at {load:.1f} times its idle time", radio=policy.radio)
        profile = replace(self._profile, candidates=rows)
        return choose(
            *(profile, link),
            objective=policy.objective,
            max_drop=policy.max_drop,
            server_load=load - 1,
            prices=policy.prices,
        ).reason

    def _move(self, target: int, reason: str) -> None:
        source, self._current = self._current, target
        move = Move(self.candidates[source].name, self.candidates[target].name, reason)
        self.moves.append(move)
        log.info("%s -> %s: %s", move.source, move.target, move.reason)


def as_now(candidate: Candidate, device_s: float, server_s: float) -> Candidate:
    """Put a device's mean over photos, sent or not, and a server's time in place of the profile's."""
    own = None if candidate.exit is None else replace(candidate.exit, device_s=device_s)
    return replace(candidate, device_s=device_s, server_s=server_s, exit=own)


def prepare_share(measured: Detail | None) -> float:
    """Return how much of what the device takes is preparing, 0 to 1; 0 where nobody knows."""
    if measured is None:
        return 0.0
    rest = [row.median_s for row in measured.compute[:1]]  # of one thread
    rest += [measured.encode.median_s] if measured.encode is not None else []
    total_s = measured.prepare.median_s + sum(rest)
    return measured.prepare.median_s / total_s if total_s > 0 else 0.0


def network_bytes(payload_bytes: int) -> int:
    """Count a payload with all that is around it, as the planner does."""
    return payload_bytes + STREAM_OVERHEAD_BYTES


def allowed(profile: Profile, wish: Wish) -> NDArray[np.bool_]:
    """Tell which candidates may be used, (N,) bool. InputError: as `Pilot`."""
    max_drop = wish.max_drop
    if not any(each.kind == "edge-only" for each in profile.candidates):
        raise InputError("the profile has no edge-only; measure again with bottlenet profile")
    drops = np.array([each.top1_drop for each in profile.candidates])
    free = np.array([not each.needs_bound for each in profile.candidates])
    within = free if max_drop is None else drops <= with_rounding(max_drop)
    if not within.any() and max_drop is not None:
        raise InputError(f"no partition loses at most {max_drop:g} points; the best loses {drops.min():g}")
    if wish.objective == "energy":
        within &= np.array([each.energy is not None for each in profile.candidates])
        if not within.any():
            advice = "measure again with bottlenet profile --device-power-mw, or choose another objective"
            raise InputError(f"no candidate's device energy is known; {advice}")
    return within


class RunningMedian:
    """The median of the last few values; one or two odd ones change nothing."""

    def __init__(self) -> None:
        self._values: deque[float] = deque(maxlen=WINDOW)

    def add(self, value: float) -> None:
        self._values.append(value)

    def set(self, value: float) -> None:
        self._values.clear()
        self._values.append(value)

    @property
    def enough(self) -> bool:
        return len(self._values) >= ENOUGH

    def value(self, unknown: float) -> float:
        """Return the median, or `unknown` where there is no value yet."""
        return statistics.median(self._values) if self._values else unknown


class Factors:
    """Factors between what candidates take and what the profile says: some may be further off than others.

    Only one is seen at a time. When it takes longer, so will those seen before; those never seen take what it does.
    """

    def __init__(self, count: int) -> None:
        self._factors = np.full(count, math.nan)
        self._factor = RunningMedian()
        self._last = -1

    def add(self, i: int, factor: float, *, alone: bool = False) -> None:
        """Take note of what candidate `i` took. `alone`: that says nothing about the others."""
        (self._factor.add if i == self._last else self._factor.set)(factor)
        self._last = i
        if math.isnan(self._factors[i]):
            self._factors[i] = factor
        elif self._factor.enough:
            latest = self._factor.value(1.0)
            if not alone:
                self._factors *= latest / self._factors[i]
            self._factors[i] = latest
        if not alone:
            self._factors += FORGOTTEN * (self._factors[i] - self._factors)

    def values(self) -> Floats:
        """Estimate (N,) factors, also of candidates that were never used."""
        latest = 1.0 if self._last < 0 else self._factors[self._last]
        return np.where(np.isnan(self._factors), latest, self._factors)


@dataclass(frozen=True)
class Estimate:
    """The link, as far as it is known."""

    uplink_bps: float
    round_trip_s: float
    samples: int  # round trips that tell so
    sure: bool  # whether the uplink was measured; else it is guessed from the round trip

    def link(self) -> Link:
        name = f"{rate(self.uplink_bps)}, {duration(self.round_trip_s)}"
        return Link(name, self.uplink_bps, self.round_trip_s, per_message_overhead_bytes=STREAM_OVERHEAD_BYTES)


@dataclass(frozen=True)
class RoundTrip:
    """One message and its answer. InputError: bytes or seconds below 0, or no numbers."""

    sent_bytes: float  # with what the transport adds
    seconds: float  # without the server's own time

    def __post_init__(self) -> None:
        if not 0 <= self.sent_bytes < math.inf or not 0 <= self.seconds < math.inf:
            raise InputError(f"a message of {self.sent_bytes} bytes in {self.seconds} s; give numbers, 0 or more")


class LinkProbe:
    """What the link is like just now, from a device's own traffic, one message at a time. Pure: no clock, no network.

        (bytes sent, seconds to the answer less what the server says it took), ... -> fit -> uplink, round trip

        seconds = round trip + 8 * bytes / uplink

    One odd round trip may be chance. Three that are all slower or all faster than they should be, and none of their
    size in between that is as it should be, are another link, and what was measured before is forgotten.

    Messages of one size can't tell a long round trip from a slow uplink. Until sizes differ, the uplink is what links
    of this round trip have: those of `plan.link.PRESETS`, and those that this device has had, which count more.
    """

    def __init__(self, presets: Sequence[Link] = tuple(PRESETS.values())) -> None:
        # Links that carry streams: the others have no packets of their own.
        self._presets = [(link.round_trip_s, link.uplink_bps) for link in presets if link.max_message_bytes is None]
        self._own: deque[tuple[float, float]] = deque(maxlen=REMEMBERED)
        self._kept: deque[RoundTrip] = deque(maxlen=KEPT)
        self._odd: list[tuple[int, RoundTrip]] = []  # with their numbers
        self._count = 0
        self._measured_bps: float | None = None  # of this link, when its sizes told
        self._ceiling_bps, self._trusted = math.inf, TRUSTED  # the uplink is no faster, for so many round trips
        self.estimate: Estimate | None = None  # None: nothing is known
        self.tolerance_s = ODD_S  # what is off by less is not odd, as it makes no difference

    @property
    def settled(self) -> bool:
        """Whether what came last is as expected, and there was enough of it: of large messages, if there are any."""
        largest = max((each.sent_bytes for each in self._kept), default=0.0)
        large = sum(each.sent_bytes >= SAME_SIZE * largest for each in self._kept)
        return self.estimate is not None and not self._odd and large >= RUN

    def add(self, trip: RoundTrip) -> None:
        self._count += 1
        self._trusted -= 1
        if self._trusted <= 0 or trip.sent_bytes * 8 > self._ceiling_bps * trip.seconds:
            self._ceiling_bps = math.inf
        direction = self._oddness(trip)
        if direction == 0:
            # One that is smaller says nothing about the uplink on which the odd ones were late.
            oldest = self._count - ODD_KEPT
            recent = [(count, each) for count, each in self._odd if count > oldest]
            self._odd = [(count, each) for count, each in recent if trip.sent_bytes < SAME_SIZE * each.sent_bytes]
            self._kept.append(trip)
        else:
            same = [(count, each) for count, each in self._odd if self._oddness(each) == direction]
            self._odd = [*same, (self._count, trip)]
            if len(self._odd) < RUN:
                return
            odd = [each for _, each in self._odd]
            self.forget()
            self._kept.extend(odd)
        self._fit()

    def begin(self, trips: Sequence[RoundTrip], overdue: RoundTrip | None = None) -> None:
        """Start on an unknown link with some that follow each other closely; `overdue` had no answer after so long."""
        self.forget()
        self._ceiling_bps, self._trusted = math.inf, TRUSTED
        if overdue is not None:
            self._ceiling_bps = max(overdue.sent_bytes * 8 / max(overdue.seconds, SHORTEST_S), 2 * UPLINKS[0])
        self._kept.extend(trips)
        self._fit()

    def forget(self) -> None:
        """Forget this link, as when the server could not be reached, but not what links are like."""
        if self.estimate is not None and self.estimate.sure:
            self._own.append((self.estimate.round_trip_s, self.estimate.uplink_bps))
        self.estimate = self._measured_bps = None
        self._kept.clear()
        self._odd = []

    def _oddness(self, trip: RoundTrip) -> int:
        """Return 1 for much slower than expected, -1 for much faster, 0 for as expected, or where nothing was."""
        if self.estimate is None:
            return 0
        off = 1.0 if self.estimate.sure else GUESS_OFF
        slowest, fastest = self._expected(trip, 1 / off), self._expected(trip, off)
        spread = statistics.median(abs(each.seconds - self._expected(each)) for each in self._kept)
        allowed = max(self.tolerance_s, ODD_S, ODD_SPREADS * spread)
        if trip.seconds > slowest + max(allowed, ODD_SHARE * slowest):
            return 1
        return -1 if trip.seconds < fastest - max(allowed, ODD_SHARE * fastest) else 0

    def _expected(self, trip: RoundTrip, times: float = 1.0) -> float:
        assert self.estimate is not None
        return self.estimate.round_trip_s + trip.sent_bytes * 8 / (self.estimate.uplink_bps * times)

    def _fit(self) -> None:
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
        """Find the one of uplinks, as powers of ten (G,), with the least cost."""
        bps = 10**uplinks
        trips = round_trips(bps, bits, seconds, weights)  # (G,)
        off = np.abs(seconds - trips[:, None] - bits / bps[:, None])  # (G, N)
        noise = np.maximum(NOISE_S, NOISE_SHARE * seconds)
        cost = (weights * off / noise).sum(1)
        measured = self._measured_bps
        usual, sure = (self._usual(trips), GUESSED) if measured is None else (math.log10(measured), MEASURED)
        cost += np.log1p(((uplinks - usual) / sure) ** 2 / 2)  # far from what is usual, twice as far is no matter
        return float(uplinks[cost.argmin()])

    def _usual(self, round_trips_s: Floats) -> Floats:
        """Guess (G,) uplinks, as powers of ten, that links of such round trips have."""
        known = np.log10([*self._presets, *self._own])  # (K, 2)
        worth = np.array([1.0] * len(self._presets) + [OWN] * len(self._own))
        far = (np.log10(round_trips_s)[:, None] - known[:, 0]) ** 2 / (2 * NEAR**2)  # (G, K)
        near = worth * np.exp(far.min(1, keepdims=True) - far)
        return cast(Floats, (near * known[:, 1]).sum(1) / near.sum(1))


def round_trips(bps: Floats, bits: Floats, seconds: Floats, weights: Floats) -> Floats:
    """Compute (G,) s: for each uplink the median of what it leaves for the round trip, by weight."""
    left = seconds - bits / bps[:, None]  # (G, N)
    order = left.argsort(1)
    reached = weights[order].cumsum(1) >= weights.sum() / 2
    middle = np.take_along_axis(left, order, 1)[np.arange(len(bps)), reached.argmax(1)]
    return cast(Floats, np.maximum(middle, SHORTEST_S))
