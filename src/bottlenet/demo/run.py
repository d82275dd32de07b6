"""Run photos through a network cut in two, over a real socket, beside what else could be done with them.

    photo -> Edge -> socket -> server process -> answer          measured
      `----> uncut network -> answer                             measured, in this process
      `----> JPEG, WebP of the same pixels -> bytes              measured
    LINKS: what a phone's or a house's link would make of it     computed, see `with_split` and `without_split`

Device and server are the same machine here. A real device is slower at the head, and a real server faster at the tail.

The page has its pictures inside and loads nothing; it is light and dark, and fits from 360 pixels on. report.html is
the page, photo.html one photo: both are `string.Template`s, and what goes into them is escaped here.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from bottlenet.bundle import Bundle
from bottlenet.edge import Choice, Edge, Encoder, Prediction
from bottlenet.edge.prediction import UNIT, Findings, Object, read_answer
from bottlenet.errors import BundleError
from bottlenet.measure.bench import split_server
from bottlenet.measure.evaluate import Progress
from bottlenet.photo import Square, photo_to_crop
from bottlenet.plan.link import LINKS, Link
from bottlenet.report.charts import Scale, words
from bottlenet.report.sections import data_url, percent, stretched, style, template
from bottlenet.runtime import open_uncut, run_graph
from bottlenet.task import Detection, answer_of, needs_one_label
from bottlenet.wire.answer import NO_NUMBERS
from bottlenet.wire.pictures import InputCodec, decode

PHOTOS = Path(__file__).parent / "photos"
REPEATS = 3  # the median one counts: a machine may be busy with something else for a moment
SURE, MOST_BOXES = 0.3, 30  # of a detector's boxes those are shown: as on the page of a server
INPUT_CODECS = {"webp75": InputCodec("WebP", 75), "jpeg75": InputCodec("JPEG", 75), "jpeg95": InputCodec("JPEG", 95)}
REFERENCE = "jpeg75"  # what most would send; the paper compares with quality 95, which is easier to beat


@dataclass(frozen=True)
class Accuracy:
    """How good a bundle is on many photos, and how many bytes the best input codec needs to be as good."""

    photos: int
    top1: float  # percent
    top1_uncut: float
    frame_bytes: float  # mean
    input_codec_bytes: float  # of the best of JPEG, WebP and AVIF at the same top-1

    @property
    def times_as_many_bytes(self) -> float:
        """The bytes of the best input codec over those of a frame."""
        return self.input_codec_bytes / self.frame_bytes


# The shipped bundle, by its id: benchmarks/results/input_codecs.json.
ACCURACIES = {
    "7e38834a0e962695635c44461085bd128c1e505eb115acae4486ed27a57d14a5": Accuracy(
        photos=1300, top1=77.77, top1_uncut=83.46, frame_bytes=612, input_codec_bytes=4614
    )
}


@dataclass(frozen=True)
class CodedInput:
    """The network's input as a picture file."""

    codec: InputCodec
    size_bytes: int
    code_ms: float  # encode and decode


@dataclass(frozen=True)
class PhotoResult:
    """One photo, split and not split."""

    name: str
    pixels: NDArray[np.uint8] = field(repr=False)  # (S, S, 3), what the network takes
    picture: NDArray[np.uint8] = field(repr=False)  # (rows, cols), the mosaic as the server decodes it
    prediction: Prediction
    uncut: tuple[Choice, ...]  # what the uncut network says, best first, at most 5
    uncut_ms: float
    inputs: dict[str, CodedInput]  # the keys of INPUT_CODECS
    # Of a detector what is shown, the surest first; edges are shares of the square that the network takes.
    boxes: tuple[Object, ...] | None = None
    uncut_boxes: tuple[Object, ...] = ()

    @property
    def same_answer(self) -> bool:
        if self.boxes is None:
            return self.uncut[0].class_index == self.prediction.class_index
        return Counter(box.label for box in self.boxes) == Counter(box.label for box in self.uncut_boxes)

    @property
    def answer(self) -> str:
        return self.prediction.label if self.boxes is None else in_words(self.boxes)

    @property
    def uncut_answer(self) -> str:
        return self.uncut[0].label if self.boxes is None else in_words(self.uncut_boxes)

    @property
    def device_ms(self) -> float:
        return self.prediction.times.device_ms

    @property
    def server_ms(self) -> float:
        return self.prediction.times.server_ms

    def with_split(self, link: Link) -> float:
        """Compute ms on `link`: all that the socket was given for this photo, and computing on both sides."""
        return link.exchange_s(self.prediction.socket_bytes) * 1e3 + self.device_ms + self.server_ms

    def without_split(self, link: Link, codec: str) -> float:
        """Compute ms on `link` if the pixels, in that format, go to the uncut network, with headers as for a frame."""
        coded, sent = self.inputs[codec], self.prediction
        sent_bytes = coded.size_bytes + sent.socket_bytes - sent.payload_bytes
        return link.exchange_s(sent_bytes) * 1e3 + sent.times.prepare_ms + coded.code_ms + self.uncut_ms


@dataclass(frozen=True)
class DemoResult:
    """All photos."""

    bundle: Bundle
    photos: tuple[PhotoResult, ...]

    @property
    def detects(self) -> bool:
        return isinstance(self.bundle.manifest.task, Detection)

    @property
    def same_answers(self) -> int:
        return sum(photo.same_answer for photo in self.photos)

    @property
    def accuracy(self) -> Accuracy | None:
        """The bundle's accuracy on many photos; None: it is not the shipped bundle."""
        return ACCURACIES.get(self.bundle.id.hex())

    def mean(self, value: Callable[[PhotoResult], float]) -> float:
        return fmean(value(photo) for photo in self.photos)


def run_demo(bundle: Bundle, sources: Sequence[Path], step: Progress = lambda done, total: None) -> DemoResult:
    """Classify photos; `step` gets how many are done, and of how many.

    PhotoError: one can't be used. InputError: no uncut network. LinkError: the server did not start, or went away.
    """
    if not isinstance(bundle.manifest.task, Detection):
        needs_one_label(bundle.manifest.task, "`bottlenet demo`")
    encoder, uncut = Encoder(bundle), Uncut(bundle)  # a bundle without the uncut network shows before anything starts
    preprocess = bundle.manifest.uncut_preprocess
    crops = [photo_to_crop(source, preprocess) for source in sources]  # so does an unusable photo
    uncut.look(crops[0][0])
    step(0, len(sources))
    results = []
    with split_server([bundle.path]) as port, Edge(bundle, f"ws://127.0.0.1:{port}") as edge:
        edge.classify(sources[0])  # the first one also opens the connection and warms both sides up
        for done, (source, (one, square)) in enumerate(zip(sources, crops, strict=True), 1):
            predictions = [edge.classify(source) for _ in range(REPEATS)]
            predictions.sort(key=lambda each: each.times.device_ms + each.times.round_trip_ms)
            found, uncut_ms = sorted((uncut.look(one) for _ in range(REPEATS)), key=lambda each: each[1])[REPEATS // 2]
            payload = encoder.encode(source).frame.payload  # the same bytes as those that were sent
            prediction = predictions[REPEATS // 2]
            result = PhotoResult(
                source.name,
                one,
                bundle.mosaic.tile(bundle.codec.decode(payload)),
                prediction,
                found.top,
                uncut_ms,
                {name: code_input(one, codec) for name, codec in INPUT_CODECS.items()},
                shown(prediction.objects, square) if isinstance(bundle.manifest.task, Detection) else None,
                shown(found.objects, UNIT),
            )
            results.append(result)
            step(done, len(sources))
    return DemoResult(bundle, tuple(results))


class Uncut:
    """The uncut network in this process. InputError: the bundle has none."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle, self.session = bundle, open_uncut(bundle)

    def look(self, pixels: NDArray[np.uint8]) -> tuple[Findings, float]:
        """Return what it finds, edges as shares of the square, and ms. BundleError: its scores are no numbers."""
        started = perf_counter()
        output = run_graph(self.session, pixels=pixels[None])
        ms = (perf_counter() - started) * 1e3
        (found,) = self.bundle.manifest.task.results(output)
        if found is None:
            raise BundleError(NO_NUMBERS)
        return read_answer(answer_of(0, 0, 0, found), self.bundle), ms


def shown(objects: Sequence[Object], square: Square) -> tuple[Object, ...]:
    """Choose the boxes that are shown, and put their edges as shares of the square that the network saw."""
    x, y, side = square.left, square.top, square.side
    return tuple(
        replace(
            box,
            left=(box.left - x) / side,
            top=(box.top - y) / side,
            right=(box.right - x) / side,
            bottom=(box.bottom - y) / side,
        )
        for box in [box for box in objects if box.score >= SURE][:MOST_BOXES]
    )


def in_words(boxes: Sequence[Object]) -> str:
    """Say what there are boxes around, the surest first: person (3), dog."""
    counts = Counter(box.label for box in boxes)
    return ", ".join(f"{label} ({count})" if count > 1 else label for label, count in counts.items()) or "nothing"


def code_input(pixels: NDArray[np.uint8], codec: InputCodec) -> CodedInput:
    started = perf_counter()
    file = codec.encode(pixels)
    decode(file, len(pixels))
    return CodedInput(codec, len(file), (perf_counter() - started) * 1e3)


def shipped_photos() -> list[Path]:
    """List the photos that come with the package, free to pass on: photos/LICENSES.md."""
    return sorted(PHOTOS.glob("*.jpg"))


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
    return template("bottlenet.demo", "report.html").substitute(
        title="BottleNet demo",
        style=style(),
        frame_bytes=f"{frame_bytes:,.0f}",
        payload_bytes=f"{payload_bytes:,.0f}",
        size=manifest.preprocess.size,
        head_share=f"{manifest.head_flops_share:.0%}",
        device_ms=f"{result.mean(lambda photo: photo.device_ms):.0f}",
        server_ms=f"{result.mean(lambda photo: photo.server_ms):.0f}",
        network="A detector" if result.detects else "A photo classifier",
        answer=f"{'boxes around things of' if result.detects else 'the best of'} {manifest.num_classes:,} classes",
        totals=totals(result, frame_bytes),
        latent=f"{channels} × {height} × {width}",
        codec=CODEC_NAMES.get(manifest.codec, words(manifest.codec)),
        photos="\n".join(article(number, photo, scale) for number, photo in enumerate(result.photos, 1)),
        repeats=REPEATS,
        links=words(links_in_words()),
        bundle=words(manifest.name),
        bundle_id=result.bundle.id.hex()[:12],
        model=words(manifest.model),
        cut=words(manifest.cut),
    )


def links_in_words() -> str:
    return ", ".join(
        f"{link.name} {link.uplink_bps / 1e6:g} Mbit/s and {link.round_trip_s * 1e3:.0f} ms" for link in LINKS.values()
    )


def byte_scale(values: Sequence[float]) -> Scale:
    """Span bytes between powers of ten; a log scale has no zero, so it starts at a third of the smallest or lower."""
    low = math.floor(math.log10(max(1, min(values) / 3)))
    return Scale(10.0**low, 10.0 ** max(low + 1, math.ceil(math.log10(max(values)))), log=True)


def ticks(scale: Scale) -> str:
    marks, power = "", round(scale.low)
    while power <= scale.high:
        size, letter = next(((size, name) for size, name in ((10**6, "M"), (10**3, "k"), (1, "")) if power >= size))
        marks += f'<i style="left:{100 * scale.share(power):.1f}%">{power // size}{letter}</i>'
        power *= 10
    return marks


def totals(result: DemoResult, frame_bytes: float) -> str:
    reference, link = INPUT_CODECS[REFERENCE].name, LINKS["3g"]
    coded = result.mean(lambda photo: photo.inputs[REFERENCE].size_bytes)
    split_ms = result.mean(lambda photo: photo.with_split(link))
    whole_ms = result.mean(lambda photo: photo.without_split(link, REFERENCE))
    tiles = [
        (f"{result.same_answers} of {len(result.photos)}", "get the uncut network's answer"),
        (f"{frame_bytes:,.0f} bytes", f"a photo, header included; the same pixels as {reference} take {coded:,.0f}"),
        *accuracy_tiles(result),
        (f"{split_ms:.0f} ms", f"a photo on {link.name}, computed; {whole_ms:.0f} ms with {reference}"),
    ]
    return "\n".join(f"<div><dt>{words(what)}</dt><dd>{words(value)}</dd></div>" for value, what in tiles)


def accuracy_tiles(result: DemoResult) -> list[tuple[str, str]]:
    known = result.accuracy
    if result.detects:
        return [("not measured", "mAP of this bundle; benchmarks/detector.py measures it on photos with boxes")]
    if known is None:
        return [("not measured", "top-1 of this bundle; bottlenet evaluate measures it on labelled photos")]
    drop, times = known.top1_uncut - known.top1, known.times_as_many_bytes
    return [
        (f"{known.top1:.1f} %", f"top-1 on {known.photos:,} other photos, {drop:.1f} points below the uncut network"),
        (f"{times:.1f} times", "as many bytes: the best of JPEG, WebP and AVIF, for the same top-1"),
    ]


def article(number: int, photo: PhotoResult, scale: Scale) -> str:
    same = photo.same_answer
    badge = "same answer as uncut" if same else f"uncut: {photo.uncut_answer}"
    boxes = photo.boxes
    sure = f"{percent(photo.prediction.score)} sure" if boxes is None else f"{len(boxes)} found"
    split, uncut = (photo.prediction.top, photo.uncut) if boxes is None else (boxes, photo.uncut_boxes)
    rows, columns = photo.picture.shape
    html = template("bottlenet.demo", "photo.html").substitute(
        number=number,
        name=words(photo.name),
        answer=words(photo.answer),
        sure=sure,
        boxes="" if boxes is None else boxes_picture(boxes, photo.uncut_boxes),
        said="" if boxes is None else "; boxes of the split network, and dashed of the uncut one",
        badge=f'<span class="badge{"" if same else " other"}">{words(badge)}</span>',
        photo=data_url(photo.pixels, "JPEG", quality=PHOTO_QUALITY),
        size=len(photo.pixels),
        mosaic=data_url(stretched(photo.picture), "PNG", optimize=True),
        rows=rows,
        columns=columns,
        payload=f"{photo.prediction.payload_bytes:,}",
        split_answers=answers_table("Cut in two", split, "split"),
        uncut_answers=answers_table("Uncut network", uncut, "whole"),
        bytes=bytes_table(photo, scale),
        links=links_table(photo),
    )
    return html.strip()


def boxes_picture(boxes: Sequence[Object], uncut: Sequence[Object]) -> str:
    """Draw boxes to lie over the photo: the uncut network's dashed, and labels at those of the split one."""
    drawn = "".join(box_outline(box, "whole") for box in uncut)
    for box in reversed(boxes):  # the surest on top
        name = f'<text x="{100 * box.left + 1:.1f}" y="{max(5.0, 100 * box.top - 1):.1f}">{words(box.label)}</text>'
        drawn += box_outline(box, "split") + name
    return f'<svg class="boxes" viewBox="0 0 100 100" aria-hidden="true">{drawn}</svg>'


def box_outline(box: Object, kind: str) -> str:
    left, top, right, bottom = (100 * edge for edge in (box.left, box.top, box.right, box.bottom))
    place = f'x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" height="{bottom - top:.1f}"'
    return f'<rect class="{kind}" {place}/>'


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
    split = {"Payload": sent.payload_bytes, "Frame": sent.frame_bytes, "Socket": sent.socket_bytes}
    whole = {coded.codec.name: coded.size_bytes for coded in photo.inputs.values()}
    return [(name, size, kind) for kind, rows in (("split", split), ("whole", whole)) for name, size in rows.items()]


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
        cells = "".join(f"<td><b>{ms:.0f}</b></td>" if ms == min(times) else f"<td>{ms:.0f}</td>" for ms in times)
        rows += f'<tr><th scope="row">{words(link.name)}</th>{cells}</tr>'
    caption = f"Milliseconds <span>computed; device {photo.device_ms:.1f}, server {photo.server_ms:.1f}</span>"
    head = f'<thead><tr><th scope="col">Link</th><th scope="col">Cut in two</th>{heads}</tr></thead>'
    return f'<table class="links"><caption>{caption}</caption>{head}<tbody>{rows}</tbody></table>'


def bar(filled: float) -> str:
    """Draw a bar, for the eye only: the number stands beside it."""
    return f'<span class="track" aria-hidden="true"><span class="fill" style="width:{filled:.1f}%"></span></span>'
