"""Commands for choosing a partition: `profile`, `plan`.

The files of `bottlenet profile`, `bottlenet plan` and `bottlenet bench`: profiles, reports and plots.

`bottlenet profile` and `bottlenet plan` in a terminal, or as one JSON document.

What `bottlenet profile` prints.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from bottlenet.cli.options import Force, Json, Kind, LadderArgument
from bottlenet.cli.show import clean, facts_table, number_columns, plain_table, text_columns
from bottlenet.errors import InputError
from bottlenet.files import read_at_most
from bottlenet.plan.planner import Plan, Prediction, Rejected, duration, flip_words, rate
from bottlenet.plan.profile import (
    MAX_PROFILE_BYTES,
    MAX_TRAINED_BYTES,
    Profile,
    Row,
    Spread,
    Trained,
    parse_profile,
    parse_trained,
)

if TYPE_CHECKING:
    from bottlenet.plan.predict import Prices


PLOT_MARK = b"<!-- bottlenet plan -->"
BENCH_PLOT_MARK = b"<!-- bottlenet bench -->"
BENCH_MARK = "bottlenet bench"
MARK_WITHIN_BYTES = 512

D = TypeVar("D", Profile, Trained)


def read_profile(path: Path) -> Profile:
    """The profile in a file. InputError: can't be read, too large, or no profile."""
    return read_document(path, parse_profile, MAX_PROFILE_BYTES, "what bottlenet profile wrote")


def read_trained(path: Path) -> Trained:
    """What a sweep knows of its candidates. InputError: the file can't be read, is too large, or of something else."""
    return read_document(path, parse_trained, MAX_TRAINED_BYTES, "a sweep's candidates.json")


def read_document(path: Path, parse: Callable[[bytes], D], limit: int, wanted: str) -> D:
    """What `parse`, which refuses more than `limit` bytes, makes of a file. InputError: can't be read, or refused."""
    try:
        with open(path, "rb") as file:
            return parse(read_at_most(file, limit + 1))
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror}; give {wanted}") from error
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def is_profile(data: bytes) -> bool:
    """Whether `data` is a whole profile, of this version."""
    try:
        parse_profile(data)
    except InputError:
        return False
    return True


PROFILE = Kind("a profile", MAX_PROFILE_BYTES + 1, is_profile)
PLOT = Kind("a plot of bottlenet plan", MARK_WITHIN_BYTES, lambda data: PLOT_MARK in data)
BENCH_PLOT = Kind("a plot of bottlenet bench", MARK_WITHIN_BYTES, lambda data: BENCH_PLOT_MARK in data)
BENCH = Kind("a report of bottlenet bench", MARK_WITHIN_BYTES, lambda data: BENCH_MARK.encode() in data)


REJECTED_SHOWN = 10
DROP_NAMES = {
    "top1": "points of top-1 below the uncut network, on the same labelled photos",
    "agreement": "photos of 100 with another answer than the uncut network's, as the photos had no labels",
}


def profile_document(profile: Profile) -> dict[str, object]:
    """The profile as it is in its file."""
    values: dict[str, object] = json.loads(profile.to_json())
    return values


def plan_renderables(profile: Profile, plan: Plan) -> Iterator[RenderableType]:
    """What `bottlenet plan` prints, in order."""
    yield clean(plan.reason, "bold")
    yield facts(profile, plan)
    yield front_table(plan)
    if plan.rejected:
        yield rejected_table(plan)


def facts(profile: Profile, plan: Plan) -> Table:
    """The choice, and on what it rests."""
    link = plan.link
    rows: list[tuple[str, Text | str]] = [
        ("choice", clean(plan.choice.name, "bold")),
        ("objective", plan.objective),
        (
            "link",
            f"{link.name}: {rate(link.uplink_bps)} up, round trip {duration(link.round_trip_s)}, loss {link.loss:.2g}",
        ),
        ("server", f"{plan.server_load:g} photos ahead of ours"),
        ("profile", f"bundle {profile.bundle_id[:12]}, {profile.model}, on {profile.device}"),
    ]
    rows += [("flips" if number == 0 else "", flip_words(flip)) for number, flip in enumerate(plan.flips)]
    if not plan.flips:
        rows.append(("flips", "none: no bandwidth, round trip or server load changes the choice"))
    return facts_table(rows)


def front_table(plan: Plan) -> Table:
    """Choice, runner-up and the Pareto front, fastest first."""
    shown = {each.name: each for each in [plan.choice, *([plan.runner_up] if plan.runner_up else []), *plan.front]}
    front = {each.name for each in plan.front}
    kinds = sorted({DROP_NAMES[each.drop_of] for each in shown.values()})
    how = sorted({each.energy_how for each in shown.values() if each.energy_how})
    energy = f" Energy: computing {', '.join(how)}; radio modelled." if how else ""
    table = plain_table(
        "Pareto front",
        f"*: nothing that meets the constraints is better in every way. ms: all, and of that device, link, server. "
        f"Drop: {'; '.join(kinds)}.{energy}",
    )
    text_columns(table, "partition")
    number_columns(table, "ms", "device", "link", "server", "bytes", "mJ", "drop")
    if plan.choice.cost is not None:
        number_columns(table, "cost")
    for each in sorted(shown.values(), key=lambda one: one.latency_s):
        star = " *" if each.name in front else ""
        chosen = each.name == plan.choice.name
        table.add_row(*row(each, star), style="bold" if chosen else "")
    return table


def row(each: Prediction, star: str) -> Iterator[Text | str]:
    """One line."""
    link_s = each.setup_s + each.send_s + each.round_trip_s + each.answer_s
    yield clean(each.name + star)
    for seconds in (each.latency_s, each.device_s, link_s, each.server_s):
        yield f"{seconds * 1e3:,.1f}"
    yield f"{each.uplink_bytes:,.0f}"
    yield number(each.device_energy_mj)
    yield f"{each.top1_drop:.1f}"
    if each.cost is not None:
        yield f"{each.cost:.3g}"


def rejected_table(plan: Plan) -> Table:
    """Which constraint is in the way of whom."""
    hidden = len(plan.rejected) - REJECTED_SHOWN
    table = plain_table("Rejected", f"{hidden:,} more: --json." if hidden > 0 else None)
    text_columns(table, "partition", "because")
    for each in plan.rejected[:REJECTED_SHOWN]:
        table.add_row(clean(each.name), why(each))
    return table


def why(rejected: Rejected) -> str:
    """In words."""
    if rejected.needs is None:
        return "its device's energy is not known"
    return {
        "message": f"has up to {rejected.needs:,.0f} bytes, more than a message of this link",
        "max_drop": f"loses {rejected.needs:.1f} points",
        "budget": f"sends {rejected.needs:,.0f} bytes",
        "deadline": f"takes {duration(rejected.needs)}",
    }[rejected.constraint]


def number(value: float | None) -> str:
    """A dash where it is not known."""
    return "-" if value is None else f"{value:,.1f}"


def plan_document(profile: Profile, plan: Plan) -> dict[str, object]:
    """The same for programs; every quantity's unit is in its name."""
    return {"bundle": profile.bundle_id, **asdict(plan)}


def profile_table(profile: Profile) -> Table:
    """One line a candidate: what the planner computes with."""
    given = sorted({f"{each.energy.how}, {each.energy.meter}" for each in profile.candidates if each.energy})
    energy = f"Device mJ: computing alone ({'; '.join(given)})." if given else "Energy: not known, no meter was given."
    drop = "; ".join(DROP_NAMES[kind] for kind in sorted({each.drop_of for each in profile.candidates}))
    table = plain_table(
        "Partitions of bundle " + profile.bundle_id[:12],
        f"{profile.photos:,} photos, {profile.labelled:,} labelled. Device: {profile.device}. Server: "
        f"{profile.server}. Times: medians of processor time. Drop: {drop}. {energy}",
    )
    text_columns(table, "partition")
    number_columns(table, "device\nms", "server\nms", "payload\nbytes", "p95", "largest", "drop", "device\nmJ")
    for each in profile.candidates:
        table.add_row(
            clean(each.name, "bold"),
            f"{each.device_s * 1e3:.2f}",
            f"{each.server_s * 1e3:.2f}",
            f"{each.payload_bytes_mean:,.0f}",
            "-" if each.payload_bytes_p95 is None else f"{each.payload_bytes_p95:,}",
            f"{each.payload_bytes_max:,}",
            f"{each.top1_drop:.1f}",
            number(each.device_mj),
        )
    return table


def detail_table(profile: Profile) -> Table:
    """Where the time goes: one line a candidate."""
    load = "" if profile.device_load is None else f", and {profile.device_load:.2f} programs wanted each core"
    table = plain_table(
        "Step by step, ms",
        "By a clock; median / p95, or medians at each count: head by threads, tail by photos in a batch (all of them), "
        "server until ours is answered by photos ahead (of cloud-only measured once). RSS: peak of a process that does "
        f"this alone{load}.",
    )
    text_columns(table, "partition")
    number_columns(table, "prepare", "head", "encode", "decode", "tail", "server", "RSS\nMB")
    for each in profile.candidates:
        detail = each.detail
        if detail is not None:
            table.add_row(
                clean(each.name, "bold"),
                step(detail.prepare),
                rows(detail.compute),
                step(detail.encode),
                step(detail.decode),
                rows(detail.tail),
                rows(detail.server),
                f"{detail.peak_rss_bytes / 1e6:.0f}",
            )
    return table


def step(spread: Spread | None) -> str:
    """Median / p95."""
    return "-" if spread is None else f"{spread.median_s * 1e3:.1f} / {spread.p95_s * 1e3:.1f}"


def rows(found: Sequence[Row]) -> str:
    """One line a count."""
    return "\n".join(f"{each.count}: {each.median_s * 1e3:.1f}" for each in found) or "-"


def profile(
    bundle: LadderArgument,
    data: Annotated[str, typer.Option("--data", help="A folder of photos; labels.csv or sub-folders say the classes.")],
    output: Annotated[str, typer.Option("--output", "-o", metavar="PROFILE", help="The profile to write, JSON.")],
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="So many photos, spread over the folder.")] = None,
    device_power_mw: Annotated[
        float | None, typer.Option("--device-power-mw", help="The device's power while it computes, if you know it.")
    ] = None,
    meter: Annotated[
        str | None, typer.Option("--meter", help="What measures energy: rapl, jetson, nvml, model, auto.")
    ] = None,
    max_drop: Annotated[
        float, typer.Option("--max-drop", help="Points that JPEG, WebP and AVIF of the input may lose.")
    ] = 2.0,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Measure each partition of a bundle on this machine: time, bytes, energy, accuracy.

    Edge-only, cloud-only with JPEG, WebP and AVIF of the network's input, and
    the split, or each split of a ladder; one photo at a time, one thread. [bold]bottlenet plan[/] chooses
    among them. Needs no torch.

    Examples:
      bottlenet profile demo --data photos -o my.profile.json
      bottlenet profile my.bundle --data photos -o my.profile.json --limit 50
      bottlenet profile my.bundle --data photos -o my.profile.json --meter auto
    """
    from bottlenet.bundle.ladder import load_any
    from bottlenet.cli.options import check_target, write_whole
    from bottlenet.cli.show import print_json, progress, say, stdout
    from bottlenet.measure.profile import profile as measure

    target = check_target(output, PROFILE, force=force)
    loaded = load_any(bundle)
    with progress("measuring") as step:
        made = measure(
            loaded,
            data,
            limit=limit,
            device_power_mw=device_power_mw,
            meter=meter,
            max_drop=max_drop,
            on_progress=step,
        )
    write_whole(target, made.to_json())
    if as_json:
        print_json({"profile": str(target), **profile_document(made)})
    else:
        stdout().print(profile_table(made))
        stdout().print(detail_table(made))
        say(f"profile: {target}\nnext: bottlenet plan {output} --link 3g")


def plan(
    profile: Annotated[str, typer.Argument(metavar="PROFILE", help="As [bold]bottlenet profile[/] writes it.")],
    link: Annotated[
        str,
        typer.Option(
            "--link",
            metavar="NAME|BPS,RTT,LOSS",
            help="3g, 4g, wifi, 5g, lte-m, nb-iot, lorawan, iridium-sbd; or such as [bold]1.1M,100ms,1%[/].",
        ),
    ],
    objective: Annotated[str, typer.Option("--objective", help="latency, energy, bytes or cost.")] = "latency",
    max_drop: Annotated[float | None, typer.Option("--max-drop", help="Points of top-1 that may be lost.")] = None,
    deadline: Annotated[float | None, typer.Option("--deadline", metavar="MS", help="ms for a photo.")] = None,
    budget: Annotated[float | None, typer.Option("--budget", metavar="BYTES", help="Uplink bytes a photo.")] = None,
    server_load: Annotated[float, typer.Option("--server-load", help="Photos ahead of ours on the server.")] = 0.0,
    cold: Annotated[bool, typer.Option("--cold", help="No connection is open yet: count its set-up.")] = False,
    price_mb: Annotated[float | None, typer.Option("--price-mb", help="For cost: a megabyte of uplink.")] = None,
    price_hour: Annotated[float | None, typer.Option("--price-hour", help="For cost: an hour of the server.")] = None,
    bundle: Annotated[
        str | None, typer.Option("--bundle", "-b", help="Refuse a profile that is not of this bundle.")
    ] = None,
    sweep: Annotated[
        str | None,
        typer.Option("--sweep", metavar="FILE", help="A sweep's candidates.json: take bytes and accuracy from there."),
    ] = None,
    plot: Annotated[
        str | None, typer.Option("--plot", metavar="FILE.svg", help="Draw the candidates over the bandwidth.")
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Choose a partition for a link: what runs here, what runs on the server.

    Says why in one sentence, and where the choice would change. Nothing is
    measured: it computes from the profile and what is known of the link.

    Examples:
      bottlenet plan my.profile.json --link 3g --max-drop 2
      bottlenet plan my.profile.json --link 1.1M,100ms,1% --deadline 250 --json
      bottlenet plan my.profile.json --sweep sweeps/first/candidates.json --link 3g
    """
    from bottlenet.cli.options import check_target, write_whole
    from bottlenet.cli.show import print_json, stdout
    from bottlenet.plan.planner import choose
    from bottlenet.plan.profile import with_trained
    from bottlenet.report.partitions import draw_flips

    target = None if plot is None else check_target(plot, PLOT, force=force)
    loaded = load_profile(profile, bundle)
    if sweep is not None:
        loaded = with_trained(loaded, read_trained(Path(sweep)))
    made = choose(
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
        write_whole(target, draw_flips(loaded, made, connected=not cold).document(PLOT_MARK).encode())
    if as_json:
        print_json({**plan_document(loaded, made), "plot": None if target is None else str(target)})
        return
    for part in plan_renderables(loaded, made):
        stdout().print(part)


def load_profile(path: str, bundle: str | None) -> Profile:
    """InputError: can't be read, no profile, or of another bundle."""
    loaded = read_profile(Path(path))
    if bundle is not None:
        from bottlenet.bundle.ladder import load_any

        loaded.check_bundle(load_any(bundle).id.hex())
    return loaded


def prices_of(price_mb: float | None, price_hour: float | None) -> Prices | None:
    """None where neither is given."""
    from bottlenet.plan.predict import Prices

    return None if price_mb is None and price_hour is None else Prices(price_mb or 0.0, price_hour or 0.0)
