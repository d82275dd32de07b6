"""Commands that show results: `report`, as one HTML file; and `privacy`, what an attacker rebuilds of a photo."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from bottlenet.cli.options import BundleArgument, Force, Json, Kind, needs, with_configs, write_whole
from bottlenet.cli.show import Grid, number, print_json, progress, progress_bar, say, stdout
from bottlenet.errors import InputError
from bottlenet.privacy import PrivacyConfig
from bottlenet.records import command_line, program_version

if TYPE_CHECKING:
    from bottlenet.privacy.measure import Quality
    from bottlenet.privacy.run import PrivacyReport
    from bottlenet.report.page import ReportPage
    from bottlenet.report.photos import PhotoWish

REPORT = Kind.marked("a report of bottlenet report", b'<meta name="generator" content="BottleNet report">')
CAPTION = "Measured against this attacker, with these photos and this much training. Another one may do better."
NAMES = {
    "attacker": "payload, attacker",
    "linear, tile by tile": "payload, linear map of each tile",
    "linear": "payload, linear map of 3 x 3",
    "jpeg": "JPEG",
}


def report(
    sources: Annotated[
        list[str] | None,
        Argument(
            metavar="RUN|SWEEP|JSON...",
            help="Runs, sweeps, JSON of evaluate, profile and bench, records of benchmarks, or folders of these; "
            "lines of watch --json in a file *.jsonl.",
        ),
    ] = None,
    output: Annotated[str, Option("--output", "-o", metavar="FILE.html", help="The report to write.")] = "report.html",
    bundle: Annotated[
        str | None, Option("--bundle", "-b", help="Show photos with this bundle's answers, or [bold]demo[/]'s.")
    ] = None,
    data: Annotated[str | None, Option(help="Folder of these photos.")] = None,
    photos: Annotated[int, Option(help="Number of photos to show, and most failures.")] = 8,
    limit: Annotated[int, Option(help="Number of photos to look for failures in.")] = 200,
    budget: Annotated[int | None, Option(metavar="BYTES", min=1, help="Largest payload of these photos.")] = None,
    link: Annotated[
        list[str] | None, Option(metavar="NAME|BPS,RTT,LOSS", help="Links to plan for. Default: 3g, 4g, wifi.")
    ] = None,
    max_drop: Annotated[float | None, Option(help="Most points to lose in these plans.")] = None,
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
      bottlenet report porch.jsonl -o porch.html
    """
    from datetime import datetime, timezone

    from bottlenet.plan.link import LINKS, parse_link
    from bottlenet.report.page import report as make
    from bottlenet.report.sections import Request

    target = REPORT.target(output, force=force)
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
        print_json({"report": str(target), "bytes": len(page), **report_document(html_report)})
    else:
        for each in html_report.sections:
            parts = ((len(each.figures), "figure"), (len(each.tables), "table"))
            say(f"{each.title}: " + ", ".join(f"{count} {name}{'s' * (count != 1)}" for count, name in parts))
        say(f"report: {target}, {len(page):,} bytes")


def photos_of(bundle: str | None, data: str | None, shown: int, limit: int, budget: int | None) -> PhotoWish | None:
    """Load what photos need, unless no bundle is given. InputError: a folder without a bundle, or the reverse."""
    from bottlenet.bundle import Bundle
    from bottlenet.report.photos import PhotoWish

    if (bundle is None) != (data is None):
        alone, lacking = ("--data", "--bundle") if bundle is None else ("--bundle", "--data")
        raise InputError(f"{alone} is given without {lacking}; photos need both, the rest of a report needs neither")
    return None if bundle is None or data is None else PhotoWish(Bundle.load(bundle), data, shown, limit, budget)


def report_document(page: ReportPage) -> dict[str, object]:
    return {
        "sources": [
            {"path": str(each.path), "kind": each.kind, "model": each.model or None, "command": each.command}
            for each in page.sources
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


@needs("train")
@with_configs(config=PrivacyConfig)
def privacy(
    bundle: BundleArgument,
    out: Annotated[str, Option("--out", "-o", metavar="FOLDER", help="Folder for samples, attacker and pictures.")],
    budgets: Annotated[
        list[int],
        Option("--budget", metavar="BYTES", min=1, help="Largest payload; can be repeated. Default: the bundle's own."),
    ] = [],  # noqa: B006 - typer's way to say none
    as_json: Json = False,
    *,
    config: PrivacyConfig,
) -> None:
    r"""Train an attacker who rebuilds photos from payloads, and measure its success.

    One attacker serves all budgets. It is measured on photos that it has not
    learned from, beside a linear map and a JPEG of as many bytes: how close the
    pixels are, whether the uncut network recognises the class, and how often
    the original is found among all photos. That is what this attacker can do,
    not what every attacker can. Samples and attacker are kept in the folder,
    and used again the next time.

    Examples:
      bottlenet privacy demo --data photos --out attacks/demo
      bottlenet privacy demo --data photos --test other_photos \
        --budget 200 --budget 600 --budget 1200 --out attacks/demo --json
    """
    from bottlenet.bundle import Bundle
    from bottlenet.privacy.run import Attack, draw_pictures, run_attack

    loaded = Bundle.load(bundle)
    with progress_bar() as bar:
        task = bar.add_task("", total=None)

        def step(what: str, done: int, total: int | None) -> None:
            bar.update(task, description=what, completed=done, total=total)

        attack = Attack(loaded, config, step)
        report = run_attack(attack)
        pictures = draw_pictures(attack)
    if as_json:
        print_json({**privacy_document(report), "pictures": str(pictures)})
    else:
        stdout().print(privacy_table(report))
        say(f"pictures: {pictures}")


def privacy_document(report: PrivacyReport) -> dict[str, object]:
    from bottlenet.privacy.run import LINEAR, TILE

    return {
        **asdict(report),
        "gain_db": [
            {"budget": each.budget, **{what: report.gain(each.budget, what) for what in (TILE, LINEAR)}}
            for each in report.intended
        ],
        "measured_against": CAPTION,
    }


def privacy_table(report: PrivacyReport) -> Grid:
    rows = []
    for row in report.rows:
        missing = f", {row.missing} do not fit" if row.missing else ""
        rows.append([NAMES[row.what] + missing, number(row.sent_bytes, 0), *quality_cells(row.quality)])
    numbers = (">bytes", ">PSNR\ndB", ">SSIM", ">same\nanswer", ">right\nlabel", ">found by\nscores", ">by\npixels")
    return Grid(
        ("from", *numbers),
        [*rows, ["the original", "", *quality_cells(report.originals)]],
        title=f"{report.bundle}: {report.originals.photos} photos rebuilt, {report.side} pixels",
        caption=CAPTION,
    )


def quality_cells(quality: Quality | None) -> list[str]:
    if quality is None:
        return ["-"] * 6
    rates = (quality.same_answer, quality.right_label, quality.matched_by_scores, quality.matched_by_pixels)
    percents = ("-" if rate is None else f"{rate:.1f} %" for rate in rates)
    return [f"{quality.psnr:.1f}", f"{quality.ssim:.2f}", *percents]
