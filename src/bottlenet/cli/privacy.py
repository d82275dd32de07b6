"""`bottlenet privacy`: how much of a photo can be rebuilt from what is sent, by an attacker who is trained for it."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from bottlenet.cli.options import BundleArgument, Json, require, with_configs
from bottlenet.privacy.config import PrivacyConfig

if TYPE_CHECKING:
    from rich.table import Table

    from bottlenet.privacy.measure import Quality
    from bottlenet.privacy.run import PrivacyReport


CAPTION = "Measured against this attacker, with these photos and this much training. Another one may do better."


@with_configs(config=PrivacyConfig)
def privacy(
    bundle: BundleArgument,
    out: Annotated[str, typer.Option("--out", "-o", metavar="FOLDER", help="For samples, attacker, pictures.")],
    budgets: Annotated[
        list[int],
        typer.Option("--budget", metavar="BYTES", min=1, help="No payload has more; again for more. Or the bundle's."),
    ] = [],  # noqa: B006 - typer's way to say none
    as_json: Json = False,
    *,
    config: PrivacyConfig,
) -> None:
    r"""Train an attacker who rebuilds photos from payloads, and measure what it gets.

    One attacker serves all budgets. It is measured on photos that it has not
    learned from, beside a linear map and beside a JPEG of as many bytes: how
    near the pixels are, whether the uncut network recognises the class, and
    how often the original is found among all photos. It says what this
    attacker can do, not what another can't. What is done stays in the folder,
    first the samples, then the attacker, and is not done again. Needs
    [bold]pip install "bottlenet\[train]"[/].

    Examples:
      bottlenet privacy demo --data photos --out attacks/demo
      bottlenet privacy demo --data photos --test other_photos \
        --budget 200 --budget 600 --budget 1200 --out attacks/demo --json
    """
    require("privacy", "train")
    from bottlenet.bundle import Bundle
    from bottlenet.cli.show import print_json, say, stdout, training_progress
    from bottlenet.privacy.run import Attack, draw_pictures, run_attack

    loaded = Bundle.load(bundle)
    with training_progress() as bar:
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
    """For programs."""
    from bottlenet.privacy.run import LINEAR, TILE

    return {
        **asdict(report),
        "gain_db": [
            {"budget": each.budget, **{what: report.gain(each.budget, what) for what in (TILE, LINEAR)}}
            for each in report.intended
        ],
        "measured_against": CAPTION,
    }


def report_table(report: PrivacyReport) -> Table:
    """For people."""
    from bottlenet.cli.show import clean, number_columns, plain_table, text_columns

    table = plain_table(f"{report.bundle}: {report.originals.photos} photos rebuilt, {report.side} pixels", CAPTION)
    text_columns(table, "from")
    number_columns(table, "bytes", "PSNR\ndB", "SSIM", "same\nanswer", "right\nlabel", "found by\nscores", "by\npixels")
    for row in report.rows:
        size = "-" if row.sent_bytes is None else f"{row.sent_bytes:,.0f}"
        missing = f", {row.missing} do not fit" if row.missing else ""
        table.add_row(clean(NAMES[row.what] + missing), size, *quality_cells(row.quality))
    table.add_row(clean("the original"), "", *quality_cells(report.originals))
    return table


def quality_cells(quality: Quality | None) -> list[str]:
    """Dashes where there is none."""
    if quality is None:
        return ["-"] * 6
    rates = (quality.same_answer, quality.right_label, quality.matched_by_scores, quality.matched_by_pixels)
    return [
        f"{quality.psnr:.1f}",
        f"{quality.ssim:.2f}",
        *("-" if rate is None else f"{rate:.1f} %" for rate in rates),
    ]


NAMES = {
    "attacker": "payload, attacker",
    "linear, tile by tile": "payload, linear map of each tile",
    "linear": "payload, linear map of 3 x 3",
    "jpeg": "JPEG",
}
