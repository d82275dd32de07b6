"""Draw the README's two pictures: one photo of the demo on its way to an answer, and accuracy against bytes.

The first runs the demo on one shipped photo; the second reads the committed record of rate_accuracy.py.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bottlenet.bundle import Bundle
from bottlenet.demo.run import PHOTOS, PhotoResult, run_demo
from bottlenet.report.charts import Axis, Drawing, Rule, Scale, Series, line_chart, path, rect, text
from bottlenet.report.sections import data_url, percent, stretched
from bottlenet.report.sources import Point, front
from record import RESULTS, parser, run_script, write_drawing

DOCS = Path(__file__).parent.parent / "docs"
METHODS = {  # curve in the record -> name in the chart; the order gives colours and markers
    "shipped": "BottleNet, shipped",
    "input codecs": "best of JPEG, WebP, AVIF",
    "entropy embedded": "BottleNet, less training",
    "Entropic-Student-like": "Entropic-Student-like",
}
SIDE = 224  # pixels of a picture in the drawing
TOP = 40  # of the pictures
COLUMNS = (16, 296, 560)  # left edges of photo, mosaic and answer
BAR = 184  # width of a score of 100 %


def photo_figure(photo: PhotoResult) -> Drawing:
    """Draw photo, payload and answer side by side, each with what it weighs or says."""
    sent, jpeg = photo.prediction, photo.inputs["jpeg75"].size_bytes
    rows, columns = photo.picture.shape
    height = SIDE * rows / columns
    middle = TOP + SIDE / 2
    body = [
        *heading(0, "On the device", f"photo, {len(photo.pixels)} × {len(photo.pixels)} pixels"),
        image(COLUMNS[0], TOP, SIDE, SIDE, data_url(photo.pixels, "JPEG", quality=85)),
        *arrow(COLUMNS[0] + SIDE + 8, COLUMNS[1] - 8, middle),
        *heading(1, f"Sent: {sent.frame_bytes} bytes", f"JPEG 75 of these pixels: {jpeg:,} bytes"),
        image(COLUMNS[1], middle - height / 2, SIDE, height, data_url(stretched(photo.picture), "PNG", optimize=True)),
        text(COLUMNS[1], TOP + SIDE + 18, "features, as the server decodes them", kind="soft"),
        *arrow(COLUMNS[1] + SIDE + 8, COLUMNS[2] - 8, middle),
        *heading(2, "Answer", ""),
        *answer("split network", sent.label, sent.score, middle - 40, "ink"),
        *answer("uncut network", photo.uncut[0].label, photo.uncut[0].score, middle + 40, "shade"),
    ]
    description = (
        f"A photo stays on the device. {sent.frame_bytes} bytes of features are sent, against {jpeg:,} of a JPEG. The "
        f"server answers {sent.label}, {percent(sent.score)}; the uncut network says {photo.uncut[0].label}."
    )
    return Drawing("One photo, from the device to the answer", description, 760, TOP + SIDE + 46, body)


def heading(column: int, bold: str, soft: str) -> Iterator[str]:
    """Write the two lines that belong to a column: above and below its picture."""
    yield text(COLUMNS[column], TOP - 14, bold, bold=True)
    yield text(COLUMNS[column], TOP + SIDE + (34 if column == 1 else 18), soft, kind="soft")


def image(x: float, y: float, width: float, height: float, url: str) -> str:
    """Place a picture, with hard pixels."""
    box = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return f'<image {box} style="image-rendering:pixelated" href="{url}"/>'


def arrow(left: float, right: float, y: float) -> Iterator[str]:
    """Draw an arrow to the right."""
    yield path(
        f"M{left:.1f} {y:.1f}H{right:.1f}M{right - 7:.1f} {y - 5:.1f}L{right:.1f} {y:.1f}l-7 5", "axis", width=1.5
    )


def answer(who: str, label: str, score: float, y: float, kind: str) -> Iterator[str]:
    """Draw a class with its score as a bar."""
    yield text(COLUMNS[2], y - 22, who, kind="soft")
    yield text(COLUMNS[2], y - 5, f"{label}, {percent(score)}", bold=True)
    yield rect(COLUMNS[2], y + 3, BAR * score, 10, kind)


def chart() -> Drawing:
    """Draw top-1 against bytes for the shipped bundle, the best input codec and one rival of as much training."""
    results = json.loads((RESULTS / "rate_accuracy.json").read_text(encoding="utf-8"))["results"]
    found = points_of(results)
    series = [
        Series(name, tuple((point.bytes, point.top1) for point in front(found[curve])), bold=curve == "shipped")
        for curve, name in METHODS.items()
    ]
    uncut = results["top1_uncut"]
    words = "; ".join(f"{each.name}: {each.points[0][1]:.1f} to {each.points[-1][1]:.1f} %" for each in series)
    return line_chart(
        "Top-1 against bytes a photo",
        f"Top-1 of {results['photos']:,} photos against mean payload bytes. {words}.",
        series,
        Axis("mean payload bytes a photo", Scale(150, 12000, log=True), "{:,.0f}".format),
        Axis("top-1, %", Scale(10, 90)),
        rules=[Rule(uncut, f"uncut network, {uncut:.1f} %", upright=False)],
    )


def points_of(results: dict[str, Any]) -> dict[str, list[Point]]:
    """Collect the points of each curve that lie within the chart."""
    found: dict[str, list[Point]] = {"input codecs": [Point(**point) for point in results["input_codecs"]]}
    for method in results["methods"]:
        rows = [Point(row["payload_bytes"], row["top1"], row["setting"]) for row in method["rows"]]
        found.setdefault(method["curve"], []).extend(rows)
    return {name: [point for point in points if 150 <= point.bytes <= 12000] for name, points in found.items()}


def run(arguments: argparse.Namespace) -> None:
    """Draw both and write them."""
    (photo,) = run_demo(Bundle.load("demo"), [PHOTOS / f"{arguments.photo}.jpg"]).photos
    for name, drawing in (("photo-to-answer", photo_figure(photo)), ("bytes-and-accuracy", chart())):
        write_drawing(arguments.out / f"{name}.svg", drawing)


def main() -> None:
    """Parse the command line."""
    made = parser(__doc__)
    made.set_defaults(out=DOCS)
    made.add_argument("--photo", default="german_shepherd", help="the shipped photo to show")
    run_script(made, run)


if __name__ == "__main__":
    main()
