"""What is it worth to train with the codec in the loop? The paper's Fig. 7.

Trains one unit twice, on the same photos, in the same order, from the same start: naive, without the codec, and aware,
with JPEG at `--quality` in the loop. Then both are sent through JPEG of quality 5 to 95, and classified.

At one quality the two don't send the same number of bytes, so the table and the figure give bytes too.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from rich.progress import Progress

from bottlenet.errors import InputError
from bottlenet.net.model import BottleNet
from bottlenet.photos.crops import Damaged, centre_views
from bottlenet.photos.folders import Photo, choose, list_photos
from bottlenet.report.charts import Drawing
from bottlenet.report.sections import Request
from bottlenet.report.training import Rate, naive_figure
from bottlenet.train.train import TrainConfig, train
from bottlenet.wire.codecs import Jpeg
from record import add_network, parser, run_script, show, write_drawing, write_record

QUALITIES = (5, 10, 20, 30, 50, 70, 90, 95)
BATCH = 16
TARGET_GAP = 10  # points that aware should be above naive at its own training quality


@dataclass(frozen=True)
class Row:
    """One network at one quality."""

    training: str  # naive | aware
    quality: int
    payload_bytes: float  # mean
    top1: float  # percent


@torch.no_grad()
def measure(nets: dict[str, BottleNet], photos: Sequence[Photo], progress: Progress) -> tuple[float, list[Row]]:
    """Return the uncut network's top-1, and a row for each network and quality, one batch in memory at a time."""
    origin = nets["aware"].origin
    assert origin is not None
    uncut = origin.classifier
    codecs = {quality: Jpeg(nets["aware"].codec.mosaic, quality) for quality in QUALITIES}
    tally = {(name, quality): [0, 0] for name in nets for quality in QUALITIES}  # right, bytes
    uncut_right = done = 0
    task = progress.add_task("evaluating", total=len(photos))
    crops = centre_views(photos, (uncut.preprocess.size,), Damaged(len(photos)), uncut.preprocess)
    while batch := list(islice(crops, BATCH)):
        positions = [position for position, _ in batch]
        pixels = torch.from_numpy(np.stack([one for _, (one,) in batch]))
        labels = torch.tensor([photos[position].label for position in positions])
        for name, net in nets.items():
            features = net.head(pixels)
            for quality, codec in codecs.items():
                net.codec = codec
                output = net.forward_features(features)
                assert output.payload_bytes is not None
                counts = tally[name, quality]
                counts[0] += int((output.scores.argmax(1) == labels).sum())
                counts[1] += int(output.payload_bytes.sum())
        normalised = nets["aware"].head[0](pixels)
        uncut_right += int((uncut.module(normalised).argmax(1) == labels).sum())
        done += len(batch)
        progress.update(task, completed=done)
    rows = [Row(name, quality, size / done, 100 * right / done) for (name, quality), (right, size) in tally.items()]
    return 100 * uncut_right / done, rows


def aware_config(arguments: argparse.Namespace) -> TrainConfig:
    """Configure the run with the codec in the loop; the other differs in nothing else."""
    return TrainConfig(
        model=arguments.model,
        data=tuple(arguments.data),
        out=str(arguments.runs / "aware"),
        cut=arguments.cut,
        unit=arguments.unit,
        channels=arguments.channels,
        stride=arguments.stride,
        quality=arguments.quality,
        epochs=arguments.epochs,
        crops=1,
        batch=arguments.batch,
        cache=str(arguments.runs / "features"),
    )


def run(arguments: argparse.Namespace) -> None:
    """Train both, measure, show, write."""
    torch.set_num_threads(arguments.threads)
    photos = choose([photo for photo in list_photos(arguments.eval) if photo.label is not None], arguments.limit)
    if not photos:
        raise InputError(f"{arguments.eval}: no labelled photos in it")
    aware = aware_config(arguments)
    configs = {"naive": replace(aware, naive=True, out=str(arguments.runs / "naive")), "aware": aware}
    with Progress() as progress:
        nets = {name: train(config, progress) for name, config in configs.items()}
        uncut, rows = measure(nets, photos, progress)
    at = {row.training: row for row in rows if row.quality == min(QUALITIES, key=lambda q: abs(q - arguments.quality))}
    gap = at["aware"].top1 - at["naive"].top1
    show(
        f"{aware.model} cut at {aware.cut}, unit {aware.unit}, {len(photos)} photos, uncut {uncut:.1f} %",
        ["training, JPEG quality", "payload bytes", "top-1, %"],
        [[f"{row.training}, {row.quality}", f"{row.payload_bytes:.0f}", f"{row.top1:.1f}"] for row in rows],
    )
    print(f"at quality {arguments.quality} aware is {gap:.1f} points above naive")
    kept = ("model", "cut", "unit", "channels", "stride", "quality", "epochs", "batch", "lr", "tail_lr")
    results = {
        "config": {name: getattr(aware, name) for name in kept} | {"channels": nets["aware"].codec.mosaic.channels},
        "photos": len(photos),
        "top1_uncut": uncut,
        "rows": [asdict(row) for row in rows],
        "gap_at_training_quality": gap,
        "target_gap": TARGET_GAP,
        "met": gap >= TARGET_GAP,
    }
    write_record(arguments.name, results, arguments.out)
    rates = [Rate(row.training, row.quality, row.payload_bytes, row.top1) for row in rows]
    write_drawing(arguments.out / f"{arguments.name}.svg", *draw(rates, len(photos)))


def draw(rates: Sequence[Rate], photos: int) -> Iterator[Drawing]:
    """Draw top-1 against quality, as in the paper, and against bytes."""
    for axis in ("JPEG quality", "mean payload bytes"):
        title, axes = "Top-1, naive and aware of the codec", (axis, "top-1, %")
        yield naive_figure(title, rates, axes, "", photos, Request("", "", "")).drawing


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--data", action="append", required=True, help="folder of photos to train on; can be repeated")
    made.add_argument("--eval", required=True, help="folder of labelled photos")
    made.add_argument("--runs", type=Path, default=Path("runs/naive_aware"), help="folder for the two runs")
    made.add_argument("--name", default="naive_aware", help="of the record and the figure")
    add_network(made)
    made.add_argument("--unit", default=TrainConfig.unit)
    made.add_argument("--channels", type=int, default=TrainConfig.channels)
    made.add_argument("--stride", type=int, default=TrainConfig.stride)
    made.add_argument("--quality", type=int, default=20, help="of JPEG in the loop; 20 is the paper's")
    made.add_argument("--epochs", type=int, default=2)
    made.add_argument("--batch", type=int, default=TrainConfig.batch)
    made.add_argument("--limit", type=int, help="take this many of the photos of --eval")
    made.add_argument("--threads", type=int, default=1)
    run_script(made, run)


if __name__ == "__main__":
    main()
