"""What a report is put together from: tables, figures, sections, as plain data; page.py makes HTML of them."""

from __future__ import annotations

from dataclasses import dataclass

from bottlenet.report.charts import Drawing


@dataclass(frozen=True)
class Picture:
    """Inside the page."""

    url: str  # data:
    alt: str
    width: int  # pixels
    height: int
    pixelated: bool = False


Cell = str | Picture | tuple[str, ...]  # words, a picture, or lines of words


@dataclass(frozen=True)
class Table:
    """The first column names a row; cells are words from anywhere."""

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
    """A part of the report; one without figures and tables is left out."""

    key: str  # its anchor
    title: str
    intro: str
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()


def number(value: float | None, digits: int = 0) -> str:
    """A dash where there is none."""
    return "-" if value is None else f"{value:,.{digits}f}"


def quoted(name: str) -> str:
    """For a title."""
    return f"“{name}”"
