"""What does it cost in accuracy to give less away? Units trained with `--adversarial`, and an attacker for each.

Trains one unit for each of `--weights`, on the same photos, in the same order, from the same start, as the printed
`bottlenet train` would, and attacks each at one budget. What stands in `--work` is not made again.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress

from bottlenet.bundle import Bundle
from bottlenet.privacy import PrivacyConfig
from bottlenet.privacy.run import ATTACKER, LINEAR, TILE, Attack, run_attack
from bottlenet.records import without_root
from bottlenet.report.charts import Axis, Drawing, Rule, Series, line_chart, percents, spanning
from bottlenet.train.config import TrainConfig
from bottlenet.train.runs import export_run
from bottlenet.train.train import train
from record import add_network, parser, run_script, show, write_drawing, write_record

TRAINED_BY = ("model", "cut", "unit", "channels", "stride", "head_size", "photos", "epochs", "batch", "lr", "tail_lr")


@dataclass(frozen=True)
class Row:
    """One weight."""

    weight: float
    bundle_id: str
    same_answer: float  # percent of photos to which the server gives the uncut network's answer
    psnr: dict[str, float]  # dB, by who rebuilds
    ssim: float  # of the attacker
    found_by_pixels: float  # percent, of the attacker
    mean_psnr: float  # of the mean photo


def bundle_at(arguments: argparse.Namespace, weight: float, progress: Progress) -> Bundle:
    """Train and export the unit of one weight, or load what is in `--work`."""
    out = arguments.work / f"{weight:g}"
    told = {name: getattr(arguments, name) for name in TRAINED_BY}
    config = TrainConfig(
        **told, data=tuple(arguments.train), out=str(out), codec="entropy", adversarial=weight, no_cache=True, workers=0
    )
    words = [part for name in TRAINED_BY for part in (f"--{name.replace('_', '-')}", told[name])]
    words += ["--codec", "entropy", "--no-cache", "--workers", 0, "--adversarial", weight]
    words += [part for folder in config.data for part in ("--data", without_root(folder))]
    print("bottlenet train " + shlex.join(map(str, [*words, "--out", without_root(config.out)])), file=sys.stderr)
    path = Path(f"{out}.bundle")
    if not path.exists():
        train(config, progress)
        export_run(config.out, path)
    return Bundle.load(path)


def attacked(arguments: argparse.Namespace, weight: float, bundle: Bundle) -> Row:
    """By an attacker of its own, who knows the bundle."""
    config = PrivacyConfig(
        data=tuple(arguments.attack_train or arguments.train),
        out=str(arguments.work / f"attack-{weight:g}"),
        budgets=(arguments.budget,),
        test=arguments.data,
        limit=arguments.limit,
        photos=arguments.attack_photos,
        side=arguments.side,
        width=arguments.width,
        epochs=arguments.attack_epochs,
        crops=1,
        perceptual=0,
    )
    report = run_attack(Attack(bundle, config))
    found = {what: report.row(what, arguments.budget).quality for what in (ATTACKER, TILE, LINEAR)}
    attacker = found[ATTACKER]
    assert attacker is not None
    return Row(
        weight,
        report.bundle_id,
        report.intended[0].same_answer,
        {what: quality.psnr for what, quality in found.items() if quality is not None},
        attacker.ssim,
        attacker.matched_by_pixels,
        report.mean_psnr,
    )


def draw(rows: Sequence[Row], budget: int) -> Drawing:
    """Draw the server's answers against what the attacker rebuilds."""
    weights = tuple(f"{row.weight:g}" for row in rows)
    series = [
        Series(ATTACKER, tuple((row.psnr[ATTACKER], row.same_answer) for row in rows), weights, bold=True),
        Series(LINEAR, tuple((row.psnr[LINEAR], row.same_answer) for row in rows)),
    ]
    decibels = [*(x for each in series for x, _ in each.points), rows[0].mean_psnr]
    return line_chart(
        f"What is rebuilt from {budget} bytes, and what is answered, by the weight of --adversarial",
        "; ".join(f"{row.weight:g}: {row.psnr[ATTACKER]:.1f} dB, {row.same_answer:.1f} % same answer" for row in rows),
        series,
        Axis(f"PSNR of what is rebuilt from {budget} bytes, dB", spanning(decibels, margin=0.1)),
        Axis("same answer as the uncut network, %", percents(row.same_answer for row in rows)),
        rules=[Rule(rows[0].mean_psnr, "mean photo")],
    )


def run(arguments: argparse.Namespace) -> None:
    """Train, attack, record after each weight, and draw."""
    torch.set_num_threads(arguments.threads)
    rows: list[Row] = []
    told = (*TRAINED_BY, "budget", "side", "width", "attack_photos", "attack_epochs", "limit")
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
        for weight in arguments.weights:
            rows.append(attacked(arguments, weight, bundle_at(arguments, weight, progress)))
            numbers = {name: getattr(arguments, name) for name in told}
            write_record("adversarial", {**numbers, "rows": [asdict(row) for row in rows]}, arguments.out)
    write_drawing(arguments.out / "adversarial.svg", draw(rows, arguments.budget))
    names = ["weight", "same answer, %", "attacker, dB", "3 x 3, dB", "tile, dB", "SSIM", "by pixels, %"]
    cells = []
    for row in rows:
        psnr = [f"{row.psnr[what]:.2f}" for what in (ATTACKER, LINEAR, TILE)]
        same, ssim, found = f"{row.same_answer:.1f}", f"{row.ssim:.3f}", f"{row.found_by_pixels:.1f}"
        cells.append([f"{row.weight:g}", same, *psnr, ssim, found])
    show(f"{arguments.cut}, {arguments.budget} bytes", names, cells)


def main() -> None:
    made = parser(__doc__)
    add_network(made)
    made.add_argument("--data", required=True, help="folder of photos to rebuild")
    made.add_argument("--limit", type=int, default=PrivacyConfig.limit, help="take this many of them at most")
    made.add_argument("--train", action="append", required=True, help="folder that units learn from; can be repeated")
    made.add_argument("--attack-train", action="append", help="other folders for the attacker")
    made.add_argument("--attack-photos", type=int, default=0, help="take this many of those, evenly spread; 0: all")
    made.add_argument("--attack-epochs", type=int, default=PrivacyConfig.epochs)
    made.add_argument("--work", type=Path, default=Path("runs/adversarial"), help="folder for bundles and attackers")
    made.add_argument("--weights", type=float, nargs="+", default=[0.0, 1.0, 10.0])
    made.add_argument("--budget", type=int, default=600, metavar="BYTES")
    made.add_argument("--unit", default=TrainConfig.unit)
    made.add_argument("--channels", type=int, default=192)
    made.add_argument("--stride", type=int, default=2)
    made.add_argument("--head-size", type=int, default=0, help="side of the photo that the head takes; 0: as the model")
    made.add_argument("--photos", type=int, default=0, help="a unit learns from this many, evenly spread; 0: all")
    made.add_argument("--epochs", type=int, default=3)
    made.add_argument("--batch", type=int, default=TrainConfig.batch)
    made.add_argument("--lr", type=float, default=TrainConfig.lr)
    made.add_argument("--tail-lr", type=float, default=TrainConfig.tail_lr)
    made.add_argument("--side", type=int, default=56)
    made.add_argument("--width", type=int, default=PrivacyConfig.width)
    made.add_argument("--threads", type=int, default=1)
    run_script(made, run)


if __name__ == "__main__":
    main()
