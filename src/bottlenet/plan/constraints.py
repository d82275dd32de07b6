"""What a partition has to meet, which do not, and what to relax where none does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from bottlenet.errors import InputError
from bottlenet.plan.link import Link
from bottlenet.plan.predict import Floats, Prices, Road, Terms, known
from bottlenet.plan.profile import Candidate
from bottlenet.plan.reason import at_least

OBJECTIVES = ("latency", "energy", "bytes", "cost")
ROUNDING = 1e-9  # of a limit: 0.0157 s and 15.7 ms are not the same float
Limit = TypeVar("Limit", float, Floats)
FIXED = {"message", "energy"}  # not the user's to relax


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
        if self.max_drop is not None and not -100 <= self.max_drop <= 100:
            raise InputError(f"max_drop is {self.max_drop}; give points of top-1, -100 to 100")
        if self.deadline_s is not None and not 0 < self.deadline_s < math.inf:
            raise InputError(f"deadline is {self.deadline_s * 1e3:g} ms; give a time above 0")
        if self.budget_bytes is not None and not 0 <= self.budget_bytes < math.inf:
            raise InputError(f"budget is {self.budget_bytes} bytes; give bytes a photo, 0 or more")


@dataclass(frozen=True)
class Rejected:
    """A candidate that may not be chosen, and the first constraint in the way."""

    name: str
    constraint: str  # "message" (the link's), "energy" (not known), "max_drop", "budget" or "deadline"
    needs: float | None  # what the constraint would have to be: bytes, None, points, bytes, seconds


@dataclass(frozen=True)
class Check:
    """One constraint: candidate i meets it if needs[i] <= limit, but for rounding. NaN, not known, meets nothing."""

    name: str
    limit: float
    needs: Floats  # (N,)

    @property
    def met(self) -> NDArray[np.bool_]:
        """(N,)."""
        met: NDArray[np.bool_] = self.needs <= with_rounding(self.limit)
        return met


def check_radio(wish: Wish, link: Link) -> None:
    """InputError: the objective is energy, and the link's radio not known."""
    if wish.objective == "energy" and link.radio is None:
        raise InputError(
            f"objective energy needs the radio power of link {link.name}, for which there is no source; choose 3g, 4g "
            "or wifi, or another objective"
        )


def score_of(wish: Wish, terms: Terms, link: Road, latency_s: Floats) -> Floats:
    """What the objective minimises, in the shape of `latency_s`, which is `terms.latency_s` at the load that counts."""
    if wish.objective == "latency":
        return latency_s
    if wish.objective == "energy":
        return terms.energy_mj(link)
    return terms.uplink_bytes if wish.prices is None or wish.objective == "bytes" else terms.cost(wish.prices)


def with_rounding(limit: Limit) -> Limit:
    """What still counts as this limit."""
    return limit + ROUNDING * abs(limit)


def checks_of(wish: Wish, terms: Terms, link: Link, server_load: float) -> list[Check]:
    """Those that the user gave, and those of the link and the objective."""
    checks = []
    if link.max_message_bytes is not None:
        checks.append(Check("message", link.max_message_bytes, terms.message_bytes))
    if wish.objective == "energy":
        checks.append(Check("energy", math.inf, terms.energy_mj(link)))
    if wish.max_drop is not None:
        checks.append(Check("max_drop", wish.max_drop, terms.drop))
    if wish.budget_bytes is not None:
        checks.append(Check("budget", wish.budget_bytes, terms.uplink_bytes))
    if wish.deadline_s is not None:
        checks.append(Check("deadline", wish.deadline_s, terms.latency_s(link, server_load)))
    return checks


def all_met(checks: Sequence[Check], count: int) -> NDArray[np.bool_]:
    """(N,)."""
    met = np.ones(count, bool)
    for check in checks:
        met &= check.met
    return met


def rejections(candidates: Sequence[Candidate], checks: Sequence[Check]) -> tuple[Rejected, ...]:
    """Who does not meet which constraint; the first counts."""
    rejected: dict[int, Rejected] = {}
    for check in checks:
        for i in np.flatnonzero(~check.met).tolist():
            if i not in rejected:
                rejected[i] = Rejected(candidates[i].name, check.name, known(float(check.needs[i])))
    return tuple(rejected[i] for i in sorted(rejected))


def nobody(candidates: Sequence[Candidate], checks: Sequence[Check], link: Link) -> InputError:
    """No candidate meets the constraints: which to relax, and what the nearest candidate would need."""
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
    wanted = [limit_words(check, nearest) for check in checks if not check.met[nearest]]
    return InputError(
        f"no partition meets the constraints on {link.name}: relax {' and '.join(wanted)}, which the nearest, "
        f"{candidates[nearest].name}, would need"
    )


def excess(check: Check, i: int) -> float:
    """How far off, as a share of the limit."""
    return float(check.needs[i] - check.limit) / max(abs(check.limit), 1e-9)


def limit_words(check: Check, i: int) -> str:
    """One constraint, and what it would have to be."""
    needs = float(check.needs[i])
    if check.name == "deadline":
        return f"the deadline from {check.limit * 1e3:g} ms to {at_least(needs * 1e3)} ms"
    if check.name == "budget":
        return f"the budget from {check.limit:g} to {at_least(needs)} bytes a photo"
    return f"the drop from {check.limit:g} to {at_least(needs)} points"


def fixed_words(check: Check, candidates: Sequence[Candidate]) -> str:
    """What is in the way that no limit can help."""
    if check.name == "energy":
        return (
            "no candidate's device energy is known; measure again with bottlenet profile --device-power-mw, or choose "
            "another objective"
        )
    nearest = int(np.argmin(check.needs))
    return (
        f"it carries at most {check.limit:.0f} bytes in a message, and the smallest, {candidates[nearest].name}, has "
        f"up to {check.needs[nearest]:.0f} with its header; choose another link, or a bundle with smaller payloads"
    )
