"""The paper's setting, as near as one machine gets: how little can be sent for a classifier of 101 classes?

The paper: miniImageNet, 100 classes of 600 photos, 85 % to train on; ResNet-50; 316 bytes cost 2 points. Here:
Caltech-101, EfficientNet-Lite0 with a new last layer and its later layers fine-tuned, 85 % of each class to train on.

- Classes: all names there are, `BACKGROUND_Google` (clutter, no object) kept as one of them: 101 in the set at hand.
- Of the 15 % nothing is trained, tuned or counted. Choices were made on the photos of the 85 % that `bottlenet.train`
  holds out, one in fifty. The photos of `Faces_easy` are crops of those of `Faces`, so a random division can't keep
  them apart; that flatters the uncut and the cut network alike.
- The device runs at most 15 % of the uncut network's FLOPs: it takes the photo at 128 px, where a head costs a third.
  The server's half gets features as large as those of a photo of 224 px, the size that it learned at.
- `--more`: other photos, without labels, from which the units learn to give the classifier's scores too. 6,600 photos
  are few for a head that has to learn a size it has not seen. The classifier itself is fine-tuned without them.
- Two units around the same classifier: `embedded`, this project's own, one bundle cut to each of `--budgets`; and
  `paper`, the paper's unit with JPEG at quality 20 in the loop, one size. Its stride is 1: the features at this cut are
  8x8 already, about the 7x7 that the paper's stride of 2 leaves behind RB8.

What was made is kept in `--work`, so a run that was stopped goes on. `--data`: photos named CLASS_image_NUMBER.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from time import process_time
from typing import Any

import torch
from rich.progress import Progress

from bottlenet.bundle import Bundle
from bottlenet.measure.evaluate import evaluate
from bottlenet.train.runs import LOG, export_run
from bottlenet.train.train import TrainConfig, train
from caltech101_photos import Divided, divide
from finetuned import WEIGHTS, FineTuning, contents, fine_tune
from record import Json, parser, run_script, show, write_record, write_whole

BUDGETS = (64, 100, 150, 200, 316)  # bytes of payload
TEST_SHARE = 0.15
MOST_HEAD_SHARE = 0.15
MOST_DROP = 2.0  # points
MUST_BYTES, AIM_BYTES = 316, 100
PAPER = {  # BottleNet, arXiv 1902.01000v1
    "data": "miniImageNet, 100 classes",
    "model": "ResNet-50",
    "top1_uncut": 76.1,
    "rows": [
        {"cut": "RB1", "channels": 1, "payload_bytes": 316, "top1": 74.1},
        {"cut": "RB8", "channels": 5, "payload_bytes": 96, "top1_drop_at_most": 2.0},
        {"cut": "RB14", "channels": 10, "payload_bytes": 52, "top1_drop_at_most": 2.0},
    ],
}


def configs(arguments: argparse.Namespace, photos: Path) -> dict[str, TrainConfig]:
    """Configure the two runs, which share the head's frozen layers, and so its features on disk."""
    common: dict[str, Any] = {
        "model": "finetuned:classifier",
        # twice, so that the classes that count are half of it
        "data": (str(photos), str(photos), *arguments.more) if arguments.more else (str(photos),),
        "cut": arguments.cut,
        "learn_from": arguments.learn_from,
        "head_size": arguments.head_size,
        "crops": arguments.crops,
        "batch": arguments.batch,
        "label_weight": arguments.label_weight,
        "seed": arguments.seed,
        "cache": str(arguments.work / "features"),
        "checkpoint_minutes": 2.0,
    }
    embedded = TrainConfig(
        **common,
        out=str(arguments.work / "embedded"),
        codec="entropy",
        channels=arguments.channels,
        stride=arguments.stride,
        epochs=arguments.epochs,
        lr=arguments.lr,
        tail_lr=arguments.tail_lr,
        tail_size=arguments.tail_size,
        kernels=arguments.kernels,
        scores_weight=arguments.scores_weight,
        smallest_bytes=arguments.smallest_bytes,
        largest_bytes=arguments.largest_bytes,
    )
    paper = TrainConfig(
        **common,
        out=str(arguments.work / "paper"),
        unit="paper",
        codec="jpeg",
        quality=20,
        channels=arguments.paper_channels,
        stride=1,
        epochs=arguments.paper_epochs,
        lr=1e-3,
        tail_lr=arguments.tail_lr,
    )
    runs = {"embedded": embedded, "paper": paper}
    return {name: config for name, config in runs.items() if name in arguments.units}


@contextmanager
def timed(work: Path, stage: str) -> Iterator[None]:
    """Add the processor's minutes to what the stage took before."""
    path, started = work / "minutes.json", process_time()
    yield
    minutes = kept_minutes(work)
    minutes[stage] = minutes.get(stage, 0.0) + (process_time() - started) / 60
    write_whole(path, json.dumps(minutes).encode())
    print(f"{stage}: {minutes[stage]:.1f} minutes", flush=True)


def kept_minutes(work: Path) -> dict[str, float]:
    """Read the minutes of the stages that were finished."""
    path = work / "minutes.json"
    minutes: dict[str, float] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return minutes


def bundle_of(name: str, config: TrainConfig, work: Path, progress: Progress) -> Bundle:
    """Train as far as it was not done, and export."""
    with timed(work, f"train {name}"):
        train(config, progress)
    path = work / f"{name}.bundle"
    if not path.exists():
        with timed(work, f"export {name}"):
            # tiles side by side: padding them would cost the paper's unit bytes for nothing
            export_run(config.out, path, align=None if config.codec == "entropy" else 1)
    return Bundle.load(path)


def row(name: str, bundle: Bundle, test: Path, budget: int | None, arguments: argparse.Namespace) -> dict[str, Any]:
    """Evaluate the bundle on photos that nothing was trained on, as it is deployed, and keep the row beside it."""
    path = arguments.work / "rows" / f"{name}-{bundle.tag.hex()}-{budget or 'whole'}.json"
    if not path.exists():
        with timed(arguments.work, f"evaluate {name}"):
            found = evaluate(bundle, test, budget=budget, threads=arguments.threads)
        write_whole(path, json.dumps(asdict(found)).encode())
    measured: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return {"unit": name, "budget": budget, **measured}


def passes_of(run: Path) -> list[dict[str, Any]]:
    """Read what a run logged about its held-out photos, pass by pass."""
    lines = [json.loads(line) for line in (run / LOG).read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if "held_out" in line]


def verdict(rows: list[dict[str, Any]]) -> dict[str, Json]:
    """Compare the drop at two sizes, points, and the device's share with the targets."""
    at = {each["budget"]: each["top1_drop"] for each in rows if each["unit"] == "embedded"}
    return {
        "most_drop": MOST_DROP,
        "must_bytes": MUST_BYTES,
        "must_met": MUST_BYTES in at and at[MUST_BYTES] <= MOST_DROP,
        "aim_bytes": AIM_BYTES,
        "aim_met": AIM_BYTES in at and at[AIM_BYTES] <= MOST_DROP,
        "most_head_flops_share": MOST_HEAD_SHARE,
        "head_met": all(each["head_flops_share"] <= MOST_HEAD_SHARE for each in rows),
    }


def shown(rows: list[dict[str, Any]], photos: int, classes: int) -> None:
    """Print the table."""
    show(
        f"{photos:,} photos of {classes} classes, uncut {rows[0]['top1_uncut']:.1f} %",
        ["unit", "budget", "payload: mean", "largest", "top-1, %", "drop, points", "head FLOPs, %"],
        [
            [
                each["unit"],
                str(each["budget"] or "-"),
                f"{each['payload_bytes']['mean']:.1f}",
                str(each["payload_bytes"]["max"]),
                f"{each['top1']:.1f}",
                f"{each['top1_drop']:.1f}",
                f"{100 * each['head_flops_share']:.1f}",
            ]
            for each in rows
        ],
    )


def tuning_of(arguments: argparse.Namespace) -> FineTuning:
    return FineTuning(
        arguments.model,
        arguments.finetune_from,
        arguments.finetune_epochs,
        arguments.finetune_crops,
        arguments.batch,
        seed=arguments.seed,
    )


def results_of(arguments: argparse.Namespace, divided: Divided, rows: list[dict[str, Any]]) -> dict[str, Json]:
    """Collect the results; of folders only their names: the rest is this machine's."""
    tuning, runs = tuning_of(arguments), configs(arguments, divided.train)
    without = ("data", "out", "cache")
    return {
        "classes": len(divided.classes),
        "background_kept": "BACKGROUND_Google" in divided.classes,
        "train_photos": divided.train_photos,
        "test_photos": divided.test_photos,
        "more": [Path(folder).name for folder in arguments.more],
        "fine_tuning": asdict(tuning),
        "configs": {name: {k: v for k, v in asdict(c).items() if k not in without} for name, c in runs.items()},
        "passes": {name: passes_of(Path(config.out)) for name, config in runs.items()},
        "top1_uncut": rows[0]["top1_uncut"],
        "rows": rows,
        **verdict(rows),
        "paper": PAPER,
    }


def run(arguments: argparse.Namespace) -> None:
    """Divide, fine-tune, train, measure, write."""
    torch.set_num_threads(arguments.threads)
    work = arguments.work
    divided = divide(
        Path(arguments.data), work / "photos", test_share=TEST_SHARE, seed=arguments.seed, limit=arguments.limit
    )
    tuning, runs = tuning_of(arguments), configs(arguments, divided.train)
    rows = []
    with Progress() as progress:
        with timed(work, "fine-tune"):
            weights = fine_tune(tuning, divided.train, divided.classes, "Caltech-101", work, progress)
        os.environ[WEIGHTS] = str(weights)
        for name, config in runs.items():
            bundle = bundle_of(name, config, work, progress)
            budgets = arguments.budgets if config.codec == "entropy" else [None]
            rows += [row(name, bundle, divided.test, budget, arguments) for budget in budgets]
    shown(rows, divided.test_photos, len(divided.classes))
    results = results_of(arguments, divided, rows)
    results |= {"fine_tuning_passes": contents(weights)[0]["passes"], "minutes": {**kept_minutes(work)}}
    write_record("caltech101", results, arguments.out)


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--data", required=True, help="folder of photos named CLASS_image_NUMBER")
    made.add_argument("--work", type=Path, default=Path("runs/caltech101"), help="folder for all that is made, 2 GB")
    made.add_argument("--units", nargs="+", choices=["embedded", "paper"], default=["embedded", "paper"])
    made.add_argument("--budgets", type=int, nargs="+", default=BUDGETS, help="bytes of payload")
    made.add_argument("--limit", type=int, help="take this many photos of a class at most")
    made.add_argument("--seed", type=int, default=0, help="of the division and of all that is trained")
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--batch", type=int, default=32)
    made.add_argument("--more", action="append", default=[], help="folder of photos for the units; can be repeated")
    classifier = made.add_argument_group("the classifier")
    classifier.add_argument("--model", default="efficientnet_lite0", help="what is fine-tuned")
    classifier.add_argument("--finetune-from", default="blocks.11", help="the layers behind this cut learn")
    classifier.add_argument("--finetune-epochs", type=int, default=5)
    classifier.add_argument("--finetune-crops", type=int, default=3, help="sets of random crops")
    units = made.add_argument_group("the units")
    units.add_argument("--cut", default="blocks.7")
    units.add_argument("--learn-from", default="blocks.2", help="the head learns behind this cut")
    units.add_argument("--head-size", type=int, default=128, help="pixels")
    units.add_argument("--tail-size", type=int, default=224, help="pixels; only of `embedded`, as the next two")
    units.add_argument("--kernels", action=argparse.BooleanOptionalAction, default=True, help="the head's learn too")
    units.add_argument("--scores-weight", type=float, default=4.0, help="of the scores' relative squared error")
    units.add_argument("--channels", type=int, default=192)
    units.add_argument("--stride", type=int, default=2)
    units.add_argument("--epochs", type=int, default=8)
    units.add_argument("--crops", type=int, default=4, help="sets of random crops")
    units.add_argument("--lr", type=float, default=8e-4)
    units.add_argument("--tail-lr", type=float, default=1.5e-4)
    units.add_argument("--label-weight", type=float, default=0.0)
    units.add_argument("--smallest-bytes", type=float, default=100.0)
    units.add_argument("--largest-bytes", type=float, default=400.0)
    units.add_argument("--paper-channels", type=int, default=16)
    units.add_argument("--paper-epochs", type=int, default=3)
    run_script(made, run)


if __name__ == "__main__":
    main()
