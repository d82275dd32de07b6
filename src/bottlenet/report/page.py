"""Turn sources and photos into one HTML file that loads nothing. What comes from files and folders is escaped here.

    paths --read_sources--> Source, ... --*_section--> Section, ... --page--> HTML

Records that no figure shows are listed as tables: their plain numbers, and their lists of objects with the same keys.
"""

import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TypeGuard

from bottlenet.bundle import Bundle
from bottlenet.errors import InputError
from bottlenet.measure.bench import BenchReport
from bottlenet.measure.evaluate import Progress
from bottlenet.plan.profile import Profile
from bottlenet.records import shown
from bottlenet.report import charts
from bottlenet.report.accuracy import accuracy_section, curves_of, front_section, sweep_section
from bottlenet.report.cameras import cameras_section
from bottlenet.report.charts import words
from bottlenet.report.partitions import latency_section, plan_section, reports_of
from bottlenet.report.photos import PhotoWish, photo_sections
from bottlenet.report.sections import Cell, Figure, Picture, Request, Section, Table, style, template
from bottlenet.report.sources import KNOWN, Evaluated, Record, Source, is_number, read_sources
from bottlenet.report.training import naive_section, recorded_passes, training_section

MAX_PAGE_BYTES = 3_000_000
TITLE = "BottleNet report"
LEFT_OUT = "; the page is full, so some are left out"
MOST_DEEP = 4
MOST_ROWS = 40
MOST_COLUMNS = 12
MOST_LISTS = 8  # of a record


@dataclass(frozen=True)
class ReportPage:
    """The page, and what is in it."""

    html: str
    sources: tuple[Source, ...]
    sections: tuple[Section, ...]


def report(
    paths: Sequence[Path],
    request: Request,
    *,
    photos: PhotoWish | None = None,
    on_progress: Progress = lambda done, total: None,
) -> ReportPage:
    """Make the page of the sources at these paths. InputError: none, of another bundle, or see `photo_sections`."""
    sources = read_sources(paths)
    if photos is not None:
        check_bundle(photos.bundle, sources)
    if not sources and photos is None:
        raise InputError(f"there is nothing to report; give {KNOWN}, or --bundle with --data")
    request = replace(request, looks={})  # a thing looks the same in all charts of one report
    makers = (
        *(accuracy_section, sweep_section, naive_section, front_section),
        *(latency_section, plan_section, training_section, cameras_section),
    )
    sections = [make(sources, request) for make in makers]
    if photos is not None:
        sections += photo_sections(photos, on_progress)
    sections.append(other_section(sources))
    filled = tuple(section for section in sections if section.figures or section.tables)
    return ReportPage(page(filled, sources, request), sources, filled)


def check_bundle(bundle: Bundle, sources: Sequence[Source]) -> None:
    """InputError: another network's, or none of the profiles, benches and evaluations is of it."""
    for source in sources:
        if source.kind != "record" and source.model and source.model != bundle.manifest.model:
            what = f"{source.path} is of the network {shown(source.model)}, and bundle {bundle.manifest.name} of"
            raise InputError(f"{what} {shown(bundle.manifest.model)}; give sources of one network")
    ids = {one: source for source in sources for one in bundles_of(source)}
    if ids and bundle.id.hex() not in ids:
        one, source = next(iter(ids.items()))
        what = f"{source.path} is of bundle {one[:12]}, and nothing that is given is of {bundle.id.hex()[:12]}"
        advice = "give sources of that bundle, or another --bundle"
        raise InputError(f"{what}, bundle {bundle.manifest.name}; {advice}")


def bundles_of(source: Source) -> Sequence[str]:
    content = source.content
    if isinstance(content, Profile):
        return (content.bundle_id,)
    if isinstance(content, BenchReport):
        return content.bundles
    return (content.origin.bundle,) if isinstance(content, Evaluated) and content.origin.bundle else ()


def other_section(sources: Sequence[Source]) -> Section:
    tables = []
    for source in sources:
        drawn = curves_of(source) or recorded_passes(source) or list(reports_of(source))
        if isinstance(source.content, Record) and not drawn:
            rows = list(plain_values(source.content.results, "", 0))
            more = f"; {len(rows) - MOST_ROWS} more are left out" if len(rows) > MOST_ROWS else ""
            if rows:
                caption = f"{source.name}{more}: {source.command}"
                tables.append(Table(caption, ("what", "value"), tuple(rows[:MOST_ROWS])))
            tables += islice(list_tables(source.content.results, source.name, 0), MOST_LISTS)
    return Section("others", "Other measurements", "Records that no figure above shows.", tables=tuple(tables))


def list_tables(value: object, name: str, depth: int) -> Iterator[Table]:
    """Yield a table for each list of objects with the same keys, a column a key."""
    if has_equal_keys(value):
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


def has_equal_keys(value: object) -> TypeGuard[list[dict[str, object]]]:
    """Tell if a value is a list of two or more objects with the same keys."""
    if not isinstance(value, list) or len(value) < 2 or not all(isinstance(each, dict) for each in value):
        return False
    return all(each.keys() == value[0].keys() for each in value)


def plain_values(value: object, name: str, depth: int) -> Iterator[tuple[str, str]]:
    """Yield (name, value) of every number and word in there; of a list of objects with the same keys their number."""
    if depth > MOST_DEEP:
        return
    if has_equal_keys(value):
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


def page(sections: Sequence[Section], sources: Sequence[Source], request: Request) -> str:
    """Write the page; photos are left out above MAX_PAGE_BYTES. InputError: it is larger without any."""
    while len((text := rendered(sections, sources, request)).encode()) > MAX_PAGE_BYTES:
        shorter = [replace(section, tables=tuple(map(without_last_photo, section.tables))) for section in sections]
        if shorter == list(sections):
            size = f"{len(text.encode()):,} bytes, more than {MAX_PAGE_BYTES:,}"
            raise InputError(f"the report would have {size}; give fewer sources")
        sections = shorter
    return text


def without_last_photo(table: Table) -> Table:
    """Leave out a table's last row, if it has pictures, and say so in its caption."""
    if not any(isinstance(cell, Picture) for row in table.rows for cell in row):
        return table
    return replace(table, caption=table.caption.removesuffix(LEFT_OUT) + LEFT_OUT, rows=table.rows[:-1])


def rendered(sections: Sequence[Section], sources: Sequence[Source], request: Request) -> str:
    networks = sorted({source.model for source in sources if source.model})
    what = f"{len(sources)} source{'' if len(sources) == 1 else 's'}"
    lead = f"{', '.join(networks) or 'A network'}, cut in two: {what}, and the command that makes each figure again."
    rows = tuple((source.name, source.command, source.kind, origin(source)) for source in sources)
    columns = ("source", "made by", "kind", "commit, date, machine")
    table = Table("Words in capitals stand for what the files do not say", columns, rows, numeric=False)
    listed = [*sections, Section("sources", "Sources", "What this report was made of.", tables=(table,))]
    return template("bottlenet.report", "report.html").substitute(
        title=TITLE,
        style=style(),
        chart_style=charts.style(),
        lead=words(lead),
        contents="".join(f'<li><a href="#{each.key}">{words(each.title)}</a></li>' for each in listed),
        sections="\n".join(section_html(section) for section in listed),
        date=words(request.date),
        command=words(request.command),
        version=words(request.version),
    )


def origin(source: Source) -> tuple[str, ...]:
    content = source.content
    if isinstance(content, Record):
        return content.commit[:12], content.date[:10], content.machine
    return (str(getattr(content, "device", "")),)


def section_html(section: Section) -> str:
    cards = [figure_html(figure, f"{section.key}-{number}") for number, figure in enumerate(section.figures, 1)]
    cards += [f'<div class="card">{table_html(table)}</div>' for table in section.tables]
    return (
        f'<section id="{section.key}" aria-labelledby="{section.key}-title"><h2 id="{section.key}-title">'
        f'{words(section.title)}</h2><p class="text">{words(section.intro)}</p>' + "\n".join(cards) + "</section>"
    )


def figure_html(figure: Figure, name: str) -> str:
    note = f'<p class="note">{words(figure.note)}</p>' if figure.note else ""
    return (
        f'<figure class="card" aria-labelledby="{name}-head"><h3 id="{name}-head">{words(figure.title)}</h3>'
        f"{scrolled(figure.drawing.inline(name), figure.title)}"
        f'<figcaption>{note}<code class="command">{words(figure.command)}</code></figcaption>'
        f"<details><summary>The numbers</summary>{table_html(figure.table)}</details></figure>"
    )


def scrolled(content: str, name: str) -> str:
    """Wrap what may be wider than a phone."""
    return f'<div class="wide" role="region" tabindex="0" aria-label="{words(name)}">{content}</div>'


def table_html(table: Table) -> str:
    head = "".join(f'<th scope="col">{words(column)}</th>' for column in table.columns)
    rows = ""
    for first, *cells in table.rows:
        rows += f'<tr><th scope="row">{cell_html(first)}</th>'
        rows += "".join(f"<td>{cell_html(cell)}</td>" for cell in cells) + "</tr>"
    kind = "" if table.numeric else ' class="words"'
    caption = f"<caption>{words(table.caption)}</caption>"
    return scrolled(f"<table{kind}>{caption}<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>", table.caption)


def cell_html(cell: Cell) -> str:
    if isinstance(cell, Picture):
        kind = "picture pixelated" if cell.pixelated else "picture"
        size = f'width="{cell.width}" height="{cell.height}"'
        return f'<img class="{kind}" src="{html.escape(cell.url)}" {size} alt="{words(cell.alt)}">'
    if isinstance(cell, tuple):
        return "".join(f"<p>{words(line)}</p>" for line in cell)
    return words(cell)
