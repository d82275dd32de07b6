"""`bottlenet report`: what was trained and measured, as one HTML file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bottlenet.cli.options import Force, Json, check_target, marked, write_whole
from bottlenet.cli.show import print_json, progress, say
from bottlenet.errors import InputError
from bottlenet.records import command_line, program_version

if TYPE_CHECKING:
    from bottlenet.report.page import ReportPage
    from bottlenet.report.photos import PhotoWish

REPORT = marked("a report of bottlenet report", b'<meta name="generator" content="BottleNet report">')


def report(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN|SWEEP|JSON...",
            help="Runs, sweeps, JSON of evaluate, profile and bench, records of benchmarks, or folders of these.",
        ),
    ] = None,
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE.html", help="The report to write.")
    ] = "report.html",
    bundle: Annotated[
        str | None, typer.Option("--bundle", "-b", help="Show photos with this bundle's answers, or [bold]demo[/]'s.")
    ] = None,
    data: Annotated[str | None, typer.Option("--data", help="Folder of these photos.")] = None,
    photos: Annotated[int, typer.Option("--photos", help="Number of photos to show, and most failures.")] = 8,
    limit: Annotated[int, typer.Option("--limit", help="Number of photos to look for failures in.")] = 200,
    budget: Annotated[
        int | None, typer.Option("--budget", metavar="BYTES", min=1, help="Largest payload of these photos.")
    ] = None,
    link: Annotated[
        list[str] | None,
        typer.Option("--link", metavar="NAME|BPS,RTT,LOSS", help="Links to plan for. Default: 3g, 4g, wifi."),
    ] = None,
    max_drop: Annotated[float | None, typer.Option("--max-drop", help="Most points to lose in these plans.")] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Make one HTML file of what was trained and measured: figures, tables, photos.

    It loads nothing from elsewhere and is smaller than 3 MB. Each figure has
    its numbers, and the command that makes it again. Only photos are measured
    anew. Needs no torch.

    Examples:
      bottlenet report my.profile.json bench.json -o report.html
      bottlenet report runs/naive runs/aware benchmarks/results --max-drop 5
      bottlenet report my.profile.json --bundle my.bundle --data photos
    """
    from datetime import datetime, timezone

    from bottlenet.plan.link import LINKS, parse_link
    from bottlenet.report.page import report as make
    from bottlenet.report.sections import Request

    target = check_target(output, REPORT, force=force)
    links = tuple(dict.fromkeys(parse_link(name) for name in link or LINKS))
    when = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    with progress("looking at photos") as step:
        html_report = make(
            [Path(each) for each in sources or ()],
            Request(command_line(sys.argv), when, program_version(), links, max_drop),
            photos=photos_of(bundle, data, photos, limit, budget),
            on_progress=step,
        )
    page = html_report.html.encode()
    write_whole(target, page)
    if as_json:
        print_json({"report": str(target), "bytes": len(page), **document(html_report)})
    else:
        for each in html_report.sections:
            say(f"{each.title}: {len(each.figures)} figures, {len(each.tables)} tables")
        say(f"report: {target}, {len(page):,} bytes")


def photos_of(bundle: str | None, data: str | None, shown: int, limit: int, budget: int | None) -> PhotoWish | None:
    """Load what photos need, unless no bundle is given. InputError: a folder without a bundle, or the reverse."""
    from bottlenet.bundle import Bundle
    from bottlenet.report.photos import PhotoWish

    if (bundle is None) != (data is None):
        alone, lacking = ("--data", "--bundle") if bundle is None else ("--bundle", "--data")
        raise InputError(f"{alone} is given without {lacking}; photos need both, the rest of a report needs neither")
    return None if bundle is None or data is None else PhotoWish(Bundle.load(bundle), data, shown, limit, budget)


def document(page: ReportPage) -> dict[str, object]:
    return {
        "sources": [
            {"path": str(source.path), "kind": source.kind, "model": source.model or None, "command": source.command}
            for source in page.sources
        ],
        "sections": [
            {
                "title": section.title,
                "figures": [{"title": figure.title, "command": figure.command} for figure in section.figures],
                "tables": [table.caption for table in section.tables],
            }
            for section in page.sections
        ],
    }
