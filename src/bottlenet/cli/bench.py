"""`bottlenet bench`: every partition end to end, over links of one's choice."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import RenderableType

from bottlenet.cli.options import Force, Json, MeterOption, check_target, marked, needs, write_whole
from bottlenet.cli.show import Cell, Grid, clean, facts, number, print_json, progress, stdout
from bottlenet.records import command_line

if TYPE_CHECKING:
    from bottlenet.measure.bench import BenchReport, BenchRow, Conditions

FORMAT_VERSION = 1
BENCH_MARK = "bottlenet bench"
BENCH = marked("a report of bottlenet bench", BENCH_MARK.encode())
BENCH_PLOT_MARK = b"<!-- bottlenet bench -->"
BENCH_PLOT = marked("a plot of bottlenet bench", BENCH_PLOT_MARK)


def bench_renderables(report: BenchReport) -> Iterator[RenderableType]:
    """List what is printed: a table and a sentence for each link."""
    how = {"measured": "measured", "modelled": "modelled, not measured"}
    compute = "not measured: no meter was asked for"
    if report.meter_how is not None:
        compute = f"{how[report.meter_how]}, by {report.meter}; of this machine, not scaled"
    yield facts(
        [
            ("network", f"{report.model}; weights: {report.weights}"),
            ("device", report.device),
            ("server", f"{report.server}; a process of its own"),
            ("link", "shaped, on loopback; its rate is of the bytes that sockets carry"),
            ("bound", "round trip + socket bytes / bandwidth + what device and server compute"),
            ("compute mJ", compute),
            ("radio mJ", "modelled: the paper's power while it sends"),
        ]
    )
    for each, rows in report.by_condition():
        yield link_table(each, rows)
        for row in rows:
            if row.skipped is not None:
                yield clean(f"{row.partition} was skipped: {row.skipped}.")
        yield clean(sentence(rows))


def link_table(conditions: Conditions, rows: Sequence[BenchRow]) -> Grid:
    from bottlenet.plan.planner import duration, rate

    link = conditions.link
    more = f", {conditions.server_load} photos of others at the server" if conditions.server_load else ""
    more += f", loss {link.loss:.2g}" if link.loss else ""
    more += f", jitter {duration(conditions.jitter_s)}" if conditions.jitter_s else ""
    numbers = (">ms", ">p95", ">bound", ">device", ">server", ">socket\nbytes", ">compute\nmJ", ">radio\nmJ")
    cells: list[list[Cell]] = []
    for each in rows:
        times = (each.latency_ms, each.latency_p95_ms, each.bound_ms, each.device_ms, each.server_ms)
        cells.append(
            [
                clean(each.partition, "bold"),
                *(number(value) for value in times),
                number(each.socket_bytes, 0),
                *(number(value) for value in (each.compute_mj, each.radio_mj, each.photos_per_s)),
                number(each.agreement, 0),
            ]
        )
    return Grid(
        ("partition", *numbers, ">photos/s", ">same"),
        cells,
        title=f"{link.name}: {rate(link.uplink_bps)} up, round trip {duration(link.round_trip_s)}{more}",
        caption="ms: median; bound: the median of the same photos' bounds. photos/s: frames encoded beforehand, "
        "several in flight; edge-only: what the device computes. same: photos of 100 with the uncut network's answer.",
    )


def sentence(rows: Sequence[BenchRow]) -> str:
    """Say what is fastest, and what the best split gains over the best of everything else."""
    done = [each for each in rows if each.latency_ms is not None]
    if not done:
        return "Nothing was measured here."
    best = min(done, key=latency)
    text = f"{best.partition} is fastest with {number(best.latency_ms)} ms."
    splits = [each for each in done if each.kind == "split"]
    rivals = [each for each in done if each.kind != "split"]
    if not splits or not rivals:
        return text
    split, rival = min(splits, key=latency), min(rivals, key=latency)
    text += f" {split.partition} takes {ratio(split.latency_ms, rival.latency_ms)} the time of {rival.partition}"
    through = max(rivals, key=lambda each: each.photos_per_s or 0.0)
    if split.photos_per_s and through.photos_per_s:
        than = "" if through is rival else f" of {through.partition}"
        text += f", and {ratio(split.photos_per_s, through.photos_per_s)} the photos a second{than} get through"
    return text + "."


def latency(row: BenchRow) -> float:
    return row.latency_ms or 0.0


def ratio(one: float | None, other: float | None) -> str:
    """Write `one` as a share of `other`: in percent, or as a factor."""
    share = (one or 0.0) / (other or 1.0)
    return f"{share:.0%} of" if share < 2 else f"{share:.3g} times"


def bench_document(report: BenchReport) -> dict[str, object]:
    return {"kind": BENCH_MARK, "format_version": FORMAT_VERSION, "command": command_line(sys.argv), **asdict(report)}


@needs("cloud")
def bench(
    bundle: Annotated[
        list[str],
        typer.Argument(help="Folders of bundles or of a ladder, or [bold]demo[/]: cuts of one network."),
    ],
    data: Annotated[str, typer.Option("--data", help="Folder of photos.")],
    link: Annotated[
        list[str] | None,
        typer.Option(
            "--link",
            metavar="NAME|BPS,RTT,LOSS",
            help="3g, 4g, wifi (the default: these three), 5g, lte-m, nb-iot, lorawan, iridium-sbd, all; or numbers "
            "such as [bold]1.1M,100ms,1%[/]. Can be repeated.",
        ),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Number of photos, spread over the folder.")] = 20,
    seconds: Annotated[
        float, typer.Option("--seconds", help="Time for each link and partition; slow ones send fewer photos.")
    ] = 10.0,
    jitter: Annotated[float, typer.Option("--jitter", metavar="MS", help="Varying delay, in each direction.")] = 0.0,
    server_load: Annotated[
        int, typer.Option("--server-load", help="Photos of other devices that are always at the server.")
    ] = 0,
    device_slowdown: Annotated[
        float, typer.Option("--device-slowdown", help="Times by which the device is slower than this machine.")
    ] = 1.0,
    server_threads: Annotated[
        int, typer.Option("--server-threads", min=1, max=1024, help="Threads for one operation on the server.")
    ] = 1,
    meter: MeterOption = None,
    output: Annotated[str | None, typer.Option("--output", "-o", metavar="FILE", help="Also write JSON here.")] = None,
    plot: Annotated[str | None, typer.Option("--plot", metavar="FILE.svg", help="Draw the latencies.")] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    r"""Measure each partition end to end, with real sockets, servers and a shaped link.

    Measures edge-only, cloud-only with JPEG and WebP, and the split: latency
    of a photo beside its bound, bytes, energy, and photos per second on a full
    uplink.

    Examples:
      bottlenet bench demo --data photos
      bottlenet bench my.bundle --data photos --link 3g --link 5M,20ms \
        --device-slowdown 10 --plot bench.svg
    """
    from bottlenet.bundle.ladder import load_rungs
    from bottlenet.measure.bench import bench as measure
    from bottlenet.report.partitions import draw_measured

    target = None if output is None else check_target(output, BENCH, force=force)
    drawing = None if plot is None else check_target(plot, BENCH_PLOT, force=force)
    conditions = conditions_of(link, jitter / 1e3, server_load, device_slowdown)
    loaded = [rung for one in bundle for rung in load_rungs(one)]
    with progress("measuring") as step:
        report = measure(
            loaded,
            data,
            conditions,
            limit=limit,
            seconds=seconds,
            meter=meter,
            server_threads=server_threads,
            on_progress=step,
        )
    document = bench_document(report)
    if target is not None:
        write_whole(target, json.dumps(document, indent=2, allow_nan=False).encode() + b"\n")
    if drawing is not None:
        write_whole(drawing, draw_measured(report).document(BENCH_PLOT_MARK).encode())
    if as_json:
        print_json(document)
        return
    for each in bench_renderables(report):
        stdout().print(each)


def conditions_of(
    links: list[str] | None, jitter_s: float, server_load: int, device_slowdown: float
) -> list[Conditions]:
    """Make the conditions of each link. InputError: an unknown link, or a number out of range."""
    from bottlenet.measure.bench import Conditions
    from bottlenet.plan.link import LINKS, PRESETS, parse_link

    names = [each for name in links or LINKS for each in (PRESETS if name.strip().lower() == "all" else (name,))]
    found = dict.fromkeys(parse_link(name) for name in names)
    return [Conditions(each, jitter_s, server_load, device_slowdown) for each in found]
