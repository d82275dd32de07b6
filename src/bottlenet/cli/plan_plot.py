"""`bottlenet plan --plot`: each candidate's latency, or energy, over the uplink's bandwidth, as SVG.

Written by hand, since a device has no plotting library. Dashes tell the lines apart without colour.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from html import escape

from bottlenet.cli.plan_files import PLOT_MARK
from bottlenet.plan.planner import Plan, predict
from bottlenet.plan.profile import Candidate, Profile
from bottlenet.plan.reason import rate

WIDTH, HEIGHT = 760, 460
LEFT, RIGHT, TOP, BOTTOM = 70, 210, 40, 50
SPAN = 100  # times the link's bandwidth, to either side
POINTS = 81
LINES = 8
DASHES = ("", "7 3", "2 3", "9 3 2 3", "4 4", "12 4", "1 4", "9 3 2 3 2 3")

Point = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Axes:
    """Both logarithmic."""

    x: tuple[float, float]
    y: tuple[float, float]

    def at(self, point: Point) -> Point:
        """Pixels."""
        width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
        return LEFT + width * share(point[0], self.x), HEIGHT - BOTTOM - height * share(point[1], self.y)


def share(value: float, span: Point) -> float:
    """0 at its low end, 1 at its high end."""
    return math.log(value / span[0]) / math.log(span[1] / span[0])


def draw(profile: Profile, plan: Plan, *, connected: bool) -> str:
    """An SVG document."""
    chosen = shown_candidates(profile, plan)
    curves = {each.name: curve(each, plan, connected=connected) for each in chosen}
    values = [y for points in curves.values() for _, y in points if y > 0]
    low, high = (min(values), max(values)) if values else (1.0, 1.0)
    axes = Axes((plan.link.uplink_bps / SPAN, plan.link.uplink_bps * SPAN), (low / 1.3, high * 1.3))
    what, unit = ("device energy", "mJ") if plan.objective == "energy" else ("latency", "ms")
    parts = [*frame(axes, f"{what}, {unit}"), *markers(axes, plan), *lines(axes, curves, plan.choice.name)]
    round_trip = f"round trip {plan.link.round_trip_s * 1e3:g} ms"
    title = escape(f"{what.capitalize()} of a photo over the uplink's bandwidth, {round_trip}")
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
            'font-size="12">',
            PLOT_MARK.decode(),
            f"<title>{title}</title>",
            '<rect width="100%" height="100%" fill="white"/>',
            f'<text x="{LEFT}" y="22" font-size="14">{title}</text>',
            *parts,
            "</svg>\n",
        ]
    )


def shown_candidates(profile: Profile, plan: Plan) -> list[Candidate]:
    """The choice, the winners of the flips, the runner-up, the front: as many as can be told apart."""
    names = [plan.choice.name, *(flip.winner for flip in plan.flips)]
    names += [each.name for each in [*([plan.runner_up] if plan.runner_up else []), *plan.front]]
    by_name = {each.name: each for each in profile.candidates}
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


def frame(axes: Axes, what: str) -> Iterator[str]:
    """Grid, ticks, and what the axes are."""
    for bps in decades(axes.x):
        x, bottom = axes.at((bps, axes.y[0]))
        yield f'<path d="M{x:.1f} {TOP}V{bottom:.1f}" stroke="#ddd"/>'
        yield f'<text x="{x:.1f}" y="{bottom + 18:.1f}" text-anchor="middle">{rate(bps)}</text>'
    for value in decades(axes.y):
        left, y = axes.at((axes.x[0], value))
        yield f'<path d="M{left:.1f} {y:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>'
        yield f'<text x="{left - 6:.1f}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>'
    yield f'<path d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}" fill="none" stroke="black"/>'
    yield f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 10}" text-anchor="middle">uplink</text>'
    middle = (TOP + HEIGHT - BOTTOM) / 2
    yield f'<text transform="translate(16 {middle}) rotate(-90)" text-anchor="middle">{what}</text>'


def decades(span: Point) -> list[float]:
    """1, 10, 100 ... within; with 2 and 5 where those are few."""
    low, high = math.floor(math.log10(span[0])), math.ceil(math.log10(span[1]))
    steps = (1,) if high - low > 3 else (1, 2, 5)
    ticks = [step * 10.0**power for power in range(low, high + 1) for step in steps]
    return [tick for tick in ticks if span[0] <= tick <= span[1]]


def markers(axes: Axes, plan: Plan) -> Iterator[str]:
    """Where we are, and where the choice flips."""
    here = [(plan.link.uplink_bps, f"{plan.link.name}", "")]
    flips = [(flip.value, "flip", "3 3") for flip in plan.flips if flip.quantity == "uplink_bps"]
    for bps, text, dashes in here + flips:
        if axes.x[0] <= bps <= axes.x[1]:
            x, _ = axes.at((bps, axes.y[0]))
            yield f'<path d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="black" stroke-dasharray="{dashes}"/>'
            yield f'<text x="{x + 3:.1f}" y="{TOP + 10}">{escape(text)}</text>'


def lines(axes: Axes, curves: dict[str, list[Point]], chosen: str) -> Iterator[str]:
    """Each with its name at the right, in the order of their ends."""
    ends = label_heights([axes.at(points[-1])[1] if points[-1][1] > 0 else HEIGHT for points in curves.values()])
    for (name, points), dashes, end in zip(curves.items(), DASHES, ends, strict=False):
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (axes.at(point) for point in points if point[1] > 0))
        weight = 2.5 if name == chosen else 1.2
        style = f'fill="none" stroke="black" stroke-width="{weight}" stroke-dasharray="{dashes}"'
        yield f'<polyline points="{path}" {style}/>'
        x = WIDTH - RIGHT + 8
        yield f'<path d="M{x} {end - 4:.1f}h26" {style}/>'
        bold = ' font-weight="bold"' if name == chosen else ""
        yield f'<text x="{x + 32}" y="{end:.1f}"{bold}>{escape(name[:24])}</text>'


def label_heights(wanted: Sequence[float]) -> list[float]:
    """As near to what is wanted as lines of text can be, in the same order."""
    heights = [0.0] * len(wanted)
    free = float(TOP)
    for index in sorted(range(len(wanted)), key=lambda i: wanted[i]):
        heights[index] = free = max(free, min(wanted[index], HEIGHT - BOTTOM - 16.0 * (len(wanted) - 1)))
        free += 16
    return heights
