"""Bytes against accuracy, out of any source: `Curve`s of points, and what no point beats.

A record is whatever its benchmark wrote, so it is searched: each object with a number of bytes and a top-1 is a point,
and its curve is named by what it says it is, or by what it stands in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bottlenet.lab.curve import Point, front
from bottlenet.lab.report.logs import Pass
from bottlenet.lab.report.sources import Evaluated, Record, Source
from bottlenet.lab.report.sweeps import Sweep, Tried
from bottlenet.lab.report.typed import is_number
from bottlenet.plan.profile import Profile

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
    for number, (name, point) in enumerate(points_in(results, "results", 0)):
        if number == MOST_POINTS:
            break
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
