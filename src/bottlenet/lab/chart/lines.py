"""Points and lines over two axes. Each line has a marker, dashes and, at the right, its name in words.

Series, ... and Rule, ... over x: Axis and y: Axis --line_chart--> Drawing
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from bottlenet.lab.chart.scale import Scale
from bottlenet.lab.chart.svg import (
    DASHES,
    HUES,
    LETTER,
    LINE_ROOM,
    Drawing,
    label_heights,
    marker,
    path,
    shortened,
    text,
)

WIDTH, HEIGHT = 760, 400
LEFT, RIGHT, TOP, BOTTOM = 66, 214, 16, 50
SAMPLE = 30  # pixels of a line, before its name

Point = tuple[float, float]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Axis:
    """What is along it."""

    name: str  # with its unit
    scale: Scale
    say: Callable[[float], str] = "{:,g}".format  # a tick in words


@dataclass(frozen=True)
class Series:
    """One line, or points without one."""

    name: str
    points: tuple[Point, ...]
    notes: tuple[str, ...] = ()  # beside the points, as many; an empty one says nothing
    joined: bool = True
    marked: bool = True
    bold: bool = False


@dataclass(frozen=True)
class Rule:
    """A straight line across the chart, at a value of one of the axes."""

    value: float
    name: str
    upright: bool = True  # at an x; else at a y
    dashes: str = "3 3"


@dataclass(frozen=True)
class Plane:
    """Both axes, in pixels."""

    x: Axis
    y: Axis
    height: float = HEIGHT

    def at(self, point: Point) -> Point:
        """Pixels."""
        across, down = self.x.scale.share(point[0]), self.y.scale.share(point[1])
        return LEFT + (WIDTH - LEFT - RIGHT) * across, self.height - BOTTOM - (self.height - TOP - BOTTOM) * down


def line_chart(
    title: str, description: str, series: Sequence[Series], x: Axis, y: Axis, *, rules: Sequence[Rule] = ()
) -> Drawing:
    """As high as its names need."""
    height = max(HEIGHT, TOP + BOTTOM + LINE_ROOM * (len(series) + 1))
    plane = Plane(x, y, height)
    body = [*grid(plane), *straight(plane, rules), *curves(plane, series), *names(plane, series)]
    return Drawing(title, description, WIDTH, height, body)


def grid(plane: Plane) -> Iterator[str]:
    """Grid, ticks, and what the axes are."""
    bottom, right = plane.height - BOTTOM, WIDTH - RIGHT
    for value in plane.x.scale.ticks():
        x, _ = plane.at((value, plane.y.scale.low))
        yield path(f"M{x:.1f} {TOP}V{bottom:.1f}", "grid")
        yield text(x, bottom + 18, plane.x.say(value), anchor="middle")
    for value in plane.y.scale.ticks():
        _, y = plane.at((plane.x.scale.low, value))
        yield path(f"M{LEFT} {y:.1f}H{right}", "grid")
        yield text(LEFT - 6, y + 4, plane.y.say(value), anchor="end")
    yield path(f"M{LEFT} {TOP}V{bottom:.1f}H{right}", "axis")
    yield text((LEFT + right) / 2, plane.height - 10, plane.x.name, anchor="middle")
    middle = (TOP + bottom) / 2
    yield f'<g transform="translate(16 {middle:.1f}) rotate(-90)">{text(0, 0, plane.y.name, anchor="middle")}</g>'


def straight(plane: Plane, rules: Sequence[Rule]) -> Iterator[str]:
    """Those within the axes, with their names."""
    row = 0
    for rule in rules:
        scale = plane.x.scale if rule.upright else plane.y.scale
        if not scale.low <= rule.value <= scale.high:
            continue
        if rule.upright:
            x, _ = plane.at((rule.value, plane.y.scale.low))
            yield path(f"M{x:.1f} {TOP}V{plane.height - BOTTOM:.1f}", "axis", rule.dashes)
            # Names of neighbours are in rows of their own, and on the side where there is room.
            late = plane.x.scale.share(rule.value) > 0.8
            yield text(x + (-4 if late else 4), TOP + 10 + 14 * (row % 3), rule.name, anchor="end" if late else "start")
            row += 1
        else:
            _, y = plane.at((plane.x.scale.low, rule.value))
            yield path(f"M{LEFT} {y:.1f}H{WIDTH - RIGHT}", "axis", rule.dashes)
            yield text(LEFT + 6, y - 4, rule.name, kind="soft")


def curves(plane: Plane, series: Sequence[Series]) -> Iterator[str]:
    """Lines, markers, and the notes that find room."""
    taken: list[Box] = []
    for number, each in enumerate(series):
        places = [plane.at(point) for point in each.points]
        if each.joined and len(places) > 1:
            points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
            yield f'<polyline points="{points}" {look(number, each)}/>'
            taken += along(places)
        if each.marked:
            yield from (marker(x, y, number, full=each.bold) for x, y in places)
            taken += [(x - 5, y - 5, x + 5, y + 5) for x, y in places]
    for each in series:
        for point, note in zip(each.points, each.notes, strict=False):
            if note and (box := free_box(plane.at(point), note, taken)) is not None:
                taken.append(box)
                yield text(box[0], box[3] - 2, note, kind="soft")


def look(number: int, each: Series) -> str:
    """Of a line."""
    dashes, width = DASHES[number % len(DASHES)], 2.5 if each.bold else 1.3
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f'fill="none" stroke="black" class="line{number % len(HUES)}" stroke-width="{width}"{dashed}'


def free_box(place: Point, note: str, taken: Sequence[Box]) -> Box | None:
    """Where a note covers nothing, near its point; None: nowhere."""
    width, height = LETTER * 0.92 * len(note), 13.0
    x, y = place
    beside = ((x + 7, y - 7), (x - width - 7, y - 7), (x - width / 2, y - 21), (x - width / 2, y + 8))
    apart = ((x - width - 5, y - 18), (x + 5, y + 5), (x + 5, y - 18), (x - width - 5, y + 5))
    for left, top in (*beside, *apart):
        box = (left, top, left + width, top + height)
        inside = left > LEFT and box[2] < WIDTH - RIGHT + 40 and top > TOP and box[3] < HEIGHT - BOTTOM
        if inside and not any(overlap(box, other) for other in taken):
            return box
    return None


def along(places: Sequence[Point]) -> list[Box]:
    """Small boxes, one behind the other, on a line."""
    boxes = []
    for (x1, y1), (x2, y2) in pairwise(places):
        count = 1 + int(max(abs(x2 - x1), abs(y2 - y1)) / 6)
        for step in range(count):
            x, y = x1 + (x2 - x1) * step / count, y1 + (y2 - y1) * step / count
            boxes.append((x - 2, y - 2, x + 2, y + 2))
    return boxes


def overlap(one: Box, other: Box) -> bool:
    """Whether they have anything in common."""
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def names(plane: Plane, series: Sequence[Series]) -> Iterator[str]:
    """At the right, in the order of the lines' ends, each with a sample of its line."""
    wanted = [plane.at(each.points[-1])[1] + 4 if each.points else plane.height for each in series]
    heights = label_heights(wanted, TOP + 12.0, plane.height - BOTTOM)
    x = WIDTH - RIGHT + 8
    for number, (each, y) in enumerate(zip(series, heights, strict=True)):
        if each.joined and len(each.points) > 1:
            yield f'<path d="M{x} {y - 4:.1f}h{SAMPLE - 4}" {look(number, each)}/>'
        if each.marked:
            yield marker(x + SAMPLE / 2 - 2, y - 4, number, full=each.bold)
        yield text(x + SAMPLE + 2, y, shortened(each.name, RIGHT - SAMPLE - 10), bold=each.bold)
