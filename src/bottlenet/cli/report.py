"""`bottlenet report`: what was trained and measured, as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bottlenet.cli.options import Force, Json

if TYPE_CHECKING:
    from bottlenet.report.page import ReportPage
    from bottlenet.report.photos import PhotoWish


REPORT_MARK = b'<meta name="generator" content="BottleNet report">'


def report(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN|SWEEP|JSON...",
            help="Folders of runs and sweeps; JSON of evaluate, profile, bench; of benchmarks; folders of these.",
        ),
    ] = None,
    output: Annotated[str, typer.Option("--output", "-o", metavar="FILE.html", help="The file.")] = "report.html",
    bundle: Annotated[
        str | None, typer.Option("--bundle", "-b", help="Show photos through this bundle; [bold]demo[/] is one.")
    ] = None,
    data: Annotated[str | None, typer.Option("--data", help="The folder of those photos.")] = None,
    photos: Annotated[int, typer.Option("--photos", help="So many, and at most so many failures.")] = 8,
    limit: Annotated[int, typer.Option("--limit", help="Look for failures among so many photos of the folder.")] = 200,
    budget: Annotated[
        int | None, typer.Option("--budget", metavar="BYTES", min=1, help="No payload of a photo has more.")
    ] = None,
    link: Annotated[
        list[str] | None,
        typer.Option("--link", metavar="NAME|BPS,RTT,LOSS", help="For plans; again for more. 3g, 4g, wifi."),
    ] = None,
    max_drop: Annotated[float | None, typer.Option("--max-drop", help="For plans: points that may be lost.")] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Make one HTML file of what was trained and measured: figures, tables, photos.

    It loads nothing from anywhere and has less than 3 MB. Each figure has its
    numbers and the command that makes it again. Nothing is measured anew but
    what the photos need. Needs no torch.

    Examples:
      bottlenet report my.profile.json bench.json -o report.html
      bottlenet report runs/naive runs/aware benchmarks/results --max-drop 5
      bottlenet report my.profile.json --bundle my.bundle --data photos --photos 12
    """
    import sys
    from datetime import datetime, timezone

    from bottlenet.cli.options import MARK_WITHIN_BYTES, Kind, check_target, write_whole
    from bottlenet.cli.show import print_json, progress, say
    from bottlenet.plan.link import LINKS, parse_link
    from bottlenet.records import command_line, program_version
    from bottlenet.report.page import report as make
    from bottlenet.report.sections import Request

    kind = Kind("a report of bottlenet report", MARK_WITHIN_BYTES, lambda found: REPORT_MARK in found)
    target = check_target(output, kind, force=force)
    links = tuple(dict.fromkeys(parse_link(name) for name in link or LINKS))
    when = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    with progress("looking at photos") as step:
        made = make(
            [Path(each) for each in sources or ()],
            Request(command_line(sys.argv), when, program_version(), links, max_drop),
            photos=photos_of(bundle, data, photos, limit, budget),
            on_progress=step,
        )
    page = made.html.encode()
    write_whole(target, page)
    if as_json:
        print_json({"report": str(target), "bytes": len(page), **document(made)})
    else:
        say("\n".join([*summary(made), f"report: {target}, {len(page):,} bytes"]))


def photos_of(bundle: str | None, data: str | None, shown: int, limit: int, budget: int | None) -> PhotoWish | None:
    """None where no bundle was given. InputError: a folder without a bundle, or the reverse."""
    from bottlenet.bundle import Bundle
    from bottlenet.errors import InputError
    from bottlenet.report.photos import PhotoWish

    if (bundle is None) != (data is None):
        given, lacking = ("--data", "--bundle") if bundle is None else ("--bundle", "--data")
        raise InputError(f"{given} is given without {lacking}; photos need both, the rest of a report needs neither")
    if bundle is None or data is None:
        return None
    return PhotoWish(Bundle.load(bundle), data, shown, limit, budget)


def summary(made: ReportPage) -> list[str]:
    """What is in it, for people."""
    return [f"{each.title}: {len(each.figures)} figures, {len(each.tables)} tables" for each in made.sections]


def document(made: ReportPage) -> dict[str, object]:
    """The same for programs."""
    return {
        "sources": [
            {"path": str(source.path), "kind": source.kind, "model": source.model or None, "command": source.command}
            for source in made.sources
        ],
        "sections": [
            {
                "title": section.title,
                "figures": [{"title": figure.title, "command": figure.command} for figure in section.figures],
                "tables": [table.caption for table in section.tables],
            }
            for section in made.sections
        ],
    }
