"""`bottlenet demo`: photos through a network cut in two, over a real socket, beside what else could be done with them.

    photo -> Edge -> socket -> server process -> answer          measured
      `----> uncut network -> answer                             measured, in this process
      `----> JPEG, WebP of the same pixels -> bytes              measured
    LINKS: what a phone's or a house's link would make of it     computed, see `with_split` and `without_split`

Device and server are the same machine here. A real device is slower at the head, and a real server faster at the tail.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from time import perf_counter

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image

from bottlenet.bundle import Bundle
from bottlenet.edge import Choice, Edge, Encoder, Prediction, photo_to_pixels
from bottlenet.measure.bench import split_server
from bottlenet.plan.link import Link
from bottlenet.runtime import open_uncut, run_graph
from bottlenet.task import needs_one_label
from bottlenet.wire.answer import best

PHOTOS = Path(__file__).parent / "photos"
REPEATS = 3  # the median one counts: a machine may be busy with something else for a moment
Step = Callable[[int, int], None]


@dataclass(frozen=True)
class InputCodec:
    """A picture format for sending the pixels themselves."""

    name: str
    format: str  # Pillow's
    quality: int


@dataclass(frozen=True)
class CodedInput:
    """The pixels in such a format."""

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

    @property
    def same_answer(self) -> bool:
        """Whether cutting the network changed nothing."""
        return self.uncut[0].class_index == self.prediction.class_index

    @property
    def device_ms(self) -> float:
        """Prepare, head, encode."""
        times = self.prediction.times
        return times.prepare_ms + times.head_ms + times.encode_ms

    @property
    def server_ms(self) -> float:
        """Decode, tail."""
        return self.prediction.times.decode_ms + self.prediction.times.tail_ms

    def with_split(self, link: Link) -> float:
        """ms on `link`: all that the socket was given for this photo, and computing on both sides."""
        return link.exchange_s(self.prediction.socket_bytes) * 1e3 + self.device_ms + self.server_ms

    def without_split(self, link: Link, codec: str) -> float:
        """ms on `link`, where the pixels are sent in that format and the server runs the uncut network.

        Headers of frame and transport are taken to be the same as with the split.
        """
        coded, sent = self.inputs[codec], self.prediction
        sent_bytes = coded.size_bytes + sent.socket_bytes - sent.payload_bytes
        return link.exchange_s(sent_bytes) * 1e3 + sent.times.prepare_ms + coded.code_ms + self.uncut_ms


@dataclass(frozen=True)
class DemoResult:
    """All photos."""

    bundle: Bundle
    photos: tuple[PhotoResult, ...]

    @property
    def same_answers(self) -> int:
        """Photos with the uncut network's answer."""
        return sum(photo.same_answer for photo in self.photos)

    def mean(self, value: Callable[[PhotoResult], float]) -> float:
        """Over the photos."""
        return fmean(value(photo) for photo in self.photos)


def run_demo(bundle: Bundle, sources: Sequence[Path], step: Step = lambda done, total: None) -> DemoResult:
    """Classifies the photos; `step` is told how many are done, and of how many.

    PhotoError: one of them can't be used. InputError: the bundle has no uncut network. LinkError: the server did not
    start, or went away.
    """
    needs_one_label(bundle.manifest.task, "`bottlenet demo`")
    uncut = open_uncut(bundle)
    encoder = Encoder(bundle)
    preprocess = bundle.manifest.uncut_preprocess
    pixels = [photo_to_pixels(source, preprocess) for source in sources]  # an unusable one shows before anything starts
    step(0, len(sources))
    results = []
    with split_server([bundle.path]) as port, Edge(bundle, f"ws://127.0.0.1:{port}") as edge:
        edge.classify(sources[0])  # the first one also opens the connection and warms both sides up
        run_graph(uncut, pixels=pixels[0][None])
        for done, (source, one) in enumerate(zip(sources, pixels, strict=True), 1):
            predictions = sorted((edge.classify(source) for _ in range(REPEATS)), key=busy_ms)
            answers = sorted((run_uncut(uncut, one, bundle.labels) for _ in range(REPEATS)), key=lambda each: each[1])
            payload = encoder.encode(source).frame.payload  # the same bytes as those that were sent
            results.append(
                PhotoResult(
                    source.name,
                    one,
                    bundle.mosaic.tile(bundle.codec.decode(payload)),
                    predictions[REPEATS // 2],
                    *answers[REPEATS // 2],
                    {name: code_input(one, codec) for name, codec in INPUT_CODECS.items()},
                )
            )
            step(done, len(sources))
    return DemoResult(bundle, tuple(results))


def shipped_photos() -> list[Path]:
    """Those that come with the package, free to pass on: photos/LICENSES.md."""
    return sorted(PHOTOS.glob("*.jpg"))


def busy_ms(prediction: Prediction) -> float:
    """From the file to the answer."""
    times = prediction.times
    return times.prepare_ms + times.head_ms + times.encode_ms + times.round_trip_ms


def run_uncut(
    session: onnxruntime.InferenceSession, pixels: NDArray[np.uint8], labels: Sequence[str]
) -> tuple[tuple[Choice, ...], float]:
    """(answer, ms) of the network that nobody cut."""
    started = perf_counter()
    scores = run_graph(session, pixels=pixels[None])[0]
    took_ms = (perf_counter() - started) * 1e3
    return tuple(Choice(labels[index], index, share) for index, share in best(scores)), took_ms


def code_input(pixels: NDArray[np.uint8], codec: InputCodec) -> CodedInput:
    """The pixels as a file, with Pillow's own settings but for the quality."""
    image = Image.fromarray(pixels)
    started = perf_counter()
    file = io.BytesIO()
    image.save(file, codec.format, quality=codec.quality)
    Image.open(file, formats=[codec.format]).load()
    return CodedInput(codec, len(file.getvalue()), (perf_counter() - started) * 1e3)


INPUT_CODECS = {
    "webp75": InputCodec("WebP 75", "WEBP", 75),
    "jpeg75": InputCodec("JPEG 75", "JPEG", 75),
    "jpeg95": InputCodec("JPEG 95", "JPEG", 95),
}
REFERENCE = "jpeg75"  # what most would send; the paper compares with quality 95, which is easier to beat
