"""Draw what each partition takes on each link, measured and computed; the plan, and where it flips.

    bench's report --draw_measured--> bars, a group a link       profile --draw_predicted--> the same, computed
    profile, plan --draw_flips--> what each candidate takes over the uplink's bandwidth, and where the choice flips

Medians do not add up: of what was measured, the part of the link is what device and server leave of the latency.
"""

import dataclasses
import shlex
from collections.abc import Callable, Iterator, Sequence

from bottlenet.errors import InputError
from bottlenet.files import reading
from bottlenet.measure.bench import BenchReport, BenchRow
from bottlenet.plan.link import PRESETS, Link
from bottlenet.plan.planner import Plan, choose, duration, flip_words, rate
from bottlenet.plan.predict import predict
from bottlenet.plan.profile import Candidate, Profile
from bottlenet.report.charts import Axis, Bar, Drawing, Group, Rule, Scale, Series, bar_chart, line_chart, spanning
from bottlenet.report.sections import Figure, Request, Section, Table, number, of_photos
from bottlenet.report.sources import Record, Source, read_bench

SPAN = 100  # times the link's bandwidth, to either side
POINTS = 81
LINES = 8  # candidates: as many as can be told apart
SEGMENTS = ("device", "link", "server")
LATENCY_COLUMNS = ("link: partition", "ms", "95 of 100", "bound", "device", "server", "bytes", "photos/s")
UNITS: dict[str, tuple[str, Callable[[float], str]]] = {  # how a quantity that flips the choice is called and written
    "uplink_bps": ("uplink", rate),
    "round_trip_s": ("round trip", duration),
    "server_load": ("server load", "{:.3g} photos ahead".format),
}


def latency_section(sources: Sequence[Source], request: Request) -> Section:
    figures = []
    for source in sources:
        figures += [measured_figure(source, report) for report in reports_of(source)]
        if isinstance(source.content, Profile):
            figures.append(predicted_figure(source, source.content, request))
    intro = "From the photo to the answer: what device, link and server take. Each link has a scale of its own."
    return Section("latency", "Latency on each link", intro, tuple(figures))


def plan_section(sources: Sequence[Source], request: Request) -> Section:
    """Draw one figure a profile and link, and list all flips."""
    figures, tables = [], []
    for source in sources:
        if not isinstance(source.content, Profile):
            continue
        flips: list[tuple[str, ...]] = []
        for link in request.links:
            try:
                plan = choose(source.content, link, max_drop=request.max_drop)
            except InputError as error:  # nothing meets the constraints here, which is an answer too
                flips.append((link.name, "-", f"{error}", "", ""))
                continue
            figures.append(plan_figure(source, source.content, plan, request))
            flips += flip_rows(plan)
        columns = ("link", "choice", "flips with", "at", "to")
        tables.append(Table(f"Choices and flips of “{source.name}”", columns, tuple(flips), numeric=False))
    bound = "" if request.max_drop is None else f", among those that lose at most {request.max_drop:g} points"
    intro = f"Which partition is fastest{bound}, and at which bandwidth, round trip or load another one wins."
    return Section("plan", "The plan and its flip points", intro, tuple(figures), tuple(tables))


def reports_of(source: Source) -> Iterator[BenchReport]:
    """Yield a bench, or of a record of benchmarks/bench.py one for each speed of the device. InputError: damaged."""
    if isinstance(source.content, BenchReport):
        yield source.content
    elif isinstance(source.content, Record) and isinstance(source.content.results, dict):
        found = source.content.results.get("reports")
        for values in found if isinstance(found, list) else []:
            with reading(source.path, "give another file"):
                report = read_bench(values, source.path)
            yield report


def measured_figure(source: Source, report: BenchReport) -> Figure:
    rows = []
    for conditions, measured in report.by_condition():
        for row in measured:
            times = (row.latency_ms, row.latency_p95_ms, row.bound_ms, row.device_ms, row.server_ms)
            cells = (*(number(value, 1) for value in times), number(row.socket_bytes), number(row.photos_per_s, 1))
            rows.append((f"{conditions.link.name}: {row.partition}", *cells))
    note = (
        f"Measured, with real sockets and a shaped link. Device: {report.device}. Server: {report.server}. Link: what "
        "device and server leave of the median. The bound: round trip + bytes / bandwidth + computing."
    )
    title = f"Latency of a photo, measured: “{source.name}”, {report.device}"
    table = Table("The numbers, ms", LATENCY_COLUMNS, tuple(rows))
    return Figure(title, draw_measured(report), table, source.command, note)


def draw_measured(report: BenchReport) -> Drawing:
    """Draw the median's parts, the 95th percentile and the bound of every row."""
    groups = []
    for conditions, rows in report.by_condition():
        bars = tuple(bar for row in rows if (bar := measured_bar(row)) is not None)
        missing = tuple((row.partition, row.skipped or "not measured") for row in rows if measured_bar(row) is None)
        groups.append(Group(link_words(conditions.link), bars, missing))
    return latency_chart("Latency of a photo, end to end, ms", report.device, groups)


def measured_bar(row: BenchRow) -> Bar | None:
    if row.latency_ms is None or row.device_ms is None or row.server_ms is None:
        return None
    times, size = (row.latency_ms, row.device_ms, row.server_ms), row.socket_bytes
    return dataclasses.replace(latency_bar(row.partition, times, size), whisker=row.latency_p95_ms, mark=row.bound_ms)


def latency_bar(name: str, times_ms: tuple[float, float, float], sent_bytes: float | None) -> Bar:
    """Divide a latency into what the device takes, the link and the server; `times_ms` are latency, device, server."""
    latency, device, server = times_ms
    device = min(device, latency)
    note = f"{latency:,.1f} ms" + (f", {sent_bytes:,.0f} bytes" if sent_bytes else "")
    return Bar(name, (device, max(0.0, latency - device - server), server), note)


def latency_chart(title: str, device: str, groups: Sequence[Group]) -> Drawing:
    fastest = [(group, min(group.bars, key=lambda each: sum(each.segments))) for group in groups if group.bars]
    words = "; ".join(f"on {group.name} {bar.name}, {bar.note}" for group, bar in fastest) or "nothing was measured"
    return bar_chart(title, f"Device: {device}. Fastest: {words}.", groups, SEGMENTS, "ms")


def predicted_figure(source: Source, profile: Profile, request: Request) -> Figure:
    rows = []
    for link in request.links:
        for each in profile.candidates:
            there = predict(each, link)
            times = (there.latency_s, there.device_s, there.send_s, there.round_trip_s, there.server_s)
            cells = (*(number(value * 1e3, 1) for value in times), number(there.uplink_bytes))
            rows.append((f"{link.name}: {each.name}", *cells, number(each.top1_drop, 1)))
    columns = ("link: partition", "ms", "device", "sending", "round trip", "server", "bytes", "points lost")
    note = f"Computed, not measured, from times on {profile.device} for the device and {profile.server} for the server."
    note += of_photos([profile.labelled or profile.photos])
    title = f"Latency of a photo, computed from the profile “{source.name}”"
    table = Table("The numbers, ms", columns, tuple(rows))
    return Figure(title, draw_predicted(profile, request.links), table, request.command, note)


def draw_predicted(profile: Profile, links: Sequence[Link]) -> Drawing:
    groups = []
    for link in links:
        bars = []
        for candidate in profile.candidates:
            there = predict(candidate, link)
            times = there.latency_s * 1e3, there.device_s * 1e3, there.server_s * 1e3
            bars.append(latency_bar(candidate.name, times, there.uplink_bytes))
        groups.append(Group(link_words(link), tuple(bars)))
    return latency_chart("Latency of a photo, computed from the profile, ms", profile.device, groups)


def link_words(link: Link) -> str:
    """Write a link as "3G: 1.1 Mbit/s up, round trip 100 ms"."""
    return f"{link.name}: {rate(link.uplink_bps)} up, round trip {link.round_trip_s * 1e3:g} ms"


def plan_figure(source: Source, profile: Profile, plan: Plan, request: Request) -> Figure:
    """Show the candidates over the bandwidth; beside them the front of this link."""
    shown = {each.name: each for each in (plan.choice, *plan.front)}
    rows = []
    for each in sorted(shown.values(), key=lambda one: one.latency_s):
        name = each.name + (" (chosen)" if each.name == plan.choice.name else "")
        times = (number(value * 1e3, 1) for value in (each.latency_s, each.device_s, each.server_s))
        rest = number(each.uplink_bytes), number(each.device_energy_mj, 1), number(each.top1_drop, 1)
        rows.append((name, *times, *rest))
    how = sorted({each.energy_how for each in shown.values() if each.energy_how})
    energy = f" Energy of computing: {', '.join(how)}; of the radio: modelled." if how else ""
    columns = ("partition", "ms", "device", "server", "bytes", "mJ", "points lost")
    title = f"The plan on {plan.link.name}: {plan.choice.name}"
    table = Table(f"Pareto front on {plan.link.name}.{energy}", columns, tuple(rows))
    note = f"{plan.reason} The upright lines: this link, and the flips. Of the profile “{source.name}”."
    note += of_photos([profile.labelled or profile.photos])
    link = next((name for name, each in PRESETS.items() if each == plan.link), plan.link.name)
    drop = "" if request.max_drop is None else f" --max-drop {request.max_drop:g}"
    command = f"bottlenet plan {shlex.quote(source.path.name)} --link {shlex.quote(link)}{drop}"
    drawing = draw_flips(profile, plan, connected=True, looks=request.looks)
    return Figure(title, drawing, table, command, note)


def draw_flips(profile: Profile, plan: Plan, *, connected: bool, looks: dict[str, int] | None = None) -> Drawing:
    """Draw latency, or energy where the plan's objective is energy; the choice is the heavy line."""
    series = []
    for each in shown_candidates(profile, plan):
        points = tuple(point for point in curve(each, plan, connected=connected) if point[1] > 0)
        series.append(Series(each.name, points, marked=False, bold=each.name == plan.choice.name))
    what, unit = ("device energy", "mJ") if plan.objective == "energy" else ("latency", "ms")
    x = Axis("uplink", Scale(plan.link.uplink_bps / SPAN, plan.link.uplink_bps * SPAN, True), rate)
    y = Axis(f"{what}, {unit}", spanning([y for each in series for _, y in each.points], log=True))
    flips = [flip for flip in plan.flips if flip.quantity == "uplink_bps"]
    rules = [Rule(plan.link.uplink_bps, plan.link.name, dashes=""), *(Rule(flip.value, "flip") for flip in flips)]
    words = f"Flips: {', '.join(map(flip_words, flips))}." if flips else "No bandwidth changes the choice."
    over = f"over the uplink's bandwidth, round trip {plan.link.round_trip_s * 1e3:g} ms"
    title = f"{what.capitalize()} of a photo {over}"
    return line_chart(title, f"{plan.reason} {words}", series, x, y, rules=rules, looks=looks)


def shown_candidates(profile: Profile, plan: Plan) -> Sequence[Candidate]:
    """Choose the winner, the winners of the flips, the runner-up, the front, and the fastest of each kind."""
    names = [plan.choice.name, *(flip.winner for flip in plan.flips)]
    names += [each.name for each in [*([plan.runner_up] if plan.runner_up else []), *plan.front]]
    by_name = {each.name: each for each in profile.candidates}
    fastest = sorted(profile.candidates, key=lambda each: predict(each, plan.link, plan.server_load).latency_s)
    names += {each.kind: each.name for each in reversed(fastest)}.values()
    return [by_name[name] for name in dict.fromkeys(names) if name is not None][:LINES]


def curve(candidate: Candidate, plan: Plan, *, connected: bool) -> list[tuple[float, float]]:
    """Compute points of (bit/s, ms or mJ)."""
    points = []
    for index in range(POINTS):
        bps = plan.link.uplink_bps * SPAN ** (2 * index / (POINTS - 1) - 1)
        link = dataclasses.replace(plan.link, uplink_bps=bps)
        there = predict(candidate, link, plan.server_load, connected=connected)
        value = there.device_energy_mj if plan.objective == "energy" else there.latency_s * 1e3
        points.append((bps, value or 0.0))
    return points


def flip_rows(plan: Plan) -> list[tuple[str, ...]]:
    rows = [("nothing", "", "")] if not plan.flips else []
    for flip in plan.flips:
        name, say = UNITS[flip.quantity]
        rows.append((name, f"{flip.side} {say(flip.value)}", flip.winner or "nothing meets the constraints"))
    names = [(plan.link.name, plan.choice.name), *[("", "")] * (len(rows) - 1)]
    return [(*each, *row) for each, row in zip(names, rows, strict=True)]
