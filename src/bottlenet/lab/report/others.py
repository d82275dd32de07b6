"""Records that no figure shows: their plain numbers, as tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bottlenet.lab.report.curves import curves_of
from bottlenet.lab.report.partitions import reports_of
from bottlenet.lab.report.parts import Section, Table
from bottlenet.lab.report.sources import Record, Source
from bottlenet.lab.report.training import recorded_passes
from bottlenet.lab.report.typed import is_number

MOST_DEEP = 4
MOST_ROWS = 40


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
    return Section("others", "Other measurements", "Records that no figure above shows.", tables=tuple(tables))


def plain_values(value: object, name: str, depth: int) -> Iterator[tuple[str, str]]:
    """(name, value) of every number and word in there, in its order."""
    if depth > MOST_DEEP:
        return
    if isinstance(value, dict):
        for key, each in value.items():
            yield from plain_values(each, f"{name} {key}".strip().replace("_", " "), depth + 1)
    elif isinstance(value, list):
        for number, each in enumerate(value[:MOST_ROWS], 1):
            yield from plain_values(each, f"{name} {number}", depth + 1)
    elif isinstance(value, bool | str):
        yield name, {True: "yes", False: "no"}[value] if isinstance(value, bool) else value
    elif is_number(value):
        yield name, f"{value:,.6g}"
