"""How many bytes for which accuracy: our codecs, the literature's and the input's, on the same photos in one run.

All that is trained sees the same number of photos, with the same head, tail, optimiser and crops (see baselines.py for
what is not ours). Each method's rows are kept in `--work`, and so is each run: a comparison that was stopped goes on
with what is missing. Existing bundles (`--bundle NAME=PATH`) are measured beside them; they were trained for as long as
the record says. `--input-rows` takes what input_codecs.py measured on the same photos.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress

import baselines
from bottlenet.bundle import Bundle
from bottlenet.errors import InputError
from bottlenet.net.export import head_flops_share
from bottlenet.net.model import BottleNet
from bottlenet.net.models import load_model
from bottlenet.photos.folders import Photo, choose, list_photos
from bottlenet.report.sources import Point
from bottlenet.train.config import TrainConfig
from bottlenet.train.runs import some_pixels
from bottlenet.train.train import train
from bottlenet.wire.codecs import Deflate
from bottlenet.wire.entropy import Entropy
from rate_accuracy_compare import (
    Curve,
    against_input_codecs,
    against_others,
    curves_of,
    draw,
    show_comparisons,
    show_rows,
)
from rate_accuracy_methods import BUDGETS, EMBEDDED, Method, base_config, codings, methods
from rate_accuracy_rows import Coding, Result, Row, Uncut, measure, of_bundle, of_net, uncut_answers, with_tables
from record import Json, add_network, parser, run_script, write_drawing, write_record, write_whole

RAW_BITS = (2, 3, 4, 5, 6, 8)
RANGE_PHOTOS = 256  # on which the range of the raw features is found
SAME_TOP1 = 0.5  # points that the uncut network may differ by between two records: weights stored as int8 make 0.3


class Comparison:
    """One run: its photos, its work folder, and what is known so far."""

    def __init__(self, arguments: argparse.Namespace, progress: Progress) -> None:
        self.work, self.batch, self.table_photos = arguments.work, arguments.batch, arguments.table_photos
        self.progress = progress
        self.classifier = load_model(arguments.model)
        self.photos = labelled(arguments)
        self.steps = arguments.photos_per_run // arguments.batch
        if self.steps < 1:
            raise InputError(f"photos-per-run is {arguments.photos_per_run}, less than one batch of {arguments.batch}")
        self.given = {"model": arguments.model, "data": Path(arguments.data).name, "photos": len(self.photos)}
        self.uncut = Uncut(**self.kept("uncut", {}, self.measured_uncut))

    def measured_uncut(self) -> dict[str, Json]:
        return asdict(uncut_answers(self.classifier, self.photos, self.progress))

    def kept(self, name: str, settings: dict[str, Json], make: Callable[[], dict[str, Json]]) -> dict[str, Any]:
        """Return what `make` gave when it was called with the same settings; else call it, and keep the result.

        InputError: the work folder holds something of that name made with other settings.
        """
        path = self.work / f"{name}.json"
        key = json.loads(json.dumps({**self.given, **settings}))
        if path.exists():
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if found["settings"] != key:
                raise InputError(f"{path} was made with other settings; give another --work, or remove it")
        else:
            found = {"settings": key, "value": make()}
            write_whole(path, json.dumps(found, indent=1, allow_nan=False).encode() + b"\n")
        value: dict[str, Any] = found["value"]
        return value

    def result(self, name: str, settings: dict[str, Json], make: Callable[[], Result]) -> Result:
        """Measure a network's rows, or read them where they were kept."""
        value = self.kept(name, settings, lambda: asdict(make()))
        return Result(**{**value, "rows": tuple(Row(**row) for row in value["rows"])})

    def trained(self, name: str, method: Method) -> Result:
        """Train, or go on, and measure."""

        def make() -> Result:
            config = method.config
            torch.manual_seed(config.seed)
            net = method.make(self.classifier, config)
            net = train(config, self.progress, net=net, objective_for=method.objective, steps=self.steps)
            if isinstance(net.codec, Entropy):
                with_tables(net, config, self.classifier, method.bins, self.table_photos)
            rows = self.rows(name, net, codings(method, net))
            return Result(name, method.curve, share_of(net), self.steps * self.batch, rows)

        told = {key: value for key, value in asdict(method.config).items() if key not in ("data", "out", "cache")}
        return self.result(name, {**told, "steps": self.steps, "table_photos": self.table_photos}, make)

    def raw(self, config: TrainConfig) -> Result:
        """Measure the features as they are."""

        def make() -> Result:
            pixels = some_pixels(config, self.classifier.preprocess, RANGE_PHOTOS)
            batches = (torch.from_numpy(one[None]) for one in pixels)
            net = baselines.raw_features(self.classifier, config.cut, batches)
            assert isinstance(net.codec, Deflate)
            tried = [Coding(f"{bits} bits", baselines.Coarse(net.codec, bits)) for bits in RAW_BITS]
            return Result("raw", "raw features, Deflate", share_of(net), 0, self.rows("raw", net, tried))

        return self.result("raw", {"cut": config.cut}, make)

    def of_bundle(self, name: str, path: str) -> Result:
        """Measure a bundle that is there already."""
        bundle = Bundle.load(path)
        identity, steps = bundle.id.hex(), bundle.manifest.extra.get("steps")
        photos = int(steps) * TrainConfig.batch if steps else None

        def make() -> Result:
            budgets = (*BUDGETS, None) if isinstance(bundle.codec, Entropy) else (None,)
            tried, halves = [Coding("whole", bundle.codec, budgets)], of_bundle(bundle)
            rows = measure(halves, tried, self.photos, self.uncut, self.progress, name)
            return Result(name, name, bundle.manifest.head_flops_share, photos, tuple(rows), identity)

        return self.result(f"bundle-{name}", {"bundle_id": identity}, make)

    def rows(self, name: str, net: BottleNet, tried: list[Coding]) -> tuple[Row, ...]:
        halves = of_net(net, self.classifier)
        return tuple(measure(halves, tried, self.photos, self.uncut, self.progress, name))


def share_of(net: BottleNet) -> float:
    assert net.origin is not None
    return head_flops_share(net, net.origin)


def labelled(arguments: argparse.Namespace) -> list[Photo]:
    """List the photos to measure on. InputError: none has a label."""
    photos = [photo for photo in list_photos(arguments.data) if photo.label is not None]
    if not photos:
        raise InputError(f"{arguments.data}: no labelled photos in it; give a folder that has some")
    return list(choose(photos, arguments.limit))


def input_curve(record: Path, uncut: Uncut) -> Curve:
    """Read bare bytes of a record of input_codecs.py. InputError: other photos, or another uncut network."""
    results = json.loads(record.read_text(encoding="utf-8"))["results"]
    earlier = results["evaluation"]
    if earlier["photos"] != len(uncut.answers) or abs(earlier["top1_uncut"] - uncut.top1) > SAME_TOP1:
        raise InputError(
            f"{record.name} has {earlier['photos']} photos, uncut {earlier['top1_uncut']:.1f} %; here it is "
            f"{len(uncut.answers)}, {uncut.top1:.1f} %: give a record of the same photos and network"
        )
    rows = results["input_codecs"]
    names = [f"{row['codec']} q{row['quality']} at {row['side']}" for row in rows]
    points = tuple(Point(row["bare_bytes"], row["top1"], name) for row, name in zip(rows, names, strict=True))
    return Curve("input codecs", points)


def run(arguments: argparse.Namespace) -> None:
    """Train, measure, compare, write."""
    torch.set_num_threads(arguments.threads)
    base, bundles = base_config(arguments), dict(arguments.bundle)
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
        comparison = Comparison(arguments, progress)
        results = [comparison.of_bundle(name, path) for name, path in bundles.items()]
        if not base.head_size:  # untrained, the tail is no match for the features of a smaller photo
            results.append(comparison.raw(base))
        for name, method in methods(base, arguments).items():
            if not arguments.only or name in arguments.only:
                results.append(comparison.trained(name, method))
                print(f"done: {name}", file=sys.stderr, flush=True)
    finish(arguments, comparison, results, {EMBEDDED, *bundles})


def finish(arguments: argparse.Namespace, comparison: Comparison, results: list[Result], ours: set[str]) -> None:
    """Compare, print tables, write the record, and draw."""
    uncut, curves = comparison.uncut, curves_of(results, ours)
    mine, others = ([curve for curve in curves if curve.ours is wanted] for wanted in (True, False))
    codecs = input_curve(arguments.input_rows, uncut) if arguments.input_rows else None
    inputs = against_input_codecs(mine, codecs, uncut.top1) if codecs else []
    compared = against_others(mine, others)
    show_rows(results, uncut.top1, len(uncut.answers))
    show_comparisons(inputs, compared)
    config = asdict(base_config(arguments))
    written: Json = {
        "data": Path(arguments.data).name,
        "photos": len(uncut.answers),
        "top1_uncut": uncut.top1,
        "photos_per_run": comparison.steps * arguments.batch,
        "config": {key: config[key] for key in config if key not in ("data", "out", "cache", "epochs")},
        "methods": [asdict(result) for result in results],
        "input_codecs": [asdict(point) for point in codecs.points] if codecs else [],
        "same_top1_as_input_codecs": [asdict(row) for row in inputs],
        "same_top1_as_others": [asdict(row) for row in compared],
    }
    write_record(arguments.name, written, arguments.out)
    drawing = draw([*curves, codecs] if codecs else curves, uncut.top1)
    write_drawing(arguments.out / f"{arguments.name}.svg", drawing)


def pair(separator: str) -> Callable[[str], tuple[str, str]]:
    """Make a type for argparse: two words with `separator` between them."""

    def parsed(text: str) -> tuple[str, str]:
        first, found, second = text.partition(separator)
        if not (first and found and second):
            raise argparse.ArgumentTypeError(f"{text!r}: give two parts with {separator} between them")
        return first, second

    return parsed


def sizes(text: str) -> tuple[int, int]:
    """CHANNELSxBITS."""
    first, second = pair("x")(text)
    try:
        channels, bits = int(first), int(second)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: give two whole numbers, as in 24x4") from error
    if channels < 1 or bits not in baselines.SPREAD:
        raise argparse.ArgumentTypeError(f"{text!r}: give 1 channel or more, and 1 to 8 bits")
    return channels, bits


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--data", required=True, help="folder of labelled photos to measure on")
    made.add_argument("--limit", type=int, help="take this many of them")
    made.add_argument("--train", action="append", required=True, help="folder of photos to train on; can be repeated")
    made.add_argument("--photos", type=int, default=0, help="take so many of those, evenly spread; 0: all")
    made.add_argument("--work", type=Path, default=Path("runs/rate_accuracy"), help="folder for runs and rows")
    made.add_argument("--cache", default="runs/rate_accuracy/features", help="folder for head features")
    made.add_argument("--photos-per-run", type=int, default=20000, help="that each network is trained on")
    made.add_argument("--bundle", action="append", type=pair("="), default=[], metavar="NAME=PATH")
    made.add_argument("--input-rows", type=Path, help="a record of input_codecs.py for the same photos")
    made.add_argument("--only", nargs="*", default=[], metavar="NAME", help="train these alone, such as embedded")
    made.add_argument("--name", default="rate_accuracy", help="of the record and the figure")
    add_network(made)
    made.add_argument("--head-size", type=int, default=0, help="side of the photo that the head takes; 0: as uncut")
    made.add_argument("--learn-from", default="blocks.5", help="the head learns behind this cut; '' for none of it")
    made.add_argument("--channels", type=int, default=192, help="of the entropy codec's latent")
    made.add_argument("--stride", type=int, default=2, help="of the entropy codec's and the baselines' latent")
    made.add_argument("--jpeg-channels", type=int, default=TrainConfig.channels)
    made.add_argument("--jpeg-stride", type=int, default=TrainConfig.stride)
    made.add_argument("--jpeg-target", type=float, default=1000.0, help="bytes that the aware run steers for")
    made.add_argument("--targets", type=float, nargs="*", default=[600.0, 316.0], help="of fixed-rate runs, bytes")
    made.add_argument("--cr-bq", type=sizes, nargs="*", default=[(48, 2), (24, 2)], metavar="CHANNELSxBITS")
    made.add_argument("--smallest-bytes", type=float, default=120.0)
    made.add_argument("--largest-bytes", type=float, default=1000.0)
    made.add_argument("--batch", type=int, default=TrainConfig.batch)
    made.add_argument("--crops", type=int, default=6, help="sets of crops, where more than one pass is made")
    made.add_argument("--blend", type=float, default=TrainConfig.blend)
    made.add_argument("--lr", type=float, default=5e-4)
    made.add_argument("--tail-lr", type=float, default=2e-4)
    made.add_argument("--table-photos", type=int, default=2000, help="on which the entropy codecs' tables are counted")
    made.add_argument("--threads", type=int, default=1)
    run_script(made, run)


if __name__ == "__main__":
    main()
