"""The partitions of a bundle, each with what the device does and what the server does.

    photo --Encoder--> frame --Decoder--> answer                          split
      `---> pixels --uncut.onnx--> answer                                 edge-only
              `--JPEG, WebP--> file --> pixels --uncut.onnx--> answer     cloud-only

A file travels as the payload of a frame, so that both have the same header. No torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter_ns

import numpy as np

from bottlenet.bundle import Bundle
from bottlenet.cloud.decoder import Decoder
from bottlenet.edge.encoder import Encoder
from bottlenet.edge.photo import photo_to_pixels
from bottlenet.errors import BottleNetError, PayloadError
from bottlenet.lab.inputs import FIXED, InputCodec, decode
from bottlenet.runtime import open_uncut, run_graph
from bottlenet.wire.answer import Answer, best, microseconds
from bottlenet.wire.frame import Frame

PHOTO_CODE = 15  # in the header of a frame whose payload is a picture file; none of wire.codecs has it


@dataclass(frozen=True)
class Partition:
    """Who runs what."""

    name: str
    kind: str  # "edge-only", "cloud-only" or "split"
    cut: str | None = None
    codec: InputCodec | None = None  # of cloud-only


EDGE_ONLY = Partition("edge-only", "edge-only")


def cloud_only(codec: InputCodec) -> Partition:
    """With the input in that format."""
    return Partition(f"cloud-only, {codec.name}", "cloud-only", codec=codec)


def split(bundle: Bundle) -> Partition:
    """At the bundle's cut."""
    return Partition(f"split at {bundle.manifest.cut}", "split", bundle.manifest.cut)


def partitions_of(bundle: Bundle, codecs: Sequence[InputCodec] = FIXED) -> list[Partition]:
    """Edge-only, cloud-only, split."""
    return [EDGE_ONLY, *(cloud_only(codec) for codec in dict.fromkeys(codecs)), split(bundle)]


class Device:
    """What the device does. InputError: the bundle has no uncut.onnx. BundleError: a graph does not load."""

    def __init__(self, bundle: Bundle, threads: int = 1) -> None:
        self.bundle = bundle
        self.encoder = Encoder(bundle, threads)
        self.uncut = open_uncut(bundle, threads)

    def run(self, partition: Partition, path: Path, sequence: int = 0) -> Frame | int:
        """A photo to what is sent, or to its class where nothing is. PhotoError: it can't be read."""
        if partition.kind == "split":
            return self.encoder.encode(path, sequence).frame
        pixels = photo_to_pixels(path, self.bundle.manifest.uncut_preprocess)
        if partition.codec is None:
            return int(run_graph(self.uncut, pixels=pixels[None]).argmax())
        payload = partition.codec.encode(pixels)
        return Frame(PHOTO_CODE, partition.codec.quality, self.bundle.tag, sequence, payload)


class PhotoServer:
    """What a server does that gets picture files: decode, and the whole network, for one after the other.

    InputError: the bundle has no uncut.onnx. BundleError: it does not load.
    """

    def __init__(self, bundle: Bundle, threads: int = 1) -> None:
        self.bundle = bundle
        self._uncut = open_uncut(bundle, threads)

    def answers(self, frames: Sequence[Frame]) -> list[Answer | BottleNetError]:
        """As `Decoder.answers`."""
        size = self.bundle.manifest.uncut_preprocess.size
        pixels = np.empty((len(frames), size, size, 3), np.uint8)
        errors: dict[int, PayloadError] = {}
        decode_us = []
        for number, frame in enumerate(frames):
            started = perf_counter_ns()
            try:
                pixels[number] = decode(frame.payload, size)
            except PayloadError as error:
                errors[number] = error
            decode_us.append(microseconds(perf_counter_ns() - started))
        started = perf_counter_ns()
        good = [number for number in range(len(frames)) if number not in errors]
        scores = dict(zip(good, run_graph(self._uncut, pixels=pixels[good]) if good else (), strict=True))
        tail_us = microseconds(perf_counter_ns() - started)
        return [
            errors[number]
            if number in errors
            else Answer(frame.sequence, decode_us[number], tail_us, best(scores[number]))
            for number, frame in enumerate(frames)
        ]


class Server:
    """What the server does. Errors as for `Device`."""

    def __init__(self, bundle: Bundle, threads: int = 1) -> None:
        self._decoder = Decoder(bundle, threads)
        self._photos = PhotoServer(bundle, threads)

    def answers(self, frames: Sequence[Frame]) -> list[Answer]:
        """Frames of one kind. PayloadError and so on: one of them does not decode."""
        side = self._photos if frames[0].codec == PHOTO_CODE else self._decoder
        answers = []
        for answer in side.answers(frames):
            if isinstance(answer, BottleNetError):
                raise answer
            answers.append(answer)
        return answers
