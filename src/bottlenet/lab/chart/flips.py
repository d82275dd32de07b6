"""A plan, drawn: what each candidate of a profile takes over the uplink's bandwidth, and where the choice flips."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from bottlenet.lab.chart.lines import Axis, Point, Rule, Series, line_chart
from bottlenet.lab.chart.scale import Scale, spanning
from bottlenet.lab.chart.svg import Drawing
from bottlenet.plan.planner import Plan, predict
from bottlenet.plan.profile import Candidate, Profile
from bottlenet.plan.reason import flip_words, rate

SPAN = 100  # times the link's bandwidth, to either side
POINTS = 81
LINES = 8  # candidates: as many as can be told apart


def draw_flips(profile: Profile, plan: Plan, *, connected: bool) -> Drawing:
    """Latency, or energy where the plan's objective is energy; the choice is the heavy line."""
    curves = {each.name: curve(each, plan, connected=connected) for each in shown_candidates(profile, plan)}
    what, unit = ("device energy", "mJ") if plan.objective == "energy" else ("latency", "ms")
    bandwidths = Scale(plan.link.uplink_bps / SPAN, plan.link.uplink_bps * SPAN, True)
    values = spanning([y for points in curves.values() for _, y in points], log=True)
    here = Rule(plan.link.uplink_bps, plan.link.name, dashes="")
    flips = [Rule(flip.value, "flip") for flip in plan.flips if flip.quantity == "uplink_bps"]
    round_trip = f"round trip {plan.link.round_trip_s * 1e3:g} ms"
    return line_chart(
        f"{what.capitalize()} of a photo over the uplink's bandwidth, {round_trip}",
        f"{plan.reason} {describe(plan)}",
        [
            Series(name, tuple(point for point in points if point[1] > 0), marked=False, bold=name == plan.choice.name)
            for name, points in curves.items()
        ],
        Axis("uplink", bandwidths, rate),
        Axis(f"{what}, {unit}", values),
        rules=[here, *flips],
    )


def describe(plan: Plan) -> str:
    """For those who can't see the lines."""
    flips = [flip_words(flip) for flip in plan.flips if flip.quantity == "uplink_bps"]
    return f"Flips: {', '.join(flips)}." if flips else "No bandwidth changes the choice."


def shown_candidates(profile: Profile, plan: Plan) -> Sequence[Candidate]:
    """The choice, the winners of the flips, the runner-up, the front, and the fastest of each kind."""
    names = [plan.choice.name, *(flip.winner for flip in plan.flips)]
    names += [each.name for each in [*([plan.runner_up] if plan.runner_up else []), *plan.front]]
    by_name = {each.name: each for each in profile.candidates}
    fastest = sorted(profile.candidates, key=lambda each: predict(each, plan.link, plan.server_load).latency_s)
    names += {each.kind: each.name for each in reversed(fastest)}.values()
    return [by_name[name] for name in dict.fromkeys(names) if name is not None][:LINES]


def curve(candidate: Candidate, plan: Plan, *, connected: bool) -> list[Point]:
    """(bit/s, ms or mJ)."""
    points = []
    for number in range(POINTS):
        bps = plan.link.uplink_bps * SPAN ** (2 * number / (POINTS - 1) - 1)
        link = dataclasses.replace(plan.link, uplink_bps=bps)
        there = predict(candidate, link, plan.server_load, connected=connected)
        value = there.device_energy_mj if plan.objective == "energy" else there.latency_s * 1e3
        points.append((bps, value or 0.0))
    return points
