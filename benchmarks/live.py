"""How well does a device that moves between partitions live through a day on which link and server change?

Wi-Fi, 3G (or `--slow-link`), no link, Wi-Fi again, a server that takes four times as long, the idle server again:
`Edge(partition="auto")` beside an oracle that knows the day, and uses in each phase what was measured to be fastest in
it. On devices that take so many times as long as this machine. Nothing else may run meanwhile: latencies are by a
clock.
"""

from __future__ import annotations

import argparse
import dataclasses
from dataclasses import asdict

from rich.console import Console
from rich.progress import Progress

from bottlenet.edge.pilot import Policy
from bottlenet.measure.bench import readable, weights_of
from bottlenet.measure.profile import cpu_model
from bottlenet.plan.link import parse_link
from live_day import Day, day_with, live, real_world, slower
from profiles import add_bundles, bundles_of, profile_all
from record import Json, parser, run_script, show, write_record

SLOWDOWNS = (10.0, 30.0)
EXCESS_TARGET, MOVES_TARGET = 0.15, 1


def rows_of(day: Day) -> list[list[str]]:
    return [
        [
            phase.name,
            str(phase.photos),
            str(phase.unanswered),
            f"{phase.median_ms:,.1f}",
            f"{phase.oracle_median_ms:,.1f}",
            str(len(phase.moves)),
            max(phase.partitions, key=lambda name: phase.partitions[name]),
            phase.oracle,
        ]
        for phase in day.phases
    ]


def run(arguments: argparse.Namespace) -> None:
    """Profile, live, show, write."""
    bundles = bundles_of(arguments)
    paths = readable(bundles[0], arguments.data, arguments.limit)
    made = profile_all(bundles, arguments)
    policy = Policy(max_drop=arguments.max_drop)
    phases = day_with(parse_link(arguments.slow_link))
    days: list[Json] = []
    for slowdown in arguments.slowdown:
        with real_world(bundles) as world, Progress(console=Console(stderr=True)) as progress:
            task = progress.add_task(f"a device that takes {slowdown:g} times as long", total=2 * len(phases))
            day = live(
                bundles,
                made,
                paths,
                world,
                seconds=arguments.seconds,
                policy=policy,
                day=phases,
                wrap=slower(slowdown),
                on_progress=lambda done, total: progress.update(task, completed=done),  # noqa: B023  # used at once
            )
        show(
            f"device scaled to take {slowdown:g} times as long: median {day.median_ms:,.1f} ms, the oracle's "
            f"{day.oracle_median_ms:,.1f}, {day.excess:+.1%}; wanted: at most {EXCESS_TARGET:+.0%}",
            ["phase", "photos", "unanswered", "ms", "oracle ms", "moves", "mostly", "oracle"],
            rows_of(day),
        )
        for phase in day.phases:
            for move in phase.moves:
                print(f"{phase.name}: {move.source} -> {move.target}: {move.reason}")
        days.append({"device_slowdown": slowdown, "excess": day.excess, "most_moves": day.most_moves, **asdict(day)})
    manifest = bundles[0].manifest
    write_record(
        arguments.record,
        {
            "network": manifest.model,
            "weights": weights_of(bundles[0]),
            "bundles": [bundle.id.hex() for bundle in bundles],
            "device": f"{cpu_model()}, one thread, scaled: asleep until so many times its computing time has passed",
            "server": f"{cpu_model()}, one thread, a process of its own; others' photos are slept, not computed",
            "seconds_a_phase": arguments.seconds,
            "photos": len(paths),
            "policy": dataclasses.asdict(policy),
            "excess_target": EXCESS_TARGET,
            "moves_target": MOVES_TARGET,
            "profile": [asdict(dataclasses.replace(each, detail=None)) for each in made.candidates],
            "days": days,
        },
        arguments.out,
    )


def main() -> None:
    made = parser(__doc__)
    add_bundles(made)
    made.add_argument("--slowdown", type=float, nargs="+", default=SLOWDOWNS, help="of the device")
    made.add_argument("--slow-link", default="3g", metavar="LINK", help="that Wi-Fi falls to: a name, or bps,rtt,loss")
    made.add_argument("--seconds", type=float, default=40.0, help="for each of the six phases")
    made.add_argument("--limit", type=int, default=20, help="photos, over and over")
    made.add_argument("--record", default="live", help="its name: another one for another network")
    made.add_argument("--max-drop", type=float, help="points of top-1 that may be lost; any if not given")
    run_script(made, run)


if __name__ == "__main__":
    main()
