"""Which partition to use now, and when to move to another: `Pilot`. Pure: no clock, no network, no thread.

    what the device took   --> how much slower it is than in the profile ------.
    what exchanges took    --> LinkProbe: uplink, round trip -------------------+--> latency of each candidate
    what the server says   --> how many times longer than in the profile -------'      `--> stay, or Move, and why

A move needs a gain that is worth it, and figures that have settled: so a link that changes costs one move, not three,
and two candidates that are much the same don't take turns. Only a server that is gone is left at once.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bottlenet.edge.partitions import Processed
from bottlenet.edge.probe import Exchange, LinkProbe
from bottlenet.edge.recent import Factors, Recent
from bottlenet.errors import InputError
from bottlenet.plan.constraints import Wish, with_rounding
from bottlenet.plan.detail import Detail
from bottlenet.plan.link import STREAM_OVERHEAD_BYTES
from bottlenet.plan.planner import choose
from bottlenet.plan.predict import Columns, Floats, Terms
from bottlenet.plan.profile import Candidate, Profile
from bottlenet.wire.answer import Answer

log = logging.getLogger(__name__)

LITTLE = 0.25  # of the most that a candidate computes
CALM = 1.25  # the load of a server that is as good as idle
NOTICED = 0.1  # of what a photo takes: a link that changes less than this makes no difference
MAX_MOVES = 1000  # that are remembered
MAX_REFUSALS = 3  # of one partition in a row; then it is not used any more


@dataclass(frozen=True)
class Policy:
    """How to move. InputError: a value that makes no sense."""

    max_drop: float | None = None  # points of top-1 below the uncut network; None: any
    margin: float = 0.1  # what another has to take less, as a share, to be worth a move
    patience_s: float = 1.0  # that an answer may take, at least, before the server counts as gone
    ping_s: float = 5.0  # without an exchange, after which the link is asked; twice as long each time without a photo
    longest_ping_s: float = 600.0
    longest_away_s: float = 60.0  # between two tries to reach a server that is gone

    def __post_init__(self) -> None:
        Wish("latency", self.max_drop)
        if not 0 <= self.margin < 1:
            raise InputError(f"margin is {self.margin}; give a share, 0 or more and below 1")
        for name in ("patience_s", "ping_s", "longest_ping_s", "longest_away_s"):
            if not 0 < getattr(self, name) < 1e6:
                raise InputError(f"{name} is {getattr(self, name)}; give seconds, above 0")


@dataclass(frozen=True)
class Move:
    """From one partition to another, by their names, and why, in one sentence."""

    source: str
    target: str
    reason: str


class Pilot:
    """Fed with what happens, it says what to use. Not for several threads at once.

    It begins with edge-only, until something is known of the link. InputError: the profile has no edge-only, or
    nothing in it is within `policy.max_drop`.
    """

    def __init__(self, profile: Profile, policy: Policy) -> None:
        self.policy = policy
        self.moves: deque[Move] = deque(maxlen=MAX_MOVES)
        self.link = LinkProbe()
        self._profile = profile
        self.candidates = profile.candidates
        self._columns = Columns.of(self.candidates)
        self._allowed = allowed(profile, policy.max_drop)
        self._index = {each.name: i for i, each in enumerate(self.candidates)}
        self._edge_only = next(i for i, each in enumerate(self.candidates) if each.kind == "edge-only")
        self._current = self._edge_only
        # The photo's size is in what it takes to prepare it, and not in the rest.
        self._prepares = np.array([each.device_s * prepare_share(each.detail) for each in self.candidates])
        count = len(self.candidates)
        self._prepare_s, self._load = Recent(), Recent()
        self._device, self._server = Factors(count), Factors(count)  # the server, idle
        self._most_s = float((self._columns.device_s - self._prepares).max())
        self._refusals = [0] * count
        self._computed: set[int] = set()
        self._answered: set[int] = set()
        self._away = True
        self._overdue: Exchange | None = None  # what had no answer when the server was lost

    @property
    def choice(self) -> Candidate:
        """What to use for the next photo."""
        return self.candidates[self._current]

    @property
    def away(self) -> bool:
        """Whether the server can't be reached, or nobody has tried yet."""
        return self._away

    def computed(self, name: str, processed: Processed) -> None:
        """What the device took for a photo under a candidate. The first of everything is slower, and tells nothing."""
        i = self._index[name]
        if i not in self._computed:
            self._computed.add(i)
            return
        compute_s = self.candidates[i].device_s - float(self._prepares[i])
        took_s = processed.device_s
        if self._prepares[i] > 0:
            self._prepare_s.add(processed.prepare_ms / 1e3)
            took_s -= processed.prepare_ms / 1e3
        if compute_s > 0:
            # Where little is computed, as to encode a picture, chance is a large share of it.
            self._device.add(i, took_s / compute_s, alone=compute_s < LITTLE * self._most_s)

    def answered(self, name: str, payload_bytes: int, round_trip_s: float, answer: Answer) -> None:
        """A photo was sent, and answered."""
        i = self._index[name]
        self._refusals[i] = 0
        if i not in self._answered:
            self._answered.add(i)
            return
        server_s = answer.server_us / 1e6
        self._exchanged(payload_bytes, round_trip_s - server_s)
        usual_s = float(self._server_s()[i])
        # A busy server doesn't show what it takes when idle; and what our photo took is newer than what it says.
        self._load.add(answer.load if answer.load < CALM or usual_s == 0 else max(1.0, server_s / usual_s))
        if answer.load < CALM and self.candidates[i].server_s > 0:
            self._server.add(i, server_s / self.candidates[i].server_s)

    def pinged(self, round_trip_s: float, load: float) -> None:
        """A probe was answered; the server said its load."""
        self._exchanged(0, round_trip_s)
        self._load.set(load)
        self.decide()

    def decide(self) -> None:
        """Move, if it is worth it."""
        latencies = self._latencies()
        if self._away or latencies is None or not self.link.settled:
            return
        usable = np.where(self._allowed, latencies, math.inf)
        best, now_s = int(usable.argmin()), float(usable[self._current])
        if usable[best] < (1 - self.policy.margin) * now_s:
            self._move(best, self._reason(best))

    def lost(self, why: str, overdue: Exchange | None = None) -> None:
        """The server can't be reached, or has no room: edge-only at once. `overdue`: what it did not answer in time."""
        self._away, self._overdue = True, overdue
        self._answered.clear()  # the server may be another when it is there again
        self.link.forget()
        if self._current != self._edge_only:
            self._move(self._edge_only, f"edge-only needs no server, and there is none: {why}")

    def found(self, round_trips_s: Sequence[float], load: float) -> None:
        """It can be reached: some probes were answered, one after the other.

        If they are the first since a photo was overdue, it was not the server that was gone, but the link too slow.
        """
        self._away = False
        self.link.begin([Exchange(sent(0), seconds) for seconds in round_trips_s], self._overdue)
        self._overdue = None
        self._load.set(load)
        self.decide()

    def refused(self, name: str, why: str) -> None:
        """The server is there, and does not take what this candidate sends; after some times it is not used again."""
        i = self._index[name]
        self._refusals[i] += 1
        if self._refusals[i] >= MAX_REFUSALS and i != self._edge_only:
            self._allowed[i] = False
            if i == self._current:
                self._move(self._edge_only, f"the server refuses {name}: {why}")

    def patience_s(self, payload_bytes: int) -> float:
        """How long to wait for the answer to a photo of so many bytes before the server counts as gone."""
        estimate = self.link.estimate
        if estimate is None:
            return 3 * self.policy.patience_s
        server_s = float(self._server_s().max()) * self._load.value(1.0)
        return max(self.policy.patience_s, 3 * (estimate.link().exchange_s(sent(payload_bytes)) + server_s))

    def _exchanged(self, payload_bytes: int, seconds: float) -> None:
        latencies = self._latencies()
        if latencies is not None:
            self.link.tolerance_s = NOTICED * float(latencies[self._current])
        self.link.add(Exchange(sent(payload_bytes), max(seconds, 0.0)))

    def _latencies(self) -> Floats | None:
        """(N,) s, as things are now; None: the link is not known."""
        estimate = self.link.estimate
        if estimate is None:
            return None
        link = estimate.link()
        columns = replace(self._columns, device_s=self._device_s(), server_s=self._server_s())
        return Terms.of(columns, link).latency_s(link, self._load.value(1.0) - 1)

    def _device_s(self) -> Floats:
        """(N,) on this device, as it is now."""
        compute = (self._columns.device_s - self._prepares) * self._device.values()
        prepare_s = self._prepare_s.value(math.nan)
        device_s: Floats = compute + (self._prepares if math.isnan(prepare_s) else prepare_s * (self._prepares > 0))
        return device_s

    def _server_s(self) -> Floats:
        """(N,) on this server when it is idle."""
        server_s: Floats = self._columns.server_s * self._server.values()
        return server_s

    def _reason(self, best: int) -> str:
        """The planner's sentence, for things as they are now."""
        estimate = self.link.estimate
        assert estimate is not None
        load = self._load.value(1.0)
        device_s, server_s = self._device_s(), self._server_s()
        rows = [
            replace(each, device_s=float(device_s[i]), server_s=float(server_s[i]))
            for i, each in enumerate(self.candidates)
            if self._allowed[i]
        ]
        link = replace(estimate.link(), name=f"{estimate.link().name} and a server at {load:.1f} times its idle time")
        return choose(replace(self._profile, candidates=tuple(rows)), link, server_load=load - 1).reason

    def _move(self, target: int, reason: str) -> None:
        source, self._current = self._current, target
        move = Move(self.candidates[source].name, self.candidates[target].name, reason)
        self.moves.append(move)
        log.info("%s -> %s: %s", move.source, move.target, move.reason)


def prepare_share(detail: Detail | None) -> float:
    """How much of what the device takes is preparing, 0 to 1; 0 where nobody knows."""
    if detail is None:
        return 0.0
    rest = [row.median_s for row in detail.compute[:1]]  # of one thread
    rest += [detail.encode.median_s] if detail.encode is not None else []
    total_s = detail.prepare.median_s + sum(rest)
    return detail.prepare.median_s / total_s if total_s > 0 else 0.0


def sent(payload_bytes: int) -> int:
    """Bytes on the network, as the planner counts them."""
    return payload_bytes + STREAM_OVERHEAD_BYTES


def allowed(profile: Profile, max_drop: float | None) -> NDArray[np.bool_]:
    """(N,) bool. InputError: as `Pilot`."""
    if not any(each.kind == "edge-only" for each in profile.candidates):
        raise InputError("the profile has no edge-only; measure again with bottlenet profile")
    drops = np.array([each.top1_drop for each in profile.candidates])
    within = np.full(len(drops), True) if max_drop is None else drops <= with_rounding(max_drop)
    if not within.any():
        raise InputError(f"no partition loses at most {max_drop:g} points; the best loses {drops.min():g}")
    return within
