"""A drawing as SVG text: inside a page, or a file of its own. Legible in black and white, in light and in dark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bottlenet.lab.markup import words
from bottlenet.wire.answer import one_line

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
FILLS = {"ink": ("ink", "black"), "shade": ("shade", "#b4bac3"), "plain": ("back", "white")}  # parts of bars
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
    """`body` is SVG from here; title and description are plain words, from anywhere."""

    title: str
    description: str
    width: float
    height: float
    body: Sequence[str]

    def inline(self, name: str) -> str:
        """For a page that has `style()` in it; `name` is unique there."""
        return (
            f'<svg class="chart" role="img" aria-labelledby="{name}-title {name}-desc" '
            f'viewBox="0 0 {self.width:g} {self.height:g}" {FONT}>'
            f'<title id="{name}-title">{words(self.title)}</title>'
            f'<desc id="{name}-desc">{words(self.description)}</desc>' + "\n".join(self.body) + "</svg>"
        )

    def document(self, mark: bytes) -> str:
        """A file of its own, with the title above; `mark` is a comment that says whose it is."""
        height = self.height + TITLE_ROOM
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" role="img" '
                f'viewBox="0 0 {self.width:g} {height:g}" {FONT}>',
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
        )


def style() -> str:
    """CSS of all drawings. What a reader without CSS sees is black on white."""
    return rules(LIGHT, 0) + "@media (prefers-color-scheme: dark){" + rules(DARK, 1) + "}"


def rules(shades: dict[str, str], hue: int) -> str:
    """Of one of the two."""
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
    """A line of text, from anywhere; `kind` is a class of the style."""
    attributes = (f' text-anchor="{anchor}"' if anchor != "start" else "") + (f' class="{kind}"' if kind else "")
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{attributes}{weight}>{words(content)}</text>'


def path(data: str, kind: str, dashes: str = "", width: float = 1.0) -> str:
    """A line; black for who can't read the style."""
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    heavy = f' stroke-width="{width:g}"' if width != 1 else ""
    colour = "white" if kind == "halo" else "black"
    return f'<path d="{data}" fill="none" stroke="{colour}" class="{kind}"{dashed}{heavy}/>'


def rect(x: float, y: float, width: float, height: float, kind: str) -> str:
    """A part of a bar; `kind` is one of `FILLS`."""
    shape = f'x="{x:.1f}" y="{y:.1f}" width="{max(0.0, width):.1f}" height="{height:.1f}"'
    return f'<rect {shape} fill="{FILLS[kind][1]}" stroke="black" class="{kind}"/>'


def marker(x: float, y: float, number: int, *, full: bool = True) -> str:
    """The marker of line number `number`: full, or open."""
    shape = SHAPES[MARKERS[number % len(MARKERS)]]
    kind = f"{'full' if full else 'open'}{number % len(HUES)}"
    fill = "black" if full else "white"
    return f'<path transform="translate({x:.1f} {y:.1f})" d="{shape}" fill="{fill}" stroke="black" class="{kind}"/>'


def shortened(content: str, room: float) -> str:
    """As much of it as fits so many pixels."""
    most = max(2, int(room / LETTER))
    clean = one_line(content)
    return clean if len(clean) <= most else clean[: most - 1] + "…"


def label_heights(wanted: Sequence[float], top: float, bottom: float) -> list[float]:
    """As near to what is wanted as lines of text can be between `top` and `bottom`, in the same order."""
    heights = [0.0] * len(wanted)
    free = top
    for index in sorted(range(len(wanted)), key=lambda i: wanted[i]):
        heights[index] = free = max(free, min(wanted[index], bottom - LINE_ROOM * (len(wanted) - 1)))
        free += LINE_ROOM
    return heights
