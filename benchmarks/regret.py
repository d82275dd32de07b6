"""How much is lost by doing what the plan says, and not what measuring everything would have shown to be best?

The bundles are profiled once, one photo at a time. Then, under each condition (link, photos of others at the server,
speed of the device), the plan chooses from the profile alone, and every partition is measured end to end over the
shaped link. Regret is the measured latency of the choice over the least that was measured, less 1.

The device's times in the profile are multiplied by its slowdown, as the workbench does it with what it computes.
Nothing else may run meanwhile: latencies are by a clock.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
from collections import Counter
from collections.abc import Collection, Sequence
from itertools import product
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from bottlenet.edge.encoder import CLOUD_ONLY, EDGE_ONLY, partition_of
from bottlenet.errors import InputError
from bottlenet.measure.bench import Conditions, Workbench, readable, weights_of
from bottlenet.measure.bench import run as measure
from bottlenet.plan.link import Link, parse_link
from bottlenet.plan.planner import choose
from bottlenet.plan.predict import predict
from bottlenet.plan.profile import Candidate, Profile
from profiles import add_bundles, bundles_of, profile_all
from record import Json, parser, run_script, show, write_record

LINKS = ("3g", "4g", "wifi", "5g", "lte-m", "10M,20ms")
LOADS = (0, 4)
SLOWDOWNS = (1.0, 10.0, 30.0)
MEDIAN_TARGET, WORST_TARGET = 0.10, 0.25
LEAST_CONDITIONS, LEAST_CUTS = 30, 2  # and of all kinds of partition each wins somewhere: else little was asked
KEYS = ("link", "server_load", "device_slowdown")


def slower(made: Profile, slowdown: float) -> Profile:
    """On a device that takes so many times as long."""
    candidates = []
    for each in made.candidates:
        own = each.exit and dataclasses.replace(each.exit, device_s=each.exit.device_s * slowdown)
        candidates.append(dataclasses.replace(each, device_s=each.device_s * slowdown, exit=own))
    return dataclasses.replace(made, candidates=tuple(candidates))


def one_condition(
    workbench: Workbench, made: Profile, paths: Sequence[Path], conditions: Conditions, max_drop: float | None
) -> dict[str, Json] | None:
    """Choice, best, regret; None where nothing that may be chosen was measured."""
    here = slower(made, conditions.device_slowdown)
    link, load = conditions.link, conditions.server_load
    rows = measure(workbench, paths, [conditions], pipelined=False)
    measured = {row.partition: row.latency_ms for row in rows if row.latency_ms is not None}
    # What can't be measured, such as a photo that takes minutes, can't be chosen either; nor what loses too much.
    known = [each for each in here.candidates if each.name in measured and allowed(each, max_drop)]
    if not known:
        return None
    plan = choose(dataclasses.replace(here, candidates=tuple(known)), link, max_drop=max_drop, server_load=load)
    best = min(known, key=lambda each: measured[each.name]).name
    return {
        "link": link.name,
        "server_load": load,
        "device_slowdown": conditions.device_slowdown,
        "choice": plan.choice.name,
        "best": best,
        "regret": measured[plan.choice.name] / measured[best] - 1,
        "measured_ms": {each.name: measured[each.name] for each in known},
        "predicted_ms": {each.name: predict(each, link, load).latency_s * 1e3 for each in known},
    }


def allowed(candidate: Candidate, max_drop: float | None) -> bool:
    """Within the bound; without one, what needs none."""
    return not candidate.needs_bound if max_drop is None else candidate.top1_drop <= max_drop


def summary(rows: Sequence[dict[str, Json]]) -> dict[str, Json]:
    """Over all conditions. InputError: there are none."""
    regrets = [float(row["regret"]) for row in rows if isinstance(row["regret"], float)]
    if not regrets:
        raise InputError("no condition was measured; give other links")
    wins = Counter(str(row["best"]) for row in rows)
    median, worst = statistics.median(regrets), max(regrets)
    return {
        "conditions": len(regrets),
        "median_regret": median,
        "worst_regret": worst,
        "best_is_chosen": sum(row["choice"] == row["best"] for row in rows),
        "wins": dict(wins.most_common()),
        "choices": dict(Counter(str(row["choice"]) for row in rows).most_common()),
        "all_kinds_win": len(regrets) >= LEAST_CONDITIONS and all_kinds(wins),
        "met": median <= MEDIAN_TARGET and worst <= WORST_TARGET,
    }


def all_kinds(wins: Collection[str]) -> bool:
    """Edge-only, cloud-only and two cuts at least are among the names."""
    clouds = sum(name.startswith(CLOUD_ONLY) for name in wins)
    edge = EDGE_ONLY.name in wins
    return edge and clouds > 0 and len(wins) - clouds - edge >= LEAST_CUTS


def show_plans(made: Profile, every: Sequence[Conditions], max_drop: float | None) -> None:
    """Print what the plan would choose, without measuring: to find conditions under which all kinds win."""
    known = tuple(each for each in made.candidates if allowed(each, max_drop))
    choices = []
    for each in every:
        here = slower(dataclasses.replace(made, candidates=known), each.device_slowdown)
        choices.append(choose(here, each.link, max_drop=max_drop, server_load=each.server_load).choice.name)
    show(
        "what the plan chooses",
        ["link, load, slowdown", "choice"],
        [
            [f"{each.link.name}, {each.server_load}, {each.device_slowdown:g}", name]
            for each, name in zip(every, choices, strict=True)
        ],
    )
    print(dict(Counter(choices).most_common()))


def run(arguments: argparse.Namespace) -> None:
    """Profile, measure, show, write."""
    bundles = bundles_of(arguments)
    links: list[Link] = [parse_link(name) for name in arguments.link or LINKS]
    every = [Conditions(*each) for each in product(links, (0.0,), arguments.load, arguments.slowdown)]
    paths = readable(bundles[0], arguments.data, arguments.limit)
    made = profile_all(bundles, arguments)
    if arguments.only_plan:
        show_plans(made, every, arguments.max_drop)
        return
    rows: list[dict[str, Json]] = []
    progress = Progress(console=Console(stderr=True))
    with progress, Workbench(bundles, [partition_of(each) for each in made.candidates]) as workbench:
        for each in progress.track(every, description="conditions"):
            row = one_condition(workbench, made, paths, each, arguments.max_drop)
            if row is not None:
                rows.append(row)
    show(
        f"{len(rows)} conditions; wanted: median {MEDIAN_TARGET:.0%}, worst {WORST_TARGET:.0%}",
        ["link, load, slowdown", "choice", "best", "regret"],
        [
            [", ".join(str(row[name]) for name in KEYS), str(row["choice"]), str(row["best"]), f"{row['regret']:.1%}"]
            for row in rows
        ],
    )
    results: dict[str, Json] = {
        "network": bundles[0].manifest.model,
        "weights": weights_of(bundles[0]),
        "bundles": [bundle.id.hex() for bundle in bundles],
        "data": arguments.data.name,
        "photos": len(paths),
        "profiled_photos": made.photos,
        "max_drop": arguments.max_drop,
        "median_target": MEDIAN_TARGET,
        "worst_target": WORST_TARGET,
        **summary(rows),
        "runs": rows,
    }
    shown = ("median_regret", "worst_regret", "best_is_chosen", "wins", "all_kinds_win", "met")
    print({name: results[name] for name in shown})
    write_record(arguments.record, results, arguments.out)


def main() -> None:
    made = parser(__doc__)
    add_bundles(made)
    made.add_argument("--link", action="append", help=f"again for more; {', '.join(LINKS)} if none is given")
    made.add_argument("--load", type=int, nargs="+", default=LOADS, help="photos of others at the server")
    made.add_argument("--slowdown", type=float, nargs="+", default=SLOWDOWNS, help="of the device")
    made.add_argument("--limit", type=int, default=7, help="photos that each partition is measured on")
    made.add_argument("--only-plan", action="store_true", help="show what the plan would choose, and measure nothing")
    made.add_argument("--record", default="regret", help="its name: another one for another network")
    made.add_argument("--max-drop", type=float, help="points of top-1 that may be lost; any if not given")
    run_script(made, run)


if __name__ == "__main__":
    main()
