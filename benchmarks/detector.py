"""How much of a detector's mAP is left through a bundle at some hundred bytes, and what do picture files need for it?

photo -> centre square -> head, payload within a budget -> socket -> a server process -> boxes ---.
              `---------> JPEG, WebP or AVIF of it, smaller or not -> uncut network -> boxes -----+-> mAP
              `-----------------------------------------------------> uncut network -> boxes -----'

COCO's mAP (IoU 0.50 to 0.95) and AP50, as pycocotools (BSD) counts them: `pip install pycocotools`; nothing else here
needs it. The photos are the 128 of COCO128, a folder with `instances_train2017.json` and the photos that it names
anywhere below, such as a checkout of github.com/developer0hye/COCO128. That is few: the intervals are of photos drawn
again and again with replacement. All rows see the same pixels, the largest centre square of a photo. Labels are cut at
its edges; where less than half of one is left, it counts neither as found nor as missed.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import Progress

from bare import bare_bytes
from bottlenet.bundle import Bundle
from bottlenet.edge import Edge, Prediction
from bottlenet.errors import InputError
from bottlenet.measure.bench import split_server
from bottlenet.photo import photo_to_pixels
from bottlenet.report.sources import Point
from bottlenet.runtime import open_uncut, run_graph
from bottlenet.task import Detection
from input_codecs import Setting, bytes_needed, decode
from record import Json, parser, run_script, show, write_record

ANNOTATIONS = "instances_train2017.json"
BUDGETS = (500, 1000, 2000, 3000)
SEEN = 0.5  # share of a label's box inside the square from which on it counts
QUALITIES = {  # of squares of so many sixteenths of the network's own side
    "jpeg": {16: (10, 30, 60), 11: (10, 30, 60), 8: (20, 50)},
    "webp": {16: (1, 10, 40, 75), 11: (1, 20, 60), 8: (10, 50)},
    "avif": {16: (10, 20, 30, 45, 60), 11: (15, 30, 45, 60), 8: (20, 40, 60), 5: (30, 60)},
}
RESAMPLES = 200

Rows = NDArray[np.float32]  # (K, 6): left, top, right, bottom as shares of the square, score, class index


@dataclass(frozen=True)
class Row:
    """One way of sending the photos. Intervals hold 95 % of the resampled values."""

    name: str
    payload_bytes: float  # mean; of a picture, its complete file
    bare_bytes: float  # of a picture without what a receiver could be told once
    map: float  # percent
    ap50: float
    map_interval: tuple[float, float]
    lost_interval: tuple[float, float]  # of points below the uncut network on the same photos


class Truth:
    """COCO's labels in the centre squares of its photos. InputError: no such folder or labels."""

    def __init__(self, folder: Path, labels: Sequence[str], limit: int | None) -> None:
        found = sorted(folder.rglob(ANNOTATIONS))
        if not found:
            raise InputError(f"{folder}: no {ANNOTATIONS} in it; give a folder of COCO128")
        data = json.loads(found[0].read_text(encoding="utf-8"))
        categories = sorted(data["categories"], key=lambda each: each["id"])
        if [each["name"] for each in categories] != list(labels):
            raise InputError(f"{folder}: its {len(categories)} categories are not the bundle's {len(labels)} labels")
        self.categories = [each["id"] for each in categories]
        self.images = sorted(data["images"], key=lambda each: each["id"])[:limit]
        places = {path.name: path for path in sorted(folder.rglob("*.jpg"))}
        if missing := [each["file_name"] for each in self.images if each["file_name"] not in places]:
            raise InputError(f"{folder}: {len(missing)} photos are not there, such as {missing[0]}")
        self.photos = [places[each["file_name"]] for each in self.images]
        wanted = {each["id"]: each for each in self.images}
        boxes = (
            square_box(each, wanted[each["image_id"]]) for each in data["annotations"] if each["image_id"] in wanted
        )
        annotations = [{**each, "id": number} for number, each in enumerate(filter(None, boxes), 1)]
        images = [{"id": each["id"], "width": square(each)[2], "height": square(each)[2]} for each in self.images]
        self.objects = sum(not each["iscrowd"] for each in annotations)
        coco, _ = pycocotools()
        with contextlib.redirect_stdout(io.StringIO()):
            self.coco = coco()
            self.coco.dataset = {"images": images, "categories": categories, "annotations": annotations}
            self.coco.createIndex()

    def evaluated(self, rows: Sequence[Rows]) -> Scores:
        """Match the boxes of each photo with its labels."""
        found = []
        for image, boxes in zip(self.images, rows, strict=True):
            side = square(image)[2]
            for left, top, right, bottom, score, index in boxes[boxes[:, 4] > 0].astype(float).tolist():
                box = [left * side, top * side, (right - left) * side, (bottom - top) * side]
                one = {"image_id": image["id"], "category_id": self.categories[round(index)], "score": score}
                found.append({**one, "bbox": box})
        _, evaluation = pycocotools()
        with contextlib.redirect_stdout(io.StringIO()):
            made = evaluation(
                self.coco, self.coco.loadRes(found or [NOTHING | {"image_id": self.images[0]["id"]}]), "bbox"
            )
            made.params.areaRng, made.params.areaRngLbl, made.params.maxDets = [[0, 1e10]], ["all"], [100]
            made.evaluate()
        return Scores(made)


NOTHING = {"category_id": 1, "bbox": [0, 0, 0, 0], "score": 0.0}


class Scores:
    """Matched boxes, of which a photo may count more than once."""

    def __init__(self, evaluation: Any) -> None:
        self.evaluation = evaluation
        self.count = len(evaluation.params.imgIds)
        self.matches = np.array(evaluation.evalImgs, object).reshape(-1, self.count)  # (classes, photos)

    def mean_precision(self, chosen: NDArray[np.int64] | None = None) -> tuple[float, float]:
        """Average the precision over classes: (mAP, AP50), percent."""
        places = np.arange(self.count) if chosen is None else chosen
        self.evaluation.evalImgs = self.matches[:, places].reshape(-1).tolist()
        with contextlib.redirect_stdout(io.StringIO()):
            self.evaluation.accumulate()
        precision = self.evaluation.eval["precision"][..., 0, 0]  # (IoUs, recalls, classes); -1: no label of the class
        return tuple(float(100 * each[each > -1].mean()) for each in (precision, precision[:1]))  # type: ignore[return-value]


def pycocotools() -> tuple[Any, Any]:
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ModuleNotFoundError as error:
        raise InputError("mAP is counted by pycocotools, which is not installed; pip install pycocotools") from error
    return COCO, COCOeval


def square(image: dict[str, Any]) -> tuple[float, float, float]:
    """Return left, top and side of a photo's largest centre square, pixels."""
    side = min(image["width"], image["height"])
    return (image["width"] - side) / 2, (image["height"] - side) / 2, side


def square_box(label: dict[str, Any], image: dict[str, Any]) -> dict[str, Any] | None:
    """Cut a label at the edges of the square; None where nothing is left."""
    left, top, side = square(image)
    x, y, width, height = label["bbox"]
    edges = np.clip([x - left, y - top, x + width - left, y + height - top], 0, side).tolist()
    box = [*edges[:2], edges[2] - edges[0], edges[3] - edges[1]]
    area = box[2] * box[3]
    if area <= 0:
        return None
    ignored = int(label["iscrowd"] or area < SEEN * width * height)
    names = {name: label[name] for name in ("image_id", "category_id")}
    return {**names, "bbox": box, "area": area, "iscrowd": ignored}


def rows_of(answer: Prediction, image: dict[str, Any]) -> Rows:
    """Convert objects, whose edges are pixels of the photo, to shares of the square."""
    left, top, side = square(image)
    rows = []
    for one in answer.objects:
        edges = one.left - left, one.top - top, one.right - left, one.bottom - top
        rows.append([*(edge / side for edge in edges), one.score, one.class_index])
    return np.array(rows, np.float32).reshape(-1, 6)


def tried(size: int) -> list[Setting]:
    return [
        Setting(codec, quality, size * share // 16)
        for codec, sides in QUALITIES.items()
        for share, qualities in sides.items()
        for quality in qualities
    ]


class Bench:
    """The photos, and what is measured on them."""

    def __init__(self, bundle: Bundle, truth: Truth, progress: Progress) -> None:
        self.bundle, self.truth, self.progress = bundle, truth, progress
        preprocess = bundle.manifest.uncut_preprocess
        self.pixels = [photo_to_pixels(path, preprocess) for path in truth.photos]
        self.uncut = open_uncut(bundle)
        rng = np.random.default_rng(0)
        self.samples = [rng.integers(0, len(self.pixels), len(self.pixels)) for _ in range(RESAMPLES)]
        self.whole: list[float] = []  # mAP of the uncut network in each resample

    def row(self, name: str, sizes: tuple[float, float], rows: Sequence[Rows], *, intervals: bool) -> Row:
        scores = self.truth.evaluated(rows)
        mean, half = scores.mean_precision()
        again = [scores.mean_precision(chosen)[0] for chosen in self.samples] if intervals else [mean]
        whole = self.whole or again
        lost = [a - b for a, b in zip(whole, again, strict=True)] if intervals else [0.0]
        self.whole = whole
        return Row(name, *sizes, mean, half, interval(again), interval(lost))

    def uncut_row(self) -> Row:
        return self.row("uncut", (0.0, 0.0), [self.answer(each) for each in self.each("uncut")], intervals=True)

    def answer(self, pixels: NDArray[np.uint8]) -> Rows:
        rows: Rows = run_graph(self.uncut, pixels=pixels[None])[0]
        return rows

    def coded(self, setting: Setting) -> Row:
        """Code the square as a picture, and let the uncut network look at what is decoded."""
        files, bare, rows = [], [], []
        for pixels in self.each(f"{setting.codec} {setting.quality} at {setting.side}"):
            file = setting.encode(Image.fromarray(pixels))
            files.append(len(file))
            bare.append(bare_bytes(setting.codec, file))
            rows.append(self.answer(decode(file, len(pixels))))
        name = f"{setting.codec} q{setting.quality} at {setting.side}"
        return self.row(name, (float(np.mean(files)), float(np.mean(bare))), rows, intervals=False)

    def served(self, port: int, budget: int) -> Row:
        """Send payloads within a budget to a server, and take its boxes."""
        with Edge(self.bundle, f"ws://127.0.0.1:{port}", budget_bytes=budget) as edge:
            answers = [
                edge.classify(path) for path in self.progress.track(self.truth.photos, description=f"{budget} bytes")
            ]
        rows = [rows_of(*pair) for pair in zip(answers, self.truth.images, strict=True)]
        size = float(np.mean([each.payload_bytes for each in answers]))
        return self.row(f"{budget} bytes", (size, size), rows, intervals=True)

    def each(self, what: str) -> Iterator[NDArray[np.uint8]]:
        yield from self.progress.track(self.pixels, description=what)


def interval(values: Sequence[float]) -> tuple[float, float]:
    low, high = np.quantile(values, (0.025, 0.975)).tolist()
    return low, high


def run(arguments: argparse.Namespace) -> None:
    """Measure, show, write."""
    bundle = Bundle.load(arguments.bundle)
    manifest = bundle.manifest
    if not isinstance(manifest.task, Detection):
        raise InputError(f"{arguments.bundle}: its task is {manifest.task.name}; give the bundle of a detector")
    truth = Truth(arguments.data, bundle.labels, arguments.limit)
    with Progress(console=Console(stderr=True)) as progress:
        bench = Bench(bundle, truth, progress)
        uncut = bench.uncut_row()
        if arguments.rows_from is None:
            pictures = [bench.coded(setting) for setting in tried(manifest.uncut_preprocess.size)]
        else:
            pictures = again(arguments.rows_from, uncut)
        with split_server([bundle.path]) as port:
            mine = [bench.served(port, budget) for budget in arguments.budgets]
    title = f"{len(truth.photos)} photos, {truth.objects} objects"
    cells = [
        [row.name, f"{row.payload_bytes:,.0f}", f"{row.bare_bytes:,.0f}", f"{row.map:.1f}", f"{row.ap50:.1f}"]
        for row in (uncut, *mine, *pictures)
    ]
    show(title, ["sent", "bytes", "bare", "mAP, %", "AP50, %"], cells)
    same = {kind: [compared(row, pictures, kind) for row in mine] for kind in ("payload_bytes", "bare_bytes")}
    for row in same["payload_bytes"]:
        print(row)
    results: Json = {
        "network": manifest.model,
        "cut": manifest.cut,
        "head_flops_share": manifest.head_flops_share,
        "steps": manifest.extra.get("steps"),
        "bundle_id": bundle.id.hex(),
        "photos": len(truth.photos),
        "objects": truth.objects,
        "uncut": asdict(uncut),
        "bundle": [asdict(row) for row in mine],
        "input_codecs": [asdict(row) for row in pictures],
        "same_map": same,
    }
    write_record(arguments.name, results, arguments.out)


def compared(row: Row, pictures: Sequence[Row], kind: str) -> dict[str, Json]:
    """Find what the best picture files need for a row's mAP; of `bare_bytes` without what a receiver knows."""
    needed = bytes_needed([Point(getattr(each, kind), each.map, each.name) for each in pictures], row.map)
    ratio = None if needed.bytes is None else needed.bytes / row.payload_bytes
    return {"name": row.name, "best_input_codec_bytes": needed.bytes, "ratio": ratio, "between": list(needed.between)}


def again(record: Path, uncut: Row) -> list[Row]:
    """Take the pictures' rows of an earlier record whose network and photos are the same."""
    results = json.loads(record.read_text(encoding="utf-8"))["results"]
    if abs(results["uncut"]["map"] - uncut.map) > 1e-6:
        raise InputError(f"{record.name} is of other photos or another uncut network; measure the input codecs again")
    return [
        Row(**{**each, **{name: tuple(each[name]) for name in ("map_interval", "lost_interval")}})
        for each in results["input_codecs"]
    ]


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--data", type=Path, required=True, help="folder of COCO128")
    made.add_argument("--bundle", required=True, help="bundle of a detector with COCO's labels")
    made.add_argument("--budgets", type=int, nargs="+", default=list(BUDGETS), help="bytes of a payload, at most")
    made.add_argument("--rows-from", type=Path, help="an earlier record: take the input codecs' rows from it")
    made.add_argument("--limit", type=int, help="take this many of the photos")
    made.add_argument("--name", default="detector", help="of the record")
    run_script(made, run)


if __name__ == "__main__":
    main()
