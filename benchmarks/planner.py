"""How long does the planner take for 10,000 candidates x links?

Twice: `best_of`, which says which candidate is best on each link, and the whole of `choose` for each link: prediction,
constraints, ranking, flips on either side of bandwidth, round trip and load, Pareto front and the reason in words.
Nothing is kept from one call to the next, and that both choose the same is checked. The candidates are random, from a
fixed seed: the further the cut, the more the device computes and the fewer bytes it sends. Processor time: see
README.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import random
import statistics
from collections.abc import Callable
from time import process_time
from typing import TypeVar

from bottlenet.plan.link import PRESETS, Link
from bottlenet.plan.planner import best_of, choose
from bottlenet.plan.profile import Candidate, Energy, Profile
from record import Json, parser, show, write_record

TARGET_MS = 100
SHAPES = (1, 10, 100, 1000)  # links
FEWEST = 10  # candidates
WHOLE_S = 0.150  # of the network, on the device; the server is 30 times as fast
Result = TypeVar("Result")
OBJECTIVES = ("latency", "energy")
LOSSES = (0.0, 0.02)


def profile(count: int, seed: int = 1) -> Profile:
    """Make a profile of so many candidates: edge-only, cloud-only, and splits."""
    rng = random.Random(seed)
    energy = Energy("given", "benchmark", power_mw=4000)
    made = [
        Candidate("edge-only", "edge-only", None, WHOLE_S, 0.0, 0.0, 0, 0.0, "top1", energy),
        Candidate("cloud-only", "cloud-only", None, 0.002, WHOLE_S / 30, 1e4, 20_000, 1.0, "top1", energy),
    ]
    for number in range(count - len(made)):
        share = rng.uniform(0.02, 1)
        mean = rng.uniform(0.5, 2) * 3000 * (1.1 - share)
        drop = 600 / mean * rng.uniform(0.5, 2)
        device_s, server_s = WHOLE_S * share, WHOLE_S / 30 * (1 - share)
        most, drop = int(2 * mean), min(drop, 99.0)
        cut = f"layer{number}"
        made.append(Candidate(f"split {number}", "split", cut, device_s, server_s, mean, most, drop, "top1", energy))
    return Profile("0" * 64, "benchmark", "benchmark", "benchmark", 0, 0, tuple(made))


def links(count: int, loss: float) -> list[Link]:
    """Make links from slow to fast, with the paper's three radios in turn."""
    bases = [PRESETS[name] for name in ("3g", "4g", "wifi")]
    made = []
    for i in range(count):
        uplink_bps, round_trip_s = 1e5 * 1000 ** (i / count), 0.002 + i % 7 / 100
        made.append(dataclasses.replace(bases[i % 3], uplink_bps=uplink_bps, round_trip_s=round_trip_s, loss=loss))
    return made


def measure(candidates: Profile, every: list[Link], objective: str, repeats: int) -> dict[str, Json]:
    """Median ms of choosing for all of these links, and how much there was to choose from."""
    best_ms, best = timed(lambda: best_of(candidates, every, objective=objective, max_drop=2), repeats)
    plans_ms, plans = timed(
        lambda: [choose(candidates, link, objective=objective, max_drop=2) for link in every], repeats
    )
    names = [candidates.candidates[index].name for index in best.tolist()]
    assert names == [plan.choice.name for plan in plans], "both choose the same"
    return {
        "candidates": len(candidates.candidates),
        "links": len(every),
        "objective": objective,
        "loss": every[0].loss,
        "best_of_ms": statistics.median(best_ms),
        "best_of_least_ms": min(best_ms),
        "choose_ms": statistics.median(plans_ms),
        "choose_least_ms": min(plans_ms),
        "choices": len({plan.choice.name for plan in plans}),
        "front_mean": statistics.fmean(len(plan.front) for plan in plans),
        "flips_mean": statistics.fmean(len(plan.flips) for plan in plans),
    }


def timed(call: Callable[[], Result], repeats: int) -> tuple[list[float], Result]:
    """Return (ms of each, the last result)."""
    times: list[float] = []
    for _ in range(repeats):
        started = process_time()
        result = call()
        times.append((process_time() - started) * 1e3)
    return times, result


def run(arguments: argparse.Namespace) -> None:
    """Measure, show, write."""
    rows = [
        measure(profile(arguments.pairs // count), links(count, loss), objective, arguments.repeats)
        for count in SHAPES
        if arguments.pairs // count >= FEWEST
        for objective in OBJECTIVES
        for loss in LOSSES
    ]
    show(
        f"{arguments.pairs:,} candidates x links; median ms; at most {TARGET_MS} wanted of best_of",
        ["candidates x links", "objective", "loss", "best_of", "choose", "choices", "front", "flips"],
        [
            [
                f"{row['candidates']:,} x {row['links']:,}",
                f"{row['objective']}",
                f"{row['loss']}",
                f"{row['best_of_ms']:.1f}",
                f"{row['choose_ms']:.1f}",
                f"{row['choices']}",
                f"{row['front_mean']:.1f}",
                f"{row['flips_mean']:.1f}",
            ]
            for row in rows
        ],
    )
    write_record(
        "planner",
        {"target_ms": TARGET_MS, "pairs": arguments.pairs, "repeats": arguments.repeats, "runs": rows},
        arguments.out,
    )


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--repeats", type=int, default=7, help="runs of each, of which the median counts")
    made.add_argument("--pairs", type=int, default=10_000, help="candidates x links")
    run(made.parse_args())


if __name__ == "__main__":
    main()
