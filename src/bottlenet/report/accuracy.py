"""Draw accuracy against bytes: a figure for each record, one for all evaluations, and what no setting of all beats.

    Source --curves_of--> Curve, ... of Point, ... --front--> the points that no other beats

A record is whatever its benchmark wrote, so it is searched: each object with a number of bytes and a top-1 is a point,
and its curve is named by what it says it is, or by what it stands in.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from bottlenet.plan.profile import Profile
from bottlenet.report.charts import Axis, Drawing, Rule, Series, line_chart, percents, spanning
from bottlenet.report.sections import Figure, Request, Section, limited, number, of_photos
from bottlenet.report.sources import KEPT, Evaluated, Point, Record, Run, Source, Sweep, front, is_number
from bottlenet.report.training import record_rows
from bottlenet.train.sweep import Figures

BYTES = ("payload_bytes", "bytes", "bare_bytes", "file_bytes")  # the first that a row has
CURVE = ("curve", "training", "codec", "method", "align")  # what says of which curve a row is
POINT = ("setting", "name", "quality", "budget_bytes", "side")  # what tells the rows of a curve apart
MOST_DEEP = 6
MOST_POINTS = 2000
MOST_CURVES = 12  # in one chart
FAR = 30.0  # points of drop beyond which nobody looks
NOTE = "Each line is what no other setting of its curve beats. The heavy line has most of what no other curve beats."


@dataclass(frozen=True)
class Curve:
    """Settings of one method; a point's `top1` is in percent."""

    name: str
    points: tuple[Point, ...]
    uncut: float | None = None  # top-1 of the uncut network on the same photos, percent
    photos: int | None = None  # that the rates are of; None: the source does not say

    @property
    def line(self) -> list[Point]:
        """The points that no other of the curve beats, from few bytes to many."""
        return front(self.points)


def accuracy_section(sources: Sequence[Source], request: Request) -> Section:
    """Draw one figure a record, one for all evaluations, one for agreement with the uncut network."""
    figures = []
    for source in sources:
        curves = curves_of(source)
        if isinstance(source.content, Record) and curves and not record_rows(source.content):
            title = f"Top-1 against bytes: “{source.name}”"
            figures.append(accuracy_figure(title, curves, source.command, "top-1, %", request))
    evaluated = [source for source in sources if isinstance(source.content, Evaluated)]
    curves = joined([curve for source in evaluated for curve in curves_of(source)])
    if curves:
        commands = "; ".join(dict.fromkeys(source.command for source in evaluated))
        title = "Top-1 against bytes: evaluated bundles"
        figures.append(accuracy_figure(title, curves, commands, "top-1, %", request))
    same = joined([curve for source in sources for curve in agreement_of(source)])
    if same:
        title = "Same answer as the uncut network, against bytes"
        figures.append(accuracy_figure(title, same, request.command, "same answer, %", request))
    return Section("accuracy", "Accuracy against bytes", "The best place is high on the left.", tuple(figures))


def front_section(sources: Sequence[Source], request: Request) -> Section:
    """Compare points of drop, since photos may differ from source to source; of one network."""
    found: dict[Point, tuple[str, str]] = {}
    network = next((source.model for source in sources if source.model), "")
    for source in sources:
        for curve in curves_of(source) if source.model in ("", network) else ():
            if curve.uncut is not None:
                for point in curve.points:
                    name = f"{curve.name}: {point.name}" if point.name and point.name != curve.name else curve.name
                    key = Point(point.bytes, point.top1 - curve.uncut, name)
                    found.setdefault(key, (source.name, number(curve.photos)))
    best = front(list(found))
    figures = (front_figure(best, found, request),) if len(best) > 1 else ()
    intro = "What nothing else beats in both bytes and accuracy, over all sources."
    profiles = [source.content for source in sources if isinstance(source.content, Profile)]
    candidates = (each for profile in profiles for each in profile.candidates)
    silent = [each.name for each in candidates if each.payload_bytes_mean == 0]  # a logarithmic scale can't show it
    if silent:
        intro += f" Not on it: {', '.join(dict.fromkeys(silent))}, which sends nothing."
    return Section("front", "Pareto front", intro, figures)


def sweep_section(sources: Sequence[Source], request: Request) -> Section:
    found = [sweep_figure(source, source.content, request) for source in sources if isinstance(source.content, Sweep)]
    intro = "Bottlenecks of many sizes at several cuts, each trained for a short time."
    return Section("sweep", "Sweeps", intro, tuple(figure for figure in found if figure is not None))


def curves_of(source: Source) -> list[Curve]:
    """Return curves of top-1; none where the source has no labelled photos, or nothing of the kind."""
    content = source.content
    if isinstance(content, Record):
        return [replace(curve, photos=content.photos) for curve in curves_in(content.results)]
    if isinstance(content, Sweep):
        curves = []
        for cut in content.cuts:
            rows = [(point, tried.figures) for point, tried in content.of_cut(cut) if tried.figures is not None]
            labelled = [(point, figures) for point, figures in rows if figures.drop_of == "top1"]
            if labelled:
                points, photos = tuple(point for point, _ in labelled), labelled[0][1].labelled
                curves.append(Curve(f"{source.name}, {cut}", points, 0.0, photos))
        return curves
    if isinstance(content, Profile):
        sent = [each for each in content.candidates if each.payload_bytes_mean > 0]
        points = tuple(Point(each.payload_bytes_mean, -each.top1_drop, each.name) for each in sent)
        return [Curve(source.name, points, 0.0, content.labelled or content.photos)] if points else []
    if isinstance(content, Evaluated) and (top1 := content.result.top1) is not None and (size := bytes_of(content)) > 0:
        result, origin = content.result, content.origin
        name = f"{origin.name} ({origin.bundle[:12]})" if origin.bundle else source.name  # one curve a bundle
        return [Curve(name, (Point(size, top1, source.name),), result.top1_uncut, result.labelled)]
    return []


def agreement_of(source: Source) -> list[Curve]:
    """Return curves of what was measured without labels; a run's is of photos that it held out."""
    content = source.content
    if isinstance(content, Run) and content.passes:
        end = max(each.epoch for each in content.passes)
        rows = [each for each in content.passes if each.epoch == end and each.payload_bytes > 0]
        points = tuple(Point(each.payload_bytes, 100 * each.agreement, f"after pass {end}") for each in rows)
        return [Curve(f"run {source.name}, held out", points, photos=rows[0].photos)] if points else []
    if (
        isinstance(content, Evaluated)
        and content.result.top1 is None
        and content.result.agreement is not None
        and (size := bytes_of(content)) > 0
    ):
        point = Point(size, content.result.agreement, source.name)
        return [Curve(content.origin.name or source.name, (point,), photos=content.result.photos)]
    return []


def bytes_of(evaluated: Evaluated) -> float:
    """Return the mean payload of a photo, 0 where none is sent: a logarithmic scale can't show that."""
    return (evaluated.result.decision_bytes or evaluated.result.payload_bytes).mean


def joined(curves: Sequence[Curve]) -> list[Curve]:
    """Join curves of one name that were measured on photos of the same number and difficulty."""
    found: dict[tuple[str, float | None, int | None], Curve] = {}
    for curve in curves:
        key = curve.name, curve.uncut, curve.photos
        before = found[key].points if key in found else ()
        found[key] = replace(curve, points=tuple(dict.fromkeys((*before, *curve.points))))
    return list(found.values())


def curves_in(results: object) -> list[Curve]:
    uncut = next(top1_uncut(results, 0), None)
    found: dict[str, list[Point]] = {}
    for name, point in islice(points_in(results, "results", 0), MOST_POINTS):
        found.setdefault(name, []).append(point)
    return [Curve(name, tuple(points), uncut) for name, points in found.items()]


def points_in(value: object, name: str, depth: int) -> Iterator[tuple[str, Point]]:
    """Yield (curve, point) of everything in there."""
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
    """Return a setting's point; None: it has no bytes or no top-1."""
    size = next((row[key] for key in BYTES if row.get(key) is not None), None)
    if isinstance(size, dict):
        size = size.get("mean")
    if size is None or not is_number(size) or size <= 0 or not is_number(row.get("top1")):
        return None
    words = [f"{'' if key in ('setting', 'name') else key + ' '}{row[key]}" for key in POINT if is_scalar(row.get(key))]
    return Point(size, row["top1"], ", ".join(words))


def curve_name(row: dict[str, Any], inherited: str) -> str:
    key = next((key for key in CURVE if is_scalar(row.get(key))), None)
    if key is None:
        return inherited
    return f"{key} {row[key]}" if is_number(row[key]) else str(row[key])


def is_scalar(value: object) -> bool:
    return isinstance(value, str) or is_number(value)


def top1_uncut(value: object, depth: int) -> Iterator[float]:
    """Yield the uncut network's top-1, wherever it stands."""
    if depth > MOST_DEEP or not isinstance(value, dict):
        return
    if is_number(value.get("top1_uncut")):
        yield value["top1_uncut"]
    for each in value.values():
        yield from top1_uncut(each, depth + 1)


def accuracy_figure(title: str, curves: Sequence[Curve], command: str, what: str, request: Request) -> Figure:
    """Draw curves, the best as a heavy line; the table has all of their points."""
    unbeaten = set(front([point for curve in curves for point in curve.points]))
    best = max(curves, key=lambda curve: len(unbeaten & set(curve.points))) if len(curves) > 1 else None
    shown = sorted(curves, key=lambda curve: curve is not best)[:MOST_CURVES]
    hidden = f" {len(curves) - len(shown)} more curves are in the table alone." if len(curves) > len(shown) else ""
    drawing = accuracy_chart(title, shown, what, bold=[] if best is None else [best.name], looks=request.looks)
    rows = []
    for curve in curves:
        for point in sorted(curve.points, key=lambda each: each.bytes):
            name = f"{curve.name}: {point.name}" if point.name else curve.name
            below = number(None if curve.uncut is None else curve.uncut - point.top1, 1)
            on_line = "yes" if point in curve.line else ""
            rows.append((name, number(point.bytes), number(point.top1, 1), below, on_line, number(curve.photos)))
    columns = ("curve: setting", "bytes", what, "points below uncut", "on its line", "photos")
    note = NOTE + hidden + of_photos([curve.photos for curve in curves])
    return Figure(title, drawing, limited("The numbers", columns, rows), command, note)


def accuracy_chart(
    title: str, curves: Sequence[Curve], what: str, *, bold: Collection[str] = (), looks: dict[str, int] | None = None
) -> Drawing:
    """Draw what no other setting of its curve beats, with bytes on a logarithmic scale; `bold` names heavy lines."""
    points = [point for curve in curves for point in curve.line]
    uncut = next((curve.uncut for curve in curves if curve.uncut is not None), None)
    y = Axis(what, percents([point.top1 for point in points] + ([] if uncut is None else [uncut])))
    x = bytes_axis(points)
    series = [Series(curve.name, places(curve.line), bold=curve.name in bold) for curve in curves]
    rules = [] if uncut is None else [Rule(uncut, f"uncut network, {uncut:.1f} %", upright=False)]
    return line_chart(title, describe(curves, what), series, x, y, rules=rules, looks=looks)


def describe(curves: Sequence[Curve], what: str) -> str:
    words = [
        f"{curve.name}: {curve.line[0].top1:.1f} at {curve.line[0].bytes:,.0f} bytes"
        + (f" to {curve.line[-1].top1:.1f} at {curve.line[-1].bytes:,.0f}" if len(curve.line) > 1 else "")
        for curve in curves
    ]
    return f"{what}. {'; '.join(words)}."


def front_figure(best: list[Point], found: dict[Point, tuple[str, str]], request: Request) -> Figure:
    """Draw the front as the heavy line, and what it beats as open markers. `found` has each point's source, photos."""
    near = [point for point in best if point.top1 >= -FAR] or best
    lowest = min(point.top1 for point in near)
    beaten = [point for point in found if point not in set(best) and point.top1 >= lowest]
    shown = [*near, *beaten]
    x = bytes_axis(shown)
    y = Axis("top-1 against uncut, points", spanning([*(point.top1 for point in shown), 0.0], margin=0.06))
    title = "What no other setting beats in bytes and top-1"
    words = "; ".join(f"{point.bytes:,.0f} bytes: {-point.top1:.1f} points lost, {point.name}" for point in near)
    series = [Series("the front", places(near), tuple(point.name for point in near), bold=True)]
    series += [Series("beaten by another", places(beaten), joined=False)] if beaten else []
    hidden = len(found) - len(shown)
    far = f" {hidden} that lose more than {-lowest:.0f} points are left out." if hidden else ""
    note = "Points below the uncut network on the same photos; sources may have different photos." + far
    rows = [(point.name, number(point.bytes), number(-point.top1, 1), *found[point]) for point in best]
    table = limited("The front", ("what", "bytes", "points lost", "source", "photos"), rows)
    drawing = line_chart(title, f"From few bytes to many. {words}.", series, x, y, looks=request.looks)
    return Figure(title, drawing, table, request.command, note)


def sweep_figure(source: Source, sweep: Sweep, request: Request) -> Figure | None:
    found = {cut: sweep.of_cut(cut) for cut in sweep.cuts}
    points = [point for rows in found.values() for point, _ in rows]
    if not points:
        return None
    series = []
    for cut, rows in found.items():
        line = front([point for point, _ in rows])
        kept = {point for point, tried in rows if tried.status == KEPT}
        series.append(Series(cut, places(line), tuple("kept" if point in kept else "" for point in line)))
    x = bytes_axis(points)
    y = Axis("against uncut, points", spanning([*(point.top1 for point in points), 0.0, -sweep.max_drop], margin=0.06))
    bound = Rule(-sweep.max_drop, f"the bound, {sweep.max_drop:g} points", upright=False)
    title = f"A sweep, cut by cut: “{source.name}”"
    kept_words = "; ".join(
        f"{tried.trial.name}, {point.bytes:,.0f} bytes, {-point.top1:.1f} points lost"
        for rows in found.values()
        for point, tried in rows
        if tried.status == KEPT
    )
    drawing = line_chart(title, f"Kept: {kept_words or 'nothing'}.", series, x, y, rules=[bound], looks=request.looks)
    columns = ("trial", "bytes", "points lost", "of", "bytes, evaluated", "points lost", "what became of it")
    trials = []
    for each in sweep.trials:
        drop_of = each.figures.drop_of if each.figures else ""
        trials.append((each.trial.name, *cells(each.figures), drop_of, *cells(each.evaluated), each.status))
    table = limited(f"All {len(sweep.trials)} trials", columns, trials, numeric=False)
    note = "Each line is what no other trial of its cut beats; of each cut the smallest within the bound is kept."
    figures = [each.figures for each in sweep.trials if each.figures is not None]
    note += of_photos([each.labelled if each.drop_of == "top1" else each.photos for each in figures])
    return Figure(title, drawing, table, source.command, note)


def places(points: Sequence[Point]) -> tuple[tuple[float, float], ...]:
    return tuple((point.bytes, point.top1) for point in points)


def bytes_axis(points: Sequence[Point]) -> Axis:
    return Axis("mean payload bytes a photo", spanning([point.bytes for point in points], log=True, margin=0.04))


def cells(figures: Figures | None) -> Sequence[str]:
    return ("-", "-") if figures is None else (number(figures.payload_bytes.mean), number(figures.top1_drop, 1))
