"""The paper's own experiment, end to end, as far as one machine goes: its Table 4, its Fig. 7, and more beside them.

The paper: miniImageNet, 100 classes; ResNet-50 with the unit after a residual block; head, unit and tail learn together
from labels, with JPEG at quality 20 in the loop; 316 bytes cost at most 2 points, and the codec put in after a training
without it costs 18. Here: Caltech-101 as in caltech101.py (the same division, the same fine-tuned EfficientNet-Lite0),
and cuts of the paper's sizes, 56x56 to 7x7.

    table     each cut with 1, 2 and 4 channels at stride 2: the smallest that costs at most 2 points
    fig7      at the earliest cut: trained without the codec (naive) and with it (aware), then sent at quality 5 to 95;
              each from principal components and from random weights
    parts     at one cut, with one thing changed: head frozen, distillation alone, labels alone, a random start, norms
              that follow the photos
    beside    the residual unit, the entropy codec, a mean size that is steered to, input codecs at as many bytes, and
              the whole network on the device with a smaller photo

Each row is trained and measured in a process of its own, which goes on where it was stopped; `--row NAME` does one of
them, on whatever machine. What is done is kept in `--work`. The record has the rows there are, and names the others.
Scan bytes are the payload: of a complete JPEG file the 330 bytes around the scan are the same for every photo.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress

from bottlenet.bundle import Bundle
from bottlenet.errors import InputError
from bottlenet.measure.evaluate import evaluate
from bottlenet.net.models import Normalize, load_model
from bottlenet.photos.crops import Damaged, centre_views
from bottlenet.photos.folders import Photo, list_photos
from bottlenet.train.runs import export_run
from bottlenet.train.train import TrainConfig, train
from caltech101 import TEST_SHARE, kept_minutes, passes_of, timed
from caltech101_photos import Divided, divide
from finetuned import WEIGHTS, FineTuning, fine_tune
from input_codecs import measure as measure_input_codecs
from input_codecs import settings
from naive_aware import measure as measure_qualities
from record import Json, commit, parser, run_script, show, write_record, write_whole

CUTS = ("blocks.2", "blocks.4", "blocks.8", "blocks.10", "blocks.12")  # 56x56, 28x28, 14x14, 14x14, 7x7
CHANNELS = (1, 2, 4)
SIZES = (192, 160, 128, 112, 96)  # pixels of the photo that the whole network on the device takes
BUDGETS = (64, 100, 150, 200, 316)  # bytes, of the entropy codec
QUALITY = 20
AROUND_SCAN = 330  # bytes of a complete grey JPEG file: 328 before the scan, 2 behind it
MOST_DROP, MUST_DROP, MUST_BYTES, MUST_GAP, MOST_HEAD_SHARE = 2.0, 5.0, 316, 10.0, 0.33
MEASURED = ("input codecs", "smaller photo")  # rows of the classifier alone: nothing is trained
PAPER: dict[str, Json] = {  # arXiv 1902.01000v1
    "model": "ResNet-50",
    "data": "miniImageNet, 100 classes",
    "top1_uncut": 76.1,
    "top1_drop": 2.0,
    "payload_bytes": {"56x56": 316, "28x28": 166, "14x14": 96, "7x7": 52},
    "channels": {"56x56": 1, "28x28": 2, "14x14": 5, "7x7": 10},
    "naive_points_below_aware_at_20": 18,
    "epochs": 90,
}


def trained_rows(cuts: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Map the name of each row that is trained to what its configuration has in place of the usual."""
    rows: dict[str, dict[str, Any]] = {
        f"table {cut} {channels}": {"cut": cut, "channels": channels} for cut in cuts for channels in CHANNELS
    }
    first = {"cut": cuts[0], "channels": CHANNELS[-1]}
    rows["fig7 naive"] = {**first, "naive": True}
    rows["fig7 aware random"] = {**first, "components": False}
    rows["fig7 naive random"] = {**first, "naive": True, "components": False}
    one = {"cut": cuts[1], "channels": CHANNELS[-1]}
    rows["parts head frozen"] = {**one, "end_to_end": False}
    rows["parts distillation"] = {**one, "label_weight": 0.0}
    rows["parts labels"] = {**one, "distillation_weight": 0.0}
    rows["parts random start"] = {**one, "components": False}
    rows["parts norms stay"] = {**one, "norms": False}
    rows["beside steered"] = {**one, "channels": 2 * CHANNELS[-1], "target_bytes": 300.0}
    rows["beside residual"] = {**one, "unit": "residual"}
    embedded = {"unit": "residual", "codec": "entropy", "channels": 8 * CHANNELS[-1], "largest_bytes": 316.0}
    rows["beside entropy"] = {**one, **embedded}
    return rows


def fig7_pairs(cuts: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Map each start to its two rows, aware and naive."""
    return {
        "components": (f"table {cuts[0]} {CHANNELS[-1]}", "fig7 naive"),
        "random": ("fig7 aware random", "fig7 naive random"),
    }


def config_of(name: str, arguments: argparse.Namespace, photos: Path) -> TrainConfig:
    """Configure a row that is trained."""
    usual: dict[str, Any] = {
        "model": "finetuned:classifier",
        "data": (str(photos),),
        "out": str(folder_of(name, arguments) / "run"),
        "unit": "paper",
        "stride": 2,
        "codec": "jpeg",
        "quality": QUALITY,
        "end_to_end": True,
        "norms": True,
        "components": True,
        "label_weight": arguments.label_weight,
        "lr": arguments.lr,
        "tail_lr": arguments.tail_lr,
        "blend": arguments.blend,
        "epochs": arguments.epochs,
        "batch": arguments.batch,
        "seed": arguments.seed,
        "no_cache": True,
        "workers": 1,
    }
    return TrainConfig(**{**usual, **trained_rows(arguments.cuts)[name]})


def folder_of(name: str, arguments: argparse.Namespace) -> Path:
    folder: Path = arguments.work / "rows" / name.replace(" ", "-")
    return folder


def prepare(arguments: argparse.Namespace, progress: Progress) -> Divided:
    """Divide the photos and fine-tune the classifier that all rows share, unless that was done."""
    work = arguments.work
    divided = divide(Path(arguments.data), work / "photos", test_share=TEST_SHARE, seed=arguments.seed)
    tuning = FineTuning(arguments.model, arguments.finetune_from, 5, 3, 32, seed=arguments.seed)
    weights = fine_tune(tuning, divided.train, divided.classes, "Caltech-101", work, progress)
    os.environ[WEIGHTS] = str(weights)
    return divided


def do_row(name: str, arguments: argparse.Namespace) -> None:
    """Train and measure one row, as far as it was not done, and keep it as row.json in its folder."""
    folder = folder_of(name, arguments)
    with Progress() as progress:
        divided = prepare(arguments, progress)
        if (folder / "row.json").exists():
            return
        test = list_photos(divided.test)
        if name == "smaller photo":
            row: dict[str, Any] = {"sizes": whole_on_smaller(test, arguments.sizes)}
        elif name == "input codecs":
            row = {"input_codecs": codecs_of_input(test, arguments, progress)}
        else:
            row = trained(name, arguments, divided, progress)
    row = {"name": name, "commit": commit(), **row, "minutes": kept_minutes(folder)}
    write_whole(folder / "row.json", json.dumps(row).encode())


def trained(name: str, arguments: argparse.Namespace, divided: Divided, progress: Progress) -> dict[str, Any]:
    """Train, export and measure a row, as it is deployed; of Fig. 7's rows at each quality, too."""
    config, folder = config_of(name, arguments, divided.train), folder_of(name, arguments)
    with timed(folder, "train"):
        net = train(config, progress)
    if not (folder / "bundle").exists():
        export_run(config.out, folder / "bundle")
    bundle = Bundle.load(folder / "bundle")
    left_out = ("data", "out", "cache")
    row: dict[str, Any] = {
        "config": {key: value for key, value in asdict(config).items() if key not in left_out},
        "latent": list(net.codec.mosaic.symbols_shape),
        "passes": passes_of(Path(config.out)),
    }
    with timed(folder, "evaluate"):
        if config.codec == "entropy":
            row["budgets"] = [
                {"budget": budget, **asdict(evaluate(bundle, divided.test, budget=budget, threads=arguments.threads))}
                for budget in arguments.budgets
            ]
            return row
        row |= asdict(evaluate(bundle, divided.test, threads=arguments.threads))
        row["complete_file_bytes"] = row["payload_bytes"]["mean"] + AROUND_SCAN
        if any(name in pair for pair in fig7_pairs(arguments.cuts).values()):
            _, rates = measure_qualities({"aware": net}, list_photos(divided.test), progress)
            row["qualities"] = [{k: v for k, v in asdict(rate).items() if k != "training"} for rate in rates]
    return row


@torch.no_grad()
def whole_on_smaller(photos: Sequence[Photo], sizes: Sequence[int]) -> list[dict[str, float]]:
    """Run the whole classifier, as it is, on photos of each size: an answer on the device needs 2 bytes, and about the
    square of the size in FLOPs.
    """
    classifier = load_model("finetuned:classifier")
    whole = torch.nn.Sequential(Normalize(classifier.mean, classifier.std), classifier.module).eval()
    own, rows = classifier.preprocess.size, []
    for size in (own, *sizes):
        right = done = 0
        preprocess = replace(classifier.preprocess, size=size)
        for position, (pixels,) in centre_views(photos, (size,), Damaged(len(photos)), preprocess):
            right += int(whole(torch.from_numpy(pixels[None])).argmax()) == photos[position].label
            done += 1
        rows.append({"size": size, "top1": 100 * right / done, "flops_share": (size / own) ** 2})
    return rows


def codecs_of_input(photos: Sequence[Photo], arguments: argparse.Namespace, progress: Progress) -> list[dict[str, Any]]:
    """Send photos as JPEG, WebP and AVIF to the classifier, as input_codecs.py does.

    InputError: no row is trained yet, whose bundle has the classifier.
    """
    bundles = sorted(arguments.work.glob("rows/*/bundle"))
    if not bundles:
        raise InputError("the classifier comes out of the bundle of a row, and none is trained yet; train one first")
    bundle = Bundle.load(bundles[0])
    tried = settings(bundle.manifest.uncut_preprocess.size, ["jpeg", "webp", "avif"])
    return [asdict(each) for each in measure_input_codecs(bundle, photos, tried, progress)]


def table_4(rows: dict[str, dict[str, Any]], cuts: Sequence[str]) -> list[dict[str, Json]]:
    """Choose for each cut the fewest channels that cost at most two points, as the paper does; else the best row."""
    table: list[dict[str, Json]] = []
    for cut in cuts:
        found = [rows[name] for channels in CHANNELS if (name := f"table {cut} {channels}") in rows]
        within = [row for row in found if row["top1_drop"] <= MOST_DROP]
        best = within[0] if within else min(found, key=lambda row: row["top1_drop"], default=None)
        if best is not None:
            keys = ("latent", "complete_file_bytes", "top1", "top1_drop", "head_flops_share")
            row = {"cut": cut, "scan_bytes": best["payload_bytes"]["mean"], **{key: best[key] for key in keys}}
            table.append({**row, "within": bool(within), "tried": [each["latent"][0] for each in found]})
    return table


def verdict(rows: dict[str, dict[str, Any]], cuts: Sequence[str]) -> dict[str, Json]:
    """Compare with what was asked for: bytes and drop at an early cut, and the gap of Fig. 7; None where unmeasured."""
    early = [
        row
        for row in rows.values()
        if "top1_drop" in row and row["config"]["unit"] == "paper" and row["head_flops_share"] <= MOST_HEAD_SHARE
    ]
    small = [row["top1_drop"] for row in early if row["payload_bytes"]["mean"] <= MUST_BYTES]
    gaps: dict[str, Json] = {}
    for start, pair in fig7_pairs(cuts).items():
        if all(name in rows for name in pair):
            aware, naive = (at_quality(rows[name], QUALITY) for name in pair)
            gaps[start] = aware - naive
    return {
        "must_bytes": MUST_BYTES,
        "must_drop": MUST_DROP,
        "least_drop_within_bytes": min(small, default=None),
        "must_gap": MUST_GAP,
        "aware_above_naive": gaps,
    }


def at_quality(row: dict[str, Any], quality: int) -> float:
    """Find a row's top-1 at a quality."""
    top1: float = next(each["top1"] for each in row["qualities"] if each["quality"] == quality)
    return top1


def collect(arguments: argparse.Namespace, divided: Divided, names: Sequence[str]) -> None:
    """Write the record of the rows there are, and show them."""
    paths = {name: folder_of(name, arguments) / "row.json" for name in names}
    rows = {name: json.loads(path.read_text(encoding="utf-8")) for name, path in paths.items() if path.exists()}
    missing = [name for name in names if name not in rows]
    measured = [row for row in rows.values() if "top1_drop" in row]
    show(
        f"{len(rows)} of {len(names)} rows, {divided.test_photos:,} photos of {len(divided.classes)} classes",
        ["row", "latent", "scan bytes", "top-1, %", "drop, points", "head FLOPs, %"],
        [
            [
                row["name"],
                "x".join(map(str, row["latent"])),
                f"{row['payload_bytes']['mean']:.0f}",
                f"{row['top1']:.1f}",
                f"{row['top1_drop']:.1f}",
                f"{100 * row['head_flops_share']:.1f}",
            ]
            for row in measured
        ],
    )
    results: dict[str, Json] = {
        "complete": not missing,
        "missing": missing,
        "classes": len(divided.classes),
        "train_photos": divided.train_photos,
        "test_photos": divided.test_photos,
        "rows": list(rows.values()),
        "table_4": table_4(rows, arguments.cuts),
        **verdict(rows, arguments.cuts),
        "paper": PAPER,
    }
    write_record("paper", results, arguments.out)


def run(arguments: argparse.Namespace) -> None:
    """Do one row; or all that are wanted, each in a process of its own, and write the record."""
    torch.set_num_threads(arguments.threads)
    names = [*trained_rows(arguments.cuts), *MEASURED]
    if unknown := set(arguments.rows or ()) - set(names):
        raise InputError(f"there is no row {min(unknown)!r}; the rows are: {', '.join(names)}")
    if arguments.row:
        if arguments.row not in names:
            raise InputError(f"there is no row {arguments.row!r}; the rows are: {', '.join(names)}")
        return do_row(arguments.row, arguments)
    with Progress() as progress:
        divided = prepare(arguments, progress)
    wanted = names if arguments.rows is None else arguments.rows
    todo = [name for name in wanted if not (folder_of(name, arguments) / "row.json").exists()]
    with ThreadPoolExecutor(arguments.processes) as pool:
        calls = ([sys.executable, *sys.argv, "--row", name] for name in todo)
        codes = list(pool.map(lambda call: subprocess.run(call, check=False).returncode, calls))
    collect(arguments, divided, names)
    if failed := [name for name, code in zip(todo, codes, strict=True) if code]:
        raise InputError(f"not finished: {', '.join(failed)}; the same command goes on")
    return None


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--data", required=True, help="folder of photos named CLASS_image_NUMBER")
    made.add_argument("--work", type=Path, default=Path("runs/paper"), help="folder for all that is made, 1 GB")
    made.add_argument("--rows", nargs="*", help="only these; none named: only write the record of those there are")
    made.add_argument("--row", help="do this one row in this process, and write no record")
    made.add_argument("--processes", type=int, default=1, help="rows at once")
    made.add_argument("--threads", type=int, default=1, help="of each row")
    made.add_argument("--seed", type=int, default=0, help="of the division and of all that is trained")
    made.add_argument("--model", default="efficientnet_lite0", help="what is fine-tuned")
    made.add_argument("--finetune-from", default="blocks.11", help="the layers behind this cut learn")
    made.add_argument("--cuts", nargs="+", default=CUTS, help="from the photo on; the first is Fig. 7's")
    made.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="pixels of smaller photos")
    made.add_argument("--budgets", type=int, nargs="+", default=BUDGETS, help="bytes, of the entropy codec")
    made.add_argument("--epochs", type=int, default=12)
    made.add_argument("--batch", type=int, default=32)
    made.add_argument("--lr", type=float, default=2e-3, help="peak learning rate of the unit")
    made.add_argument("--tail-lr", type=float, default=5e-4, help="of head and tail")
    made.add_argument("--label-weight", type=float, default=1.0)
    made.add_argument("--blend", type=float, default=0.5)
    run_script(made, run)


if __name__ == "__main__":
    main()
