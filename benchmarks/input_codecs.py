"""How many bytes do JPEG, WebP and AVIF of the input need for the accuracy that the bundle has?

Every photo is prepared as the device prepares it, coded, decoded, and classified by the bundle's uncut network, which
is unchanged. The bundle itself is evaluated on the same photos in the same run. Photos may be made smaller before they
are coded and larger again behind it, which is the stronger baseline where bytes are few.

Bytes are counted twice: `file_bytes`, the picture file as these libraries write it, and `bare_bytes`, without what a
receiver could rebuild or be told once (JPEG: all but Huffman tables and scan; WebP: RIFF; AVIF: the boxes around the
AV1 data), which is the fairer comparison with a payload.
"""

from __future__ import annotations

import argparse
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise, product
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import Progress

from bare import bare_bytes
from bottlenet.bundle import Bundle
from bottlenet.errors import InputError
from bottlenet.measure.evaluate import Evaluation, evaluate
from bottlenet.photos.crops import Damaged, centre_views
from bottlenet.photos.folders import Photo, photos_for
from bottlenet.report.accuracy import Curve, accuracy_chart
from bottlenet.report.charts import Drawing
from bottlenet.report.sources import Point, front
from bottlenet.runtime import open_uncut, run_graph
from record import Json, parser, run_script, show, write_drawing, write_record

QUALITIES = {"jpeg": (2, 5, 10, 20, 50, 75, 95), "webp": (1, 5, 10, 30, 75), "avif": (5, 15, 30, 50)}
SMALLER = {  # sides of the square, and qualities there
    "jpeg": ((112, 80, 64), (10, 30, 75)),
    "webp": ((112, 80, 64), (10, 30, 75)),
    "avif": ((160, 112, 80), (15, 30, 50)),
}
# AVIF: at this size the slowest speed takes 25 times as long and saves nothing (measured on 20 photos).
OPTIONS: dict[str, dict[str, bool | int]] = {
    "jpeg": {"optimize": True},
    "webp": {"method": 6},
    "avif": {"speed": 6, "max_threads": 1},
}
NAMES = {"jpeg": "JPEG", "webp": "WebP", "avif": "AVIF"}


@dataclass(frozen=True)
class Needed:
    """Bytes for an accuracy, and the settings it lies between."""

    bytes: float | None  # None: the accuracy is outside of what the settings span
    between: tuple[str, ...]


def bytes_needed(points: Sequence[Point], top1: float) -> Needed:
    """Read off the bytes at `top1` on the front, linear in log bytes between its points.

    Nothing is guessed beyond its ends: below the lowest the answer would flatter, above the highest there is none.
    """
    line = front(points)
    for low, high in pairwise(line):
        if low.top1 <= top1 <= high.top1:
            share = (top1 - low.top1) / (high.top1 - low.top1)
            log = math.log(low.bytes) + share * (math.log(high.bytes) - math.log(low.bytes))
            return Needed(math.exp(log), (low.name, high.name))
    return Needed(None, ())


@dataclass(frozen=True)
class Setting:
    """One way to code the input."""

    codec: str  # jpeg | webp | avif
    quality: int
    side: int  # pixels of the square that is coded; the network's own size: not made smaller

    def encode(self, picture: Image.Image) -> bytes:
        if picture.width != self.side:
            picture = picture.resize((self.side, self.side), Image.Resampling.LANCZOS)
        file = io.BytesIO()
        picture.save(file, self.codec, quality=self.quality, **OPTIONS[self.codec])
        return file.getvalue()


@dataclass(frozen=True)
class Measured:
    """What a setting costs and what the unchanged classifier makes of it."""

    codec: str
    quality: int
    side: int
    file_bytes: float  # mean
    bare_bytes: float  # mean
    top1: float  # percent

    @property
    def name(self) -> str:
        """webp q10 at 112."""
        return f"{self.codec} q{self.quality} at {self.side}"


def settings(size: int, downsampled: Sequence[str]) -> list[Setting]:
    """List the settings for a network that takes `size` x `size` pixels."""
    whole = [Setting(codec, quality, size) for codec, qualities in QUALITIES.items() for quality in qualities]
    smaller = [
        Setting(codec, quality, side)
        for codec in downsampled
        for side, quality in product(*SMALLER[codec])
        if side < size
    ]
    return whole + smaller


def measure(bundle: Bundle, photos: Sequence[Photo], tried: Sequence[Setting], progress: Progress) -> list[Measured]:
    """Measure every setting on every photo, one photo in memory at a time."""
    uncut = open_uncut(bundle)
    task = progress.add_task("input codecs", total=len(photos))
    rows: list[tuple[list[int], list[int], list[bool]]] = []
    preprocess = bundle.manifest.uncut_preprocess
    for position, (pixels,) in centre_views(photos, (preprocess.size,), Damaged(len(photos)), preprocess):
        files = [setting.encode(Image.fromarray(pixels)) for setting in tried]
        answers = [int(run_graph(uncut, pixels=decode(file, len(pixels))[None]).argmax()) for file in files]
        bare = [bare_bytes(setting.codec, file) for setting, file in zip(tried, files, strict=True)]
        rows.append(([len(file) for file in files], bare, [answer == photos[position].label for answer in answers]))
        progress.advance(task)
    file_bytes, bare_sizes, right = (np.array(column).mean(0) for column in zip(*rows, strict=True))
    return [
        Measured(s.codec, s.quality, s.side, float(file_bytes[i]), float(bare_sizes[i]), float(right[i]) * 100)
        for i, s in enumerate(tried)
    ]


def decode(file: bytes, size: int) -> np.ndarray:
    """Decode a picture file to (size, size, 3) uint8."""
    with Image.open(io.BytesIO(file)) as picture:
        rgb = picture.convert("RGB")
    return np.array(rgb if rgb.width == size else rgb.resize((size, size), Image.Resampling.BICUBIC))


def compare(measured: Sequence[Measured], evaluation: Evaluation) -> dict[str, Json]:
    """Find the best input codec's bytes at the bundle's top-1: files against frames, bare pictures against payloads."""
    assert evaluation.top1 is not None
    out: dict[str, Json] = {}
    for kind, mine in (("file", evaluation.frame_bytes.mean), ("bare", evaluation.payload_bytes.mean)):
        points = [Point(getattr(m, f"{kind}_bytes"), m.top1, m.name) for m in measured]
        needed = bytes_needed(points, evaluation.top1)
        out[kind] = {
            "bottlenet_bytes": mine,
            "best_input_codec_bytes": needed.bytes,
            "ratio": None if needed.bytes is None else needed.bytes / mine,
            "between": list(needed.between),
        }
    return out


def draw(measured: Sequence[Measured], evaluation: Evaluation) -> Drawing:
    """Draw the bundle's one point, and for each codec what no other of its settings beats."""
    assert evaluation.top1 is not None
    ours = Point(evaluation.frame_bytes.mean, evaluation.top1, "")
    curves = [Curve("BottleNet", (ours,), evaluation.top1_uncut)]
    largest = max(m.side for m in measured)
    for codec, name in NAMES.items():
        for what, whole in (("input", True), ("smaller input", False)):
            points = [
                Point(m.file_bytes, m.top1, "") for m in measured if (m.codec, m.side == largest) == (codec, whole)
            ]
            if points:
                curves.append(Curve(f"{name} of the {what}", tuple(points)))
    return accuracy_chart("Top-1 against bytes of a frame or file", curves, "top-1, %", bold=["BottleNet"])


def show_table(measured: Sequence[Measured], evaluation: Evaluation, compared: dict[str, Json]) -> None:
    """Print every setting, then the bundle."""
    best = {point.name for point in front([Point(m.file_bytes, m.top1, m.name) for m in measured])}
    rows = [
        [m.name + (" *" if m.name in best else ""), f"{m.file_bytes:.0f}", f"{m.bare_bytes:.0f}", f"{m.top1:.1f}"]
        for m in measured
    ]
    mine = [f"{evaluation.frame_bytes.mean:.0f}", f"{evaluation.payload_bytes.mean:.0f}", f"{evaluation.top1:.1f}"]
    rows += [["BottleNet: frame, payload", *mine], ["uncut, input not coded", "", "", f"{evaluation.top1_uncut:.1f}"]]
    title = f"{evaluation.photos} photos; * nothing with fewer bytes is better"
    show(title, ["input codec", "file bytes", "bare bytes", "top-1, %"], rows)
    for kind, values in compared.items():
        print(f"same top-1, {kind} bytes: {values}")


def again(bundle: Bundle, evaluation: Evaluation, record: Path | None) -> list[Measured]:
    """Take the rows of an earlier record whose network and photos are the same."""
    if record is None:
        return []
    results = json.loads(record.read_text(encoding="utf-8"))["results"]
    earlier = results["evaluation"]
    if (earlier["photos"], earlier["top1_uncut"]) != (evaluation.photos, evaluation.top1_uncut):
        raise InputError(f"{record.name} is of other photos or another uncut network; measure the input codecs again")
    return [Measured(**row) for row in results["input_codecs"]]


def run(arguments: argparse.Namespace) -> None:
    """Measure, show, write."""
    bundle = Bundle.load(arguments.bundle)
    photos = photos_for(bundle, arguments.data, arguments.limit)
    if any(photo.label is None for photo in photos):
        raise InputError(f"{arguments.data}: some photos have no label; give a folder where all have one")
    tried = settings(bundle.manifest.uncut_preprocess.size, arguments.downsample)
    with Progress(console=Console(stderr=True)) as progress:
        evaluation = evaluate(bundle, arguments.data, limit=arguments.limit)
        measured = again(bundle, evaluation, arguments.rows_from) or measure(bundle, photos, tried, progress)
    compared = compare(measured, evaluation)
    show_table(measured, evaluation, compared)
    results: Json = {
        "bundle": bundle.manifest.name,
        "bundle_id": bundle.id.hex(),
        "data": Path(arguments.data).name,
        "evaluation": asdict(evaluation),
        "input_codecs": [asdict(m) for m in measured],
        "same_top1": compared,
    }
    write_record("input_codecs", results, arguments.out)
    write_drawing(arguments.out / "input_codecs.svg", draw(measured, evaluation))


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--data", required=True, help="folder of labelled photos")
    made.add_argument("--bundle", default="demo", help="bundle with uncut.onnx; demo: the one in the package")
    made.add_argument("--rows-from", type=Path, help="an earlier record: take the input codecs' rows from it")
    made.add_argument("--limit", type=int, help="take this many of the photos")
    made.add_argument(
        "--downsample", nargs="*", choices=sorted(QUALITIES), default=["webp", "avif"], metavar="CODEC",
        help="make photos smaller before these codecs too (jpeg, webp, avif); none named: before no codec",
    )  # fmt: skip
    run_script(made, run)


if __name__ == "__main__":
    main()
