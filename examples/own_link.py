"""Choose the best partition on your own link, and on a thousand links, as a phone meets them in a day.

A profile says what each partition takes; here it is written down, `bottlenet profile` measures one.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from bottlenet import choose
from bottlenet.errors import InputError
from bottlenet.plan.link import Link
from bottlenet.plan.planner import NOBODY, best_of
from bottlenet.plan.profile import Candidate, Profile


def candidate(name: str, cut: str | None, times_s: tuple[float, float], payload: int, drop: float) -> Candidate:
    """Describe a partition by what it takes on device and server."""
    kind = "split" if cut else "cloud-only" if payload else "edge-only"
    return Candidate(name, kind, cut, *times_s, payload, payload, drop, "top1")


PROFILE = Profile(
    bundle_id="0" * 64,
    model="made up",
    device="a camera",
    server="a server",
    photos=1,
    labelled=1,
    candidates=(
        candidate("on the camera", None, (2.5, 0.0), 0, 0.0),
        candidate("photo as JPEG", None, (0.05, 0.08), 11_000, 0.7),
        candidate("split at layer 3", "layer3", (0.9, 0.05), 600, 1.5),
    ),
)
SATELLITE = Link("our satellite", uplink_bps=9_600, round_trip_s=1.4, loss=0.01, per_message_overhead_bytes=60)


def main() -> None:
    plan = choose(PROFILE, SATELLITE, max_drop=2)
    print(plan.reason)
    try:
        choose(PROFILE, SATELLITE, max_drop=1, deadline_s=2)
    except InputError as error:  # nothing does: it says what to relax
        print(error)
    rng = np.random.default_rng(0)
    rates = 10 ** rng.uniform(3, 8, 1000)  # from 1 kbit/s to 100 Mbit/s
    links = [Link(f"link {number}", float(bps), 0.1) for number, bps in enumerate(rates)]
    best = best_of(PROFILE, links, max_drop=2)
    names = Counter("nothing" if each == NOBODY else PROFILE.candidates[each].name for each in best)
    for name, count in names.most_common():
        print(f"{count} of {len(links)}: {name}")


if __name__ == "__main__":
    main()
