"""Write the demo as one HTML page: pictures inside, nothing loaded from anywhere, light and dark, from 360 pixels on.

    report.html   the page and its style
    photo.html    one photo

Both are `string.Template`s; what goes into them is escaped here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from bottlenet.demo.run import INPUT_CODECS, REFERENCE, REPEATS, DemoResult, PhotoResult
from bottlenet.edge import Choice
from bottlenet.plan.link import LINKS
from bottlenet.report.charts import Scale
from bottlenet.report.markup import data_url, percent, stretched, style, template, words

PHOTO_QUALITY = 88  # of the photos on the page
CODEC_NAMES = {
    "jpeg": "JPEG",
    "webp": "WebP",
    "deflate": "lossless compression",
    "raw": "no compression at all",
    "entropy": "the learned codec, which leaves out what its budget does not hold",
}


def page(result: DemoResult) -> str:
    manifest = result.bundle.manifest
    scale = byte_scale([value for photo in result.photos for _, value, _ in byte_rows(photo)])
    payload_bytes = result.mean(lambda photo: photo.prediction.payload_bytes)
    frame_bytes = result.mean(lambda photo: photo.prediction.frame_bytes)
    channels, height, width = manifest.latent
    links = ", ".join(
        f"{link.name} {link.uplink_bps / 1e6:g} Mbit/s and {link.round_trip_s * 1e3:.0f} ms" for link in LINKS.values()
    )
    return template("bottlenet.demo", "report.html").substitute(
        title="BottleNet demo",
        style=style(),
        frame_bytes=f"{frame_bytes:,.0f}",
        payload_bytes=f"{payload_bytes:,.0f}",
        size=manifest.preprocess.size,
        head_share=f"{manifest.head_flops_share:.0%}",
        device_ms=f"{result.mean(lambda photo: photo.device_ms):.0f}",
        server_ms=f"{result.mean(lambda photo: photo.server_ms):.0f}",
        classes=f"{manifest.num_classes:,}",
        totals=totals(result, frame_bytes),
        latent=f"{channels} × {height} × {width}",
        codec=CODEC_NAMES.get(manifest.codec, words(manifest.codec)),
        photos="\n".join(article(number, photo, scale) for number, photo in enumerate(result.photos, 1)),
        repeats=REPEATS,
        links=words(links),
        bundle=words(manifest.name),
        bundle_id=result.bundle.id.hex()[:12],
        model=words(manifest.model),
        cut=words(manifest.cut),
    )


def byte_scale(values: Sequence[float]) -> Scale:
    """Span bytes from one power of ten to another.

    It starts at a third of the smallest value or lower: a log scale has no zero, and a bar next to nothing would say
    more than is true.
    """
    low = math.floor(math.log10(max(1, min(values) / 3)))
    return Scale(10.0**low, 10.0 ** max(low + 1, math.ceil(math.log10(max(values)))), log=True)


def ticks(scale: Scale) -> str:
    """Write the powers of ten, as 1k, 10k, 1M."""
    marks, power = "", round(scale.low)
    while power <= scale.high:
        size, letter = next(((size, name) for size, name in ((10**6, "M"), (10**3, "k"), (1, "")) if power >= size))
        marks += f'<i style="left:{100 * scale.share(power):.1f}%">{power // size}{letter}</i>'
        power *= 10
    return marks


def totals(result: DemoResult, frame_bytes: float) -> str:
    """Write the few numbers on top."""
    reference, link = INPUT_CODECS[REFERENCE].name, LINKS["3g"]
    coded = result.mean(lambda photo: photo.inputs[REFERENCE].size_bytes)
    split_ms = result.mean(lambda photo: photo.with_split(link))
    whole_ms = result.mean(lambda photo: photo.without_split(link, REFERENCE))
    tiles = [
        (f"{result.same_answers} of {len(result.photos)}", "answered as by the uncut network"),
        (f"{frame_bytes:,.0f} bytes", f"a photo, header included; as {reference} the same pixels have {coded:,.0f}"),
        *accuracy_tiles(result),
        (f"{split_ms:.0f} ms", f"a photo on {link.name}, computed; {whole_ms:.0f} ms with {reference}"),
    ]
    return "\n".join(f"<div><dt>{words(what)}</dt><dd>{words(value)}</dd></div>" for value, what in tiles)


def accuracy_tiles(result: DemoResult) -> list[tuple[str, str]]:
    """Say what the bytes cost in accuracy, and what other codecs need for as much of it."""
    known = result.accuracy
    if known is None:
        return [("not measured", "top-1 of this bundle: bottlenet evaluate measures it on labelled photos")]
    drop = known.top1_uncut - known.top1
    return [
        (f"{known.top1:.1f} %", f"top-1 on {known.photos:,} other photos, {drop:.1f} points below the uncut network"),
        (f"{known.times_as_many_bytes:.1f} times", "as many bytes take JPEG, WebP or AVIF for the same top-1"),
    ]


def article(number: int, photo: PhotoResult, scale: Scale) -> str:
    same = photo.same_answer
    badge = "same answer as uncut" if same else f"uncut: {photo.uncut[0].label}"
    rows, columns = photo.picture.shape
    return (
        template("bottlenet.demo", "photo.html")
        .substitute(
            number=number,
            name=words(photo.name),
            answer=words(photo.prediction.label),
            score=percent(photo.prediction.score),
            badge=f'<span class="badge{"" if same else " other"}">{words(badge)}</span>',
            photo=data_url(photo.pixels, "JPEG", quality=PHOTO_QUALITY),
            size=len(photo.pixels),
            mosaic=data_url(stretched(photo.picture), "PNG", optimize=True),
            rows=rows,
            columns=columns,
            payload=f"{photo.prediction.payload_bytes:,}",
            split_answers=answers_table("Cut in two", photo.prediction.top, "split"),
            uncut_answers=answers_table("Uncut network", photo.uncut, "whole"),
            bytes=bytes_table(photo, scale),
            links=links_table(photo),
        )
        .strip()
    )


def answers_table(title: str, choices: Sequence[Choice], kind: str) -> str:
    rows = "".join(
        f'<tr class="{"" if number else "first"}"><th scope="row">{words(choice.label)}</th>'
        f"<td>{percent(choice.score)}</td></tr>"
        f'<tr class="line" aria-hidden="true"><td colspan="2">{bar(choice.score * 100)}</td></tr>'
        for number, choice in enumerate(choices)
    )
    return f'<table class="bars shares"><caption>{title}</caption><tbody class="{kind}">{rows}</tbody></table>'


def byte_rows(photo: PhotoResult) -> list[tuple[str, int, str]]:
    """List (name, bytes, kind): what is sent with the split, and the pixels as files."""
    sent = photo.prediction
    return [
        ("Payload", sent.payload_bytes, "split"),
        ("Frame", sent.frame_bytes, "split"),
        ("Socket", sent.socket_bytes, "split"),
        *((coded.codec.name, coded.size_bytes, "whole") for coded in photo.inputs.values()),
    ]


def bytes_table(photo: PhotoResult, scale: Scale) -> str:
    rows = "".join(
        f'<tr class="{kind}"><th scope="row">{words(name)}</th><td class="bar">{bar(100 * scale.share(value))}</td>'
        f"<td>{value:,}</td></tr>"
        for name, value, kind in byte_rows(photo)
    )
    marks = f'<th></th><td class="bar"><span class="ticks">{ticks(scale)}</span></td><td></td>'
    caption = f"<caption>Bytes <span>log scale, from {scale.low:,.0f}</span></caption>"
    return f'<table class="bars">{caption}<tbody>{rows}<tr aria-hidden="true">{marks}</tr></tbody></table>'


def links_table(photo: PhotoResult) -> str:
    codecs = [name for name, codec in INPUT_CODECS.items() if codec.format == "JPEG"]
    heads = "".join(f'<th scope="col">{words(INPUT_CODECS[name].name)}</th>' for name in codecs)
    rows = ""
    for link in LINKS.values():
        times = [photo.with_split(link), *(photo.without_split(link, name) for name in codecs)]
        cells = "".join(
            f"<td>{'<b>' if ms == min(times) else ''}{ms:.0f}{'</b>' if ms == min(times) else ''}</td>" for ms in times
        )
        rows += f'<tr><th scope="row">{words(link.name)}</th>{cells}</tr>'
    caption = (
        f"<caption>Milliseconds <span>computed; device {photo.device_ms:.1f}, server {photo.server_ms:.1f}</span>"
        "</caption>"
    )
    return (
        f'<table class="links">{caption}<thead><tr><th scope="col">Link</th><th scope="col">Cut in two</th>{heads}</tr>'
        f"</thead><tbody>{rows}</tbody></table>"
    )


def bar(filled: float) -> str:
    """Draw a bar, for the eye only: the number stands beside it."""
    return f'<span class="track" aria-hidden="true"><span class="fill" style="width:{filled:.1f}%"></span></span>'
