"""Measure what each partition of a bundle or a ladder takes on this machine: a `Profile` for the planner.

    photos --uncut network--> answers --> the smallest JPEG, WebP and AVIF within the bound
    photos --each partition--> time, bytes, answer --> Candidate, with its energy and its Detail

One photo at a time and one thread, as on a device. `device_s` and `server_s` are medians of processor time, which are
the same on a busy machine; a `Detail` is by a clock, on a few of the photos, and the profile says how busy it was. A
split sends every photo, also where the bundle has an exit.
"""

import asyncio
import os
import platform
import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from time import perf_counter, process_time
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from bottlenet.bundle import Bundle
from bottlenet.bundle.ladder import Ladder
from bottlenet.cloud.batcher import Batcher
from bottlenet.cloud.decoder import Decoder, Photos
from bottlenet.edge.encoder import EDGE_ONLY, Device, Partition, cloud_only, partitions_of, split
from bottlenet.edge.meter import Meter, open_meter
from bottlenet.errors import BottleNetError, InputError
from bottlenet.measure.evaluate import Progress
from bottlenet.measure.memory import peak_rss_bytes
from bottlenet.photo import photo_to_pixels
from bottlenet.photos.crops import Damaged
from bottlenet.photos.folders import Photo, label_array, photos_for
from bottlenet.plan.profile import Candidate, Detail, Energy, Profile, Row, Spread
from bottlenet.runtime import run_graph
from bottlenet.task import needs_one_label
from bottlenet.wire.answer import Answer
from bottlenet.wire.frame import PHOTO, Frame
from bottlenet.wire.pictures import FIXED, QUALITIES, InputCodec, available, decode

Item = TypeVar("Item")
Result = TypeVar("Result")
Answering = Callable[[Sequence[Frame]], list[Answer]]
Answers = NDArray[np.int64]

MAX_DROP = 2.0  # points: the paper's bound
METERED_PHOTOS = 64
METERED_S = 0.5  # a counter moves in steps of a millisecond: long enough that they don't matter
PHOTOS = 16  # that details are measured on
BATCHES = (1, 4, 16)
LOADS = (0, 1, 4, 16)
REPEATS = 5
MAX_THREADS = 8


def profile(
    bundle: Bundle | Ladder,
    data: str | Path,
    *,
    limit: int | None = None,
    budget_bytes: int | None = None,
    device_power_mw: float | None = None,
    meter: str | None = None,
    max_drop: float = MAX_DROP,
    on_progress: Progress = lambda done, total: None,
) -> Profile:
    """Measure the partitions of `bundle` on the photos below `data`, or `limit` of them, evenly spread.

    A ladder has a split for each of its rungs; edge-only and cloud-only are those of the first.

    Where photos are labelled the drop is in top-1 on those; else it is the share of photos to which the uncut network
    gives another answer, and the profile says so. Cloud-only is measured with JPEG 75, JPEG 95, WebP 75, and with JPEG,
    WebP and AVIF at the lowest quality that loses at most `max_drop` points. `meter` is a name that `open_meter` knows;
    `device_power_mw` is instead the device's power while it computes, as the user knows it. `budget_bytes` is the
    largest frame of a split, see `Encoder`.

    InputError: as `evaluate`, a budget that is too small, a power that is none, a meter that can't be read, both of
    them, or a bundle without uncut.onnx. BundleError: a graph does not run.
    """
    first, *more = bundle.rungs if isinstance(bundle, Ladder) else (bundle,)
    for rung in (first, *more):
        needs_one_label(rung.manifest.task, "`bottlenet profile`")
    energy = energy_of_power(device_power_mw, meter)
    with ExitStack() as stack:
        source = energy if meter is None else stack.enter_context(closing(open_meter(meter)))
        load = load_per_core()
        device = Device(first, budget_bytes=budget_bytes, sure=1)
        known = read(device, photos_for(first, data, limit))
        partitions = partitions_of(first, (*FIXED, *smallest(device, known, max_drop)))
        candidates = candidates_of(device, known, partitions, source, on_progress)
        for rung in more:
            device = Device(rung, budget_bytes=budget_bytes, sure=1)
            candidates += candidates_of(device, known, [split(rung)], source, on_progress)
    machine = f"{cpu_model()}, one thread"
    return Profile(
        bundle_id=bundle.id.hex(),
        model=first.manifest.model,
        device=machine,
        server=machine,
        photos=len(known.paths),
        labelled=int((known.labels >= 0).sum()),
        candidates=candidates,
        max_drop=float(max_drop),
        budget_bytes=budget_bytes,
        device_load=load,
        server_load=load,
    )


def energy_of_power(device_power_mw: float | None, meter: str | None) -> Energy | None:
    """InputError: no power, or a meter as well."""
    if device_power_mw is None:
        return None
    if meter is not None:
        raise InputError(f"both a power and the meter {meter!a:.40} are given; give one of them")
    if not device_power_mw > 0:
        raise InputError(f"device power is {device_power_mw} mW; give a number above 0")
    return Energy("given", "--device-power-mw", power_mw=device_power_mw)


@dataclass(frozen=True)
class Known:
    """The photos that can be read, and what is known of them."""

    paths: list[Path]
    labels: Answers  # (N,); -1: no label
    uncut: Answers  # (N,) the uncut network's answers

    def drop(self, answers: Answers) -> float:
        """Return the points of top-1 that are lost; without labels the share of answers that differ from uncut's."""
        labelled = self.labels >= 0
        if not labelled.any():
            return float((answers != self.uncut).mean()) * 100
        hits = [(each == self.labels)[labelled].mean() for each in (self.uncut, answers)]
        return float(hits[0] - hits[1]) * 100


def read(device: Device, photos: Sequence[Photo]) -> Known:
    """Keep the photos that can be read, with the uncut network's answers. InputError: too many can't, or none can."""
    damaged = Damaged(len(photos))
    answers = {}
    for position, photo in enumerate(photos):
        with damaged.skipping(photo.path):
            answers[position] = device.run(EDGE_ONLY, photo.path)
    if not answers:
        raise InputError("no photo could be read, so there is nothing to measure; give a folder of photos")
    found = [photos[position] for position in answers]
    return Known([photo.path for photo in found], label_array(found), np.array(list(answers.values()), np.int64))


def smallest(device: Device, known: Known, max_drop: float) -> list[InputCodec]:
    """Find each format's lowest of QUALITIES within the bound, where it has one. InputError: no such bound."""
    if not -100 <= max_drop <= 100:
        raise InputError(f"max_drop is {max_drop}; give points of top-1, -100 to 100")
    found = []
    for name in available():
        codecs = (InputCodec(name, quality) for quality in QUALITIES)
        good = (codec for codec in codecs if known.drop(answers_with(device, codec, known.paths)) <= max_drop)
        found += [*islice(good, 1)]
    return found


def answers_with(device: Device, codec: InputCodec, paths: Sequence[Path]) -> Answers:
    """Return what the uncut network answers to the photos as files of that codec, (N,)."""
    size = device.bundle.manifest.uncut_preprocess.size
    answers = []
    for path in paths:
        frame = device.run(cloud_only(codec), path)
        assert isinstance(frame, Frame)
        answers.append(run_graph(device.uncut, pixels=decode(frame.payload, size)[None]).argmax())
    return np.array(answers, np.int64)


class Server:
    """Answers frames and photos in this process, as the server does. BundleError: a graph does not load."""

    def __init__(self, bundle: Bundle, threads: int = 1) -> None:
        self._decoder = Decoder(bundle, threads)
        self._photos = Photos(bundle, threads)

    def answers(self, frames: Sequence[Frame]) -> list[Answer]:
        """Answer frames of one kind. PayloadError and so on: one of them does not decode."""
        side = self._photos if frames[0].codec == PHOTO else self._decoder
        answers = []
        for answer in side.answers(frames):
            if isinstance(answer, BottleNetError):
                raise answer
            answers.append(answer)
        return answers


@dataclass(frozen=True)
class Sample:
    """One partition on one photo."""

    device_s: float
    server_s: float
    payload_bytes: int
    answer: int  # class index


def candidates_of(
    device: Device, known: Known, partitions: Sequence[Partition], energy: Meter | Energy | None, on_progress: Progress
) -> tuple[Candidate, ...]:
    """Measure these partitions, which take turns on each photo. `energy` is known, or measured here."""
    server = Server(device.bundle)
    columns: list[list[Sample]] = [[] for _ in partitions]
    for partition in partitions:
        run(device, server, partition, known.paths[0])  # the first run of everything is slower
    for done, path in enumerate(known.paths, 1):
        for column, partition in zip(columns, partitions, strict=True):
            column.append(run(device, server, partition, path))
        on_progress(done, len(known.paths))
    details = Details(device, server, known.paths)
    candidates = []
    for partition, samples in zip(partitions, columns, strict=True):
        spent = spent_on(energy, device, partition, known.paths)
        candidates.append(candidate_of(partition, samples, known, spent, details.of(partition)))
    return tuple(candidates)


def run(device: Device, server: Server, partition: Partition, path: Path) -> Sample:
    """Send one photo through one partition, by processor time."""
    started = process_time()
    sent = device.run(partition, path)
    device_s = process_time() - started
    if isinstance(sent, int):
        return Sample(device_s, 0.0, 0, sent)
    started = process_time()
    (answer,) = server.answers([sent])
    return Sample(device_s, process_time() - started, len(sent.payload), answer.top[0][0])


def spent_on(
    meter: Meter | Energy | None, device: Device, partition: Partition, paths: Sequence[Path]
) -> Energy | None:
    """Return the energy of a photo as it is known, or else metered over as many photos as it takes."""
    if meter is None or isinstance(meter, Energy):
        return meter
    before, started, count = meter.energy_mj(), process_time(), 0
    while count < METERED_PHOTOS and (count == 0 or process_time() - started < METERED_S):
        device.run(partition, paths[count % len(paths)])
        count += 1
    return Energy(meter.how, meter.name, energy_mj=(meter.energy_mj() - before) / count)


def candidate_of(
    partition: Partition, samples: Sequence[Sample], known: Known, energy: Energy | None, detail: Detail
) -> Candidate:
    sizes = [sample.payload_bytes for sample in samples]
    return Candidate(
        name=partition.name,
        kind=partition.kind,
        cut=partition.cut,
        device_s=statistics.median(sample.device_s for sample in samples),
        server_s=statistics.median(sample.server_s for sample in samples),
        payload_bytes_mean=statistics.fmean(sizes),
        payload_bytes_max=max(sizes),
        top1_drop=known.drop(np.array([sample.answer for sample in samples])),
        drop_of="top1" if (known.labels >= 0).any() else "agreement",
        energy=energy,
        payload_bytes_p95=int(np.percentile(sizes, 95, method="inverted_cdf")),
        detail=detail,
    )


class Details:
    """Measures partitions, one after the other, on the same few photos that can be read."""

    def __init__(self, device: Device, server: Server, paths: Sequence[Path]) -> None:
        self._server = server
        self._paths = paths[:PHOTOS]
        others = (count for count in threads_here() if count > 1)
        self._devices = {1: device}
        for count in others:
            self._devices[count] = Device(device.bundle, count, budget_bytes=device.encoder.budget_bytes, sure=1)
        # Tail and server of cloud-only are the same network whatever the file, so they are measured with the first.
        self._whole: tuple[tuple[Row, ...], tuple[Row, ...]] | None = None

    def of(self, partition: Partition) -> Detail:
        device = self._devices[1]
        peak = peak_rss_bytes(device.bundle.path, partition, self._paths[0])
        if partition.kind == "edge-only":
            prepare, _ = self._prepared
            return Detail(prepare, self._uncut_by_threads(), None, None, (), (), peak)
        frames = [frame for path in self._paths if isinstance(frame := device.run(partition, path), Frame)]
        if partition.codec is None:
            prepare, compute, encode = self._split()
            tail, server = by_batch(self._server.answers, frames), by_load(self._server.answers, frames)
        else:
            prepare, pixels = self._prepared
            compute, encode = (), spread(timed_each(partition.codec.encode, pixels)[0])
            self._whole = self._whole or (by_batch(self._server.answers, frames), by_load(self._server.answers, frames))
            tail, server = self._whole
        decode_us = [self._server.answers([frame])[0].decode_us for frame in frames]
        return Detail(prepare, compute, encode, spread([each / 1e6 for each in decode_us]), tail, server, peak)

    @cached_property
    def _prepared(self) -> tuple[Spread, list[NDArray[np.uint8]]]:
        preprocess = self._devices[1].bundle.manifest.uncut_preprocess
        times, pixels = timed_each(lambda path: photo_to_pixels(path, preprocess), self._paths)
        return spread(times), pixels

    def _split(self) -> tuple[Spread, tuple[Row, ...], Spread]:
        rows = []
        for threads, device in self._devices.items():
            encoded = [device.encoder.encode(path) for path in self._paths]
            rows.append(row(threads, [each.head_ms / 1e3 for each in encoded]))
            if threads == 1:
                prepare = spread([each.prepare_ms / 1e3 for each in encoded])
                encode = spread([each.encode_ms / 1e3 for each in encoded])
        return prepare, tuple(rows), encode

    def _uncut_by_threads(self) -> tuple[Row, ...]:
        _, pixels = self._prepared
        rows = []
        for threads, device in self._devices.items():
            times, _ = timed_each(lambda one, uncut=device.uncut: run_graph(uncut, pixels=one[None]), pixels)  # type: ignore[misc]
            rows.append(row(threads, times))
        return tuple(rows)


def by_batch(answers: Answering, frames: Sequence[Frame]) -> tuple[Row, ...]:
    rows = []
    for size in BATCHES:
        batch = [frames[i % len(frames)] for i in range(size)]
        answers(batch)  # the first of a size is slower
        rows.append(row(size, [answers(batch)[0].tail_us / 1e6 for _ in range(REPEATS)]))
    return tuple(rows)


def by_load(answers: Answering, frames: Sequence[Frame]) -> tuple[Row, ...]:
    """Measure how long a frame waits for its answer, by how many photos are ahead: one at work, the rest in line."""
    rows = []
    for load in LOADS:
        times = [asyncio.run(answered_s(answers, frames[i % len(frames)], load)) for i in range(REPEATS)]
        rows.append(row(load, times))
    return tuple(rows)


async def answered_s(answers: Answering, frame: Frame, load: int) -> float:
    """Return the seconds until a frame is answered that comes right behind `load` others."""
    batcher = Batcher(answers)
    ahead = []
    for _ in range(load):
        ahead.append(asyncio.create_task(batcher.answer(frame)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)  # so that the first is at work when the next one comes
    started = perf_counter()
    await batcher.answer(frame)
    took_s = perf_counter() - started
    await asyncio.gather(*ahead)
    await batcher.close()
    return took_s


def threads_here() -> list[int]:
    """Return 1, 2, 4, 8 as far as this machine has cores, and its number of cores."""
    cores = min(os.cpu_count() or 1, MAX_THREADS)
    return sorted({1, cores, *(count for count in (2, 4) if count <= cores)})


def timed_each(call: Callable[[Item], Result], inputs: Sequence[Item]) -> tuple[list[float], list[Result]]:
    """Return (seconds of each call, results), after a first call that does not count."""
    call(inputs[0])
    times, results = [], []
    for one in inputs:
        started = perf_counter()
        results.append(call(one))
        times.append(perf_counter() - started)
    return times, results


def spread(times: Sequence[float]) -> Spread:
    """Return median and 95th percentile, both of them measured values."""
    median, p95 = np.percentile(times, (50, 95), method="inverted_cdf")
    return Spread(float(median), float(p95))


def row(count: int, times: Sequence[float]) -> Row:
    found = spread(times)
    return Row(count, found.median_s, found.p95_s)


def load_per_core() -> float | None:
    """Return the load of the last minute for each core; None: this system does not say."""
    try:
        return os.getloadavg()[0] / (os.cpu_count() or 1)
    except (AttributeError, OSError):
        return None


def cpu_model() -> str:
    """Return the processor's name as the system has it; it tells a kind of machine, never which one."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model"))]
    text = named[0] if named else platform.processor() or platform.machine() or "a machine"
    return "".join(character for character in text if character.isprintable())[:150]
