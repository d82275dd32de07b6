"""What each partition of a bundle or a ladder takes on this machine, measured on photos: a `Profile` for the planner.

    photos --uncut network--> answers --> the smallest JPEG, WebP and AVIF within the bound
    photos --each partition--> time, bytes, answer --> Candidate, with its energy and its Detail

One photo at a time and one thread, as on a device. `device_s` and `server_s` are medians of processor time: on an idle
machine that is what a clock shows, and on a busy one it is still the same. Both sides are measured on this machine, so
a profile of a device is made on the device. No torch.

The server's side of the partitions in this process, to be measured; the device's is `edge.encoder`. No torch.

frame --Decoder--> answer       split
`-----Photos---> answer       cloud-only

Where the time of each partition goes on this machine: by threads, by batch, by photos ahead; and its memory.

By a clock, on a few of the photos: on a busy machine these are longer than they have to be, and the profile says how
busy it was. What a step takes comes from the very code that does it in use: `Encoded`, `Answer`.
"""

from __future__ import annotations

import asyncio
import os
import platform
import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter, process_time
from typing import TypeVar

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from bottlenet.bundle import Bundle
from bottlenet.bundle.ladder import Ladder
from bottlenet.cloud.batcher import Batcher
from bottlenet.cloud.decoder import Decoder, Photos
from bottlenet.edge.encoder import EDGE_ONLY, Device, Partition, cloud_only, partitions_of, split
from bottlenet.edge.meter import Meter, open_meter
from bottlenet.errors import BottleNetError, InputError, PhotoError
from bottlenet.measure.evaluate import Progress
from bottlenet.measure.memory import peak_rss_bytes
from bottlenet.photo import photo_to_pixels
from bottlenet.photos.crops import Damaged
from bottlenet.photos.folders import Photo, photos_for
from bottlenet.plan.profile import Candidate, Detail, Energy, Profile, Row, Spread
from bottlenet.runtime import run_graph
from bottlenet.task import needs_one_label
from bottlenet.wire.answer import Answer
from bottlenet.wire.frame import PHOTO, Frame
from bottlenet.wire.pictures import FIXED, QUALITIES, InputCodec, Pixels, available, decode


class Server:
    """What the server does. BundleError: a graph does not load."""

    def __init__(self, bundle: Bundle, threads: int = 1) -> None:
        self._decoder = Decoder(bundle, threads)
        self._photos = Photos(bundle, threads)

    def answers(self, frames: Sequence[Frame]) -> list[Answer]:
        """Frames of one kind. PayloadError and so on: one of them does not decode."""
        side = self._photos if frames[0].codec == PHOTO else self._decoder
        answers = []
        for answer in side.answers(frames):
            if isinstance(answer, BottleNetError):
                raise answer
            answers.append(answer)
        return answers


Item = TypeVar("Item")
Result = TypeVar("Result")
Answering = Callable[[Sequence[Frame]], list[Answer]]

PHOTOS = 16
BATCHES = (1, 4, 16)
LOADS = (0, 1, 4, 16)
REPEATS = 5
MAX_THREADS = 8


class Details:
    """Measures partitions, one after the other, on the same few photos that can be read."""

    def __init__(self, device: Device, server: Server, photos: Sequence[Path]) -> None:
        self._server = server
        self._photos = photos[:PHOTOS]
        self._devices = {1: device} | {count: Device(device.bundle, count) for count in threads_here() if count > 1}
        self._whole: tuple[tuple[Row, ...], tuple[Row, ...]] | None = None

    def of(self, partition: Partition) -> Detail:
        """All there is to know of one."""
        device = self._devices[1]
        peak = peak_rss_bytes(device.bundle.path, partition, self._photos[0])
        if partition.kind == "edge-only":
            prepare, compute = self._edge_only()
            return Detail(prepare, compute, None, None, (), (), peak)
        frames = [frame for path in self._photos if isinstance(frame := device.run(partition, path), Frame)]
        if partition.codec is None:
            prepare, compute, encode = self._split()
            tail, server = by_batch(self._server.answers, frames), by_load(self._server.answers, frames)
        else:
            prepare, encode = self._cloud_only(partition.codec.encode)
            compute = ()
            tail, server = self._whole_network(frames)
        decode_us = [self._server.answers([frame])[0].decode_us for frame in frames]
        return Detail(prepare, compute, encode, spread([each / 1e6 for each in decode_us]), tail, server, peak)

    def _whole_network(self, frames: Sequence[Frame]) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
        """Tail and server of cloud-only: the same network whatever the file, so measured once, with the first."""
        if self._whole is None:
            self._whole = by_batch(self._server.answers, frames), by_load(self._server.answers, frames)
        return self._whole

    def _split(self) -> tuple[Spread, tuple[Row, ...], Spread]:
        """Prepare, head, encode."""
        rows = []
        for threads, device in self._devices.items():
            encoded = [device.encoder.encode(path) for path in self._photos]
            rows.append(row(threads, [each.head_ms / 1e3 for each in encoded]))
            if threads == 1:
                prepare = spread([each.prepare_ms / 1e3 for each in encoded])
                encode = spread([each.encode_ms / 1e3 for each in encoded])
        return prepare, tuple(rows), encode

    def _edge_only(self) -> tuple[Spread, tuple[Row, ...]]:
        """Prepare, the whole network."""
        preprocess = self._devices[1].bundle.manifest.uncut_preprocess
        prepare, pixels = timed_each(lambda path: photo_to_pixels(path, preprocess), self._photos)
        rows = []
        for threads, device in self._devices.items():
            times, _ = timed_each(partial(classify, device.uncut), pixels)
            rows.append(row(threads, times))
        return spread(prepare), tuple(rows)

    def _cloud_only(self, encode: Callable[[Pixels], bytes]) -> tuple[Spread, Spread]:
        """Prepare, encode."""
        preprocess = self._devices[1].bundle.manifest.uncut_preprocess
        prepare, pixels = timed_each(lambda path: photo_to_pixels(path, preprocess), self._photos)
        times, _ = timed_each(encode, pixels)
        return spread(prepare), spread(times)


def by_batch(answers: Answering, frames: Sequence[Frame]) -> tuple[Row, ...]:
    """The tail of a whole batch, by its size."""
    rows = []
    for size in BATCHES:
        batch = [frames[i % len(frames)] for i in range(size)]
        answers(batch)  # the first of a size is slower
        rows.append(row(size, [answers(batch)[0].tail_us / 1e6 for _ in range(REPEATS)]))
    return tuple(rows)


def by_load(answers: Answering, frames: Sequence[Frame]) -> tuple[Row, ...]:
    """Until ours is answered, by how many are ahead: one at work, the others in line, as the server's batches go."""
    rows = []
    for load in LOADS:
        times = [asyncio.run(answered_s(answers, frames[i % len(frames)], load)) for i in range(REPEATS)]
        rows.append(row(load, times))
    return tuple(rows)


async def answered_s(answers: Answering, frame: Frame, load: int) -> float:
    """Seconds from when our frame comes, with `load` ahead of it that came just before."""
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
    """1, 2, 4, 8: as many as this machine has cores, and its number of cores."""
    cores = min(os.cpu_count() or 1, MAX_THREADS)
    return sorted({1, cores, *(count for count in (2, 4) if count <= cores)})


def classify(uncut: onnxruntime.InferenceSession, pixels: Pixels) -> None:
    """One photo through the whole network."""
    run_graph(uncut, pixels=pixels[None])


def timed_each(call: Callable[[Item], Result], inputs: Sequence[Item]) -> tuple[list[float], list[Result]]:
    """(seconds of each but for a first run more, results)."""
    call(inputs[0])
    times, results = [], []
    for one in inputs:
        started = perf_counter()
        results.append(call(one))
        times.append(perf_counter() - started)
    return times, results


def spread(times: Sequence[float]) -> Spread:
    """Median and 95th percentile, both of them measured values."""
    median, p95 = np.percentile(times, (50, 95), method="inverted_cdf")
    return Spread(float(median), float(p95))


def row(count: int, times: Sequence[float]) -> Row:
    """The same, at one number of something."""
    found = spread(times)
    return Row(count, found.median_s, found.p95_s)


Answers = NDArray[np.int64]

MAX_DROP = 2.0  # points: the paper's bound
METERED_PHOTOS = 64
METERED_S = 0.5  # a counter moves in steps of a millisecond: long enough that they don't matter


@dataclass(frozen=True)
class Sample:
    """One partition on one photo."""

    device_s: float
    server_s: float
    payload_bytes: int
    answer: int  # class index


@dataclass(frozen=True)
class Known:
    """The photos that can be read, and what is known of them."""

    paths: list[Path]
    labels: Answers  # (N,); -1: no label
    uncut: Answers  # (N,) the uncut network's answers

    def drop(self, answers: Answers) -> float:
        """Points of top-1 that are lost; without labels the share of other answers than the uncut network's."""
        labelled = self.labels >= 0
        if not labelled.any():
            return float((answers != self.uncut).mean()) * 100
        hits = [(each == self.labels)[labelled].mean() for each in (self.uncut, answers)]
        return float(hits[0] - hits[1]) * 100


def profile(
    bundle: Bundle | Ladder,
    data: str | Path,
    *,
    limit: int | None = None,
    device_power_mw: float | None = None,
    meter: str | None = None,
    max_drop: float = MAX_DROP,
    on_progress: Progress | None = None,
) -> Profile:
    """Measures the partitions of `bundle` on the photos below `data`, or `limit` of them, evenly spread.

    A ladder has a split for each of its rungs; edge-only and cloud-only are those of the first.

    Where photos are labelled the drop is in top-1 on those; else it is the share of photos to which the uncut network
    gives another answer, and the profile says so. Cloud-only is measured with JPEG 75, JPEG 95, WebP 75, and with JPEG,
    WebP and AVIF at the lowest quality that loses at most `max_drop` points. `meter` is a name that `open_meter` knows;
    `device_power_mw` is instead the device's power while it computes, as the user knows it.

    InputError: as `evaluate`, a power that is none, a meter that can't be read, both of them, or a bundle without
    uncut.onnx. BundleError: a graph does not run.
    """
    for each in bundle.rungs if isinstance(bundle, Ladder) else (bundle,):
        needs_one_label(each.manifest.task, "`bottlenet profile`")
    energy = given_energy(device_power_mw, meter)
    with ExitStack() as stack:
        opened = None if meter is None else stack.enter_context(closing(open_meter(meter)))
        load = load_per_core()
        first, *others = bundle.rungs if isinstance(bundle, Ladder) else (bundle,)
        device = Device(first)
        known = read(device, photos_for(first, data, limit))
        partitions = partitions_of(first, (*FIXED, *smallest(device, known, max_drop)))
        candidates = candidates_of(device, known, partitions, opened or energy, on_progress)
        for rung in others:
            candidates += candidates_of(Device(rung), known, [split(rung)], opened or energy, on_progress)
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
        device_load=load,
        server_load=load,
    )


def candidates_of(
    device: Device,
    known: Known,
    partitions: Sequence[Partition],
    energy: Meter | Energy | None,
    on_progress: Progress | None,
) -> tuple[Candidate, ...]:
    """These partitions, measured. `energy` is known, or measured here."""
    server = Server(device.bundle)
    columns = measure(device, server, partitions, known.paths, on_progress)
    details = Details(device, server, known.paths)
    candidates = []
    for partition, samples in zip(partitions, columns, strict=True):
        spent: Energy | None
        if energy is None or isinstance(energy, Energy):
            spent = energy
        else:
            spent = metered(energy, device, partition, known.paths)
        candidates.append(summarise(partition, samples, known, spent, details))
    return tuple(candidates)


def given_energy(device_power_mw: float | None, meter: str | None) -> Energy | None:
    """InputError: no power, or both."""
    if device_power_mw is None:
        return None
    if meter is not None:
        raise InputError(f"both a power and the meter {meter!a:.40} are given; give one of them")
    if not device_power_mw > 0:
        raise InputError(f"device power is {device_power_mw} mW; give a number above 0")
    return Energy("given", "--device-power-mw", power_mw=device_power_mw)


def read(device: Device, photos: Sequence[Photo]) -> Known:
    """Those that can be read, with the uncut network's answers. InputError: too many can't, or none can."""
    damaged = Damaged(len(photos))
    paths: list[Path] = []
    labels: list[int] = []
    answers: list[int] = []
    for photo in photos:
        try:
            answer = device.run(EDGE_ONLY, photo.path)
        except PhotoError as error:
            damaged.add(photo.path, error)
            continue
        assert isinstance(answer, int)
        paths.append(photo.path)
        answers.append(answer)
        labels.append(-1 if photo.label is None else photo.label)
    if not paths:
        raise InputError("no photo could be read, so there is nothing to measure; give a folder of photos")
    return Known(paths, np.array(labels, np.int64), np.array(answers, np.int64))


def smallest(device: Device, known: Known, max_drop: float) -> list[InputCodec]:
    """Each format at the lowest of QUALITIES that is within the bound; not at all where none is.

    InputError: a bound that is none.
    """
    if not -100 <= max_drop <= 100:
        raise InputError(f"max_drop is {max_drop}; give points of top-1, -100 to 100")
    found = []
    for name in available():
        for quality in QUALITIES:
            codec = InputCodec(name, quality)
            if known.drop(answers_with(device, codec, known.paths)) <= max_drop:
                found.append(codec)
                break
    return found


def answers_with(device: Device, codec: InputCodec, paths: Sequence[Path]) -> Answers:
    """(N,) what the uncut network makes of the files."""
    size = device.bundle.manifest.uncut_preprocess.size
    answers = []
    for path in paths:
        frame = device.run(cloud_only(codec), path)
        assert isinstance(frame, Frame)
        answers.append(run_graph(device.uncut, pixels=decode(frame.payload, size)[None]).argmax())
    return np.array(answers, np.int64)


def measure(
    device: Device,
    server: Server,
    partitions: Sequence[Partition],
    paths: Sequence[Path],
    on_progress: Progress | None,
) -> list[list[Sample]]:
    """Each partition's samples; they take turns on each photo."""
    columns: list[list[Sample]] = [[] for _ in partitions]
    for each in partitions:
        run(device, server, each, paths[0])  # the first run of everything is slower
    for done, path in enumerate(paths, 1):
        for column, each in zip(columns, partitions, strict=True):
            column.append(run(device, server, each, path))
        if on_progress is not None:
            on_progress(done, len(paths))
    return columns


def run(device: Device, server: Server, partition: Partition, path: Path) -> Sample:
    """One photo through one partition."""
    sent, device_s = timed(partial(device.run, partition, path))
    if isinstance(sent, int):
        return Sample(device_s, 0.0, 0, sent)
    answers, server_s = timed(partial(server.answers, [sent]))
    return Sample(device_s, server_s, len(sent.payload), answers[0].top[0][0])


def metered(meter: Meter, device: Device, partition: Partition, paths: Sequence[Path]) -> Energy:
    """Of one photo, over as many as it takes to know it well."""
    before, started, count = meter.energy_mj(), process_time(), 0
    while count < METERED_PHOTOS and (count == 0 or process_time() - started < METERED_S):
        device.run(partition, paths[count % len(paths)])
        count += 1
    return Energy(meter.how, meter.name, energy_mj=(meter.energy_mj() - before) / count)


def summarise(
    partition: Partition, samples: Sequence[Sample], known: Known, energy: Energy | None, details: Details
) -> Candidate:
    """Medians, bytes, drop, and the rest."""
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
        detail=details.of(partition),
    )


def timed(call: Callable[[], Result]) -> tuple[Result, float]:
    """(what it gives, seconds of processor time)."""
    started = process_time()
    result = call()
    return result, process_time() - started


def load_per_core() -> float | None:
    """Of the last minute: what ran or wanted to, for each core. None: this system does not say."""
    try:
        return os.getloadavg()[0] / (os.cpu_count() or 1)
    except (AttributeError, OSError):
        return None


def cpu_model() -> str:
    """As the system calls it; of the machine, its kind alone."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model"))]
    text = named[0] if named else platform.processor() or platform.machine() or "a machine"
    return "".join(character for character in text if character.isprintable())[:150]
