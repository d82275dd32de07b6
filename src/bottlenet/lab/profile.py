"""What each partition of a bundle takes on this machine, measured on a folder of photos: a `Profile` for the planner.

    photo --Encoder--> frame --Decoder--> answer                          split
      `---> pixels --uncut.onnx--> answer                                 edge-only
              `--JPEG, WebP--> file --> pixels --uncut.onnx--> answer     cloud-only

One photo at a time and one thread, as on a device. Times are medians of processor time: on an idle machine that is what
a clock shows, and on a busy one it is still the same. Both sides are measured on this machine, so a profile of a device
is made on the device. There is no power meter here: energy is what the user gives, or not known. No torch.
"""

from __future__ import annotations

import io
import platform
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import process_time
from typing import TypeVar

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image

from bottlenet.bundle import Bundle
from bottlenet.cloud.decoder import Decoder
from bottlenet.edge.encoder import Encoder
from bottlenet.edge.photo import photo_to_pixels
from bottlenet.errors import InputError, PhotoError
from bottlenet.lab.data import Damaged, Photo
from bottlenet.lab.evaluate import Progress, open_uncut, photos_for
from bottlenet.plan.profile import Candidate, Energy, Profile
from bottlenet.runtime import run_graph

Pixels = NDArray[np.uint8]
Result = TypeVar("Result")

# Of the network's input, with Pillow's own settings but for the quality. The paper compares with about JPEG 95.
INPUT_CODECS = {"JPEG 75": ("JPEG", 75), "JPEG 95": ("JPEG", 95), "WebP 75": ("WEBP", 75)}


@dataclass(frozen=True)
class Partition:
    """A candidate before it is measured."""

    name: str
    kind: str
    cut: str | None


@dataclass(frozen=True)
class Sample:
    """One partition on one photo."""

    device_s: float
    server_s: float
    payload_bytes: int
    answer: int  # class index


class Partitions:
    """All partitions of a bundle, ready to run.

    InputError: it has no uncut.onnx. BundleError: a graph does not load.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.uncut = open_uncut(bundle)
        self.encoder = Encoder(bundle)
        self.decoder = Decoder(bundle)
        cut = bundle.manifest.cut
        self.all = [
            Partition("edge-only", "edge-only", None),
            *(Partition(f"cloud-only, {codec}", "cloud-only", None) for codec in INPUT_CODECS),
            Partition(f"split at {cut}", "split", cut),
        ]

    def run(self, path: Path) -> list[Sample]:
        """One photo through each, in the order of `all`. PhotoError: it can't be read."""
        pixels, prepare_s = timed(partial(photo_to_pixels, path, self.bundle.manifest.preprocess))
        encoded, device_s = timed(partial(self.encoder.encode, path))
        answer, uncut_s = timed(partial(classify, self.uncut, pixels))
        scored, server_s = timed(partial(self.decoder.scores, [encoded.frame]))
        if scored.errors[0] is not None:
            raise scored.errors[0]
        return [
            Sample(prepare_s + uncut_s, 0.0, 0, answer),
            *(self.run_cloud(pixels, prepare_s, *codec) for codec in INPUT_CODECS.values()),
            Sample(device_s, server_s, len(encoded.frame.payload), int(scored.scores[0].argmax())),
        ]

    def run_cloud(self, pixels: Pixels, prepare_s: float, codec: str, quality: int) -> Sample:
        """The network's input as a picture file."""
        file, encode_s = timed(partial(to_file, pixels, codec, quality))
        picture, decode_s = timed(partial(from_file, file, codec))
        answer, uncut_s = timed(partial(classify, self.uncut, picture))
        return Sample(prepare_s + encode_s, decode_s + uncut_s, len(file), answer)


def profile(
    bundle: Bundle,
    data: str | Path,
    *,
    limit: int | None = None,
    device_power_mw: float | None = None,
    on_progress: Progress | None = None,
) -> Profile:
    """Measures the partitions of `bundle` on the photos below `data`, or `limit` of them, evenly spread.

    Where photos are labelled the drop is in top-1 on those; else it is the share of photos to which the uncut network
    gives another answer, and the profile says so. `device_power_mw` is the device's power while it computes, as the
    user knows it.

    InputError: as `evaluate`, a power that is none, or a bundle without uncut.onnx. BundleError: a graph does not run.
    """
    energy = None
    if device_power_mw is not None:
        if not device_power_mw > 0:
            raise InputError(f"device power is {device_power_mw} mW; give a number above 0")
        energy = Energy("given", "--device-power-mw", power_mw=device_power_mw)
    photos = photos_for(bundle, data, limit)
    partitions = Partitions(bundle)
    labels, rows = measure(partitions, photos, on_progress)
    if not rows:
        raise InputError(f"{data}: no photo could be read, so there is nothing to measure; give a folder of photos")
    machine = f"{cpu_model()}, one thread"
    return Profile(
        bundle_id=bundle.id.hex(),
        model=bundle.manifest.model,
        device=machine,
        server=machine,
        photos=len(rows),
        labelled=sum(label >= 0 for label in labels),
        candidates=tuple(summarise(partitions, rows, np.array(labels), energy)),
    )


def measure(
    partitions: Partitions, photos: Sequence[Photo], on_progress: Progress | None
) -> tuple[list[int], list[list[Sample]]]:
    """(class or -1, samples) of each photo that can be read. InputError: too many can't."""
    damaged = Damaged(len(photos))
    labels: list[int] = []
    rows: list[list[Sample]] = []
    for done, photo in enumerate(photos, 1):
        try:
            if not rows:
                partitions.run(photo.path)  # the first run of everything is slower
            rows.append(partitions.run(photo.path))
            labels.append(-1 if photo.label is None else photo.label)
        except PhotoError as error:
            damaged.add(photo.path, error)
        if on_progress is not None:
            on_progress(done, len(photos))
    return labels, rows


def summarise(
    partitions: Partitions, rows: list[list[Sample]], labels: NDArray[np.int64], energy: Energy | None
) -> Iterator[Candidate]:
    """Medians, bytes, drops: one candidate a column."""
    uncut = np.array([row[0].answer for row in rows])
    known = labels >= 0
    for partition, samples in zip(partitions.all, zip(*rows, strict=True), strict=True):
        answers = np.array([sample.answer for sample in samples])
        if known.any():
            drop = float((uncut == labels)[known].mean() - (answers == labels)[known].mean()) * 100
        else:
            drop = float((answers != uncut).mean()) * 100
        yield Candidate(
            name=partition.name,
            kind=partition.kind,
            cut=partition.cut,
            device_s=statistics.median(sample.device_s for sample in samples),
            server_s=statistics.median(sample.server_s for sample in samples),
            payload_bytes_mean=statistics.fmean(sample.payload_bytes for sample in samples),
            payload_bytes_max=max(sample.payload_bytes for sample in samples),
            top1_drop=drop,
            drop_of="top1" if known.any() else "agreement",
            energy=energy,
        )


def timed(call: Callable[[], Result]) -> tuple[Result, float]:
    """(what it gives, seconds of processor time)."""
    started = process_time()
    result = call()
    return result, process_time() - started


def classify(uncut: onnxruntime.InferenceSession, pixels: Pixels) -> int:
    """(S, S, 3) -> class index."""
    return int(run_graph(uncut, pixels=pixels[None]).argmax())


def to_file(pixels: Pixels, codec: str, quality: int) -> bytes:
    """A picture file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, codec, quality=quality)
    return file.getvalue()


def from_file(data: bytes, codec: str) -> Pixels:
    """(S, S, 3)."""
    with Image.open(io.BytesIO(data), formats=[codec]) as picture:
        return np.array(picture.convert("RGB"))


def cpu_model() -> str:
    """As the system calls it; of the machine, its kind alone."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model"))]
    text = named[0] if named else platform.processor() or platform.machine() or "a machine"
    return "".join(character for character in text if character.isprintable())[:150]
