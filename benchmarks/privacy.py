"""How much of a photo can be rebuilt from what is sent? By cut and by budget, against an attacker trained for it.

Trains and exports a quick bundle for each `--cut`, as the printed `bottlenet train` would, and attacks them and the
shipped one as `bottlenet privacy` does. What stands in `--work` is not made again.

All of it is measured against this attacker. Another one, with more photos and more time, may do better.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress

from bottlenet.bundle import Bundle
from bottlenet.errors import InputError
from bottlenet.privacy import PrivacyConfig
from bottlenet.privacy.run import ATTACKER, JPEG, LINEAR, TILE, Attack, PrivacyReport, draw_pictures, run_attack
from bottlenet.records import without_root
from bottlenet.train.config import TrainConfig
from bottlenet.train.runs import export_run
from bottlenet.train.train import train
from record import Json, parser, run_script, show, write_record, write_whole

SHIPPED = "shipped"
TARGET_GAIN = 2.0  # dB that the attacker should be above the linear map of each tile


def quick_config(arguments: argparse.Namespace, cut: str, stride: int) -> TrainConfig:
    """Configure a bundle of another cut, whose latent has the shape of the shipped one's, and print its command."""
    config = TrainConfig(
        model=arguments.model,
        data=tuple(arguments.train_bundles or arguments.train),
        out=str(arguments.work / cut),
        cut=cut,
        channels=arguments.channels,
        stride=stride,
        codec="entropy",
        epochs=arguments.bundle_epochs,
        crops=arguments.bundle_crops,
        cache=str(arguments.work / "cache"),
    )
    words = ["--model", config.model, "--cut", cut, "--channels", config.channels, "--stride", stride]
    words += ["--codec", "entropy", "--epochs", config.epochs, "--crops", config.crops]
    words += [part for folder in config.data for part in ("--data", without_root(folder))]
    print("bottlenet train " + shlex.join(map(str, [*words, "--out", without_root(config.out)])), file=sys.stderr)
    return config


def bundle_at(arguments: argparse.Namespace, cut: str, stride: int, progress: Progress) -> Bundle:
    """Train and export the bundle of a cut, or load what is in `--work`."""
    path = arguments.work / f"{cut}.bundle"
    config = quick_config(arguments, cut, stride)
    if not path.exists():
        train(config, progress)
        export_run(config.out, path)
    return Bundle.load(path)


def attacked(arguments: argparse.Namespace, name: str, bundle: Bundle, progress: Progress) -> dict[str, Json]:
    """Attack one bundle, print its table, and keep its pictures beside the record."""
    config = PrivacyConfig(
        data=tuple(arguments.train),
        out=str(arguments.work / f"attack-{name}"),
        budgets=tuple(arguments.budgets),
        test=arguments.data,
        model=arguments.model,
        limit=arguments.limit,
        photos=arguments.photos,
        **{each: getattr(arguments, each) for each in ("crops", "epochs", "side", "width", "blocks", "perceptual")},
    )
    task = progress.add_task(name, total=None)
    attack = Attack(
        bundle,
        config,
        lambda what, done, total: progress.update(task, description=f"{name}: {what}", completed=done, total=total),
    )
    started = time.process_time()
    report = run_attack(attack)
    show_report(name, report)
    write_whole(arguments.out / f"privacy_{name}.webp", draw_pictures(attack).read_bytes())
    print(f"{name}: {time.process_time() - started:.0f} s of processor time", file=sys.stderr, flush=True)
    return {
        "name": name,
        **asdict(report),
        "gain_db": [
            {"budget": each.budget, "tile": report.gain(each.budget, TILE), "linear": report.gain(each.budget, LINEAR)}
            for each in report.intended
        ],
    }


def show_report(name: str, report: PrivacyReport) -> None:
    """Print every row of one bundle."""
    rows = []
    for row in report.rows:
        found = row.quality
        rates = [] if found is None else [found.same_answer, found.matched_by_scores, found.matched_by_pixels]
        size = "-" if row.sent_bytes is None else f"{row.sent_bytes:.0f}"
        shown = ["-"] * 5 if found is None else [f"{found.psnr:.2f}", f"{found.ssim:.3f}", *(f"{r:.1f}" for r in rates)]
        rows.append([row.what, str(row.budget), size, *shown])
    names = ["from", "budget", "bytes", "PSNR, dB", "SSIM", "same answer, %", "found by scores, %", "by pixels, %"]
    show(f"{name}: cut {report.cut}, {report.originals.photos} photos", names, rows)


def cut_of(text: str) -> tuple[str, int]:
    """CUT:STRIDE."""
    cut, found, stride = text.rpartition(":")
    if not found or not stride.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r}: give a cut and its stride, as in blocks.4:4")
    return cut, int(stride)


def run(arguments: argparse.Namespace) -> None:
    """Train bundles, attack them, and record."""
    torch.set_num_threads(arguments.threads)
    results: list[Json] = []
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
        bundles = {cut: bundle_at(arguments, cut, stride, progress) for cut, stride in arguments.cut}
        for name, bundle in {SHIPPED: Bundle.load("demo") if arguments.shipped else None, **bundles}.items():
            if bundle is not None:
                results.append(attacked(arguments, name, bundle, progress))
                write(arguments, results)  # after each: the next one takes its time
    if not results:
        raise InputError("nothing to attack; give --cut, or leave out --no-shipped")


def write(arguments: argparse.Namespace, results: list[Json]) -> None:
    """Write the record of the bundles that are done."""
    names = ("crops", "epochs", "side", "width", "blocks", "perceptual", "photos", "limit")
    written: Json = {
        "data": Path(arguments.data).name,
        "budgets": list(arguments.budgets),
        "attack": {name: getattr(arguments, name) for name in names},
        "target_gain_db": TARGET_GAIN,
        "columns": [ATTACKER, TILE, LINEAR, JPEG],
        "bundles": results,
    }
    write_record("privacy", written, arguments.out)


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--data", required=True, help="folder of photos to rebuild")
    made.add_argument("--limit", type=int, default=PrivacyConfig.limit, help="take this many of them at most")
    made.add_argument("--train", action="append", required=True, help="folder to learn from; can be repeated")
    made.add_argument("--photos", type=int, default=0, help="take this many of those, evenly spread; 0: all")
    made.add_argument("--train-bundles", action="append", help="other folders for the bundles to learn from")
    made.add_argument("--work", type=Path, default=Path("runs/privacy"), help="folder for bundles and attackers")
    made.add_argument("--cut", action="append", type=cut_of, default=[], metavar="CUT:STRIDE", help="train it here")
    made.add_argument("--no-shipped", dest="shipped", action="store_false", help="leave out the shipped bundle")
    made.add_argument("--budgets", type=int, nargs="+", default=[200, 600, 1200], metavar="BYTES")
    made.add_argument("--model", default="efficientnet_lite0", help="efficientnet_lite0, or package.module:function")
    made.add_argument("--channels", type=int, default=192, help="of the latents of those that are trained here")
    made.add_argument("--bundle-epochs", type=int, default=3, help="passes that a bundle is trained for")
    made.add_argument("--bundle-crops", type=int, default=2)
    for name in ("crops", "epochs", "side", "width", "blocks"):
        made.add_argument(f"--{name}", type=int, default=getattr(PrivacyConfig, name))
    made.add_argument("--perceptual", type=float, default=PrivacyConfig.perceptual)
    made.add_argument("--threads", type=int, default=1)
    run_script(made, run)


if __name__ == "__main__":
    main()
