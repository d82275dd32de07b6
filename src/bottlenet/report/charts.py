"""Draw charts as SVG text, inside a page or as a file of its own: legible in black and white, in light and in dark.

    Series, ... and Rule, ... over x: Axis and y: Axis --line_chart--> Drawing
    Group, ... of Bar, ...                              --bar_chart---> Drawing

Each line has a marker, dashes, a colour and, at the right, its name in words. A thing that is in several charts looks
the same in all of them where they share `looks`: name -> number of its look. Bars have several segments, one behind the
other; each group of them has a scale of its own, from 0.
"""

import html
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, pairwise

from bottlenet.wire.answer import one_line

FEWEST = 1e-12  # a logarithmic scale has no zero


def words(text: str) -> str:
    """Escape words from anywhere, for HTML and SVG."""
    return html.escape(one_line(text))


@dataclass(frozen=True)
class Scale:
    """Values of an axis, from `low` to `high`, which differ; logarithmic ones are above 0."""

    low: float
    high: float
    log: bool = False

    def share(self, value: float) -> float:
        """Return where a value is: 0 at the low end and before it, 1 at the high end and beyond it."""
        if self.log:
            value = math.log(max(value, FEWEST) / self.low) / math.log(self.high / self.low)
        else:
            value = (value - self.low) / (self.high - self.low)
        return min(1.0, max(0.0, value))

    def ticks(self) -> list[float]:
        return decades(self.low, self.high) if self.log else round_steps(self.low, self.high)


def percents(values: Iterable[float]) -> Scale:
    """Span rates of 0 to 100."""
    scale = spanning(values, margin=0.08)
    return Scale(max(0.0, scale.low), min(100.0, scale.high))


def spanning(values: Iterable[float], *, log: bool = False, margin: float = 0.0) -> Scale:
    """Span the values, with a share of that as margin; 1 to 10, or 0 to 1, where there are none."""
    found = [value for value in values if math.isfinite(value) and (value > 0 or not log)]
    if not found:
        return Scale(1.0, 10.0, True) if log else Scale(0.0, 1.0)
    low, high = min(found), max(found)
    if log:
        factor = max((high / low) ** margin, 1.2)
        return Scale(max(low / factor, FEWEST), high * factor, True)
    room = (high - low) * margin or abs(high) * 0.1 or 1.0
    return Scale(low - room, high + room)


def decades(low: float, high: float) -> list[float]:
    """List 1, 10, 100 ... within; with 2 and 5 where those are few; and even steps where those are, too."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = (1,) if last - first > 3 else (1, 2, 5)
    ticks = [step * 10.0**power for power in range(first, last + 1) for step in steps]
    within = [tick for tick in ticks if low <= tick <= high]
    return within if len(within) > 2 else round_steps(low, high, 5)


def round_steps(low: float, high: float, at_most: int = 7) -> list[float]:
    """List multiples of 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10((high - low) / at_most))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor * at_most >= high - low)
    first = math.ceil(low / step - 1e-9)
    return [round(step * number, 12) for number in range(first, math.floor(high / step + 1e-9) + 1)]


FONT = 'font-family="system-ui, -apple-system, Segoe UI, Roboto, Liberation Sans, sans-serif" font-size="12"'
LETTER = 6.4  # pixels, about, of such a font
TITLE_ROOM = 34  # above a drawing that has no page around it
LINE_ROOM = 16  # a line of text

DASHES = ("", "7 3", "2 3", "9 3 2 3", "4 4", "12 4", "1 4", "9 3 2 3 2 3")
MARKERS = ("circle", "square", "triangle", "diamond", "down", "plus", "cross", "bar")
SHAPES = {
    # around 0, 0
    "circle": "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z",
    "square": "M-3.6 -3.6h7.2v7.2h-7.2z",
    "triangle": "M0 -4.8L4.4 3.4H-4.4z",
    "diamond": "M0 -5.2L5.2 0L0 5.2L-5.2 0z",
    "down": "M0 4.8L4.4 -3.4H-4.4z",
    "plus": "M-1.4 -4.6h2.8v3.2h3.2v2.8h-3.2v3.2h-2.8v-3.2h-3.2v-2.8h3.2z",
    "cross": "M-4.4 -2.6L-2.6 -4.4L0 -1.8L2.6 -4.4L4.4 -2.6L1.8 0L4.4 2.6L2.6 4.4L0 1.8L-2.6 4.4L-4.4 2.6L-1.8 0z",
    "bar": "M-1.6 -5h3.2v10h-3.2z",
}
LIGHT = {"ink": "#1b1f27", "soft": "#58606d", "grid": "#dfddd6", "back": "#ffffff", "shade": "#b4bac3"}
DARK = {"ink": "#e9ebee", "soft": "#a3abb7", "grid": "#30363f", "back": "#1b1f25", "shade": "#6b7684"}
FILLS = {"ink": ("ink", "black"), "shade": ("shade", "#b4bac3"), "plain": ("back", "white")}  # segments of bars
HUES = (  # a second sign beside markers and dashes: light, dark
    ("#0b7a70", "#35c4b5"),
    ("#b4450b", "#f2975a"),
    ("#2a5db0", "#84aef5"),
    ("#8a2f8f", "#d795db"),
    ("#6a6a00", "#c9c648"),
    ("#a11a3f", "#f08aa5"),
    ("#1f6f1f", "#7fce7f"),
    ("#4c4f57", "#b9bec7"),
)


@dataclass(frozen=True)
class Drawing:
    """A chart. `body` is SVG made here; title and description are plain words, from anywhere."""

    title: str
    description: str
    width: float
    height: float
    body: Sequence[str]

    def inline(self, name: str) -> str:
        """Return an element for a page that has `style()` in it; `name` is unique there."""
        return (
            f'<svg class="chart" role="img" aria-labelledby="{name}-title {name}-desc" '
            f'viewBox="0 0 {self.width:g} {self.height:g}" {FONT}>'
            f'<title id="{name}-title">{words(self.title)}</title>'
            f'<desc id="{name}-desc">{words(self.description)}</desc>' + "\n".join(self.body) + "</svg>"
        )

    def document(self, mark: bytes) -> str:
        """Return a file of its own, with the title above; `mark` is a comment that says whose it is."""
        height = self.height + TITLE_ROOM
        box = f'viewBox="0 0 {self.width:g} {height:g}" {FONT}'
        lines = [
            f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" role="img" {box}>',
            mark.decode(),
            f"<title>{words(self.title)}</title>",
            f"<desc>{words(self.description)}</desc>",
            f"<style>{style()}</style>",
            '<rect width="100%" height="100%" fill="white" class="back"/>',
            f'<text x="12" y="22" font-size="14">{words(self.title)}</text>',
            f'<g transform="translate(0 {TITLE_ROOM})">',
            *self.body,
            "</g>",
            "</svg>\n",
        ]
        return "\n".join(lines)


def style() -> str:
    """Return the CSS of all drawings. A reader without CSS sees black on white."""
    return rules(LIGHT, 0) + "@media (prefers-color-scheme: dark){" + rules(DARK, 1) + "}"


def rules(shades: dict[str, str], hue: int) -> str:
    kinds = {
        "text": f"fill:{shades['ink']}",
        ".soft": f"fill:{shades['soft']}",
        ".grid": f"stroke:{shades['grid']}",
        ".axis": f"stroke:{shades['ink']}",
        ".halo": f"stroke:{shades['back']}",
        ".back": f"fill:{shades['back']}",
        **{f".{kind}": f"fill:{shades[fill]};stroke:{shades['ink']}" for kind, (fill, _) in FILLS.items()},
    }
    for number, pair in enumerate(HUES):
        kinds[f".line{number}"] = f"stroke:{pair[hue]}"
        kinds[f".full{number}"] = f"fill:{pair[hue]};stroke:{pair[hue]}"
        kinds[f".open{number}"] = f"fill:{shades['back']};stroke:{pair[hue]}"
    return "".join(f".chart {kind}{{{rule}}}" for kind, rule in kinds.items())


def text(x: float, y: float, content: str, *, anchor: str = "start", kind: str = "", bold: bool = False) -> str:
    """Write a line of text, from anywhere; `kind` is a class of the style."""
    attributes = (f' text-anchor="{anchor}"' if anchor != "start" else "") + (f' class="{kind}"' if kind else "")
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{attributes}{weight}>{words(content)}</text>'


def path(data: str, kind: str, dashes: str = "", width: float = 1.0) -> str:
    """Draw a line; black for a reader without CSS."""
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    heavy = f' stroke-width="{width:g}"' if width != 1 else ""
    colour = "white" if kind == "halo" else "black"
    return f'<path d="{data}" fill="none" stroke="{colour}" class="{kind}"{dashed}{heavy}/>'


def rect(x: float, y: float, width: float, height: float, kind: str) -> str:
    """Draw a segment of a bar; `kind` is one of `FILLS`."""
    shape = f'x="{x:.1f}" y="{y:.1f}" width="{max(0.0, width):.1f}" height="{height:.1f}"'
    return f'<rect {shape} fill="{FILLS[kind][1]}" stroke="black" class="{kind}"/>'


def marker(x: float, y: float, number: int, *, full: bool = True) -> str:
    """Draw the marker of look number `number`: full, or open."""
    shape = SHAPES[MARKERS[number % len(MARKERS)]]
    kind = f"{'full' if full else 'open'}{number % len(HUES)}"
    fill = "black" if full else "white"
    return f'<path transform="translate({x:.1f} {y:.1f})" d="{shape}" fill="{fill}" stroke="black" class="{kind}"/>'


def shortened(content: str, room: float) -> str:
    most = max(2, int(room / LETTER))
    clean = one_line(content)
    return clean if len(clean) <= most else clean[: most - 1] + "…"


def label_heights(wanted: Sequence[float], top: float, bottom: float) -> list[float]:
    """Place lines of text as near to `wanted` as they can be between `top` and `bottom`, in the same order."""
    heights = [0.0] * len(wanted)
    free = top
    for index in sorted(range(len(wanted)), key=lambda i: wanted[i]):
        heights[index] = free = max(free, min(wanted[index], bottom - LINE_ROOM * (len(wanted) - 1)))
        free += LINE_ROOM
    return heights


WIDTH, HEIGHT = 760, 400
LEFT, RIGHT, TOP, BOTTOM = 66, 214, 16, 50
SAMPLE = 30  # pixels of a line, before its name

Point = tuple[float, float]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Axis:
    """An axis of a chart."""

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
    """The area between both axes."""

    x: Axis
    y: Axis
    height: float = HEIGHT

    def at(self, point: Point) -> Point:
        across, down = self.x.scale.share(point[0]), self.y.scale.share(point[1])
        return LEFT + (WIDTH - LEFT - RIGHT) * across, self.height - BOTTOM - (self.height - TOP - BOTTOM) * down


def line_chart(
    title: str,
    description: str,
    series: Sequence[Series],
    x: Axis,
    y: Axis,
    *,
    rules: Sequence[Rule] = (),
    looks: dict[str, int] | None = None,
) -> Drawing:
    """Draw lines, as high as their names need; `looks` keeps how each name looks from one chart to the next."""
    height = max(HEIGHT, TOP + BOTTOM + LINE_ROOM * (len(series) + 1))
    plane = Plane(x, y, height)
    lines = list(zip(look_numbers([each.name for each in series], {} if looks is None else looks), series, strict=True))
    body = [*grid(plane), *straight(plane, rules), *curves(plane, lines), *names(plane, lines)]
    return Drawing(title, description, WIDTH, height, body)


def look_numbers(names: Sequence[str], looks: dict[str, int]) -> list[int]:
    """Give each name the look that it has, or one that no other name has, or none in this chart at least."""
    numbers: list[int] = []
    for name in names:
        if name not in looks:
            here = {looks[each] for each in names if each in looks}
            unused = [number for number in range(len(HUES)) if number not in looks.values()]
            looks[name] = unused[0] if unused else next(number for number in count() if number not in here)
        number = looks[name]
        while number in numbers:  # two things that met in no chart before: the same colour, other dashes
            number += len(HUES)
        numbers.append(number)
    return numbers


def grid(plane: Plane) -> Iterator[str]:
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


def curves(plane: Plane, lines: Sequence[tuple[int, Series]]) -> Iterator[str]:
    taken: list[Box] = []
    for number, each in lines:
        places = [plane.at(point) for point in each.points]
        if each.joined and len(places) > 1:
            points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
            yield f'<polyline points="{points}" {line_style(number, each)}/>'
            taken += along(places)
        if each.marked:
            yield from (marker(x, y, number, full=each.bold) for x, y in places)
            taken += [(x - 5, y - 5, x + 5, y + 5) for x, y in places]
    for _, each in lines:
        for point, note in zip(each.points, each.notes, strict=False):
            if note and (box := free_box(plane.at(point), note, taken)) is not None:
                taken.append(box)
                yield text(box[0], box[3] - 2, note, kind="soft")


def line_style(number: int, each: Series) -> str:
    """Return a line's attributes. Looks with the same colour and marker differ in their dashes."""
    dashes = DASHES[(number + number // len(HUES)) % len(DASHES)]
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    width = 2.5 if each.bold else 1.3
    return f'fill="none" stroke="black" class="line{number % len(HUES)}" stroke-width="{width}"{dashed}'


def free_box(place: Point, note: str, taken: Sequence[Box]) -> Box | None:
    """Find a place for a note where it covers nothing, near its point; None: there is none."""
    width, height = LETTER * 0.92 * len(note), 13.0
    x, y = place
    level = ((x + 7, y - 7), (x - width - 7, y - 7), (x - width / 2, y - 21), (x - width / 2, y + 8))
    diagonal = ((x - width - 5, y - 18), (x + 5, y + 5), (x + 5, y - 18), (x - width - 5, y + 5))
    for left, top in (*level, *diagonal):
        box = (left, top, left + width, top + height)
        inside = left > LEFT and box[2] < WIDTH - RIGHT + 40 and top > TOP and box[3] < HEIGHT - BOTTOM
        covers = (box[0] < x2 and x1 < box[2] and box[1] < y2 and y1 < box[3] for x1, y1, x2, y2 in taken)
        if inside and not any(covers):
            return box
    return None


def along(places: Sequence[Point]) -> list[Box]:
    """Cover a line with small boxes."""
    boxes = []
    for (x1, y1), (x2, y2) in pairwise(places):
        steps = 1 + int(max(abs(x2 - x1), abs(y2 - y1)) / 6)
        for step in range(steps):
            x, y = x1 + (x2 - x1) * step / steps, y1 + (y2 - y1) * step / steps
            boxes.append((x - 2, y - 2, x + 2, y + 2))
    return boxes


def names(plane: Plane, lines: Sequence[tuple[int, Series]]) -> Iterator[str]:
    """Write the names at the right, in the order of the lines' ends, each with a sample of its line."""
    wanted = [plane.at(each.points[-1])[1] + 4 if each.points else plane.height for _, each in lines]
    heights = label_heights(wanted, TOP + 12.0, plane.height - BOTTOM)
    x = WIDTH - RIGHT + 8
    for (number, each), y in zip(lines, heights, strict=True):
        if each.joined and len(each.points) > 1:
            yield f'<path d="M{x} {y - 4:.1f}h{SAMPLE - 4}" {line_style(number, each)}/>'
        if each.marked:
            yield marker(x + SAMPLE / 2 - 2, y - 4, number, full=each.bold)
        yield text(x + SAMPLE + 2, y, shortened(each.name, RIGHT - SAMPLE - 10), bold=each.bold)


BARS_WIDTH, BARS_LEFT, BARS_RIGHT, BARS_TOP = 760, 178, 196, 34
LINE, BAND, FOOT = 20, 30, 34  # height of a bar with its gap; of a group's name; of its ticks
KINDS = ("shade", "plain", "ink")  # of the first, second and third segment


@dataclass(frozen=True)
class Bar:
    """A bar from 0 to the sum of its segments."""

    name: str
    segments: tuple[float, ...]
    note: str  # behind it, in words
    whisker: float | None = None  # a thin line up to here
    mark: float | None = None  # a line across
    bold: bool = False

    @property
    def end(self) -> float:
        return max(sum(self.segments), self.whisker or 0.0, self.mark or 0.0)


@dataclass(frozen=True)
class Group:
    """Bars that are compared with each other."""

    name: str
    bars: tuple[Bar, ...]
    missing: tuple[tuple[str, str], ...] = ()  # what has no bar, and why


def bar_chart(title: str, description: str, groups: Sequence[Group], segments: Sequence[str], unit: str) -> Drawing:
    """Draw bars. `segments` names their segments, at most three; `unit` is written at each scale."""
    bars = [bar for group in groups for bar in group.bars]
    body = list(legend(segments, bars))
    y = float(BARS_TOP)
    for group in groups:
        y += BAND
        body += [text(12, y - 10, group.name, bold=True), *drawn_group(group, y, unit)]
        y += LINE * (len(group.bars) + len(group.missing)) + (FOOT if group.bars else 0)
    return Drawing(title, description, BARS_WIDTH, y + 4, body)


def legend(segments: Sequence[str], bars: Sequence[Bar]) -> Iterator[str]:
    x = 12.0
    for kind, name in zip(KINDS, segments, strict=False):
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
    """Draw the bars over their scale, and say what has none."""
    scale = Scale(0.0, (max((bar.end for bar in group.bars), default=1.0) or 1.0) * 1.02)
    height = LINE * len(group.bars)
    for value in scale.ticks() if group.bars else ():
        x = at(value, scale)
        yield path(f"M{x:.1f} {y:.1f}v{height + 4:.1f}", "grid")
        yield text(x, y + height + 16, f"{value:,g}{' ' + unit if value == 0 else ''}", anchor="middle", kind="soft")
    for number, bar in enumerate(group.bars):
        yield from drawn(bar, y + LINE * number, scale)
    y += height + (FOOT if group.bars else 0)
    for number, (name, why) in enumerate(group.missing):
        line = y + LINE * number + 4
        yield text(BARS_LEFT - 8, line, shortened(name, BARS_LEFT - 16), anchor="end")
        yield text(BARS_LEFT + 4, line, shortened(why, BARS_WIDTH - BARS_LEFT - 8), kind="soft")


def at(value: float, scale: Scale) -> float:
    return BARS_LEFT + (BARS_WIDTH - BARS_LEFT - BARS_RIGHT) * scale.share(value)


def drawn(bar: Bar, y: float, scale: Scale) -> Iterator[str]:
    middle, x = y + (LINE - 6) / 2, float(BARS_LEFT)
    yield text(BARS_LEFT - 8, middle + 4, shortened(bar.name, BARS_LEFT - 16), anchor="end", bold=bar.bold)
    total = 0.0
    for kind, segment in zip(KINDS, bar.segments, strict=False):
        total += segment
        end = at(total, scale)
        if end - x >= 0.5:  # pixels
            yield rect(x, y, end - x, LINE - 6, kind)
        x = end
    if bar.whisker is not None:
        yield path(f"M{x:.1f} {middle:.1f}H{at(bar.whisker, scale):.1f}", "axis", width=1.5)
    if bar.mark is not None:
        line = f"M{at(bar.mark, scale):.1f} {y - 2:.1f}v{LINE - 2}"
        yield path(line, "halo", width=6)  # else it is not seen on a dark segment
        yield path(line, "axis", width=2.5)
    yield text(at(bar.end, scale) + 8, middle + 4, bar.note, bold=bar.bold)
