"""The best partition, and why: the selection phase of the paper's Algorithm 1, for links with a round trip.

    profile, link, load --Terms--> latency, energy, bytes, cost of each candidate
      `--checks--> rejected, each with what it would need
           `--objective--> choice, runner-up, where the choice flips, Pareto front --> Plan, and why in one sentence;
                           where no cut is the best, why not, in another

Ties go to the lower latency, then to fewer bytes, then to the first in the profile. `best_of` makes the choice alone
for thousands of links at once: a plan takes half a millisecond, however few candidates there are, this microseconds a
link. The same formulas on the same numbers in the same order give the same choice to the last bit.

Where the choice changes, at which bandwidth, round trip or server load another candidate wins, is found in closed form.
Score and latency of every candidate are straight lines in each of the three (bandwidth: in 1 / uplink). So "candidate i
may be chosen, and beats the choice" holds on one interval of the axis, whose ends are where two lines cross or where a
line meets the deadline. The nearest such interval on either side of where we are, or the point at which the choice
itself misses the deadline, is a flip.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from bottlenet.errors import InputError
from bottlenet.plan.link import Link, parse_link
from bottlenet.plan.predict import Columns, Floats, Links, Prediction, Prices, Terms, check_load, known, predictions
from bottlenet.plan.profile import Candidate, Profile
from bottlenet.records import is_number, shown

__all__ = ["OBJECTIVES", "Flip", "Plan", "Prediction", "Prices", "Rejected", "best_of", "choose"]

OBJECTIVES = ("latency", "energy", "bytes", "cost")
ROUNDING = 1e-9  # of a limit: 0.0157 s and 15.7 ms are not the same float
FIXED = {"message", "energy", "bound"}  # constraints that are not the user's to relax
NO_DROP = -200.0  # points, less than there are
NOBODY = -1
AT_ONCE = 2**17  # candidates x links; so a few arrays of 1 MB, whatever there is
QUANTITIES = ("uplink_bps", "round_trip_s", "server_load")
LARGEST = {"uplink_bps": 1e12, "round_trip_s": 3600.0, "server_load": 1e6}  # flips beyond are of no interest
SLOWEST_BPS = 1.0
TRIED = 16  # points that may be a flip
BESIDE = 1e-9  # relative: who wins is asked just behind the flip
SAID = 3  # flips in a sentence

Limit = TypeVar("Limit", float, Floats)


@dataclass(frozen=True)
class Plan:
    """What to do, and why."""

    link: Link
    objective: str
    server_load: float
    choice: Prediction
    runner_up: Prediction | None  # None: no other meets the constraints
    reason: str  # one sentence
    no_cut: str | None  # why the network is not cut, one sentence; None: it is, or there is no cut
    flips: tuple[Flip, ...]
    front: tuple[Prediction, ...]  # Pareto, fastest first, of those that meet the constraints
    rejected: tuple[Rejected, ...]


@dataclass(frozen=True)
class Flip:
    """Above or below this value another candidate wins, all else being equal."""

    quantity: str  # "uplink_bps", "round_trip_s" or "server_load"
    value: float  # in the unit that the name says; server_load: photos ahead of ours
    side: str  # "above" or "below"
    winner: str | None  # there; None: no candidate meets the constraints


@dataclass(frozen=True)
class Rejected:
    """A candidate that may not be chosen, and the first constraint in the way."""

    name: str
    # "message" (the link's), "energy" (not known), "bound" (no max_drop is given), "max_drop", "budget" or "deadline"
    constraint: str
    needs: float | None  # what the constraint would have to be: bytes, None, points, points, bytes, seconds


def choose(
    profile: Profile,
    link: Link | str,
    *,
    objective: str = "latency",
    max_drop: float | None = None,
    deadline_s: float | None = None,
    budget_bytes: float | None = None,
    server_load: float = 0.0,
    connected: bool = True,
    prices: Prices | None = None,
) -> Plan:
    """Choose the least latency, device energy, uplink bytes or cost among candidates that meet all constraints.

    `link` is a `Link`, or what `parse_link` takes. `max_drop` is in points of top-1, `budget_bytes` the mean of a
    photo with overhead, `server_load` photos ahead of ours; `connected=False` adds the connection's set-up. Candidates
    of `needs_bound` are chosen only with `max_drop`. InputError: no candidate meets the constraints (it says which to
    relax), or an argument can't be used.
    """
    if not isinstance(profile, Profile):
        raise InputError(f"profile is {profile!r:.80}; give a Profile: parse_profile(Path(FILE).read_bytes())")
    link = parse_link(link) if isinstance(link, str) else link
    if not isinstance(link, Link):
        raise InputError(f"link is {shown(link)}; give a Link, or text such as 3g or 1.1M,100ms,1%")
    wish = Wish(objective, max_drop, deadline_s, budget_bytes, prices)
    check_load(server_load)
    check_radio(wish, link)
    candidates = profile.candidates
    now = Situation(wish, Terms.of(Columns.of(candidates), link, connected=connected), link, server_load)
    order = now.ranking(link, server_load)
    if not len(order):
        raise nobody(candidates, now.checks, link)
    first = order[:2].tolist()
    cut = None if candidates[order[0]].kind == "split" else best_cut(now, order, candidates)
    kept = [*first, *pareto(now, order), *([] if cut is None else [cut])]
    rows, terms = [candidates[i] for i in kept], now.terms.rows(kept)
    made = predictions(rows, terms, link, server_load, connected, prices)
    best, runner_up = made[0], made[1] if len(first) > 1 else None
    flips, rejected = find_flips(now, first[0], candidates), rejections(candidates, now.checks)
    not_cut = None if cut is None else made.pop()
    return Plan(
        link=link,
        objective=objective,
        server_load=server_load,
        choice=best,
        runner_up=runner_up,
        reason=why_chosen(best, runner_up, flips, objective, link.name),
        no_cut=None if not_cut is None else why_not(best, not_cut, rejected, objective, link.name),
        flips=flips,
        front=tuple(made[len(first) :]),
        rejected=rejected,
    )


def best_of(
    profile: Profile,
    links: Sequence[Link],
    *,
    objective: str = "latency",
    max_drop: float | None = None,
    deadline_s: float | None = None,
    budget_bytes: float | None = None,
    server_load: float | Sequence[float] = 0.0,
    connected: bool = True,
    prices: Prices | None = None,
) -> NDArray[np.intp]:
    """Choose for many links: (L,) indices of `choose`'s choice in `profile.candidates`; `NOBODY` where there is none.

    Arguments and InputError as there; `server_load` is one for all links, or one for each.
    """
    wish = Wish(objective, max_drop, deadline_s, budget_bytes, prices)
    given = [server_load] * len(links) if isinstance(server_load, int | float) else list(server_load)
    if len(given) != len(links):
        what = f"there are {len(given)} server loads for {len(links)} links"
        raise InputError(f"{what}; give one for all, or one for each")
    for load in {*given}:
        check_load(load)
    for link in links:
        check_radio(wish, link)
    columns, loads = Columns.of(profile.candidates), np.array(given, np.float64).reshape(-1, 1)
    best, step = np.empty(len(links), np.intp), max(1, AT_ONCE // len(profile.candidates))
    for start in range(0, len(links), step):
        part = slice(start, start + step)
        some = Links.of(links[part])
        best[part] = best_here(Terms.of(columns, some, connected=connected), some, wish, loads[part])
    return best


def best_here(terms: Terms, links: Links, wish: Wish, loads: Floats) -> NDArray[np.intp]:
    """Choose for so many links that the arrays stay small: (L,) indices, or `NOBODY`."""
    latency = terms.latency_s(links, loads)  # (L, N)
    met = np.ones(latency.shape, bool)
    for check in checks_of(wish, terms, links, latency):
        met &= check.met
    # The least score; of those the lowest latency; of those the fewest bytes; of those the first.
    for column in (score_of(wish, terms, links, latency), latency, terms.uplink_bytes):
        values = np.where(met, column, math.inf)
        met &= values == values.min(1, keepdims=True)
    return np.where(met.any(1), met.argmax(1), NOBODY)


@dataclass(frozen=True)
class Wish:
    """What the best candidate is to minimise and to meet. InputError: a limit that makes no sense."""

    objective: str
    max_drop: float | None = None  # points
    deadline_s: float | None = None
    budget_bytes: float | None = None  # a photo, mean, with overhead
    prices: Prices | None = None

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise InputError(f"objective {self.objective!a:.40} is unknown; choose one of {', '.join(OBJECTIVES)}")
        if self.objective == "cost" and self.prices is None:
            raise InputError("objective cost needs the price of a megabyte of uplink, of an hour of server, or both")
        for name in ("max_drop", "deadline_s", "budget_bytes"):
            value = getattr(self, name)
            if value is not None and not is_number(value):
                raise InputError(f"{name} is {shown(value)}; give a number")
        if self.max_drop is not None and not -100 <= self.max_drop <= 100:
            raise InputError(f"max_drop is {self.max_drop}; give points of top-1, -100 to 100")
        if self.deadline_s is not None and not 0 < self.deadline_s < math.inf:
            raise InputError(f"deadline is {self.deadline_s * 1e3:g} ms; give a time above 0")
        if self.budget_bytes is not None and not 0 <= self.budget_bytes < math.inf:
            raise InputError(f"budget is {self.budget_bytes} bytes; give bytes a photo, 0 or more")


@dataclass(frozen=True)
class Check:
    """One constraint: candidate i meets it if needs[i] <= limit, but for rounding. NaN, not known, meets nothing."""

    name: str
    limit: Any  # a number, or (L, 1) for many links
    needs: Floats  # (N,), or (L, N) for many links

    @property
    def met(self) -> NDArray[np.bool_]:
        return cast(NDArray[np.bool_], self.needs <= with_rounding(self.limit))


def check_radio(wish: Wish, link: Link) -> None:
    """Raise InputError if the objective is energy and the link's radio is not known."""
    if wish.objective == "energy" and link.radio is None:
        what = f"objective energy needs the radio power of link {link.name}, for which there is no source"
        raise InputError(f"{what}; choose 3g, 4g or wifi, or another objective")


def score_of(wish: Wish, terms: Terms, link: Link | Links, latency_s: Floats) -> Floats:
    if wish.objective == "latency":
        return latency_s
    if wish.objective == "energy":
        return terms.energy_mj(link)
    return terms.uplink_bytes if wish.prices is None or wish.objective == "bytes" else terms.cost(wish.prices)


def with_rounding(limit: Limit) -> Limit:
    """Widen a limit by what floats may round."""
    return limit + ROUNDING * abs(limit)


def checks_of(wish: Wish, terms: Terms, link: Link | Links, latency_s: Floats) -> list[Check]:
    """List the constraints of the link and the objective, and those that the user gave."""
    carries = math.inf if link.max_message_bytes is None else link.max_message_bytes
    checks = [Check("message", carries, terms.message_bytes)]
    if wish.objective == "energy":
        checks.append(Check("energy", math.inf, terms.energy_mj(link)))
    if wish.max_drop is None and terms.needs_bound.any():
        checks.append(Check("bound", NO_DROP, np.where(terms.needs_bound > 0, terms.drop, NO_DROP)))
    drop, budget = Check("max_drop", wish.max_drop, terms.drop), Check("budget", wish.budget_bytes, terms.uplink_bytes)
    given = drop, budget, Check("deadline", wish.deadline_s, latency_s)
    return checks + [check for check in given if check.limit is not None]


class Situation:
    """All that decides: a wish, and what the candidates take at the link and load of now."""

    def __init__(self, wish: Wish, terms: Terms, link: Link, server_load: float) -> None:
        self.wish, self.terms, self.link, self.server_load = wish, terms, link, server_load
        self.latency_s = terms.latency_s(link, server_load)
        self.checks = checks_of(wish, terms, link, self.latency_s)
        self.allowed = np.ones(len(terms.bits), bool)  # by all but the deadline, which moves with link and load
        for check in self.checks:
            if check.name != "deadline":
                self.allowed &= check.met
        self.deadline_s = math.inf if wish.deadline_s is None else with_rounding(wish.deadline_s)
        # Of latency and score, along each axis.
        self.slopes = {"uplink_bps": terms.bits, "round_trip_s": terms.rounds, "server_load": terms.server_s}
        self.score_slopes = dict.fromkeys(QUANTITIES, np.zeros_like(terms.bits))
        if wish.objective == "latency":
            self.score_slopes = self.slopes
        elif wish.objective == "energy" and link.radio is not None:
            self.score_slopes["uplink_bps"] = terms.bits * link.radio.beta_mw

    def x(self, quantity: str) -> float:
        if quantity == "server_load":
            return self.server_load
        return 1 / self.link.uplink_bps if quantity == "uplink_bps" else self.link.round_trip_s

    def at(self, quantity: str, x: float) -> tuple[Link, float]:
        if quantity == "server_load":
            return self.link, x
        if quantity == "uplink_bps":
            return dataclasses.replace(self.link, uplink_bps=1 / x), self.server_load
        return dataclasses.replace(self.link, round_trip_s=x), self.server_load

    def ranking(self, link: Link, server_load: float, *, best_only: bool = False) -> NDArray[np.intp]:
        """Rank those that meet the constraints there, best first; or only the best and what ties with it."""
        latency = self.terms.latency_s(link, server_load)
        indices = np.flatnonzero(self.allowed & (latency <= self.deadline_s))
        score = score_of(self.wish, self.terms, link, latency)[indices]
        if best_only and len(indices):
            best = score == score.min()
            indices, score = indices[best], score[best]
        return indices[np.lexsort((self.terms.uplink_bytes[indices], latency[indices], score))]


def pareto(now: Situation, among: NDArray[np.intp]) -> list[int]:
    """Keep those of `among` than which no other is as good in latency, bytes, drop and energy and better in one.

    Fastest first; of equals the first. Energy counts where it is known of all of them.
    """
    terms = now.terms
    columns = [now.latency_s, terms.uplink_bytes, terms.drop, terms.energy_mj(now.link)]
    points = np.stack([column[among] for column in columns if not np.isnan(column[among]).any()], axis=1)  # (M, 3 or 4)
    # In this order nothing that comes later is as good as the first in everything.
    left = np.lexsort(points.T[::-1])
    front: list[int] = []
    while len(left):
        first, rest = left[0], left[1:]
        front.append(int(among[first]))
        left = rest[(points[rest] < points[first]).any(1)]
    return front


def best_cut(now: Situation, order: NDArray[np.intp], candidates: Sequence[Candidate]) -> int | None:
    """Return the split that ranks first, or of those that may not be chosen misses the fewest; None: there is none."""
    splits = [i for i, each in enumerate(candidates) if each.kind == "split"]
    places = {i: place for place, i in enumerate(order.tolist())}
    missed = np.sum([~check.met for check in now.checks], axis=0)
    return min(splits, key=lambda i: (missed[i], places.get(i, 0), now.latency_s[i]), default=None)


def find_flips(now: Situation, choice: int, candidates: Sequence[Candidate]) -> tuple[Flip, ...]:
    """Find the nearest flip on either side, of each quantity; none where nothing ever changes."""
    flips = []
    for quantity in QUANTITIES:
        low, high = intervals(now, quantity, choice)
        for up in (True, False):
            for x in nearest(low, high, now.x(quantity), up=up):
                flip = at_flip(now, quantity, x, choice, up=up)
                if flip is not None:
                    value, winner = flip
                    larger = up != (quantity == "uplink_bps")
                    name = None if winner is None else candidates[winner].name
                    flips.append(Flip(quantity, value, "above" if larger else "below", name))
                    break
    return tuple(flips)


def intervals(now: Situation, quantity: str, choice: int) -> tuple[Floats, Floats]:
    """Find where candidate i may be chosen and beats `choice`, as (low, high); (inf, -inf) where nowhere.

    At i = choice: where that misses the deadline.
    """
    x, slopes = now.x(quantity), now.score_slopes[quantity]
    score = score_of(now.wish, now.terms, now.link, now.latency_s) - slopes * x
    low, high = half_line(score - score[choice], slopes - slopes[choice])
    # Latencies never fall along x, so a deadline cuts off what is above. To be just in time is to be in time.
    slopes = now.slopes[quantity]
    _, in_time = half_line(now.latency_s - slopes * x - np.nextafter(now.deadline_s, math.inf), slopes)
    late = in_time[choice]
    high = np.minimum(high, in_time)
    low[choice], high[choice] = late, math.inf if late < math.inf else -math.inf
    excluded = ~now.allowed | ~(low < high)
    low[excluded], high[excluded] = math.inf, -math.inf
    return low, high


def half_line(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    """Solve a + b * x < 0, as (low, high); (inf, -inf) where never. NaN, not known, is never."""
    low, high = np.full_like(a, math.inf), np.full_like(a, -math.inf)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        cross = -a / b
    up, down, flat = b > 0, b < 0, (b == 0) & (a < 0)
    low[up | flat], high[down | flat] = -math.inf, math.inf
    high[up], low[down] = cross[up], cross[down]
    return low, high


def nearest(low: Floats, high: Floats, x: float, *, up: bool) -> list[float]:
    """Find where the first intervals on that side of `x` begin, nearest first.

    One would do, but for those that differ from the choice by less than floats can tell.
    """
    ends = np.maximum(low, x) if up else np.minimum(high, x)
    points = np.sort(ends[high > ends] if up else ends[low < ends])
    return cast(list[float], (points if up else points[::-1])[:TRIED].tolist())


def at_flip(now: Situation, quantity: str, x: float, choice: int, *, up: bool) -> tuple[float, int | None] | None:
    """Name the value of a flip and who wins behind it; None where nothing changes that floats can tell."""
    slowest = 1 / SLOWEST_BPS if quantity == "uplink_bps" else LARGEST[quantity]
    smallest = 1 / LARGEST["uplink_bps"] if quantity == "uplink_bps" else 0.0
    if not smallest < x < slowest:
        return None
    beside = x * (1 + BESIDE if up else 1 - BESIDE)
    order = now.ranking(*now.at(quantity, beside), best_only=True)
    winner = int(order[0]) if len(order) else None
    if winner == choice:
        return None
    return (1 / x if quantity == "uplink_bps" else x), winner


def rejections(candidates: Sequence[Candidate], checks: Sequence[Check]) -> tuple[Rejected, ...]:
    rejected: dict[int, Rejected] = {}
    for check in checks:
        for i in np.flatnonzero(~check.met).tolist():
            if i not in rejected:
                rejected[i] = Rejected(candidates[i].name, check.name, known(float(check.needs[i])))
    return tuple(rejected[i] for i in sorted(rejected))


def nobody(candidates: Sequence[Candidate], checks: Sequence[Check], link: Link) -> InputError:
    """Explain that no candidate meets the constraints: which to relax, and what the nearest candidate would need."""
    missed = np.array([~check.met for check in checks])  # (checks, N)
    fixed = np.array([check.name in FIXED for check in checks])
    # Where the link or the objective is in the way of everybody, no limit of the user's helps.
    blocked = missed[fixed].any(0)
    if blocked.all():
        check = next(check for check in checks if check.name in FIXED and not check.met.all())
        return InputError(f"no partition can be chosen on {link.name}: {fixed_words(check, candidates)}")
    # The nearest misses the fewest constraints, and those by the least.
    counts = np.where(blocked, len(checks) + 1, missed.sum(0))
    few = np.flatnonzero(counts == counts.min())
    nearest = int(min(few.tolist(), key=lambda i: sum(excess(check, i) for check in checks if not check.met[i])))
    wanted = " and ".join(limit_words(check, nearest) for check in checks if not check.met[nearest])
    who = f"which the nearest, {candidates[nearest].name}, would need"
    return InputError(f"no partition meets the constraints on {link.name}: relax {wanted}, {who}")


def excess(check: Check, i: int) -> float:
    """Compute how far candidate i is off, as a share of the limit."""
    return float((check.needs[i] - check.limit) / max(abs(check.limit), 1e-9))


def limit_words(check: Check, i: int) -> str:
    needs = float(check.needs[i])
    if check.name == "deadline":
        return f"the deadline from {check.limit * 1e3:g} ms to {at_least(needs * 1e3)} ms"
    if check.name == "budget":
        return f"the budget from {check.limit:g} to {at_least(needs)} bytes a photo"
    return f"the drop from {check.limit:g} to {at_least(needs)} points"


def fixed_words(check: Check, candidates: Sequence[Candidate]) -> str:
    if check.name == "energy":
        advice = "measure again with bottlenet profile --device-power-mw, or choose another objective"
        return f"no candidate's device energy is known; {advice}"
    if check.name == "bound":
        return "all that is left is chosen only within a bound on the drop; give max_drop"
    nearest = int(np.argmin(check.needs))
    smallest = f"the smallest, {candidates[nearest].name}, has up to {check.needs[nearest]:.0f} with its header"
    advice = "choose another link, or a bundle with smaller payloads"
    return f"it carries at most {check.limit:.0f} bytes in a message, and {smallest}; {advice}"


def why_chosen(
    choice: Prediction, runner_up: Prediction | None, flips: Sequence[Flip], objective: str, link_name: str
) -> str:
    """Say in one sentence what wins, by how much, and where that changes."""
    best = score(choice, objective)
    text = f"{choice.name} wins on {link_name} with {amount(best, objective)} a photo"
    if runner_up is None:
        text += ", as nothing else meets the constraints"
    else:
        other = score(runner_up, objective)
        text += f", {runner_up.name} would take {amount(other, objective)}{compared(other, best)}"
    if not flips:
        return f"{text}; no other bandwidth, round trip or server load changes that."
    # The first of each kind before the second of any: what people ask is "and on a faster link?".
    said = sorted(flips, key=lambda flip: (flip.winner is None, flip.side == "below"))[:SAID]
    return f"{text}; {', '.join(flip_words(flip) for flip in said)}."


def why_not(choice: Prediction, cut: Prediction, rejected: Sequence[Rejected], objective: str, link_name: str) -> str:
    """Say in one sentence why even the best cut is not chosen."""
    says = f"Don't cut for {link_name}: {cut.name}"
    for each in rejected:
        if each.name == cut.name:
            return f"{says}{':' if each.needs is None else ''} {why_rejected(each)}."
    best, other = score(choice, objective), score(cut, objective)
    says += f" would take {amount(other, objective)}, {choice.name} {amount(best, objective)}"
    if objective != "latency":
        return f"{says}."
    link_s = cut.setup_s + cut.send_s + cut.round_trip_s + cut.answer_s
    for what, seconds in (("round trip", cut.round_trip_s), ("head", cut.device_s), ("link", link_s)):
        if seconds >= best:
            return f"{says}; its {what} alone takes {duration(seconds)}."
    return f"{says}."


def why_rejected(rejected: Rejected) -> str:
    """Say what is in the way, as in "loses 5.7 points"."""
    if rejected.needs is None:
        return "its device's energy is not known"
    return {
        "message": f"has up to {rejected.needs:,.0f} bytes, more than a message of this link",
        "bound": f"loses {rejected.needs:.1f} points, and no bound on them is given",
        "max_drop": f"loses {rejected.needs:.1f} points",
        "budget": f"sends {rejected.needs:,.0f} bytes",
        "deadline": f"takes {duration(rejected.needs)}",
    }[rejected.constraint]


def compared(other: float, best: float) -> str:
    if other == best:
        return ", as much"
    if best <= 0:
        return ""
    return f", {other / best - 1:.0%} more" if other < 2 * best else f", {other / best:.3g} times as much"


def flip_words(flip: Flip) -> str:
    """Describe a flip, as in "Above 22 Mbit/s cloud-only wins"."""
    where = {
        "uplink_bps": f"{flip.side} {rate(flip.value)}",
        "round_trip_s": f"with a round trip {flip.side} {duration(flip.value)}",
        "server_load": f"with a server load {flip.side} {flip.value:.3g}",
    }[flip.quantity]
    return f"{where} nothing meets the constraints" if flip.winner is None else f"{where} {flip.winner} wins"


def score(prediction: Prediction, objective: str) -> float:
    return cast(float, getattr(prediction, SCORES[objective]))


def amount(value: float, objective: str) -> str:
    return duration(value) if objective == "latency" else AMOUNTS[objective].format(value)


SCORES = {"latency": "latency_s", "energy": "device_energy_mj", "bytes": "uplink_bytes", "cost": "cost"}
AMOUNTS = {"energy": "{:,.1f} mJ", "bytes": "{:,.0f} bytes of uplink", "cost": "a cost of {:.3g}"}


def duration(seconds: float) -> str:
    """Format seconds: 3.1 ms, 12.5 s."""
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def rate(bps: float) -> str:
    """Format bits per second with three digits: 22 Mbit/s."""
    for unit, size in (("Gbit/s", 1e9), ("Mbit/s", 1e6), ("kbit/s", 1e3)):
        if bps >= size:
            return f"{bps / size:.3g} {unit}" if bps < 1000 * size else f"{bps / size:,.0f} {unit}"
    return f"{bps:.3g} bit/s"


def at_least(value: float) -> str:
    """Format a number rounded up to four digits, so that what is said is enough."""
    if value == 0:
        return "0"
    step = 10.0 ** (math.floor(math.log10(abs(value))) - 3)
    return f"{math.ceil(value / step - 1e-9) * step:.10g}" if step < 1 else f"{math.ceil(value):d}"
