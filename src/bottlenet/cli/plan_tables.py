"""`bottlenet profile` and `bottlenet plan` in a terminal, or as one JSON document."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from bottlenet.cli.show import clean, facts_table, number_columns, plain_table, text_columns
from bottlenet.plan.planner import Plan, Prediction, Rejected
from bottlenet.plan.profile import Profile
from bottlenet.plan.reason import duration, flip_words, rate

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
