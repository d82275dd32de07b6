"""Commands for choosing a partition: `profile`, `plan`, `bench`; their tables, and the files that they write."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

from rich.console import RenderableType
from rich.table import Table
from typer import Argument, Option

from bottlenet.cli import options
from bottlenet.cli.show import Cell, Grid, clean, facts, number, print_json, progress, say, stdout
from bottlenet.files import read_at_most, reading
from bottlenet.records import command_line

if TYPE_CHECKING:
    from bottlenet.measure.bench import BenchReport, BenchRow, Conditions
    from bottlenet.plan.planner import Plan, Prediction
    from bottlenet.plan.predict import Prices
    from bottlenet.plan.profile import Profile, Row, Spread, Trained

    D = TypeVar("D", Profile, Trained)

PLOT_MARK = b"<!-- bottlenet plan -->"
PLOT = options.Kind.marked("a plot of bottlenet plan", PLOT_MARK)
BENCH_MARK = "bottlenet bench"
BENCH = options.Kind.marked("a report of bottlenet bench", BENCH_MARK.encode())
BENCH_PLOT_MARK = b"<!-- bottlenet bench -->"
BENCH_PLOT = options.Kind.marked("a plot of bottlenet bench", BENCH_PLOT_MARK)
REJECTED_SHOWN = 10
DROP_NAMES = {
    "top1": "points of top-1 below the uncut network, on the same labelled photos",
    "agreement": "photos of 100 with another answer than the uncut network's, as the photos had no labels",
}


def profile(
    bundle: options.LadderArgument,
    data: options.PhotoFolder,
    output: Annotated[str, Option("--output", "-o", metavar="PROFILE", help="The profile to write, JSON.")],
    limit: options.Limit = None,
    budget: options.Budget = None,
    device_power_mw: Annotated[float | None, Option(help="Power of the device while it computes, if known.")] = None,
    meter: options.MeterOption = None,
    max_drop: Annotated[float, Option(help="Points of top-1 that JPEG, WebP and AVIF of the input may lose.")] = 2.0,
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    """Measure each partition of a bundle on this machine: time, bytes, energy, accuracy.

    Measures edge-only, on smaller photos too, cloud-only with JPEG, WebP and
    AVIF of the network's input, and each split, with an exit at several
    bounds: one photo at a time, one thread. [bold]bottlenet plan[/] chooses
    among them. Needs no torch.

    Examples:
      bottlenet profile demo --data photos -o my.profile.json
      bottlenet profile my.bundle --data photos -o my.profile.json --limit 50
      bottlenet profile my.bundle --data photos -o my.profile.json --budget 340
    """
    from bottlenet.bundle.ladder import load_any
    from bottlenet.measure.profile import profile as measure
    from bottlenet.plan.profile import MAX_PROFILE_BYTES, parse_profile

    target = options.Kind("a profile", MAX_PROFILE_BYTES + 1, parse_profile).target(output, force=force)
    loaded = load_any(bundle)
    with progress("measuring") as step:
        profile = measure(
            loaded,
            data,
            limit=limit,
            budget_bytes=budget,
            device_power_mw=device_power_mw,
            meter=meter,
            max_drop=max_drop,
            on_progress=step,
        )
    options.write_whole(target, profile.to_json())
    if as_json:
        return print_json({"profile": str(target), **json.loads(profile.to_json())})
    stdout().print(profile_table(profile))
    stdout().print(steps_table(profile))
    say(f"profile: {target}\nnext: bottlenet plan {output} --link 3g")


def profile_table(profile: Profile) -> Grid:
    meters = sorted({f"{each.energy.how}, {each.energy.meter}" for each in profile.candidates if each.energy})
    energy = f"Device mJ: computing alone ({'; '.join(meters)})" if meters else "Energy: not known, no meter was given"
    drop = "; ".join(DROP_NAMES[kind] for kind in sorted({each.drop_of for each in profile.candidates}))
    exits = ""
    if any(each.exit is not None for each in profile.candidates):
        exits = " With an exit: device, of all photos; server and bytes, of those that are sent."
    budget = "" if profile.budget_bytes is None else f" Frames of at most {profile.budget_bytes:,} bytes."
    rows: list[list[Cell]] = []
    for each in profile.candidates:
        times = f"{each.mean_device_s * 1e3:.2f}", f"{each.server_s * 1e3:.2f}"
        sizes = (each.payload_bytes_mean, each.payload_bytes_p95, each.payload_bytes_max)
        share = [f"{each.sent_share:.0%}"] if exits else []
        numbers = (*(number(size, 0) for size in sizes), number(each.top1_drop), number(each.device_mj))
        rows.append([clean(each.name, "bold"), *times, *share, *numbers])
    names = (
        "partition",
        ">device\nms",
        ">server\nms",
        *([">sent"] if exits else []),
        ">payload\nbytes",
        ">p95",
        ">largest",
    )
    return Grid(
        (*names, ">drop", ">device\nmJ"),
        rows,
        title="Partitions of bundle " + profile.bundle_id[:12],
        caption=f"{profile.photos:,} photos, {profile.labelled:,} labelled.{budget} Device: {profile.device}. Server: "
        f"{profile.server}. Times: medians of processor time.{exits} Drop: {drop}. {energy}.",
    )


def steps_table(profile: Profile) -> Grid:
    wanted = profile.device_load
    load = "" if wanted is None else f" Meanwhile {wanted:.1f} programs competed for each core."
    rows: list[list[Cell]] = []
    for each in profile.candidates:
        if (detail := each.detail) is not None:
            device = step(detail.prepare), counts(detail.compute), step(detail.encode)
            server = step(detail.decode), counts(detail.tail), counts(detail.server)
            rows.append([clean(each.name, "bold"), *device, *server, f"{detail.peak_rss_bytes / 1e6:.0f}"])
    return Grid(
        ("partition", ">prepare", ">head", ">encode", ">decode", ">tail", ">server", ">RSS\nMB"),
        rows,
        title="Step by step, ms",
        caption="Wall-clock time: median / p95, or for each count its median. Counts are threads for the head, photos "
        "in a batch for the tail (time of the whole batch), and for the server the photos ahead of one (time until it "
        f"is answered; measured once for cloud-only). RSS: peak of a process that does only this.{load}",
    )


def step(spread: Spread | None) -> str:
    return "-" if spread is None else f"{spread.median_s * 1e3:.1f} / {spread.p95_s * 1e3:.1f}"


def counts(rows: Sequence[Row]) -> str:
    return "\n".join(f"{each.count}: {each.median_s * 1e3:.1f}" for each in rows) or "-"


def plan(
    profile: Annotated[str, Argument(metavar="PROFILE", help="Profile written by [bold]bottlenet profile[/].")],
    link: Annotated[
        str,
        Option(
            metavar="NAME|BPS,RTT,LOSS",
            help="3g, 4g, wifi, 5g, lte-m, nb-iot, lorawan, iridium-sbd; or numbers such as [bold]1.1M,100ms,1%[/].",
        ),
    ],
    objective: Annotated[str, Option(help="What to minimise: latency, energy, bytes or cost.")] = "latency",
    max_drop: options.MaxDrop = None,
    deadline: Annotated[float | None, Option(metavar="MS", help="Most milliseconds per photo.")] = None,
    budget: Annotated[float | None, Option(metavar="BYTES", help="Most uplink bytes per photo.")] = None,
    server_load: Annotated[float, Option(help="Photos waiting on the server ahead of ours.")] = 0,
    cold: Annotated[bool, Option("--cold", help="Count connection set-up too: none is open yet.")] = False,
    price_mb: options.PriceMb = None,
    price_hour: options.PriceHour = None,
    bundle: Annotated[str | None, Option("--bundle", "-b", help="Refuse a profile that is not of this bundle.")] = None,
    sweep: Annotated[
        str | None, Option(metavar="FILE", help="Take bytes and accuracy from a sweep's candidates.json.")
    ] = None,
    plot: Annotated[str | None, Option(metavar="FILE.svg", help="Draw each partition over the bandwidth.")] = None,
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    r"""Choose a partition for a link: what runs here, what runs on the server.

    Says why in one sentence, and where the choice would change; where no cut
    is best, why not. Nothing is measured: it computes from the profile and
    from what is known of the link. Smaller photos on the device, and an exit
    that answers more than its bundle says, are chosen only with --max-drop:
    the worst would always be the fastest.

    Examples:
      bottlenet plan my.profile.json --link 3g --max-drop 2
      bottlenet plan my.profile.json --link 1.1M,100ms,1% --deadline 250 --json
      bottlenet plan my.profile.json --sweep sweeps/first/candidates.json \
        --link 3g
    """
    from bottlenet.plan.planner import choose
    from bottlenet.plan.profile import MAX_TRAINED_BYTES, parse_trained, with_trained
    from bottlenet.report.partitions import draw_flips

    target = None if plot is None else PLOT.target(plot, force=force)
    loaded = read_profile(Path(profile))
    if bundle is not None:
        from bottlenet.bundle.ladder import load_any

        loaded.check_bundle(load_any(bundle).id.hex())
    if sweep is not None:
        trained = read_document(Path(sweep), parse_trained, MAX_TRAINED_BYTES, "a sweep's candidates.json")
        loaded = with_trained(loaded, trained)
    chosen = choose(
        loaded,
        link,
        objective=objective,
        max_drop=max_drop,
        deadline_s=None if deadline is None else deadline / 1e3,
        budget_bytes=budget,
        server_load=server_load,
        connected=not cold,
        prices=prices_of(price_mb, price_hour),
    )
    if target is not None:
        options.write_whole(target, draw_flips(loaded, chosen, connected=not cold).document(PLOT_MARK).encode())
    if as_json:
        plotted = None if target is None else str(target)
        return print_json({"bundle": loaded.bundle_id, **asdict(chosen), "plot": plotted})
    for each in plan_renderables(loaded, chosen):
        stdout().print(each)


def prices_of(per_megabyte: float | None, per_server_hour: float | None) -> Prices | None:
    from bottlenet.plan.predict import Prices

    given = per_megabyte is not None or per_server_hour is not None
    return Prices(per_megabyte or 0.0, per_server_hour or 0.0) if given else None


def read_profile(path: Path) -> Profile:
    from bottlenet.plan.profile import MAX_PROFILE_BYTES, parse_profile

    return read_document(path, parse_profile, MAX_PROFILE_BYTES, "a file that bottlenet profile wrote")


def read_document(path: Path, parse: Callable[[bytes], D], limit: int, wanted: str) -> D:
    """Parse a file of at most `limit` bytes; `parse` refuses more. InputError: it can't be read, or is refused."""
    with reading(path, f"give {wanted}"), open(path, "rb") as file:
        return parse(read_at_most(file, limit + 1))


def plan_renderables(profile: Profile, plan: Plan) -> Iterator[RenderableType]:
    from bottlenet.plan.planner import why_rejected

    yield clean(plan.reason, "bold")
    if plan.no_cut is not None:
        yield clean(plan.no_cut)
    yield choice_facts(profile, plan)
    yield front_table(plan)
    if plan.rejected:
        hidden = len(plan.rejected) - REJECTED_SHOWN
        rows = [(each.name, why_rejected(each)) for each in plan.rejected[:REJECTED_SHOWN]]
        caption = f"{hidden:,} more: --json." if hidden > 0 else ""
        yield Grid(("partition", "because"), rows, title="Rejected", caption=caption)


def choice_facts(profile: Profile, plan: Plan) -> Table:
    from bottlenet.plan.planner import duration, flip_words, rate

    link = plan.link
    times = f"{rate(link.uplink_bps)} up, round trip {duration(link.round_trip_s)}, loss {link.loss:.2g}"
    none = "none: no bandwidth, round trip or server load changes the choice"
    flips = [flip_words(flip) for flip in plan.flips] or [none]
    return facts(
        ("choice", clean(plan.choice.name, "bold")),
        ("objective", plan.objective),
        ("link", f"{link.name}: {times}"),
        ("server", f"{plan.server_load:g} photos ahead of ours"),
        ("profile", f"bundle {profile.bundle_id[:12]}, {profile.model}, on {profile.device}"),
        *(("" if place else "flips", words) for place, words in enumerate(flips)),
    )


def front_table(plan: Plan) -> Grid:
    """List choice, runner-up and the Pareto front, fastest first."""
    runner_up = [] if plan.runner_up is None else [plan.runner_up]
    shown = {each.name: each for each in [plan.choice, *runner_up, *plan.front]}
    front = {each.name for each in plan.front}
    drops = sorted({DROP_NAMES[each.drop_of] for each in shown.values()})
    how = sorted({each.energy_how for each in shown.values() if each.energy_how})
    energy = f" Energy: computing {', '.join(how)}; radio modelled." if how else ""
    cost = [] if plan.choice.cost is None else [">cost"]
    rows = []
    for each in sorted(shown.values(), key=lambda one: one.latency_s):
        name = f"{each.name} *" if each.name in front else each.name
        rows.append([clean(cell, "bold" if each is plan.choice else "") for cell in prediction_cells(name, each)])
    return Grid(
        ("partition", ">ms", ">device", ">link", ">server", ">bytes", ">mJ", ">drop", *cost),
        rows,
        title="Pareto front",
        caption="*: nothing that meets the constraints is better in every way. ms: in all, and on device, link and "
        f"server. Drop: {'; '.join(drops)}.{energy}",
    )


def prediction_cells(name: str, each: Prediction) -> list[str]:
    link_s = each.setup_s + each.send_s + each.round_trip_s + each.answer_s
    times = (number(seconds * 1e3) for seconds in (each.latency_s, each.device_s, link_s, each.server_s))
    cost = [] if each.cost is None else [f"{each.cost:.3g}"]
    return [name, *times, number(each.uplink_bytes, 0), number(each.device_energy_mj), number(each.top1_drop), *cost]


@options.needs("cloud")
def bench(
    bundle: Annotated[
        list[str], Argument(help="Folders of bundles or of a ladder, or [bold]demo[/]: cuts of one network.")
    ],
    data: Annotated[str, Option(help="Folder of photos.")],
    link: Annotated[
        list[str] | None,
        Option(
            metavar="NAME|BPS,RTT,LOSS",
            help="3g, 4g, wifi (the default: these three), 5g, lte-m, nb-iot, lorawan, iridium-sbd, all; or numbers "
            "such as [bold]1.1M,100ms,1%[/]. Can be repeated.",
        ),
    ] = None,
    limit: Annotated[int, Option(min=1, help="Number of photos, spread over the folder.")] = 20,
    seconds: Annotated[float, Option(help="Time for each link and partition; slow ones send fewer photos.")] = 10.0,
    budget: options.Budget = None,
    max_drop: Annotated[
        float | None,
        Option(metavar="POINTS", help="Compare what answers at most so many photos of 100 otherwise than the network."),
    ] = None,
    jitter: Annotated[float, Option(metavar="MS", help="Varying delay, in each direction.")] = 0.0,
    server_load: Annotated[int, Option(help="Photos of other devices that are always at the server.")] = 0,
    device_slowdown: Annotated[float, Option(help="Times by which the device is slower than this machine.")] = 1.0,
    server_threads: Annotated[int, Option(min=1, max=1024, help="Threads for one operation on the server.")] = 1,
    meter: options.MeterOption = None,
    output: Annotated[str | None, Option("--output", "-o", metavar="FILE", help="Also write JSON here.")] = None,
    plot: Annotated[str | None, Option(metavar="FILE.svg", help="Draw the latencies.")] = None,
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    r"""Measure each partition end to end, with real sockets, servers and a shaped link.

    Measures edge-only, on smaller photos too, cloud-only with JPEG and WebP,
    and the split, with and without its exit: latency of a photo beside its
    bound, bytes, energy, and photos per second on a full uplink.

    Examples:
      bottlenet bench demo --data photos
      bottlenet bench my.bundle --data photos --link 3g --link 5M,20ms \
        --device-slowdown 10 --plot bench.svg
    """
    from bottlenet.bundle.ladder import load_rungs
    from bottlenet.measure.bench import bench as measure
    from bottlenet.report.partitions import draw_measured

    target = None if output is None else BENCH.target(output, force=force)
    drawing = None if plot is None else BENCH_PLOT.target(plot, force=force)
    conditions = conditions_of(link, jitter / 1e3, server_load, device_slowdown)
    loaded = [rung for one in bundle for rung in load_rungs(one)]
    with progress("measuring") as step:
        report = measure(
            loaded,
            data,
            conditions,
            limit=limit,
            seconds=seconds,
            budget_bytes=budget,
            meter=meter,
            server_threads=server_threads,
            on_progress=step,
        )
    document = {"kind": BENCH_MARK, "format_version": 1, "command": command_line(sys.argv), **asdict(report)}
    if target is not None:
        options.write_whole(target, json.dumps(document, indent=2, allow_nan=False).encode() + b"\n")
    if drawing is not None:
        options.write_whole(drawing, draw_measured(report).document(BENCH_PLOT_MARK).encode())
    if as_json:
        print_json(document)
        return
    for each in bench_renderables(report, max_drop):
        stdout().print(each)


def conditions_of(links: list[str] | None, jitter_s: float, server_load: int, slowdown: float) -> list[Conditions]:
    """Make the conditions of each link. InputError: an unknown link, or a number out of range."""
    from bottlenet.measure.bench import Conditions
    from bottlenet.plan.link import LINKS, PRESETS, parse_link

    names = [each for name in links or LINKS for each in (PRESETS if name.strip().lower() == "all" else (name,))]
    found = dict.fromkeys(parse_link(name) for name in names)
    return [Conditions(each, jitter_s, server_load, slowdown) for each in found]


def bench_renderables(report: BenchReport, max_drop: float | None) -> Iterator[RenderableType]:
    how = {"measured": "measured", "modelled": "modelled, not measured"}
    compute = "not measured: no meter was asked for"
    if report.meter_how is not None:
        compute = f"{how[report.meter_how]}, by {report.meter}; of this machine, not scaled"
    yield facts(
        ("network", f"{report.model}; weights: {report.weights}"),
        ("device", report.device),
        ("server", f"{report.server}; a process of its own"),
        ("link", "shaped, on loopback; its rate is of the bytes that sockets carry"),
        ("bound", "round trip + socket bytes / bandwidth + what device and server compute"),
        ("compute mJ", compute),
        ("radio mJ", "modelled: the paper's power while it sends"),
    )
    for each, rows in report.by_condition():
        yield link_table(each, rows)
        for row in rows:
            if row.skipped is not None:
                yield clean(f"{row.partition} was skipped: {row.skipped}.")
        yield clean(sentence(rows, max_drop))


def link_table(conditions: Conditions, rows: Sequence[BenchRow]) -> Grid:
    from bottlenet.plan.planner import duration, rate

    link = conditions.link
    more = f", {conditions.server_load} photos of others at the server" if conditions.server_load else ""
    more += f", loss {link.loss:.2g}" if link.loss else ""
    more += f", jitter {duration(conditions.jitter_s)}" if conditions.jitter_s else ""
    numbers = (">ms", ">p95", ">bound", ">device", ">server", ">socket\nbytes", ">compute\nmJ", ">radio\nmJ")
    cells: list[list[Cell]] = []
    for each in rows:
        times = map(number, (each.latency_ms, each.latency_p95_ms, each.bound_ms, each.device_ms, each.server_ms))
        rest = map(number, (each.compute_mj, each.radio_mj, each.photos_per_s))
        sizes, same = number(each.socket_bytes, 0), number(each.agreement, 0)
        cells.append([clean(each.partition, "bold"), *times, sizes, *rest, same])
    return Grid(
        ("partition", *numbers, ">photos/s", ">same"),
        cells,
        title=f"{link.name}: {rate(link.uplink_bps)} up, round trip {duration(link.round_trip_s)}{more}",
        caption="ms: median; where an exit answers some photos, mean; bound: the same of these photos. photos/s: "
        "frames encoded beforehand, several in flight; edge-only: what the device computes. same: photos of 100 with "
        "the uncut network's answer.",
    )


def sentence(rows: Sequence[BenchRow], max_drop: float | None = None) -> str:
    """Say what is fastest within the bound, and what the best split gains over the best of everything else."""
    done = [
        each
        for each in rows
        if each.latency_ms is not None
        and (not each.needs_bound if max_drop is None else (each.agreement or 0.0) >= 100 - max_drop)
    ]
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
    share = (one or 0.0) / (other or 1.0)
    return f"{share:.0%} of" if share < 2 else f"{share:.3g} times"
