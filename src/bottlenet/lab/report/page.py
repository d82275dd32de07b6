"""Sections -> one HTML file that loads nothing. Whatever comes from a file or a folder is escaped here."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Sequence

from bottlenet.errors import InputError
from bottlenet.lab.chart import svg
from bottlenet.lab.markup import style, template, words
from bottlenet.lab.report.parts import Cell, Figure, Picture, Section, Table
from bottlenet.lab.report.sources import Record, Source

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
    return template("bottlenet.lab.report", "report.html").substitute(
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
