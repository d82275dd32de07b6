"""`bottlenet privacy`: how much of a photo can be rebuilt from what is sent, by an attacker who is trained for it."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from bottlenet.cli.options import BundleArgument, Json, needs, with_configs
from bottlenet.cli.show import Grid, number, print_json, progress_bar, say, stdout
from bottlenet.privacy.config import PrivacyConfig

if TYPE_CHECKING:
    from bottlenet.privacy.measure import Quality
    from bottlenet.privacy.run import PrivacyReport

CAPTION = "Measured against this attacker, with these photos and this much training. Another one may do better."
NAMES = {
    "attacker": "payload, attacker",
    "linear, tile by tile": "payload, linear map of each tile",
    "linear": "payload, linear map of 3 x 3",
    "jpeg": "JPEG",
}


@needs("train")
@with_configs(config=PrivacyConfig)
def privacy(
    bundle: BundleArgument,
    out: Annotated[
        str, typer.Option("--out", "-o", metavar="FOLDER", help="Folder for samples, attacker and pictures.")
    ],
    budgets: Annotated[
        list[int],
        typer.Option(
            "--budget", metavar="BYTES", min=1, help="Largest payload; can be repeated. Default: the bundle's own."
        ),
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
        attack = Attack(
            loaded,
            config,
            lambda what, done, total: bar.update(task, description=what, completed=done, total=total),
        )
        report = run_attack(attack)
        pictures = draw_pictures(attack)
    if as_json:
        print_json({**document(report), "pictures": str(pictures)})
    else:
        stdout().print(report_table(report))
        say(f"pictures: {pictures}")


def document(report: PrivacyReport) -> dict[str, object]:
    from bottlenet.privacy.run import LINEAR, TILE

    return {
        **asdict(report),
        "gain_db": [
            {"budget": each.budget, **{what: report.gain(each.budget, what) for what in (TILE, LINEAR)}}
            for each in report.intended
        ],
        "measured_against": CAPTION,
    }


def report_table(report: PrivacyReport) -> Grid:
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
