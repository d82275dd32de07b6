"""Hold a report's tables, figures and sections as plain data, and its pictures as URLs; page.py makes HTML of them."""

import base64
import io
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from importlib import resources
from string import Template
from typing import cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bottlenet.plan import planner
from bottlenet.plan.link import LINKS, Link
from bottlenet.report.charts import Drawing

MOST_ROWS = 120  # of a table; further ones are counted
STRETCH = (0.5, 99.5)  # percentiles of a mosaic that become black and white


@dataclass(frozen=True)
class Picture:
    """A picture inside the page."""

    url: str  # data:
    alt: str
    width: int  # pixels
    height: int
    pixelated: bool = False


Cell = str | Picture | tuple[str, ...]  # words, a picture, or lines of words


@dataclass(frozen=True)
class Table:
    """A table whose first column names a row; cells are words from anywhere."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    numeric: bool = True  # the other columns are numbers


@dataclass(frozen=True)
class Figure:
    """A chart, the numbers behind it, and the command that makes it again."""

    title: str
    drawing: Drawing
    table: Table
    command: str
    note: str = ""  # how to read it


@dataclass(frozen=True)
class Section:
    """A section of the report; one without figures and tables is left out."""

    key: str  # its anchor
    title: str
    intro: str
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()


@dataclass(frozen=True)
class Request:
    """What a report is asked for. InputError: a bound that `bottlenet plan` refuses, too."""

    command: str  # that makes the report
    date: str
    version: str  # of this program
    links: tuple[Link, ...] = tuple(LINKS.values())  # for plans
    max_drop: float | None = None  # points, for plans
    looks: dict[str, int] = field(default_factory=dict)  # how a thing looks in every chart: see charts.py

    def __post_init__(self) -> None:
        planner.Wish("latency", self.max_drop)


def limited(caption: str, columns: tuple[str, ...], rows: Sequence[tuple[Cell, ...]], *, numeric: bool = True) -> Table:
    """Make a table of the first MOST_ROWS rows, whose caption says how many are left out."""
    more = f"; {len(rows) - MOST_ROWS} more rows are left out" if len(rows) > MOST_ROWS else ""
    return Table(caption + more, columns, tuple(rows[:MOST_ROWS]), numeric)


def number(value: float | None, digits: int = 0) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def of_photos(counts: Collection[int | None]) -> str:
    """Say how many photos rates are of, for a note; empty where no source says it."""
    known = sorted({each for each in counts if each is not None})
    if not known:
        return ""
    if len(known) == 1:
        return f" Rates are of {known[0]:,} {'photo' if known[0] == 1 else 'photos'}."
    return f" Rates are of {known[0]:,} to {known[-1]:,} photos; see the numbers."


def percent(share: float) -> str:
    return "&lt;1%" if share < 0.005 else f"{share:.0%}"


def stretched(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Spread a picture's contrast over black to white. What is flat stays grey."""
    low, high = np.percentile(picture, STRETCH)
    if high <= low:
        return np.full_like(picture, 128)
    return cast(NDArray[np.uint8], (np.clip((picture - low) / (high - low), 0, 1) * 255).astype(np.uint8))


def data_url(pixels: NDArray[np.uint8], format_: str, **settings: int) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format_, **settings)
    return f"data:image/{format_.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def template(package: str, name: str) -> Template:
    return Template(resources.files(package).joinpath(name).read_text(encoding="utf-8"))


def style() -> str:
    return resources.files("bottlenet.report").joinpath("page.css").read_text(encoding="utf-8").strip()
