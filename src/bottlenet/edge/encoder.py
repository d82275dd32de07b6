"""The device's half: photo to frame, under each of the partitions that a bundle offers.

    photo --prepare--> pixels --head.onnx--> symbols --codec--> payload, in a frame      split
                         |--exit.onnx---> scores --softmax--> answer, where it is sure   split, with an exit
                         |                                      `--> report, in a frame  where that is wanted
                         |--uncut.onnx--> scores --softmax--> answer                     edge-only, of any size
                         `--JPEG, WebP--> file, the payload of a frame                   cloud-only

Every step is timed, as a planner wants to know where the time goes.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from numbers import Integral
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from bottlenet.bundle import Bundle
from bottlenet.errors import BundleError, InputError
from bottlenet.photo import Source, Square, photo_to_crop, photo_to_pixels
from bottlenet.plan.profile import Candidate
from bottlenet.records import is_number
from bottlenet.runtime import Head, InferenceSession, SmallerPhotos, open_uncut, run_graph
from bottlenet.task import needs_one_label
from bottlenet.wire.answer import Answer, best
from bottlenet.wire.codecs import encode_within
from bottlenet.wire.frame import AUDIT_BYTES, HEADER_BYTES, NETWORK_INPUT, OWN_ANSWER, PHOTO, Frame, Report
from bottlenet.wire.pictures import FIXED, InputCodec
from bottlenet.wire.tables import ZERO


@dataclass(frozen=True)
class Encoded:
    """One photo, ready to be sent, and what it took."""

    frame: Frame
    symbols: NDArray[np.uint8] = field(repr=False)  # (C, H, W)
    prepare_ms: float  # read, decode, crop, resize
    head_ms: float
    encode_ms: float  # symbols to payload
    square: Square | None = None  # what of the photo the head saw


class Encoder:
    """The head of a bundle and its codec. Safe to use from several threads.

    With `budget_bytes`, else the bundle's own, no frame is larger, header of 12 bytes included: 340 is one Iridium SBD
    message, 222 and 51 are LoRaWAN payloads. What is too large is coded again, coarser. Where the bundle has an exit,
    `sure` is the confidence from which on the device answers by itself, 0..1; 1 sends all, None is the bundle's own.
    With `report_answers` the server is told each answer of the device, in a frame of 16 bytes. `audit` is the share of
    them, 0..1, of which it gets the frame, too: see `is_audited`.

    BundleError: head.onnx can't be loaded or run, or does not have the shapes that the manifest says. InputError: a
    budget that leaves no room for a payload or a report, `sure` or `audit` out of range, or, for a bundle without an
    exit, `sure` below 1, reports or audits.
    """

    def __init__(
        self,
        bundle: Bundle,
        threads: int = 1,
        *,
        budget_bytes: int | None = None,
        sure: float | None = None,
        report_answers: bool = False,
        audit: float = 0.0,
    ) -> None:
        if budget_bytes is not None and not is_number(budget_bytes, Integral):
            raise InputError(f"budget_bytes is {budget_bytes!r}; give an integer")
        if budget_bytes is not None and budget_bytes <= HEADER_BYTES:
            what = f"a budget of {budget_bytes} bytes has no room beside the frame's header of {HEADER_BYTES}"
            raise InputError(f"{what}; give {HEADER_BYTES + 1} or more")
        check_reports(bundle, budget_bytes, report_answers, audit)
        self.bundle = bundle
        self.budget_bytes = budget_bytes
        self.sure = bound_of(bundle, sure)
        self._report_answers, self._audit = report_answers, audit
        own = bundle.manifest.budget_bytes
        self._payload_limit = budget_bytes - HEADER_BYTES if budget_bytes is not None else own or None
        self._beside = 0 if budget_bytes is None else AUDIT_BYTES  # of an audit's payload, that count, too
        self.head = Head(bundle, threads)
        # as the graph is: the first photo is not slower
        bundle.codec.encode(np.full(bundle.manifest.latent, ZERO, np.uint8))

    @property
    def flops_shares(self) -> tuple[float, float]:
        """The device's FLOPs over the uncut network's, of a photo that is sent and of one that is not."""
        head, own = self.bundle.manifest.head_flops_share, self.bundle.manifest.exit
        if own is None:
            return head, 0.0
        return head + (own.flops_share if self.sure < 1 and own.features is None else 0.0), own.flops_share

    def symbols(self, photo: Source) -> NDArray[np.uint8]:
        """Run the head alone: photo -> (C, H, W) uint8. PhotoError: see `bottlenet.photo.read_photo`."""
        (symbols,) = self.head(photo_to_pixels(photo, self.bundle.manifest.preprocess)[None])
        return symbols  # type: ignore[no-any-return]

    def work(self, photo: Source, sequence: int = 0, sure: float | None = None) -> Processed:
        """Answer a photo where the device is sure of it, else encode it as a frame. Errors as for `encode`.

        `sure` is in place of the encoder's own bound for this photo.
        """
        sure = self.sure if sure is None else sure
        if sure == 1:
            encoded = self.encode(photo, sequence)
            took = encoded.prepare_ms, encoded.head_ms, encoded.encode_ms
            return Processed(encoded.frame, *took, encoded.square)
        own = self.bundle.manifest.exit
        assert own is not None
        times = [perf_counter()]
        pixels, square = photo_to_crop(photo, own.preprocess)
        times.append(perf_counter())
        scores, features = self.head.look(pixels[None])
        answer = self._own_answer(scores[0], sequence, sure)
        times.append(perf_counter())
        audited = answer is not None and is_audited(pixels, self._audit)
        if answer is not None and not audited:
            took = (times[1] - times[0]) * 1e3, (times[2] - times[1]) * 1e3, 0.0
            return Processed(answer, *took, square, self._report(answer))
        if features is None:
            pixels, square = photo_to_crop(photo, self.bundle.manifest.preprocess)
        times.append(perf_counter())
        symbols = self.head.symbols(pixels[None] if features is None else features)[0]
        times.append(perf_counter())
        result = self._pack(symbols, sequence) if answer is None else answer
        report = None if answer is None else self._report(answer, symbols)
        first, own_run, second, head_run, encoding = np.diff([*times, perf_counter()]) * 1e3
        return Processed(result, first + second, own_run + head_run, encoding, square, report)

    def _own_answer(self, scores: NDArray[np.float32], sequence: int, sure: float) -> Answer | None:
        """Return the exit's answer; None where it is not sure, or its scores are no numbers."""
        own = self.bundle.manifest.exit
        assert own is not None
        top = best(scores.astype(np.float64) / own.temperature) if np.isfinite(scores).all() else ()
        return Answer(sequence, 0, 0, top) if top and top[0][1] >= sure else None

    def _report(self, answer: Answer, symbols: NDArray[np.uint8] | None = None) -> Frame | None:
        """Make what the server is told of an answer, if anything; with symbols an audit, where that fits the budget."""
        own = Report(*answer.top[0])
        if symbols is not None:
            with contextlib.suppress(InputError):
                own = replace(own, audit=self._pack(symbols, answer.sequence, self._beside))
        if own.audit is None and not self._report_answers:
            return None
        return own.to_frame(self.bundle.tag, answer.sequence)

    def encode(self, photo: Source, sequence: int = 0) -> Encoded:
        """Encode a photo as a frame with that sequence number, 0..65535, however sure the device is.

        PhotoError: see `bottlenet.photo.read_photo`. InputError: not even the coarsest frame fits the budget.
        """
        started = perf_counter()
        pixels, square = photo_to_crop(photo, self.bundle.manifest.preprocess)
        prepared = perf_counter()
        symbols = self.head(pixels[None])[0]
        ran = perf_counter()
        frame = self._pack(symbols, sequence)
        prepare_ms, head_ms = (prepared - started) * 1e3, (ran - prepared) * 1e3
        return Encoded(frame, symbols, prepare_ms, head_ms, (perf_counter() - ran) * 1e3, square)

    def _pack(self, symbols: NDArray[np.uint8], sequence: int, beside: int = 0) -> Frame:
        codec = self.bundle.codec
        if self._payload_limit is None:
            return Frame(codec.code, codec.setting, self.bundle.tag, sequence, codec.encode(symbols))
        limit = self._payload_limit - beside
        try:
            within = encode_within(codec, symbols, limit)
        except InputError as error:
            whole = limit + HEADER_BYTES
            raise InputError(f"no frame fits {whole} bytes, {HEADER_BYTES} of them its header: {error}") from error
        assert len(within.payload) <= limit, "a payload above the budget"
        return Frame(within.codec, within.setting, self.bundle.tag, sequence, within.payload)


def bound_of(bundle: Bundle, sure: float | None) -> float:
    """Return the confidence from which on a device with that bundle answers by itself. InputError: as `Encoder`."""
    own = bundle.manifest.exit
    if sure is None:
        return 1.0 if own is None else own.sure
    if not is_number(sure) or not 0 <= sure <= 1:
        raise InputError(f"sure is {sure!r}; give a confidence from 0 to 1: with 1 every photo is sent")
    if own is None and sure < 1:
        raise InputError(f"bundle {bundle.manifest.name} has no exit, so it sends every photo: leave out sure")
    return sure


def check_reports(bundle: Bundle, budget_bytes: int | None, report_answers: bool, audit: float) -> None:
    """Check what the server is to be told of a device's own answers. InputError: as `Encoder`."""
    if not is_number(audit) or not 0 <= audit <= 1:
        raise InputError(f"audit is {audit!r}; give the share of sure photos that are sent, too, from 0 to 1")
    if not report_answers and audit == 0:
        return
    if bundle.manifest.exit is None:
        what = f"bundle {bundle.manifest.name} has no exit, so the server has every answer"
        raise InputError(f"{what}: leave out report_answers and audit")
    least = HEADER_BYTES + (AUDIT_BYTES + 1 if audit else OWN_ANSWER.size)
    if budget_bytes is not None and budget_bytes < least:
        what = f"a budget of {budget_bytes} bytes has no room for {'an audit' if audit else 'a report'}"
        raise InputError(f"{what}; give {least} or more")


def is_audited(pixels: NDArray[np.uint8], share: float) -> bool:
    """Draw by the photo alone: the first 32 bits of its pixels' SHA-256, over 2 ** 32, are below the share."""
    if share == 0:
        return False
    return int.from_bytes(hashlib.sha256(pixels.tobytes()).digest()[:4], "big") < share * 2**32


@dataclass(frozen=True)
class Partition:
    """Who runs what."""

    name: str
    kind: str  # "edge-only", "cloud-only" or "split"
    cut: str | None = None  # of a split, or of the bundle whose exit answers alone
    codec: InputCodec | None = None  # of cloud-only
    size: int | None = None  # of the photo, where the whole network runs on a smaller one
    sure: float | None = None  # the bound of an exit: 0 answers all, 1 none; None: the encoder's own


CLOUD_ONLY, PIXELS = "cloud-only, ", " px"  # how the names begin, and end
EDGE_ONLY = Partition("edge-only", "edge-only")


def cloud_only(codec: InputCodec) -> Partition:
    return Partition(f"{CLOUD_ONLY}{codec.name}", "cloud-only", codec=codec)


def smaller(size: int) -> Partition:
    """The whole network on the device, on a photo of that size."""
    return Partition(f"{EDGE_ONLY.name}, {size}{PIXELS}", "edge-only", size=size)


def exit_alone(bundle: Bundle) -> Partition:
    return Partition(f"{EDGE_ONLY.name}, exit at {bundle.manifest.cut}", "edge-only", bundle.manifest.cut, sure=0.0)


def split(bundle: Bundle, sure: float = 1.0) -> Partition:
    """Send the features, but for the photos of which the bundle's exit is that sure."""
    name = f"split at {bundle.manifest.cut}" + (f", sure {sure:g}" if sure < 1 else "")
    return Partition(name, "split", bundle.manifest.cut, sure=sure)


def partition_of(candidate: Candidate) -> Partition:
    """Say what to run for a candidate. InputError: its name is none that the functions above give."""
    kind, name = candidate.kind, candidate.name
    codec = InputCodec.parse(name.removeprefix(CLOUD_ONLY)) if kind == "cloud-only" else None
    size = name.removesuffix(PIXELS).rpartition(" ")[2] if name.endswith(PIXELS) and kind == "edge-only" else ""
    if size and not size.isdecimal():
        raise InputError(f"candidate {name!a:.60} names no size; measure again with bottlenet profile")
    sure = None if candidate.exit is None else candidate.exit.sure
    return Partition(name, kind, candidate.cut, codec, int(size) if size else None, sure)


@dataclass(frozen=True)
class Processed:
    """One photo on the device: the frame to send, or the answer and what to tell of it; and where the time went."""

    result: Frame | Answer
    prepare_ms: float  # photo to pixels
    compute_ms: float  # head, or the whole network
    encode_ms: float  # to a payload
    square: Square | None = None  # what of the photo the network saw
    report: Frame | None = None  # of an answer, for the server

    @property
    def frame(self) -> Frame | None:
        """What is to be sent, if anything."""
        return self.result if isinstance(self.result, Frame) else self.report

    @property
    def device_ms(self) -> tuple[float, float, float]:
        return self.prepare_ms, self.compute_ms, self.encode_ms

    @property
    def device_s(self) -> float:
        return sum(self.device_ms) / 1e3


class Device:
    """A bundle's head and whole network, for several threads; `budget_bytes` and `sure` as for `Encoder`.

    InputError: no classifier, or where the whole network is to run, no uncut.onnx.
    """

    def __init__(
        self, bundle: Bundle, threads: int = 1, *, budget_bytes: int | None = None, sure: float | None = None
    ) -> None:
        needs_one_label(bundle.manifest.task, "comparing partitions")
        self.bundle = bundle
        self.threads = threads
        self.encoder = Encoder(bundle, threads, budget_bytes=budget_bytes, sure=sure)

    @cached_property
    def uncut(self) -> InferenceSession:
        return open_uncut(self.bundle, self.threads)

    @cached_property
    def smaller_photos(self) -> SmallerPhotos:
        return SmallerPhotos(self.bundle, self.threads)

    def whole(self, codecs: Sequence[InputCodec] = FIXED) -> list[Partition]:
        """List the partitions in which the whole network runs on one side."""
        sizes = []
        with contextlib.suppress(BundleError):
            sizes = self.smaller_photos.sizes
        return [EDGE_ONLY, *map(smaller, sizes), *(cloud_only(codec) for codec in dict.fromkeys(codecs))]

    def cuts(self) -> list[Partition]:
        """List the partitions of the bundle's cut: all photos sent; with an exit as few as its bound says, or none."""
        own = self.bundle.manifest.exit
        found = [split(self.bundle)]
        if own is not None:
            found += [split(self.bundle, own.sure)] if 0 < own.sure < 1 else []
            found += [exit_alone(self.bundle)]
        return found

    def work(self, partition: Partition, photo: Source, sequence: int = 0) -> Processed:
        """Make of a photo what is sent, or the answer where nothing is. PhotoError: it can't be used."""
        if partition.cut is not None:
            return self.encoder.work(photo, sequence, partition.sure)
        preprocess = self.bundle.manifest.uncut_preprocess
        if partition.size is not None:
            preprocess = replace(preprocess, size=partition.size)
        started = perf_counter()
        pixels = photo_to_pixels(photo, preprocess)
        prepared = perf_counter()
        prepare_ms = (prepared - started) * 1e3
        if partition.codec is not None:
            frame = Frame(PHOTO, NETWORK_INPUT, self.bundle.tag, sequence, partition.codec.encode(pixels))
            return Processed(frame, prepare_ms, 0.0, (perf_counter() - prepared) * 1e3)
        network = self.uncut if partition.size is None else self.smaller_photos.session
        answer = Answer(sequence, 0, 0, best(run_graph(network, pixels=pixels[None])[0]))
        return Processed(answer, prepare_ms, (perf_counter() - prepared) * 1e3, 0.0)

    def run(self, partition: Partition, photo: Source, sequence: int = 0) -> Frame | int:
        """Return what is sent, or the class."""
        result = self.work(partition, photo, sequence).result
        return result if isinstance(result, Frame) else result.top[0][0]


@dataclass(frozen=True)
class Side:
    """The device's side of one partition. `work` takes a photo and a sequence number, and raises PhotoError."""

    bundle: Bundle
    encoder: Encoder  # of its cut
    work: Callable[[Source, int], Processed]
    cut: str | None = None  # of the partition; None: the whole network runs on one side


def sides_of(
    bundles: Sequence[Bundle],
    partitions: Sequence[Partition] | None = None,
    *,
    codecs: Sequence[InputCodec] = FIXED,
    budget_bytes: int | None = None,
) -> dict[Partition, Side]:
    """Open bundles of one network with different cuts; edge-only and cloud-only are those of the first.

    `partitions` are the wanted ones; None: all that they offer, with `codecs` for cloud-only. `budget_bytes` is as for
    `Encoder`.

    InputError: no bundle, the first one without uncut.onnx, or two of one cut. BundleError: a graph does not load.
    """
    if not bundles:
        raise InputError("no bundle is given; give at least one")
    devices: dict[str | None, Device] = {}
    for bundle in bundles:
        if (cut := bundle.manifest.cut) in devices:
            raise InputError(f"two bundles are cut at {cut}; give bundles with different cuts")
        devices[cut] = Device(bundle, budget_bytes=budget_bytes)
    first, *_ = own = list(devices.values())
    assert first.uncut  # so that what is wrong with it shows now
    devices[None] = first
    if partitions is None:
        partitions = [*first.whole(codecs), *(each for device in own for each in device.cuts())]
    sides = {}
    for each in partitions:
        device = devices[each.cut]
        sides[each] = Side(device.bundle, device.encoder, partial(device.work, each), each.cut)
    return sides
