"""Top-1 for FLOPs of the device and bytes of a decision: ours and its rivals, on the same photos in one run.

    whole           the classifier itself on the device, on photos of 224 to 112 pixels, as it is
    distilled       the exits of `--bundle`, alone: networks on the device that learned from the same photos
    int8            the TFLite networks of `--rivals`, by LiteRT (pip install ai-edge-litert)
    input           JPEG, WebP and AVIF of the photo for the uncut network on the server, of `--input-rows`
    sent, bundle    each `--bundle NAME=PATH` at each budget: always sent; and with an exit at each bound

FLOPs are means over the photos, as a share of the uncut network's; those of TFLite are two for each multiplication of
its convolutions. A network that is whole on the device sends its class, two bytes; an exit that is sure sends nothing.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress

from bottlenet.bundle import Bundle
from bottlenet.cloud.decoder import Decoder
from bottlenet.edge.encoder import Encoder
from bottlenet.errors import InputError
from bottlenet.net.models import Classifier, Normalize, load_model
from bottlenet.net.trace import count_flops
from bottlenet.photos.crops import Damaged, centre_views
from bottlenet.photos.folders import Photo, choose, list_photos
from bottlenet.report.charts import Axis, Drawing, Rule, Scale, Series, line_chart
from bottlenet.report.sources import Point, front
from bottlenet.runtime import open_uncut, run_graph
from bottlenet.wire.answer import Answer
from bottlenet.wire.frame import Frame
from record import Json, parser, run_script, show, write_drawing, write_record

SIZES = (224, 192, 160, 128, 112)
BUDGETS = (200, 316, 600, 1000, 1500, 2400, 0)  # bytes; 0: the whole payload
BOUNDS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # confidence from which on the device answers
LEAST_TOP1 = 40.0  # percent, in the figure
MOST_BYTES = 316  # a decision, mean
OURS = ("bundle", "sent")
KINDS = {
    "bundle": "BottleNet, the unsure ones sent",
    "sent": "BottleNet, always sent",
    "whole": "whole network, smaller photo",
    "distilled": "the same, distilled",
    "int8": "int8 MobileNets",
    "input": "best of JPEG, WebP, AVIF",
}
PANELS = (0.15, 0.35, 0.50)  # mean FLOPs of the device, as a share
MACS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


@dataclass(frozen=True)
class Row:
    """What one way to answer costs, and how often it is right."""

    kind: str
    name: str
    flops_share: float  # of the device, mean
    bytes: float  # of a decision, mean
    top1: float  # percent
    agreement: float | None = None  # percent that answer as the uncut network; None: not counted
    sent_share: float | None = None


class Judge:
    """Labels and the uncut network's answers, against which all are counted."""

    def __init__(self, photos: Sequence[Photo], uncut: Sequence[int]) -> None:
        self.labels = np.array([photo.label for photo in photos])
        self.uncut = np.array(uncut)

    def row(self, kind: str, name: str, answers: np.ndarray, flops_share: float, size: float, **more: Any) -> Row:
        right, same = (100 * float((answers == wanted).mean()) for wanted in (self.labels, self.uncut))
        return Row(kind, name, flops_share, size, right, same, **more)


@torch.no_grad()
def whole_rows(
    judge: Judge, classifier: Classifier, uncut_flops: int, photos: Sequence[Photo], progress: Progress
) -> Iterator[Row]:
    """Run the classifier as it is on photos of each size."""
    net = torch.nn.Sequential(Normalize(classifier.mean, classifier.std), classifier.module).eval()
    for size in SIZES:
        preprocess = replace(classifier.preprocess, size=size)
        views = centre_views(photos, (size,), Damaged(len(photos)), preprocess)
        tracked = progress.track(views, total=len(photos), description=f"whole at {size}")
        answers = np.array([int(net(torch.from_numpy(pixels[None])).argmax()) for _, (pixels,) in tracked])
        flops = count_flops(classifier.module, torch.zeros(1, 3, size, size))
        yield judge.row("whole", f"{size} px", answers, flops / uncut_flops, 2)


def int8_rows(
    judge: Judge, folder: Path, classifier: Classifier, uncut_flops: int, photos: Sequence[Photo], progress: Progress
) -> Iterator[Row]:
    """Run each TFLite network of a folder. InputError: LiteRT is not installed, or there is none."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise InputError("--rivals needs LiteRT: pip install ai-edge-litert, or leave the option out") from error
    paths = sorted(folder.glob("*.tflite"))
    if not paths:
        raise InputError(f"{folder}: no *.tflite in it; give the folder that has them")
    for path in paths:
        net = Interpreter(str(path), num_threads=1)
        net.allocate_tensors()
        (taken,), (given,) = net.get_input_details(), net.get_output_details()
        preprocess = replace(classifier.preprocess, size=int(taken["shape"][1]))
        views = centre_views(photos, (preprocess.size,), Damaged(len(photos)), preprocess)
        answers = []
        for _, (pixels,) in progress.track(views, total=len(photos), description=path.stem):
            net.set_tensor(taken["index"], pixels[None])
            net.invoke()
            answers.append(int(net.get_tensor(given["index"])[0].argmax()) - 1)  # the first class is the background
        yield judge.row("int8", path.stem, np.array(answers), litert_flops(net) / uncut_flops, 2)


def litert_flops(net: Any) -> int:
    """Count two FLOPs for each multiplication of convolutions and dense layers."""
    shapes, flops = {each["index"]: each["shape"] for each in net.get_tensor_details()}, 0
    for operation in net._get_ops_details():  # nothing public lists them
        if operation["op_name"] in MACS:
            weights, output = shapes[operation["inputs"][1]], shapes[operation["outputs"][0]]
            depthwise = operation["op_name"] == "DEPTHWISE_CONV_2D"
            flops += 2 * int(np.prod(output)) * int(np.prod(weights[1:3] if depthwise else weights[1:]))
    return flops


def bundle_rows(judge: Judge, name: str, bundle: Bundle, photos: Sequence[Photo], progress: Progress) -> Iterator[Row]:
    """Run a bundle at each budget, always sent; with an exit also alone, and at its own bound and each of BOUNDS."""
    manifest, codec, decoder = bundle.manifest, bundle.codec, Decoder(bundle)
    encoder, own = Encoder(bundle, sure=0.0 if manifest.exit else None), manifest.exit
    confidences, alone = np.zeros(len(photos)), np.zeros(len(photos), int)
    sent = {budget: np.zeros((2, len(photos)), int) for budget in BUDGETS}
    for position, photo in enumerate(progress.track(photos, description=name)):
        if own is not None:
            answer = encoder.work(photo.path).result
            assert isinstance(answer, Answer)
            alone[position], confidences[position] = answer.top[0]
        payload = codec.encode(encoder.symbols(photo.path))
        payloads = [payload[: budget or None] for budget in BUDGETS]
        frames = [Frame(codec.code, codec.setting, bundle.tag, 0, each) for each in payloads]
        for budget, each, scores in zip(BUDGETS, payloads, decoder.scores(frames).scores, strict=True):
            sent[budget][:, position] = scores.argmax(), len(each)
    for budget, (answers, sizes) in sent.items():
        words = f"{name}, {budget or 'all'} bytes"
        yield judge.row("sent", words, answers, manifest.head_flops_share, float(sizes.mean()))
    if own is None:
        return
    yield judge.row("distilled", name, alone, own.flops_share, 2)
    most, least = encoder.flops_shares
    for budget, sure in product(BUDGETS, (own.sure, *BOUNDS)):
        answers, sizes = sent[budget]
        unsure = confidences < sure
        yield judge.row(
            "bundle",
            f"{name}, {budget or 'all'} bytes, sure from {sure:.2f}",
            np.where(unsure, answers, alone),
            least + float(unsure.mean()) * (most - least),
            float((sizes * unsure).mean()),
            sent_share=float(unsure.mean()),
        )


def input_rows(record: Path, photos: int) -> Iterator[Row]:
    """Read what input_codecs.py measured; bare bytes count. InputError: on another number of photos."""
    results = json.loads(record.read_text(encoding="utf-8"))["results"]
    if results["evaluation"]["photos"] != photos:
        raise InputError(
            f"{record.name} has {results['evaluation']['photos']} photos, and here are {photos}: measure anew"
        )
    for each in results["input_codecs"]:
        yield Row(
            "input", f"{each['codec']} q{each['quality']} at {each['side']}", 0.0, each["bare_bytes"], each["top1"]
        )


def beaten(rows: Sequence[Row]) -> list[dict[str, Json]]:
    """Find for each panel our best within MOST_BYTES, and the rivals with at most its FLOPs that are as good."""
    found: list[dict[str, Json]] = []
    for most in PANELS:
        mine = [each for each in rows if each.kind in OURS and each.flops_share <= most and each.bytes <= MOST_BYTES]
        best = max(mine, key=lambda each: each.top1, default=None)
        rivals = (
            []
            if best is None
            else [
                each.name
                for each in rows
                if each.kind not in (*OURS, "input") and each.flops_share <= best.flops_share and each.top1 >= best.top1
            ]
        )
        found.append({"most_flops": most, "best": None if best is None else asdict(best), "beaten_by": rivals})
    return found


def panel(rows: Sequence[Row], most: float, uncut: float, looks: dict[str, int]) -> Drawing:
    """Draw what a device with so many FLOPs can do: top-1 against mean bytes."""
    series = []
    for kind, name in KINDS.items():
        points = [
            Point(each.bytes, each.top1, each.name) for each in rows if each.kind == kind and each.flops_share <= most
        ]
        line = front([point for point in points if 1 <= point.bytes <= 12000 and point.top1 >= LEAST_TOP1])
        if line:
            series.append(Series(name, tuple((each.bytes, each.top1) for each in line), bold=kind == "bundle"))
    return line_chart(
        f"A device with up to {most:.0%} of the network's FLOPs",
        f"Top-1 against mean bytes a decision, on a device of up to {most:.0%} of the FLOPs.",
        series,
        Axis(
            f"mean bytes a decision, device up to {most:.0%} of the FLOPs", Scale(1, 12000, log=True), "{:,.0f}".format
        ),
        Axis("top-1, %", Scale(LEAST_TOP1, 90)),
        rules=[Rule(uncut, f"uncut network, {uncut:.1f} %", upright=False)],
        looks=looks,
    )


def run(arguments: argparse.Namespace) -> None:
    """Measure all, print and write the record, and draw."""
    torch.set_num_threads(arguments.threads)
    bundles = {name: Bundle.load(path) for name, path in arguments.bundle}
    photos = [photo for photo in choose(list_photos(arguments.data), arguments.limit) if photo.label is not None]
    if not photos or not bundles:
        raise InputError("give a --bundle NAME=PATH or more, and --data with labelled photos")
    first = next(iter(bundles.values()))
    rows: list[Row] = []
    with Progress() as progress:
        uncut, size = open_uncut(first), first.manifest.uncut_preprocess.size
        views = centre_views(photos, (size,), Damaged(len(photos)), first.manifest.uncut_preprocess)
        tracked = progress.track(views, total=len(photos), description="uncut")
        judge = Judge(photos, [int(run_graph(uncut, pixels=pixels[None]).argmax()) for _, (pixels,) in tracked])
        for name, bundle in bundles.items():
            rows += bundle_rows(judge, name, bundle, photos, progress)
        classifier = load_model(arguments.model)
        uncut_flops = count_flops(classifier.module, torch.zeros(1, 3, SIZES[0], SIZES[0]))
        rows += whole_rows(judge, classifier, uncut_flops, photos, progress)
        if arguments.rivals:
            rows += int8_rows(judge, arguments.rivals, classifier, uncut_flops, photos, progress)
    if arguments.input_rows:
        rows += input_rows(arguments.input_rows, len(photos))
    top1_uncut = judge.row("", "", judge.uncut, 1.0, 0.0).top1
    best = beaten(rows)
    shown = [row for row in rows if row.kind not in ("bundle", "input")] + [
        Row(**each["best"]) for each in best if each["best"]
    ]
    show(
        f"{len(photos):,} photos, uncut {top1_uncut:.1f} %",
        ["what", "device FLOPs, %", "bytes", "top-1, %", "drop, points"],
        [
            [
                f"{row.kind}: {row.name}",
                f"{100 * row.flops_share:.0f}",
                f"{row.bytes:.0f}",
                f"{row.top1:.1f}",
                f"{top1_uncut - row.top1:.1f}",
            ]
            for row in shown
        ],
    )
    results: dict[str, Json] = {
        "photos": len(photos),
        "top1_uncut": top1_uncut,
        "bundles": {name: bundle.id.hex() for name, bundle in bundles.items()},
        "rows": [asdict(row) for row in rows],
        "panels": best,
    }
    write_record("pareto", results, arguments.out)
    looks: dict[str, int] = {}
    write_drawing(arguments.out / "pareto.svg", *(panel(rows, most, top1_uncut, looks) for most in PANELS))


def named(text: str) -> tuple[str, str]:
    """Split NAME=PATH."""
    name, _, path = text.partition("=")
    return name, path


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--data", required=True, help="folder of labelled photos that nothing was trained on")
    made.add_argument("--bundle", type=named, action="append", default=[], metavar="NAME=PATH")
    made.add_argument("--rivals", type=Path, help="folder of int8 TFLite networks of the same classes")
    made.add_argument("--input-rows", type=Path, help="record of input_codecs.py on the same photos")
    made.add_argument("--model", default="efficientnet_lite0", help="the classifier of the bundles")
    made.add_argument("--limit", type=int, help="so many photos")
    made.add_argument("--threads", type=int, default=1)
    run_script(made, run)


if __name__ == "__main__":
    main()
