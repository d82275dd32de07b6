"""Records that no figure shows: their plain numbers, and their lists of alike things, as tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TypeGuard

from bottlenet.lab.report.curves import curves_of
from bottlenet.lab.report.partitions import reports_of
from bottlenet.lab.report.parts import Section, Table
from bottlenet.lab.report.sources import Record, Source
from bottlenet.lab.report.training import recorded_passes
from bottlenet.lab.report.typed import is_number

MOST_DEEP = 4
MOST_ROWS = 40
MOST_COLUMNS = 12
MOST_LISTS = 8  # of a record


def other_section(sources: Sequence[Source]) -> Section:
    """One table a record."""
    tables = []
    for source in sources:
        drawn = curves_of(source) or recorded_passes(source) or list(reports_of(source))
        if isinstance(source.content, Record) and not drawn:
            rows = list(plain_values(source.content.results, "", 0))
            more = f"; {len(rows) - MOST_ROWS} more are left out" if len(rows) > MOST_ROWS else ""
            if rows:
                tables.append(
                    Table(f"{source.name}{more}: {source.command}", ("what", "value"), tuple(rows[:MOST_ROWS]))
                )
            tables += list(islice(list_tables(source.content.results, source.name, 0), MOST_LISTS))
    return Section("others", "Other measurements", "Records that no figure above shows.", tables=tuple(tables))


def list_tables(value: object, name: str, depth: int) -> Iterator[Table]:
    """One of each list of alike things, with a column for each of their values."""
    if is_alike(value):
        items = [dict(plain_values(each, "", 0)) for each in value]
        columns = tuple(dict.fromkeys(key for item in items for key in item))
        hidden = (len(items) - MOST_ROWS, "rows"), (len(columns) - MOST_COLUMNS, "columns")
        more = "".join(f"; {count} more {what} are left out" for count, what in hidden if count > 0)
        rows = tuple(tuple(item.get(key, "-") for key in columns[:MOST_COLUMNS]) for item in items[:MOST_ROWS])
        if columns:
            yield Table(f"{name}{more}", columns[:MOST_COLUMNS], rows)
    elif isinstance(value, dict) and depth < MOST_DEEP:
        for key, each in value.items():
            yield from list_tables(each, f"{name}, {key}".replace("_", " "), depth + 1)


def is_alike(value: object) -> TypeGuard[list[dict[str, object]]]:
    """Whether it is a list of things with the same names in them, two or more."""
    if not isinstance(value, list) or len(value) < 2 or not all(isinstance(each, dict) for each in value):
        return False
    return all(each.keys() == value[0].keys() for each in value)


def plain_values(value: object, name: str, depth: int) -> Iterator[tuple[str, str]]:
    """(name, value) of every number and word in there, in its order; of a list of alike things how many they are."""
    if depth > MOST_DEEP:
        return
    if is_alike(value):
        yield name, f"{len(value)} rows"
    elif isinstance(value, dict):
        for key, each in value.items():
            yield from plain_values(each, f"{name} {key}".strip().replace("_", " "), depth + 1)
    elif isinstance(value, list):
        for number, each in enumerate(value[:MOST_ROWS], 1):
            yield from plain_values(each, f"{name} {number}", depth + 1)
    elif isinstance(value, bool | str):
        yield name, {True: "yes", False: "no"}[value] if isinstance(value, bool) else value
    elif is_number(value):
        yield name, f"{value:,.6g}"
