"""The best candidate on thousands of links at once: the choice of `planner.choose`, without its reasons.

    Links (L, 1) x Columns (N,) --Terms (L, N)--> score, latency, who meets the constraints --> best of each link

The same formulas on the same numbers in the same order, so the choice is the same to the last bit, ties included. A
plan takes half a millisecond, however few candidates there are; this takes microseconds a link.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from bottlenet.errors import InputError
from bottlenet.plan.link import Link
from bottlenet.plan.planner import Wish, check_radio, score_of, with_rounding
from bottlenet.plan.predict import Columns, Floats, Prices, Terms, check_load
from bottlenet.plan.profile import Profile

NOBODY = -1
AT_ONCE = 2**17  # candidates x links; so a few arrays of 1 MB, whatever there is


@dataclass(frozen=True)
class Links:
    """Links, one array a field, each (L, 1): what `Link` says, for many."""

    uplink_bps: Floats
    round_trip_s: Floats
    loss: Floats
    setup_s: Floats
    answer_s: Floats
    per_message_overhead_bytes: Floats
    packet_bytes: Floats
    send_mw: Floats  # NaN: not known
    max_message_bytes: Floats  # infinite: any

    @classmethod
    def of(cls, links: Sequence[Link]) -> Links:
        names = [field.name for field in fields(cls)][:-1]
        rows = [
            (*(getattr(link, name) for name in names), link.max_message_bytes or math.inf)  # which is 1 or more
            for link in links
        ]
        return cls(*np.array(rows, np.float64).reshape(len(rows), len(names) + 1).T.copy()[..., None])


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
    """Choose for many links at once: (L,) indices of `choose`'s choice in `profile.candidates`; `NOBODY` where it would
    refuse.

    Arguments as there; `server_load` is one for all links, or one for each.

    InputError: as `choose`, but for constraints that no candidate meets; or loads that are not as many as links.
    """
    wish = Wish(objective, max_drop, deadline_s, budget_bytes, prices)
    loads = load_column(server_load, len(links))
    for link in links:
        check_radio(wish, link)
    columns = Columns.of(profile.candidates)
    best = np.empty(len(links), np.intp)
    for part in chunks(len(links), len(profile.candidates)):
        best[part] = best_here(columns, Links.of(links[part]), wish, loads[part], connected=connected)
    return best


def load_column(server_load: float | Sequence[float], count: int) -> Floats:
    """Spread loads over links: (L, 1). InputError: a load below 0, or not as many as links."""
    given = [server_load] * count if isinstance(server_load, int | float) else list(server_load)
    if len(given) != count:
        raise InputError(f"there are {len(given)} server loads for {count} links; give one for all, or one for each")
    for load in {*given}:
        check_load(load)
    return np.array(given, np.float64).reshape(count, 1)


def chunks(links: int, candidates: int) -> Iterator[slice]:
    """Split the links so that the arrays stay small."""
    step = max(1, AT_ONCE // candidates)
    for start in range(0, links, step):
        yield slice(start, start + step)


def best_here(columns: Columns, links: Links, wish: Wish, loads: Floats, *, connected: bool) -> NDArray[np.intp]:
    """Choose for so many links that the arrays stay small: (L,) indices, or `NOBODY`."""
    terms = Terms.of(columns, links, connected=connected)
    latency = terms.latency_s(links, loads)  # (L, N)
    score = score_of(wish, terms, links, latency)
    met = (terms.message_bytes <= with_rounding(links.max_message_bytes)) & ~np.isnan(score)
    limits = ((wish.max_drop, terms.drop), (wish.budget_bytes, terms.uplink_bytes), (wish.deadline_s, latency))
    for limit, needs in limits:
        if limit is not None:
            met &= needs <= with_rounding(limit)
    # The least score; of those the lowest latency; of those the fewest bytes; of those the first.
    for column in (score, latency, terms.uplink_bytes):
        values = np.where(met, column, math.inf)
        met &= values == values.min(1, keepdims=True)
    return np.where(met.any(1), met.argmax(1), NOBODY)
