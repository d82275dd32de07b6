"""`bottlenet bench`: every partition end to end, over links of one's choice."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from bottlenet.cli.arguments import Force, Json, require

if TYPE_CHECKING:
    from bottlenet.lab.rig import Conditions


def bench(
    bundle: Annotated[
        list[str],
        typer.Argument(help="Folders of bundles or of a ladder, or [bold]demo[/]: cuts of one network."),
    ],
    data: Annotated[str, typer.Option("--data", help="A folder of photos.")],
    link: Annotated[
        list[str] | None,
        typer.Option(
            "--link",
            metavar="NAME|BPS,RTT,LOSS",
            help="3g, 4g, wifi (these if none is given), 5g, lte-m, nb-iot, lorawan, iridium-sbd, all; or such as "
            "[bold]1.1M,100ms,1%[/]. Again for more.",
        ),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="So many photos, spread over the folder.")] = 20,
    seconds: Annotated[
        float, typer.Option("--seconds", help="For each link and partition; slow ones have fewer photos.")
    ] = 10.0,
    jitter: Annotated[float, typer.Option("--jitter", metavar="MS", help="Delay that comes and goes, each way.")] = 0.0,
    server_load: Annotated[int, typer.Option("--server-load", help="Photos of others always at the server.")] = 0,
    device_slowdown: Annotated[
        float, typer.Option("--device-slowdown", help="Let computing on the device take so many times as long.")
    ] = 1.0,
    server_threads: Annotated[
        int, typer.Option("--server-threads", min=1, max=1024, help="Of the server's networks.")
    ] = 1,
    meter: Annotated[
        str | None, typer.Option("--meter", help="What measures energy: rapl, jetson, nvml, model, auto.")
    ] = None,
    output: Annotated[str | None, typer.Option("--output", "-o", metavar="FILE", help="Also write JSON.")] = None,
    plot: Annotated[str | None, typer.Option("--plot", metavar="FILE.svg", help="Draw the latencies.")] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    r"""Measure each partition end to end, with real sockets, servers and a shaped link.

    Edge-only, cloud-only with JPEG and WebP, and the split: latency of a photo
    beside its bound, bytes, energy, and photos a second on a full uplink.
    Needs [bold]pip install "bottlenet\[cloud]"[/].

    Examples:
      bottlenet bench demo --data photos
      bottlenet bench my.bundle --data photos --link 3g --link 5M,20ms --device-slowdown 10 --plot bench.svg
    """
    require("bench", "cloud")
    from bottlenet.cli.bench_tables import bench_document, bench_renderables
    from bottlenet.cli.files import check_target, write_whole
    from bottlenet.cli.plan_files import BENCH, BENCH_PLOT, BENCH_PLOT_MARK
    from bottlenet.cli.show import print_json, progress, stdout
    from bottlenet.lab.bench import bench as measure
    from bottlenet.lab.chart.latency import draw_measured
    from bottlenet.ladder import load_rungs

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
    for part in bench_renderables(report):
        stdout().print(part)


def conditions_of(
    links: list[str] | None, jitter_s: float, server_load: int, device_slowdown: float
) -> list[Conditions]:
    """One for each link that was asked for. InputError: an unknown one, or a number out of range."""
    from bottlenet.lab.rig import Conditions
    from bottlenet.plan.link import LINKS, PRESETS, parse_link

    names = [each for name in links or LINKS for each in (PRESETS if name.strip().lower() == "all" else (name,))]
    found = dict.fromkeys(parse_link(name) for name in names)
    return [Conditions(each, jitter_s, server_load, device_slowdown) for each in found]
