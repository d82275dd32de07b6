"""Run photos through a network cut in two, over a real socket, beside what else could be done with them.

    photo -> Edge -> socket -> server process -> answer          measured
      `----> uncut network -> answer                             measured, in this process
      `----> JPEG, WebP of the same pixels -> bytes              measured
    LINKS: what a phone's or a house's link would make of it     computed, see `with_split` and `without_split`

Device and server are the same machine here. A real device is slower at the head, and a real server faster at the tail.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from bottlenet.bundle import Bundle
from bottlenet.edge import Choice, Edge, Prediction, photo_to_pixels
from bottlenet.edge.encoder import EDGE_ONLY, Device
from bottlenet.measure.bench import split_server
from bottlenet.plan.link import Link
from bottlenet.task import needs_one_label
from bottlenet.wire.answer import Answer
from bottlenet.wire.pictures import InputCodec, decode

PHOTOS = Path(__file__).parent / "photos"
REPEATS = 3  # the median one counts: a machine may be busy with something else for a moment
INPUT_CODECS = {"webp75": InputCodec("WebP", 75), "jpeg75": InputCodec("JPEG", 75), "jpeg95": InputCodec("JPEG", 95)}
REFERENCE = "jpeg75"  # what most would send; the paper compares with quality 95, which is easier to beat

Step = Callable[[int, int], None]


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

    @property
    def same_answer(self) -> bool:
        """True where cutting the network changed nothing."""
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
        """Compute ms on `link`: all that the socket was given for this photo, and computing on both sides."""
        return link.exchange_s(self.prediction.socket_bytes) * 1e3 + self.device_ms + self.server_ms

    def without_split(self, link: Link, codec: str) -> float:
        """Compute ms on `link`, where the pixels are sent in that format and the server runs the uncut network.

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
        """The number of photos with the uncut network's answer."""
        return sum(photo.same_answer for photo in self.photos)

    @property
    def accuracy(self) -> Accuracy | None:
        """The bundle's accuracy on many photos; None: it is not the shipped bundle."""
        return ACCURACIES.get(self.bundle.id.hex())

    def mean(self, value: Callable[[PhotoResult], float]) -> float:
        """Average a value over the photos."""
        return fmean(value(photo) for photo in self.photos)


def run_demo(bundle: Bundle, sources: Sequence[Path], step: Step = lambda done, total: None) -> DemoResult:
    """Classify the photos; `step` is called with how many are done, and of how many.

    PhotoError: one of them can't be used. InputError: the bundle has no uncut network. LinkError: the server did not
    start, or went away.
    """
    needs_one_label(bundle.manifest.task, "`bottlenet demo`")
    device = Device(bundle)
    preprocess = bundle.manifest.uncut_preprocess
    pixels = [photo_to_pixels(source, preprocess) for source in sources]  # an unusable one shows before anything starts
    step(0, len(sources))
    results = []
    with split_server([bundle.path]) as port, Edge(bundle, f"ws://127.0.0.1:{port}") as edge:
        edge.classify(sources[0])  # the first one also opens the connection and warms both sides up
        device.work(EDGE_ONLY, sources[0])
        for done, (source, one) in enumerate(zip(sources, pixels, strict=True), 1):
            predictions = sorted((edge.classify(source) for _ in range(REPEATS)), key=busy_ms)
            uncut = sorted((device.work(EDGE_ONLY, source) for _ in range(REPEATS)), key=lambda each: each.compute_ms)
            middle = uncut[REPEATS // 2]
            assert isinstance(middle.result, Answer)
            payload = device.encoder.encode(source).frame.payload  # the same bytes as those that were sent
            results.append(
                PhotoResult(
                    source.name,
                    one,
                    bundle.mosaic.tile(bundle.codec.decode(payload)),
                    predictions[REPEATS // 2],
                    tuple(Choice(bundle.labels[index], index, share) for index, share in middle.result.top),
                    middle.compute_ms,
                    {name: code_input(one, codec) for name, codec in INPUT_CODECS.items()},
                )
            )
            step(done, len(sources))
    return DemoResult(bundle, tuple(results))


def busy_ms(prediction: Prediction) -> float:
    """Add up the time from the file to the answer."""
    times = prediction.times
    return times.prepare_ms + times.head_ms + times.encode_ms + times.round_trip_ms


def code_input(pixels: NDArray[np.uint8], codec: InputCodec) -> CodedInput:
    started = perf_counter()
    file = codec.encode(pixels)
    decode(file, len(pixels))
    return CodedInput(codec, len(file), (perf_counter() - started) * 1e3)


def shipped_photos() -> list[Path]:
    """List the photos that come with the package, free to pass on: photos/LICENSES.md."""
    return sorted(PHOTOS.glob("*.jpg"))
