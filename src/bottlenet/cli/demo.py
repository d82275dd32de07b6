"""`bottlenet demo`: three tables and a summary, or one JSON document; and a page to look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from operator import methodcaller
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated

from rich.console import RenderableType
from rich.text import Text
from typer import Argument, Option

from bottlenet.cli.options import BundleOption, Force, Json, Kind, needs, write_whole
from bottlenet.cli.show import Cell, Grid, clean, print_json, progress, say, stdout
from bottlenet.plan.link import LINKS

if TYPE_CHECKING:
    from bottlenet.demo.run import DemoResult, PhotoResult

PAGE = Kind.marked("a page of bottlenet demo", b'<meta name="generator" content="BottleNet demo">')


@needs("cloud")
def demo(
    photo: Annotated[list[str] | None, Argument(help="Your photos; without any, those in the package.")] = None,
    bundle: BundleOption = "demo",
    output: Annotated[str, Option("--output", "-o", help="The page to write.")] = "bottlenet-demo.html",
    force: Force = False,
    as_json: Json = False,
) -> None:
    """See it work: a device process, a socket, a server process, and real photos.

    Starts a server of its own on a free loopback port, classifies the photos
    over a real socket, prints what they cost beside JPEG and WebP, and writes
    a page to look at.

    Examples:
      bottlenet demo
      bottlenet demo cat.jpg dog.jpg -o pets.html
    """
    from bottlenet.bundle import Bundle
    from bottlenet.demo.run import page, run_demo, shipped_photos

    target = PAGE.target(output, force=force)
    sources = [Path(one) for one in photo] if photo else shipped_photos()
    loaded = Bundle.load(bundle)
    with progress("classifying") as step:
        result = run_demo(loaded, sources, step)
    write_whole(target, page(result).encode())
    if as_json:
        return print_json({**document(result), "page": str(target)})
    for each in renderables(result):
        stdout().print(each)
        say("")
    say(f"Open in a browser: {target}")


def renderables(result: DemoResult) -> Iterator[RenderableType]:
    manifest = result.bundle.manifest
    yield Text.assemble(
        ("BottleNet demo", "bold"),
        f": {manifest.model} cut at {manifest.cut}; the device computes {manifest.head_flops_share:.0%} of the FLOPs, "
        f"sends the features, coded by the codec {manifest.codec}, and a server process computes the rest.",
    )
    yield answers_table(result)
    yield bytes_table(result)
    yield times_table(result)
    yield Text(summary(result), style="bold")


def answers_table(result: DemoResult) -> Grid:
    rows: list[list[Cell]] = []
    for photo in result.photos:
        same = Text("yes") if photo.same_answer else Text("no", "bold red")
        scores = [f"{each[0].score:.0%}" if each else "" for each in (photo.prediction.top, photo.uncut)]
        cells = clean(photo.answer, "bold"), scores[0], photo.uncut_answer, scores[1]
        rows.append([photo.name, *cells, same])
    return Grid(("photo", "cut in two", ">score", "uncut network", ">score", ">same?"), rows, title="Answers")


def bytes_table(result: DemoResult) -> Grid:
    from bottlenet.demo.run import INPUT_CODECS

    size = result.bundle.manifest.preprocess.size
    shown = ("payload_bytes", "frame_bytes", "socket_bytes", *(f"{name}_bytes" for name in INPUT_CODECS))

    def row(name: str, values: dict[str, float]) -> list[str]:
        return [name, *(f"{values[each]:,.0f}" for each in shown)]

    return Grid(
        ("photo", ">payload", ">frame", ">socket", *(f">{codec.name}" for codec in INPUT_CODECS.values())),
        [row(photo.name, figures(photo)) for photo in result.photos],
        title="Bytes for one photo",
        caption="Payload: the coded features. Frame: payload and header. Socket: all bytes written to it. JPEG and "
        f"WebP: files of the same {size}x{size} pixels, quality after the name; they lose less accuracy.",
        total=row("mean", means(result)),
    )


def times_table(result: DemoResult) -> Grid:
    from bottlenet.demo.run import INPUT_CODECS, REFERENCE, links_in_words

    def row(name: str, mean: Callable[[Callable[[PhotoResult], float]], float]) -> list[str]:
        cells = [name, f"{mean(lambda photo: photo.device_ms):.1f}", f"{mean(lambda photo: photo.server_ms):.1f}"]
        for link in LINKS.values():
            split, whole = mean(methodcaller("with_split", link)), mean(methodcaller("without_split", link, REFERENCE))
            cells.append(f"{split:.0f} / {whole:.0f}")
        return cells

    reference = INPUT_CODECS[REFERENCE].name
    return Grid(
        ("photo", ">device", ">server", *(f">{link.name}" for link in LINKS.values())),
        [row(photo.name, lambda value, photo=photo: value(photo)) for photo in result.photos],  # type: ignore[misc]
        title=f"Milliseconds for one photo; on a link: split / {reference}",
        caption="Device: prepare, head, encode. Server: decode, tail. Both are measured on this machine. Links: "
        f"computed as round trip + bytes * 8 / uplink + computing; {reference} goes to an uncut network on the "
        f"server. Uplinks are the paper's, round trips are assumed: {links_in_words()}.",
        total=row("mean", result.mean),
    )


def summary(result: DemoResult) -> str:
    from bottlenet.demo.run import INPUT_CODECS, REFERENCE

    mean, link, count, known = means(result), LINKS["3g"], len(result.photos), result.accuracy
    text = (
        f"{count} {'photo' if count == 1 else 'photos'}: the uncut network's answer for {result.same_answers}; on "
        f"average a payload of {mean['payload_bytes']:,.0f} bytes, a frame of {mean['frame_bytes']:,.0f}, and "
        f"{result.mean(lambda photo: photo.with_split(link)):.0f} ms on {link.name} instead of "
        f"{result.mean(lambda photo: photo.without_split(link, REFERENCE)):.0f} with {INPUT_CODECS[REFERENCE].name}."
    )
    if result.detects:
        return f"{text} benchmarks/detector.py measures this bundle's mAP on photos with boxes."
    if known is None:
        return f"{text} bottlenet evaluate measures this bundle's accuracy on labelled photos."
    return (
        f"{text} On {known.photos:,} other photos top-1 is {known.top1:.1f} %, {known.top1_uncut - known.top1:.1f} "
        f"points below the uncut network; the best of JPEG, WebP and AVIF needs {known.times_as_many_bytes:.1f} times "
        "as many bytes for the same top-1."
    )


def figures(photo: PhotoResult) -> dict[str, float]:
    sent = {name: getattr(photo.prediction, name) for name in ("payload_bytes", "frame_bytes", "socket_bytes")}
    coded = {f"{name}_bytes": each.size_bytes for name, each in photo.inputs.items()}
    return {**sent, "device_ms": photo.device_ms, "server_ms": photo.server_ms, **coded}


def means(result: DemoResult) -> dict[str, float]:
    rows = [figures(photo) for photo in result.photos]
    return {name: fmean(row[name] for row in rows) for name in rows[0]}


def document(result: DemoResult) -> dict[str, object]:
    manifest = result.bundle.manifest
    return {
        "bundle": {"id": result.bundle.id.hex(), "name": manifest.name, "model": manifest.model, "cut": manifest.cut},
        "links": {name: asdict(link) for name, link in LINKS.items()},
        "photos": [photo_document(photo) for photo in result.photos],
        "same_answers": result.same_answers,
        "accuracy": None if result.accuracy is None else asdict(result.accuracy),
        "means": means(result),
    }


def photo_document(photo: PhotoResult) -> dict[str, object]:
    return {
        "photo": photo.name,
        **asdict(photo.prediction),
        "uncut": [asdict(choice) for choice in photo.uncut],
        **({} if photo.boxes is None else {"uncut_boxes": [asdict(box) for box in photo.uncut_boxes]}),
        **{name: getattr(photo, name) for name in ("same_answer", "device_ms", "server_ms", "uncut_ms")},
        "input_bytes": {name: coded.size_bytes for name, coded in photo.inputs.items()},
        "links": {
            name: {
                "split_ms": photo.with_split(link),
                "without_split_ms": {codec: photo.without_split(link, codec) for codec in photo.inputs},
            }
            for name, link in LINKS.items()
        },
    }
