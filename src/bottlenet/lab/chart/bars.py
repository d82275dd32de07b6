"""Bars of several parts, one behind the other, in groups. Each group has a scale of its own, from 0."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bottlenet.lab.chart.scale import Scale
from bottlenet.lab.chart.svg import LETTER, Drawing, path, rect, shortened, text

WIDTH, LEFT, RIGHT, TOP = 760, 178, 196, 34
LINE, BAND, FOOT = 20, 30, 34  # height of a bar with its gap; of a group's name; of its ticks
KINDS = ("shade", "plain", "ink")  # of the first, second and third part


@dataclass(frozen=True)
class Bar:
    """From 0 to the sum of its parts."""

    name: str
    parts: tuple[float, ...]
    note: str  # behind it, in words
    whisker: float | None = None  # a thin line up to here
    mark: float | None = None  # a line across
    bold: bool = False

    @property
    def end(self) -> float:
        """Where everything of it ends."""
        return max(sum(self.parts), self.whisker or 0.0, self.mark or 0.0)


@dataclass(frozen=True)
class Group:
    """Bars to be compared."""

    name: str
    bars: tuple[Bar, ...]
    missing: tuple[tuple[str, str], ...] = ()  # what has no bar, and why


def bar_chart(title: str, description: str, groups: Sequence[Group], parts: Sequence[str], unit: str) -> Drawing:
    """`parts` are the names of a bar's parts, at most three; `unit` is written at each scale."""
    bars = [bar for group in groups for bar in group.bars]
    body = list(legend(parts, bars))
    y = float(TOP)
    for group in groups:
        y += BAND
        body += [text(12, y - 10, group.name, bold=True), *drawn_group(group, y, unit)]
        y += LINE * (len(group.bars) + len(group.missing)) + (FOOT if group.bars else 0)
    return Drawing(title, description, WIDTH, y + 4, body)


def legend(parts: Sequence[str], bars: Sequence[Bar]) -> Iterator[str]:
    """What the shades and lines are."""
    x = 12.0
    for kind, name in zip(KINDS, parts, strict=False):
        yield rect(x, 10, 22, 12, kind)
        yield text(x + 28, 20, name)
        x += 28 + LETTER * len(name) + 26
    if any(bar.whisker is not None for bar in bars):
        yield path(f"M{x} 16h22", "axis", width=1.5)
        yield text(x + 28, 20, "95 of 100")
        x += 28 + LETTER * 9 + 26
    if any(bar.mark is not None for bar in bars):
        yield path(f"M{x + 6} 8v16", "axis", width=2.5)
        yield text(x + 16, 20, "the bound")


def drawn_group(group: Group, y: float, unit: str) -> Iterator[str]:
    """All of its bars, their scale, and what has none."""
    scale = Scale(0.0, (max((bar.end for bar in group.bars), default=1.0) or 1.0) * 1.02)
    height = LINE * len(group.bars)
    yield from grid(scale, y, height, unit)
    for number, bar in enumerate(group.bars):
        yield from drawn(bar, y + LINE * number, scale)
    y += height + (FOOT if group.bars else 0)
    for number, (name, why) in enumerate(group.missing):
        line = y + LINE * number + 4
        yield text(LEFT - 8, line, shortened(name, LEFT - 16), anchor="end")
        yield text(LEFT + 4, line, shortened(why, WIDTH - LEFT - 8), kind="soft")


def grid(scale: Scale, top: float, height: float, unit: str) -> Iterator[str]:
    """Ticks below the bars."""
    if not height:
        return
    for value in scale.ticks():
        x = at(value, scale)
        yield path(f"M{x:.1f} {top:.1f}v{height + 4:.1f}", "grid")
        yield text(x, top + height + 16, f"{value:,g}{' ' + unit if value == 0 else ''}", anchor="middle", kind="soft")


def at(value: float, scale: Scale) -> float:
    """Pixels."""
    return LEFT + (WIDTH - LEFT - RIGHT) * scale.share(value)


def drawn(bar: Bar, y: float, scale: Scale) -> Iterator[str]:
    """Name, parts, whisker, mark, and in words what it was."""
    middle, x = y + (LINE - 6) / 2, float(LEFT)
    yield text(LEFT - 8, middle + 4, shortened(bar.name, LEFT - 16), anchor="end", bold=bar.bold)
    total = 0.0
    for kind, part in zip(KINDS, bar.parts, strict=False):
        total += part
        end = at(total, scale)
        if end - x >= 0.5:  # pixels
            yield rect(x, y, end - x, LINE - 6, kind)
        x = end
    if bar.whisker is not None:
        yield path(f"M{x:.1f} {middle:.1f}H{at(bar.whisker, scale):.1f}", "axis", width=1.5)
    if bar.mark is not None:
        line = f"M{at(bar.mark, scale):.1f} {y - 2:.1f}v{LINE - 2}"
        yield path(line, "halo", width=6)  # else it is not seen on a dark part
        yield path(line, "axis", width=2.5)
    yield text(at(bar.end, scale) + 8, middle + 4, bar.note, bold=bar.bold)
