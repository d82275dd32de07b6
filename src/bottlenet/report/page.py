"""Sources and wishes -> a page, or what is in it for programs.

Records that no figure shows: their plain numbers, and their lists of alike things, as tables.

Sections -> one HTML file that loads nothing. Whatever comes from a file or a folder is escaped here.
"""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeGuard

from bottlenet.bundle import Bundle
from bottlenet.errors import InputError
from bottlenet.measure.bench import Report
from bottlenet.plan.profile import Profile
from bottlenet.records import shown
from bottlenet.report import charts as svg
from bottlenet.report.accuracy import accuracy_section, curves_of, front_section, sweep_section
from bottlenet.report.markup import style, template, words
from bottlenet.report.partitions import Wish, latency_section, plan_section, reports_of
from bottlenet.report.photos import LIMIT, MOST_SHOWN, SHOWN, Progress, photo_sections
from bottlenet.report.sections import Cell, Figure, Picture, Section, Table
from bottlenet.report.sources import KNOWN, Evaluated, Record, Source, is_number, read_sources
from bottlenet.report.training import naive_section, recorded_passes, training_section

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


MAX_PAGE_BYTES = 3_000_000
TITLE = "BottleNet report"


@dataclasses.dataclass(frozen=True)
class Made:
    """By what the page was made, and when."""

    command: str
    date: str
    version: str


def page(sections: Sequence[Section], sources: Sequence[Source], made: Made) -> str:
    """The whole page, below MAX_PAGE_BYTES: the last photos are left out where it would be larger.

    InputError: it is larger without any photo.
    """
    shown = [section for section in sections if section.figures or section.tables]
    while len((text := rendered(shown, sources, made)).encode()) > MAX_PAGE_BYTES:
        shorter = [without_last_photo(section) for section in shown]
        if shorter == shown:
            raise InputError(
                f"the report would have {len(text.encode()):,} bytes, more than {MAX_PAGE_BYTES:,}; give fewer sources"
            )
        shown = shorter
    return text


def without_last_photo(section: Section) -> Section:
    """One row fewer in tables with pictures; said in their captions."""
    return dataclasses.replace(section, tables=tuple(shortened(table) for table in section.tables))


def shortened(table: Table) -> Table:
    """A row fewer, if it has pictures."""
    if not any(isinstance(cell, Picture) for row in table.rows for cell in row):
        return table
    caption = table.caption.removesuffix(LEFT_OUT) + LEFT_OUT
    return dataclasses.replace(table, caption=caption, rows=table.rows[:-1])


LEFT_OUT = "; the page is full, so some are left out"


def rendered(sections: Sequence[Section], sources: Sequence[Source], made: Made) -> str:
    """Of any size."""
    networks = sorted({source.model for source in sources if source.model})
    what = f"{len(sources)} source{'' if len(sources) == 1 else 's'}"
    lead = f"{', '.join(networks) or 'A network'}, cut in two: {what}, and the command that makes each figure again."
    contents = [(section.key, section.title) for section in sections] + [("sources", "Sources")]
    return template("bottlenet.report", "report.html").substitute(
        title=TITLE,
        style=style(),
        chart_style=svg.style(),
        lead=words(lead),
        contents="".join(f'<li><a href="#{key}">{words(title)}</a></li>' for key, title in contents),
        sections="\n".join([*(section_html(section) for section in sections), sources_html(sources)]),
        date=words(made.date),
        command=words(made.command),
        version=words(made.version),
    )


def section_html(section: Section) -> str:
    """With its figures and tables."""
    parts = [figure_html(figure, f"{section.key}-{number}") for number, figure in enumerate(section.figures, 1)]
    parts += [f'<div class="card">{table_html(table)}</div>' for table in section.tables]
    return (
        f'<section id="{section.key}" aria-labelledby="{section.key}-title"><h2 id="{section.key}-title">'
        f'{words(section.title)}</h2><p class="text">{words(section.intro)}</p>' + "\n".join(parts) + "</section>"
    )


def figure_html(figure: Figure, name: str) -> str:
    """Chart, note, command, numbers."""
    note = f'<p class="note">{words(figure.note)}</p>' if figure.note else ""
    return (
        f'<figure class="card" aria-labelledby="{name}-head"><h3 id="{name}-head">{words(figure.title)}</h3>'
        f"{scrolled(figure.drawing.inline(name), figure.title)}"
        f'<figcaption>{note}<code class="command">{words(figure.command)}</code></figcaption>'
        f"<details><summary>The numbers</summary>{table_html(figure.table)}</details></figure>"
    )


def scrolled(content: str, name: str) -> str:
    """What is wider than a phone."""
    return f'<div class="wide" role="region" tabindex="0" aria-label="{words(name)}">{content}</div>'


def table_html(table: Table) -> str:
    """Rows have headers, columns too."""
    head = "".join(f'<th scope="col">{words(column)}</th>' for column in table.columns)
    rows = "".join(
        "<tr>" + "".join(cell_html(cell, row=number == 0) for number, cell in enumerate(row)) + "</tr>"
        for row in table.rows
    )
    kind = "" if table.numeric else ' class="words"'
    return scrolled(
        f"<table{kind}><caption>{words(table.caption)}</caption><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>",
        table.caption,
    )


def cell_html(cell: Cell, *, row: bool) -> str:
    """One cell; the first of a row is its header."""
    content = cell_content(cell)
    return f'<th scope="row">{content}</th>' if row else f"<td>{content}</td>"


def cell_content(cell: Cell) -> str:
    """Words, lines of words, or a picture."""
    if isinstance(cell, Picture):
        kind = "picture pixelated" if cell.pixelated else "picture"
        size = f'width="{cell.width}" height="{cell.height}"'
        return f'<img class="{kind}" src="{html.escape(cell.url)}" {size} alt="{words(cell.alt)}">'
    if isinstance(cell, tuple):
        return "".join(f"<p>{words(line)}</p>" for line in cell)
    return words(cell)


def sources_html(sources: Sequence[Source]) -> str:
    """What it is made of."""
    rows = tuple((source.name, source.command, source.kind, origin(source)) for source in sources)
    columns = ("source", "made by", "kind", "commit, date, machine")
    table = Table("What capitals stand for the files do not say", columns, rows, numeric=False)
    return section_html(Section("sources", "Sources", "What this report was made of.", tables=(table,)))


def origin(source: Source) -> tuple[str, ...]:
    """Commit, date and machine, where the source says so."""
    content = source.content
    if isinstance(content, Record):
        return content.commit[:12], content.date[:10], content.machine
    return (str(getattr(content, "device", "")),)


@dataclass(frozen=True)
class Photos:
    """Whose photos are shown. InputError: a number out of range."""

    bundle: Bundle
    data: str
    shown: int = SHOWN
    limit: int = LIMIT
    budget_bytes: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.shown <= MOST_SHOWN:
            raise InputError(f"photos is {self.shown}; give 1 to {MOST_SHOWN}")
        if self.limit < self.shown:
            raise InputError(f"limit is {self.limit}; give at least the {self.shown} photos that are shown")


@dataclass(frozen=True)
class ReportPage:
    """The page, and what is in it."""

    html: str
    sources: tuple[Source, ...]
    sections: tuple[Section, ...]


def report(
    paths: Sequence[Path],
    made: Made,
    *,
    wish: Wish = Wish(),  # noqa: B008 - frozen
    photos: Photos | None = None,
    on_progress: Progress | None = None,
) -> ReportPage:
    """InputError: no source, see `read_sources`; a bundle of which no profile or bench is; see `photo_sections`."""
    sources = read_sources(paths)
    if photos is not None:
        check_bundle(photos.bundle, sources)
    if not sources and photos is None:
        raise InputError(f"there is nothing to report; give {KNOWN}, or --bundle with --data")
    sections = [
        accuracy_section(sources, made.command),
        sweep_section(sources),
        naive_section(sources),
        front_section(sources, made.command),
        latency_section(sources, wish, made.command),
        plan_section(sources, wish),
        training_section(sources),
    ]
    if photos is not None:
        sections += photo_sections(
            photos.bundle,
            photos.data,
            shown=photos.shown,
            limit=photos.limit,
            budget_bytes=photos.budget_bytes,
            on_progress=on_progress,
        )
    sections.append(other_section(sources))
    there = tuple(section for section in sections if section.figures or section.tables)
    return ReportPage(page(there, sources, made), sources, there)


def check_bundle(bundle: Bundle, sources: Sequence[Source]) -> None:
    """InputError: another network's, or none of the profiles, benches and evaluations is of it."""
    for source in sources:
        if source.kind != "record" and source.model and source.model != bundle.manifest.model:
            raise InputError(
                f"{source.path} is of the network {shown(source.model)}, and bundle {bundle.manifest.name} of "
                f"{shown(bundle.manifest.model)}; give sources of one network"
            )
    ids = {one: source for source in sources for one in bundles_of(source)}
    if ids and bundle.id.hex() not in ids:
        one, source = next(iter(ids.items()))
        raise InputError(
            f"{source.path} is of bundle {one[:12]}, and nothing that is given is of {bundle.id.hex()[:12]}, bundle "
            f"{bundle.manifest.name}; give sources of that bundle, or another --bundle"
        )


def bundles_of(source: Source) -> Sequence[str]:
    """The ids that a source names."""
    content = source.content
    if isinstance(content, Profile):
        return (content.bundle_id,)
    if isinstance(content, Report):
        return content.bundles
    return (content.origin.bundle,) if isinstance(content, Evaluated) and content.origin.bundle else ()
