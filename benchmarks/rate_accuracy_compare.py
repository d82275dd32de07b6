"""From the rows of rate_accuracy.py to ratios at the same accuracy, tables and a figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bottlenet.report import accuracy
from bottlenet.report.charts import Drawing
from bottlenet.report.sources import Point
from input_codecs import bytes_needed
from rate_accuracy_rows import Result
from record import show

DROPS = (10, 9, 8, 7, 6, 5, 4, 3)  # points below the uncut network at which bytes are compared
WANTED = "at least 4 times"  # as many bytes that the best input codec should need
WANTED_SHARES = {"CR+BQ": 0.75, "Entropic-Student-like": 1.0, "entropy fixed rate": 1.1}  # of their bytes, at most


@dataclass(frozen=True)
class Curve:
    """All settings of one method."""

    name: str
    points: tuple[Point, ...]
    ours: bool = False
    note: str = ""  # how many photos it was trained on


@dataclass(frozen=True)
class AtDrop:
    """Ours and the best input codec, so many points below the uncut network; None where that is not reached."""

    ours: str
    drop: int
    bytes: float | None
    input_bytes: float | None
    ratio: float | None  # input_bytes / bytes
    between: tuple[str, ...]  # the settings of the input codecs


@dataclass(frozen=True)
class AtPoint:
    """A point of another method, and ours at its top-1; None where ours does not reach from below it to above it."""

    ours: str
    other: str
    setting: str
    top1: float
    other_bytes: float
    bytes: float | None
    share: float | None  # bytes / other_bytes


def curves_of(results: Sequence[Result], ours: set[str]) -> list[Curve]:
    """Join the results of one curve."""
    found: dict[str, Curve] = {}
    for result in results:
        points = tuple(Point(row.payload_bytes, row.top1, row.setting) for row in result.rows)
        before = found[result.curve].points if result.curve in found else ()
        note = f"{result.trained_photos / 1000:.3g}k" if result.trained_photos else ""
        found[result.curve] = Curve(result.curve, (*before, *points), result.curve in ours, note)
    return list(found.values())


def against_input_codecs(ours: Sequence[Curve], codecs: Curve, uncut: float) -> list[AtDrop]:
    """Compare each of ours with the input codecs at each drop."""
    out = []
    for curve in ours:
        for drop in DROPS:
            mine, other = (bytes_needed(each.points, uncut - drop) for each in (curve, codecs))
            ratio = other.bytes / mine.bytes if other.bytes and mine.bytes else None
            out.append(AtDrop(curve.name, drop, mine.bytes, other.bytes, ratio, other.between))
    return out


def against_others(ours: Sequence[Curve], others: Sequence[Curve]) -> list[AtPoint]:
    """Compare each of ours with each point of the others."""
    out = []
    for curve in ours:
        for other in others:
            for point in other.points:
                needed = bytes_needed(curve.points, point.top1).bytes
                share = None if needed is None else needed / point.bytes
                out.append(AtPoint(curve.name, other.name, point.name, point.top1, point.bytes, needed, share))
    return out


def show_comparisons(inputs: Sequence[AtDrop], others: Sequence[AtPoint]) -> None:
    """Print both comparisons, of the others those that have a target; a dash where the same top-1 is not reached."""
    wanted = ", ".join(f"{name} {share:.2f}" for name, share in WANTED_SHARES.items())
    if inputs:
        show(
            f"same top-1 as the best input codec (wanted: {WANTED} our bytes)",
            ["ours, points of drop", "bytes", "input bytes", "ratio"],
            [
                [f"{row.ours}, {row.drop}", number(row.bytes), number(row.input_bytes), number(row.ratio, 2)]
                for row in inputs
            ],
        )
    show(
        f"same top-1 as the others (wanted at most: {wanted})",
        ["ours; other, setting", "top-1, %", "other bytes", "bytes", "share"],
        [
            [
                f"{row.ours}; {row.other}, {row.setting}",
                *(number(row.top1, 1), number(row.other_bytes), number(row.bytes), number(row.share, 2)),
            ]
            for row in others
            if row.other in WANTED_SHARES
        ],
    )


def show_rows(results: Sequence[Result], uncut: float, photos: int) -> None:
    """Print every row."""
    lines = [
        [
            f"{result.name}, {row.setting}",
            *(number(row.payload_bytes), str(row.largest_bytes), number(row.top1, 1), number(row.drop, 1)),
            *(number(row.agreement, 1), number(100 * result.head_flops_share, 1)),
        ]
        for result in results
        for row in result.rows
    ]
    columns = ["method, setting", "payload bytes", "largest", "top-1, %", "drop", "agreement, %", "head FLOPs, %"]
    show(f"{photos} photos, uncut {uncut:.1f} %", columns, lines)


def number(value: float | None, digits: int = 0) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def draw(curves: Sequence[Curve], uncut: float) -> Drawing:
    """Draw of each method what no other of its settings beats; ours are heavy."""
    named = {each.name + (f" ({each.note})" if each.note else ""): each for each in curves}
    drawn = [accuracy.Curve(name, each.points, uncut) for name, each in named.items()]
    ours = [name for name, each in named.items() if each.ours]
    return accuracy.accuracy_chart(
        "Top-1 against bytes; in brackets: photos seen in training", drawn, "top-1, %", bold=ours
    )
