"""Output for people, tables on stdout, progress and errors on stderr; and for programs, one JSON document.

Names of files and labels come from outside, so they go through `clean` and never through rich's markup.
"""

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from bottlenet.errors import BottleNetError

Cell: TypeAlias = Text | str
NARROWEST = 60  # columns: a terminal with fewer breaks lines by itself
PIPE = 10_000  # columns, where no terminal says how many there are: a row is a line
FOLDED = 14  # columns that a text has at least, before a table is split


def stdout() -> Console:
    width = PIPE if not sys.stdout.isatty() and "COLUMNS" not in os.environ else max(NARROWEST, Console().width)
    return Console(highlight=False, width=width)


def say(text: str) -> None:
    print(text, flush=True)


def print_json(document: Mapping[str, object]) -> None:
    say(json.dumps(document, indent=2))


def print_error(error: BottleNetError | str) -> None:
    print(f"error: {clean(str(error))}", file=sys.stderr, flush=True)


def clean(text: str, style: str = "") -> Text:
    """Make text from outside fit to print: without control characters, and not as markup."""
    from bottlenet.wire.answer import one_line

    return Text(one_line(text.encode("utf-8", "backslashreplace").decode()), style=style)  # names may be no text


@contextlib.contextmanager
def progress(task: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar on stderr, if that is a terminal, which is fed with (done, total)."""
    with progress_bar() as bar:
        number = bar.add_task(task, total=None)
        yield lambda done, total: bar.update(number, completed=done, total=total)


def progress_bar(*, hidden: bool = False) -> Progress:
    """Make a bar with count and time left, which goes when it is done; without a terminal, a plain line a minute."""
    console = Console(stderr=True)
    if not hidden and not console.is_terminal:
        return PlainProgress(console)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=hidden or not console.is_terminal)


class PlainProgress(Progress):
    """Progress as plain lines, for logs."""

    def __init__(self, console: Console) -> None:
        super().__init__(console=console, disable=True)
        self.printed = time.monotonic()

    def update(self, task_id: TaskID, **values: object) -> None:
        super().update(task_id, **values)  # type: ignore[arg-type]
        if time.monotonic() - self.printed >= LINE_S:
            self.printed = time.monotonic()
            task = next(task for task in self.tasks if task.id == task_id)
            of = "" if task.total is None else f", {task.completed:,.0f} of {task.total:,.0f}"
            self.console.print(f"{task.description}{of}", markup=False, highlight=False, soft_wrap=True)


LINE_S = 60.0  # between lines of progress where there is no terminal


def facts(*rows: tuple[str, Cell]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, value if isinstance(value, Text) else clean(value))
    return table


@dataclass(frozen=True)
class Grid:
    """Table of which nothing is ever cut: texts are folded, and what is too wide is split into several tables.

    Names that begin with ">" are of columns that are never folded; the first names the row, in each table. Strings in
    other columns are cleaned. `total` is a last row, set apart.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    title: str = ""
    caption: str = ""
    total: Sequence[Cell] = ()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        if self.title:
            yield clean(self.title, "bold")
        for columns in self._groups(options.max_width):
            yield self._table(columns)
        if self.caption:
            yield clean(self.caption, "dim")

    def _groups(self, width: int) -> Iterator[list[int]]:
        """Divide the columns into groups that fit; the first column, which names the row, is in each of them."""
        first, *rest = (self._least_width(column) + 2 for column in range(len(self.columns)))  # with its padding
        columns, used = [0], first
        for column, needed in enumerate(rest, 1):
            if len(columns) > 1 and used + needed + 2 > width:
                yield columns
                columns, used = [0], first
            columns.append(column)
            used += needed
        yield columns

    def _least_width(self, column: int) -> int:
        cells = [self.columns[column].removeprefix(">"), *(str(row[column]) for row in (*self.rows, self.total) if row)]
        width = max(cell_len(line) for cell in cells for line in cell.split("\n"))
        return width if self.columns[column].startswith(">") else min(width, FOLDED)

    def _table(self, columns: Sequence[int]) -> Table:
        table = Table(box=box.SIMPLE_HEAD, header_style="bold", padding=(0, 1, 0, 0))
        for column in columns:
            name = self.columns[column]
            if name.startswith(">"):
                table.add_column(name[1:], justify="right", no_wrap=True, min_width=self._least_width(column))
            else:
                table.add_column(name, overflow="fold", min_width=self._least_width(column))
        for row in self.rows:
            table.add_row(*(self._cell(row, column) for column in columns))
        if self.total:
            table.add_section()
            table.add_row(*(self._cell(self.total, column) for column in columns), style="bold")
        return table

    def _cell(self, row: Sequence[Cell], column: int) -> Text:
        cell = row[column]
        if isinstance(cell, Text):
            return cell
        return Text(cell) if self.columns[column].startswith(">") else clean(cell)


def number(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"
