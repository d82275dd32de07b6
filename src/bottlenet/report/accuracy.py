"""Accuracy against bytes, source by source; and over all of them what no other beats.

Bytes against accuracy, out of any source: `Curve`s of points, and what no point beats.

A record is whatever its benchmark wrote, so it is searched: each object with a number of bytes and a top-1 is a point,
and its curve is named by what it says it is, or by what it stands in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from bottlenet.plan.profile import Profile
from bottlenet.report.charts import Axis, Rule, Series, line_chart, percents, spanning
from bottlenet.report.sections import Figure, Section, Table, number, quoted
from bottlenet.report.sources import (
    Evaluated,
    Pass,
    Point,
    Record,
    Run,
    Source,
    Sweep,
    Tried,
    front,
    is_number,
    sweep_figure,
)
from bottlenet.report.training import is_naive_aware

BYTES = ("payload_bytes", "bytes", "bare_bytes", "file_bytes")  # the first that a row has
CURVE = ("curve", "training", "codec", "method", "align")  # what says of which curve a row is
POINT = ("setting", "name", "quality", "budget_bytes", "side")  # what tells the rows of a curve apart
MOST_DEEP = 6
MOST_POINTS = 2000


@dataclass(frozen=True)
class Curve:
    """Settings of one method; a point's `top1` is in percent."""

    name: str
    points: tuple[Point, ...]
    uncut: float | None = None  # top-1 of the uncut network on the same photos, percent

    @property
    def line(self) -> list[Point]:
        """Those that no other of the curve beats, from few bytes to many."""
        return front(self.points)


def curves_of(source: Source) -> list[Curve]:
    """Of top-1; none where the source has no labelled photos, or nothing of the kind."""
    content = source.content
    if isinstance(content, Record):
        return curves_in(content.results)
    if isinstance(content, Sweep):
        cuts = {cut: [point for point, tried in content.of_cut(cut) if of_top1(tried)] for cut in content.cuts}
        return [Curve(f"{source.name}, {cut}", tuple(points), 0.0) for cut, points in cuts.items() if points]
    if isinstance(content, Profile):
        points = tuple(
            Point(each.payload_bytes_mean, -each.top1_drop, each.name)
            for each in content.candidates
            if each.payload_bytes_mean > 0
        )
        return [Curve(source.name, points, 0.0)] if points else []
    if isinstance(content, Evaluated) and content.result.top1 is not None:
        mean = content.result.payload_bytes.mean
        return [
            Curve(evaluated_name(source), (Point(mean, content.result.top1, source.name),), content.result.top1_uncut)
        ]
    return []


def of_top1(tried: Tried) -> bool:
    """Whether its drop is of labelled photos."""
    return tried.figures is not None and tried.figures.drop_of == "top1"


def evaluated_name(source: Source) -> str:
    """Evaluations of one bundle are one curve."""
    assert isinstance(source.content, Evaluated)
    origin = source.content.origin
    return f"{origin.name} ({origin.bundle[:12]})" if origin.bundle else source.name


def joined(curves: Sequence[Curve]) -> list[Curve]:
    """Those of one name, and measured on photos of the same difficulty, as one."""
    found: dict[tuple[str, float | None], Curve] = {}
    for curve in curves:
        key = curve.name, curve.uncut
        before = found[key].points if key in found else ()
        found[key] = replace(curve, points=tuple(dict.fromkeys((*before, *curve.points))))
    return list(found.values())


def curves_in(results: object) -> list[Curve]:
    """Of a record."""
    uncut = next(top1_uncut(results, 0), None)
    found: dict[str, list[Point]] = {}
    for name, point in islice(points_in(results, "results", 0), MOST_POINTS):
        found.setdefault(name, []).append(point)
    return [Curve(name, tuple(points), uncut) for name, points in found.items()]


def points_in(value: object, name: str, depth: int) -> Iterator[tuple[str, Point]]:
    """(curve, point) of everything in there."""
    if depth > MOST_DEEP:
        return
    if isinstance(value, list):
        for each in value:
            yield from points_in(each, name, depth + 1)
    elif isinstance(value, dict):
        point = point_of(value)
        if point is not None:
            if "ours" not in value:  # a comparison of two curves is none
                yield curve_name(value, name), point
            return
        # What holds rows is named as it says; a row's own name is that of a point.
        name = next((str(value[key]) for key in ("curve", "name") if isinstance(value.get(key), str)), name)
        for key, each in value.items():
            yield from points_in(each, name if key == "rows" else key.replace("_", " "), depth + 1)


def point_of(row: dict[str, Any]) -> Point | None:
    """None: it is no setting with bytes and a top-1."""
    size = next((row[key] for key in BYTES if row.get(key) is not None), None)
    if isinstance(size, dict):
        size = size.get("mean")
    if size is None or not is_number(size) or size <= 0 or not is_number(row.get("top1")):
        return None
    words = [f"{'' if key in ('setting', 'name') else key + ' '}{row[key]}" for key in POINT if scalar(row.get(key))]
    return Point(size, row["top1"], ", ".join(words))


def curve_name(row: dict[str, Any], inherited: str) -> str:
    """Of which curve a row is."""
    key = next((key for key in CURVE if scalar(row.get(key))), None)
    if key is None:
        return inherited
    return f"{key} {row[key]}" if is_number(row[key]) else str(row[key])


def scalar(value: object) -> bool:
    """Something to be said."""
    return isinstance(value, str) or is_number(value)


def top1_uncut(value: object, depth: int) -> Iterator[float]:
    """Of the uncut network, wherever it stands."""
    if depth > MOST_DEEP or not isinstance(value, dict):
        return
    if is_number(value.get("top1_uncut")):
        yield value["top1_uncut"]
    for each in value.values():
        yield from top1_uncut(each, depth + 1)


def last_pass(passes: Sequence[Pass]) -> list[Pass]:
    """What a run came to."""
    return [each for each in passes if each.epoch == max(one.epoch for one in passes)]


MOST_CURVES = 12  # in one chart
MOST_ROWS = 120  # of a table
FAR = 30.0  # points of drop beyond which nobody looks
NOTE = "Each line is what no other setting of its curve beats. The heavy line has most of what no other curve beats."


def accuracy_section(sources: Sequence[Source], command: str) -> Section:
    """One figure a record, one for all evaluations, one for agreement with the uncut network."""
    figures = []
    for source in sources:
        curves = curves_of(source)
        if isinstance(source.content, Record) and curves and not is_naive_aware(source.content):
            title = f"Top-1 against bytes: {quoted(source.name)}"
            figures.append(accuracy_figure(title, curves, source.command, "top-1, %"))
    evaluated = [source for source in sources if isinstance(source.content, Evaluated)]
    curves = joined([curve for source in evaluated for curve in curves_of(source)])
    if curves:
        commands = "; ".join(dict.fromkeys(source.command for source in evaluated))
        figures.append(accuracy_figure("Top-1 against bytes: evaluated bundles", curves, commands, "top-1, %"))
    agreeing = [source for source in sources if isinstance(source.content, Run | Evaluated)]
    same = joined([curve for source in agreeing for curve in agreement_of(source)])
    if same:
        title = "Same answer as the uncut network, against bytes"
        figures.append(accuracy_figure(title, same, command, "same answer, %"))
    return Section("accuracy", "Accuracy against bytes", "Few bytes and a high place are good.", tuple(figures))


def agreement_of(source: Source) -> list[Curve]:
    """Of what was measured without labels; a run's is of photos that it held out."""
    content = source.content
    if isinstance(content, Run) and content.passes:
        rows = last_pass(content.passes)
        points = [Point(each.payload_bytes, 100 * each.agreement, f"after pass {each.epoch}") for each in rows]
        known = tuple(point for point in points if point.bytes > 0)
        return [Curve(f"run {source.name}, held out", known)] if known else []
    if isinstance(content, Evaluated) and content.result.top1 is None and content.result.agreement is not None:
        point = Point(content.result.payload_bytes.mean, content.result.agreement, source.name)
        return [Curve(content.origin.name or source.name, (point,))]
    return []


def accuracy_figure(title: str, curves: Sequence[Curve], command: str, what: str) -> Figure:
    """Bytes are on a logarithmic scale."""
    best = heaviest(curves)
    shown = sorted(curves, key=lambda curve: curve is not best)[:MOST_CURVES]
    points = [point for curve in shown for point in curve.line]
    uncut = next((curve.uncut for curve in curves if curve.uncut is not None), None)
    rates = [point.top1 for point in points] + ([] if uncut is None else [uncut])
    y = Axis(what, percents(rates))
    x = Axis("mean payload bytes a photo", spanning([point.bytes for point in points], log=True, margin=0.04))
    series = [
        Series(curve.name, tuple((point.bytes, point.top1) for point in curve.line), bold=curve is best)
        for curve in shown
    ]
    rules = [] if uncut is None else [Rule(uncut, f"uncut network, {uncut:.1f} %", upright=False)]
    hidden = f" {len(curves) - len(shown)} more curves are in the table alone." if len(curves) > len(shown) else ""
    drawing = line_chart(title, describe(shown, what), series, x, y, rules=rules)
    return Figure(title, drawing, accuracy_table(curves, what), command, NOTE + hidden)


def heaviest(curves: Sequence[Curve]) -> Curve | None:
    """The one with most points on the front of all; None: there is but one."""
    best = set(front([point for curve in curves for point in curve.points]))
    return max(curves, key=lambda curve: len(best & set(curve.points))) if len(curves) > 1 else None


def describe(curves: Sequence[Curve], what: str) -> str:
    """For those who can't see the lines."""
    parts = [
        f"{curve.name}: {curve.line[0].top1:.1f} at {curve.line[0].bytes:,.0f} bytes"
        + (f" to {curve.line[-1].top1:.1f} at {curve.line[-1].bytes:,.0f}" if len(curve.line) > 1 else "")
        for curve in curves
    ]
    return f"{what}. {'; '.join(parts)}."


def accuracy_table(curves: Sequence[Curve], what: str) -> Table:
    """All points, the first of very many."""
    rows = [
        (
            f"{curve.name}: {point.name}" if point.name else curve.name,
            number(point.bytes),
            number(point.top1, 1),
            number(None if curve.uncut is None else curve.uncut - point.top1, 1),
            "yes" if point in curve.line else "",
        )
        for curve in curves
        for point in sorted(curve.points, key=lambda each: each.bytes)
    ]
    more = f"; {len(rows) - MOST_ROWS} more rows are left out" if len(rows) > MOST_ROWS else ""
    columns = ("curve: setting", "bytes", what, "points below uncut", "on its line")
    return Table(f"The numbers{more}", columns, tuple(rows[:MOST_ROWS]))


def sweep_section(sources: Sequence[Source]) -> Section:
    """One figure a sweep."""
    sweeps = [(source, source.content) for source in sources if isinstance(source.content, Sweep)]
    found = [sweep_figure(source.name, sweep, source.command) for source, sweep in sweeps]
    intro = "Bottlenecks of many sizes at several cuts, each trained for a short time."
    return Section("sweep", "Sweeps", intro, tuple(figure for figure in found if figure is not None))


def front_section(sources: Sequence[Source], command: str) -> Section:
    """Points of drop are compared, since photos may differ from source to source; of one network."""
    found: dict[Point, str] = {}
    network = next((source.model for source in sources if source.model), "")
    for source in sources:
        if source.model not in ("", network):
            continue
        for curve in curves_of(source):
            if curve.uncut is not None:
                for point in curve.points:
                    name = f"{curve.name}: {point.name}" if point.name and point.name != curve.name else curve.name
                    found.setdefault(Point(point.bytes, point.top1 - curve.uncut, name), source.name)
    best = front(list(found))
    figures = (front_figure(list(found), best, found, command),) if len(best) > 1 else ()
    rest = kept_at_home(sources)
    intro = "What nothing else beats in both bytes and accuracy, over everything that was given." + rest
    return Section("front", "Pareto front", intro, figures)


def kept_at_home(sources: Sequence[Source]) -> str:
    """What a logarithmic scale can't show."""
    names = [
        each.name
        for source in sources
        if isinstance(source.content, Profile)
        for each in source.content.candidates
        if each.payload_bytes_mean == 0
    ]
    return f" Not on it: {', '.join(dict.fromkeys(names))}, which sends nothing." if names else ""


def front_figure(points: list[Point], best: list[Point], of: dict[Point, str], command: str) -> Figure:
    """The front is the heavy line; what it beats are open markers."""
    near = [point for point in best if point.top1 >= -FAR] or best
    lowest = min(point.top1 for point in near)
    beaten = [point for point in points if point not in set(best) and point.top1 >= lowest]
    shown = [*near, *beaten]
    x = Axis("mean payload bytes a photo", spanning([point.bytes for point in shown], log=True, margin=0.04))
    y = Axis("top-1 against uncut, points", spanning([*(point.top1 for point in shown), 0.0], margin=0.06))
    title = "What no other setting beats in bytes and top-1"
    words = "; ".join(f"{point.bytes:,.0f} bytes: {-point.top1:.1f} points lost, {point.name}" for point in near)
    series = [
        Series("the front", places(near), tuple(point.name for point in near), bold=True),
        *([Series("beaten by another", places(beaten), joined=False)] if beaten else []),
    ]
    hidden = len(points) - len(shown)
    far = f" {hidden} that lose more than {-lowest:.0f} points are left out." if hidden else ""
    note = "Points below the uncut network on the same photos; sources may have different photos." + far
    rows = tuple((point.name, number(point.bytes), number(-point.top1, 1), of[point]) for point in best[:MOST_ROWS])
    table = Table("The front", ("what", "bytes", "points lost", "source"), rows)
    drawing = line_chart(title, f"From few bytes to many. {words}.", series, x, y)
    return Figure(title, drawing, table, command, note)


def places(points: Sequence[Point]) -> tuple[tuple[float, float], ...]:
    """In the chart."""
    return tuple((point.bytes, point.top1) for point in points)
