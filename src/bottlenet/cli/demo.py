"""`bottlenet demo` in a terminal: three tables and a summary, or one JSON document."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from bottlenet.cli.show import clean, number_columns, plain_table, text_columns
from bottlenet.demo.run import INPUT_CODECS, REFERENCE, DemoResult, PhotoResult
from bottlenet.plan.link import LINKS, Link

Value = Callable[[PhotoResult], float]


def renderables(result: DemoResult) -> Iterator[RenderableType]:
    """What `bottlenet demo` prints, in order."""
    manifest = result.bundle.manifest
    yield Text.assemble(
        ("BottleNet demo", "bold"),
        f": {manifest.model} cut at {manifest.cut}; the device computes {manifest.head_flops_share:.0%} of the FLOPs, "
        f"sends the features, coded as {manifest.codec}, and a server process computes the rest.",
    )
    yield answers_table(result)
    yield bytes_table(result)
    yield times_table(result)
    yield Text(summary(result), style="bold")


def answers_table(result: DemoResult) -> Table:
    """What both say."""
    table = plain_table("Answers")
    text_columns(table, "photo", "cut in two")
    number_columns(table, "sure")
    text_columns(table, "uncut network")
    number_columns(table, "sure", "same?")
    for photo in result.photos:
        same = Text("yes") if photo.same_answer else Text("no", "bold red")
        table.add_row(
            clean(photo.name),
            clean(photo.prediction.label, "bold"),
            f"{photo.prediction.score:.0%}",
            clean(photo.uncut[0].label),
            f"{photo.uncut[0].score:.0%}",
            same,
        )
    return table


def bytes_table(result: DemoResult) -> Table:
    """What is sent for one photo."""
    size = result.bundle.manifest.preprocess.size
    table = plain_table(
        "Bytes for one photo",
        f"Payload: the features. Frame: with its header. Socket: all that the socket was given. JPEG and WebP: files "
        f"of the same {size}x{size} pixels, quality behind the name; these lose less accuracy.",
    )
    text_columns(table, "photo")
    number_columns(table, "payload", "frame", "socket", *(codec.name for codec in INPUT_CODECS.values()))
    sent: list[Value] = [
        lambda photo: photo.prediction.payload_bytes,
        lambda photo: photo.prediction.frame_bytes,
        lambda photo: photo.prediction.socket_bytes,
    ]
    values = [*sent, *(coded_bytes(name) for name in INPUT_CODECS)]
    for photo in result.photos:
        table.add_row(clean(photo.name), *(f"{value(photo):,.0f}" for value in values))
    table.add_section()
    table.add_row("mean", *(f"{result.mean(value):,.0f}" for value in values), style="bold")
    return table


def times_table(result: DemoResult) -> Table:
    """Milliseconds, measured and computed."""
    reference = INPUT_CODECS[REFERENCE].name
    assumed = ", ".join(
        f"{link.name} {link.uplink_bps / 1e6:g} Mbit/s and {link.round_trip_s * 1e3:.0f} ms" for link in LINKS.values()
    )
    table = plain_table(
        f"Milliseconds for one photo; on a link: split / {reference}",
        "Device: prepare, head, encode. Server: decode, tail. Both measured, on the same machine here. On a link: "
        f"computed, round trip + bytes * 8 / uplink + computing; {reference} goes to an uncut network on the server. "
        f"Uplinks are the paper's, round trips assumed: {assumed}.",
    )
    text_columns(table, "photo")
    number_columns(table, "device", "server", *(link.name for link in LINKS.values()))
    for photo in result.photos:
        table.add_row(clean(photo.name), *times_row(lambda value, photo=photo: value(photo)))  # type: ignore[misc]
    table.add_section()
    table.add_row("mean", *times_row(result.mean), style="bold")
    return table


def times_row(of: Callable[[Value], float]) -> Iterator[str]:
    """Device, server and each link, of one photo or on average."""
    yield f"{of(lambda photo: photo.device_ms):.1f}"
    yield f"{of(lambda photo: photo.server_ms):.1f}"
    for link in LINKS.values():
        yield f"{of(split_ms(link)):.0f} / {of(whole_ms(link)):.0f}"


def summary(result: DemoResult) -> str:
    """Write the means, and the accuracy where it is known, in a few sentences."""
    payload = result.mean(lambda photo: photo.prediction.payload_bytes)
    frame = result.mean(lambda photo: photo.prediction.frame_bytes)
    link, reference = LINKS["3g"], INPUT_CODECS[REFERENCE].name
    count, known = len(result.photos), result.accuracy
    text = (
        f"{count} {'photo' if count == 1 else 'photos'}: {result.same_answers} answered as by the uncut network; "
        f"on average {payload:,.0f} bytes of payload and {frame:,.0f} a frame, and on {link.name} "
        f"{result.mean(split_ms(link)):.0f} ms instead of {result.mean(whole_ms(link)):.0f} with {reference}."
    )
    if known is None:
        return f"{text} How accurate this bundle is, bottlenet evaluate measures on labelled photos."
    return (
        f"{text} On {known.photos:,} other photos top-1 is {known.top1:.1f} %, {known.top1_uncut - known.top1:.1f} "
        f"points below the uncut network; the best of JPEG, WebP and AVIF takes {known.times_as_many_bytes:.1f} times "
        "as many bytes for that."
    )


def coded_bytes(name: str) -> Value:
    """Bytes of the pixels in that format."""
    return lambda photo: photo.inputs[name].size_bytes


def split_ms(link: Link) -> Value:
    """ms on that link."""
    return lambda photo: photo.with_split(link)


def whole_ms(link: Link) -> Value:
    """ms on that link, with what most would send."""
    return lambda photo: photo.without_split(link, REFERENCE)


def document(result: DemoResult) -> dict[str, object]:
    """The same for programs; times in ms."""
    means: list[tuple[str, Value]] = [
        ("payload_bytes", lambda photo: photo.prediction.payload_bytes),
        ("frame_bytes", lambda photo: photo.prediction.frame_bytes),
        ("socket_bytes", lambda photo: photo.prediction.socket_bytes),
        ("device_ms", lambda photo: photo.device_ms),
        ("server_ms", lambda photo: photo.server_ms),
        *((f"{name}_bytes", coded_bytes(name)) for name in INPUT_CODECS),
    ]
    manifest = result.bundle.manifest
    return {
        "bundle": {"id": result.bundle.id.hex(), "name": manifest.name, "model": manifest.model, "cut": manifest.cut},
        "links": {name: asdict(link) for name, link in LINKS.items()},
        "photos": [photo_document(photo) for photo in result.photos],
        "same_answers": result.same_answers,
        "accuracy": None if result.accuracy is None else asdict(result.accuracy),
        "means": {name: result.mean(value) for name, value in means},
    }


def photo_document(photo: PhotoResult) -> dict[str, object]:
    """One photo, without its pixels."""
    return {
        "photo": photo.name,
        **asdict(photo.prediction),
        "uncut": [asdict(choice) for choice in photo.uncut],
        "same_answer": photo.same_answer,
        "device_ms": photo.device_ms,
        "server_ms": photo.server_ms,
        "uncut_ms": photo.uncut_ms,
        "input_bytes": {name: coded.size_bytes for name, coded in photo.inputs.items()},
        "links": {
            name: {
                "split_ms": photo.with_split(link),
                "without_split_ms": {codec: photo.without_split(link, codec) for codec in INPUT_CODECS},
            }
            for name, link in LINKS.items()
        },
    }
