"""What does each partition take end to end, on each link, and on slower devices?

`bottlenet bench` for devices that take 1, 10 and 30 times as long as this machine, in one record: the paper's Table 5
for this network, with round trips. Draws results/bench_x1.svg and so on. Nothing else may run meanwhile: latencies are
by a clock.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict

from bottlenet.cli.plan_files import BENCH_PLOT_MARK
from bottlenet.lab.bench import LIMIT, SECONDS, Report, bench
from bottlenet.lab.chart.latency import draw_measured
from bottlenet.lab.rig import Conditions
from bottlenet.plan.link import parse_link
from profiles import bundles_of
from record import Json, parser, run_script, show, write_record, write_whole

SLOWDOWNS = (1.0, 10.0, 30.0)
LINKS = ("3g", "4g", "wifi", "5g", "lte-m", "nb-iot")


def rows_of(report: Report) -> list[list[str]]:
    """For people."""

    def text(value: float | None) -> str:
        return "" if value is None else f"{value:,.1f}"

    return [
        [
            f"{row.link}, {row.partition}",
            *(text(value) for value in (row.latency_ms, row.latency_p95_ms, row.bound_ms, row.device_ms)),
            *(text(value) for value in (row.socket_bytes, row.photos_per_s)),
        ]
        for row in report.rows
    ]


def run(arguments: argparse.Namespace) -> None:
    """Measure, show, write."""
    bundles = bundles_of(arguments)
    links = [parse_link(name) for name in arguments.link or LINKS]
    reports: list[Json] = []
    for slowdown in arguments.slowdown:
        conditions = [Conditions(link, device_slowdown=slowdown) for link in links]
        report = bench(
            bundles, arguments.data, conditions, limit=arguments.limit, seconds=arguments.seconds, meter=arguments.meter
        )
        columns = ["link, partition", "ms", "p95", "bound", "device", "socket bytes", "photos/s"]
        show(report.device, columns, rows_of(report))
        write_whole(
            arguments.out / f"bench_x{slowdown:g}.svg", draw_measured(report).document(BENCH_PLOT_MARK).encode()
        )
        reports.append(asdict(report))
    write_record("bench", {"reports": reports}, arguments.out)


def main() -> None:
    """The command line."""
    made = parser(__doc__)
    made.add_argument("--data", required=True, help="folder of photos")
    made.add_argument("--bundle", action="append", help="or a ladder; again for other cuts of the network; else demo")
    made.add_argument("--link", action="append", help=f"again for more; {', '.join(LINKS)} if none is given")
    made.add_argument("--slowdown", type=float, nargs="+", default=SLOWDOWNS, help="of the device")
    made.add_argument("--limit", type=int, default=LIMIT, help="photos")
    made.add_argument("--seconds", type=float, default=SECONDS, help="for each row, one photo at a time")
    made.add_argument("--meter", help="rapl, jetson, nvml, model, auto; none: computing's energy is not measured")
    run_script(made, run)


if __name__ == "__main__":
    main()
