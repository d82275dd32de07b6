"""Which partition is best, and why: the selection phase of the paper's Algorithm 1, for links with a round trip.

    profile, link, load --Terms--> latency, energy, bytes, cost of each candidate
      `--constraints--> rejected, each with what it would need
           `--objective--> choice, runner-up, where the choice flips, Pareto front --> Plan, and why in one sentence

Ties go to the lower latency, then to fewer bytes, then to the first in the profile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bottlenet.plan.constraints import (
    OBJECTIVES,
    Rejected,
    Wish,
    all_met,
    check_radio,
    checks_of,
    nobody,
    rejections,
    score_of,
    with_rounding,
)
from bottlenet.plan.flips import QUANTITIES, Flip, Situation, find_flips, latency_slopes
from bottlenet.plan.link import Link, parse_link
from bottlenet.plan.predict import (
    Columns,
    Floats,
    Prediction,
    Prices,
    Terms,
    check_load,
    predict,
    predictions,
)
from bottlenet.plan.profile import Candidate, Profile
from bottlenet.plan.reason import reason

__all__ = ["OBJECTIVES", "Flip", "Plan", "Prediction", "Prices", "Rejected", "choose", "predict"]


@dataclass(frozen=True)
class Plan:
    """What to do, and why."""

    link: Link
    objective: str
    server_load: float
    choice: Prediction
    runner_up: Prediction | None  # None: no other meets the constraints
    reason: str  # one sentence
    flips: tuple[Flip, ...]
    front: tuple[Prediction, ...]  # Pareto, fastest first, of those that meet the constraints
    rejected: tuple[Rejected, ...]


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
    """The candidate with the least latency, device energy, uplink bytes or cost of those that meet all constraints.

    `link` is a `Link`, or what `parse_link` takes. `max_drop` is in points of top-1, `budget_bytes` the mean of a
    photo with overhead, `server_load` photos ahead of ours; `connected=False` adds the connection's set-up. The
    objective "cost" needs `prices`, "energy" a link whose radio power is known.

    InputError: no candidate meets the constraints (it says which to relax), or an argument that can't be used.
    """
    link = parse_link(link) if isinstance(link, str) else link
    wish = Wish(objective, max_drop, deadline_s, budget_bytes, prices)
    check_load(server_load)
    check_radio(wish, link)
    return plan_for(profile.candidates, link, wish, server_load, connected=connected)


def plan_for(candidates: Sequence[Candidate], link: Link, wish: Wish, server_load: float, *, connected: bool) -> Plan:
    """InputError: no candidate meets the constraints."""
    terms = Terms.of(Columns.of(candidates), link, connected=connected)
    checks = checks_of(wish, terms, link, server_load)
    now = situation(wish, terms, link, server_load)
    order = ranking(now, link, server_load)
    if not len(order):
        raise nobody(candidates, checks, link)
    flips = find_flips(now, int(order[0]), lambda i: candidates[i].name)
    first = order[:2].tolist()
    kept = [*first, *pareto(now, order)]
    rows = [candidates[i] for i in kept]
    made = predictions(rows, terms.rows(kept), link, server_load, connected=connected, prices=wish.prices)
    runner_up = made[1] if len(first) > 1 else None
    return Plan(
        link=link,
        objective=wish.objective,
        server_load=server_load,
        choice=made[0],
        runner_up=runner_up,
        reason=reason(made[0], runner_up, flips, wish.objective, link.name),
        flips=flips,
        front=tuple(made[len(first) :]),
        rejected=rejections(candidates, checks),
    )


def situation(wish: Wish, terms: Terms, link: Link, server_load: float) -> Situation:
    """All that decides, as functions of link and load."""
    slopes = dict.fromkeys(QUANTITIES, np.zeros_like(terms.bits))
    if wish.objective == "latency":
        slopes = latency_slopes(terms)
    elif wish.objective == "energy" and link.radio is not None:
        slopes["uplink_bps"] = terms.bits * link.radio.beta_mw

    def score(link: Link, server_load: float) -> Floats:
        return score_of(wish, terms, link, terms.latency_s(link, server_load))

    def pick(link: Link, server_load: float) -> int | None:
        order = ranking(made, link, server_load, best_only=True)
        return int(order[0]) if len(order) else None

    # The deadline moves with link and load, the other constraints don't.
    checks = [check for check in checks_of(wish, terms, link, server_load) if check.name != "deadline"]
    allowed = all_met(checks, len(terms.bits))
    deadline_s = None if wish.deadline_s is None else with_rounding(wish.deadline_s)
    made = Situation(link, server_load, terms, allowed, deadline_s, score, slopes, pick)
    return made


def ranking(now: Situation, link: Link, server_load: float, *, best_only: bool = False) -> NDArray[np.intp]:
    """Indices of those that meet the constraints there, best first; or only of the best and what ties with it."""
    latency = now.terms.latency_s(link, server_load)
    feasible = now.allowed if now.deadline_s is None else now.allowed & (latency <= now.deadline_s)
    indices = np.flatnonzero(feasible)
    score = now.score(link, server_load)[indices]
    if best_only and len(indices):
        best = score == score.min()
        indices, score = indices[best], score[best]
    order: NDArray[np.intp] = indices[np.lexsort((now.terms.uplink_bytes[indices], latency[indices], score))]
    return order


def pareto(now: Situation, among: NDArray[np.intp]) -> list[int]:
    """Those of `among` than which no other is as good in latency, bytes, drop and energy and better in one.

    Fastest first; of equals the first. Energy counts where it is known of all of them.
    """
    terms = now.terms
    columns = [terms.latency_s(now.link, now.server_load), terms.uplink_bytes, terms.drop, terms.energy_mj(now.link)]
    points = np.stack([column[among] for column in columns if not np.isnan(column[among]).any()], axis=1)  # (M, 3 or 4)
    # In this order nothing that comes later is as good as the first in everything.
    left = np.lexsort(points.T[::-1])
    front: list[int] = []
    while len(left):
        first, rest = left[0], left[1:]
        front.append(int(among[first]))
        left = rest[(points[rest] < points[first]).any(1)]
    return front
