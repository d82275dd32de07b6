"""What does each partition take end to end, on each link, and on slower devices?

`bottlenet bench` for devices that take 1, 10 and 30 times as long as this machine, in one record: the paper's Table 5
for this network, with round trips. Draws results/bench_x1.svg and so on. Nothing else may run meanwhile: latencies are
by a clock.

`--codec` adds an input codec to cloud-only: the one that needs the fewest bytes for the bundle's own top-1, by
input_codecs.py, is what photos a second are compared with, beside JPEG 95.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import asdict

from bottlenet.cli.planning import BENCH_PLOT_MARK
from bottlenet.edge.encoder import cloud_only
from bottlenet.errors import InputError
from bottlenet.measure.bench import LIMIT, SECONDS, BenchReport, BenchRow, Conditions, bench
from bottlenet.plan.link import parse_link
from bottlenet.report.partitions import draw_measured
from bottlenet.wire.pictures import FIXED, InputCodec
from profiles import bundles_of
from record import Json, parser, run_script, show, write_record, write_whole

SLOWDOWNS = (1.0, 10.0, 30.0)
LINKS = ("3g", "4g", "wifi", "5g", "lte-m", "nb-iot")
JUDGED = "3G"  # the link of the targets, with the round trip that the paper leaves out
JPEG_95 = InputCodec("JPEG", 95)
BOUND_TARGET, RATE_TARGET, BEST_RATE_TARGET = 1.1, 20.0, 3.0


def rows_of(report: BenchReport) -> list[list[str]]:
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


def judged(rows: Sequence[BenchRow], added: Iterable[InputCodec]) -> dict[str, Json]:
    """Judge one link: latencies over their bounds, and photos a second of the best split over the others'.

    InputError: nothing was measured there.
    """
    sent = [row for row in rows if row.kind != "edge-only" and row.latency_ms and row.bound_ms and row.photos_per_s]
    splits = [row for row in sent if row.kind == "split"]
    if not splits:
        raise InputError("no split was measured on this link; give it more --seconds")
    best = max(splits, key=lambda row: row.photos_per_s or 0.0)
    rates = {row.partition: row.photos_per_s for row in sent if row.kind == "cloud-only"}
    over = {row.partition: (row.latency_ms or 0.0) / (row.bound_ms or 1.0) for row in sent}
    times = {name: (best.photos_per_s or 0.0) / rate for name, rate in rates.items() if rate}
    within = [times[name] for name in (cloud_only(codec).name for codec in added) if name in times]
    return {
        "link": best.link,
        "latency_over_bound": over,
        "latency_met": max(over.values()) <= BOUND_TARGET,
        "split": best.partition,
        "photos_per_s_over": times,
        "rate_met": times.get(cloud_only(JPEG_95).name, 0.0) >= RATE_TARGET,
        "best_rate_met": min(within) >= BEST_RATE_TARGET if within else None,
    }


def run(arguments: argparse.Namespace) -> None:
    """Measure, show, write."""
    bundles = bundles_of(arguments)
    links = [parse_link(name) for name in arguments.link or LINKS]
    added = [InputCodec.parse(name) for name in arguments.codec]
    reports: list[Json] = []
    judgements: list[Json] = []
    for slowdown in arguments.slowdown:
        report = bench(
            bundles,
            arguments.data,
            [Conditions(link, device_slowdown=slowdown) for link in links],
            codecs=(*FIXED, *added),
            limit=arguments.limit,
            seconds=arguments.seconds,
            meter=arguments.meter,
            server_threads=arguments.server_threads,
        )
        columns = ["link, partition", "ms", "p95", "bound", "device", "socket bytes", "photos/s"]
        show(report.device, columns, rows_of(report))
        drawing = draw_measured(report).document(BENCH_PLOT_MARK).encode()
        write_whole(arguments.out / f"{arguments.record}_x{slowdown:g}.svg", drawing)
        reports.append(asdict(report))
        if any(link.name == JUDGED for link in links):
            found = judged([row for row in report.rows if row.link == JUDGED], added)
            print(found)
            judgements.append({"device_slowdown": slowdown, **found})
    targets: Json = {"latency_over_bound": BOUND_TARGET, "over_jpeg_95": RATE_TARGET, "over_best": BEST_RATE_TARGET}
    results: Json = {"targets": targets, "judged": judgements, "added": arguments.codec, "reports": reports}
    write_record(arguments.record, results, arguments.out)


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--data", required=True, help="folder of photos")
    made.add_argument("--bundle", action="append", help="or a ladder; again for other cuts of the network; else demo")
    made.add_argument("--link", action="append", help=f"again for more; {', '.join(LINKS)} if none is given")
    made.add_argument("--codec", action="append", default=[], metavar="'AVIF 50'", help="of cloud-only; again for more")
    made.add_argument("--slowdown", type=float, nargs="+", default=SLOWDOWNS, help="of the device")
    made.add_argument("--limit", type=int, default=LIMIT, help="photos")
    made.add_argument("--seconds", type=float, default=SECONDS, help="for each row, one photo at a time")
    made.add_argument("--server-threads", type=int, default=1, help="of the server's networks")
    made.add_argument("--meter", help="rapl, jetson, nvml, model, auto; none: computing's energy is not measured")
    made.add_argument("--record", default="bench", help="its name: another one for another network")
    run_script(made, run)


if __name__ == "__main__":
    main()
