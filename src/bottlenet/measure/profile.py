"""Measure what each partition of a bundle or a ladder takes on this machine: a `Profile` for the planner.

    photos --uncut network--> answers --> the smallest JPEG, WebP and AVIF within the bound
    photos --each partition--> time, bytes, answer --> Candidate, with its energy and its Detail
    with an exit: its answers and confidences, and what the split takes --each bound--> Candidate

One photo at a time and one thread, as on a device. `device_s` and `server_s` are medians of processor time, which are
the same on a busy machine; a `Detail` is by a clock, on a few of the photos, and the profile says how busy it was.
"""

import asyncio
import os
import platform
import statistics
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from time import perf_counter, process_time

import numpy as np
from numpy.typing import NDArray

from bottlenet.bundle import Bundle
from bottlenet.bundle.ladder import Ladder
from bottlenet.cloud.batcher import Batcher
from bottlenet.cloud.decoder import Decoder, Photos
from bottlenet.edge.encoder import EDGE_ONLY, Device, Partition, Processed, cloud_only, exit_alone, split
from bottlenet.edge.meter import Meter, open_meter
from bottlenet.errors import BottleNetError, InputError
from bottlenet.measure.evaluate import Progress
from bottlenet.measure.memory import peak_rss_bytes
from bottlenet.photos.crops import Damaged
from bottlenet.photos.folders import Photo, label_array, photos_for
from bottlenet.plan.profile import Candidate, Detail, Energy, Exit, Profile, Row, Spread
from bottlenet.runtime import run_graph
from bottlenet.task import needs_one_label
from bottlenet.wire.answer import Answer
from bottlenet.wire.frame import PHOTO, Frame
from bottlenet.wire.pictures import FIXED, QUALITIES, InputCodec, available, decode

Answering = Callable[[Sequence[Frame]], list[Answer]]
Answers = NDArray[np.int64]

MAX_DROP = 2.0  # points: the paper's bound
BOUNDS = (0.3, 0.5, 0.7, 0.9)  # of an exit, beside the bundle's own
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

    A ladder has a split for each of its rungs; edge-only and cloud-only are those of the first. Edge-only is measured
    on smaller photos too, if the network takes them; and where a bundle has an exit, this alone, and the split at the
    bundle's bound and at those of `BOUNDS`.

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
        device = Device(first, budget_bytes=budget_bytes)
        known = read(device, photos_for(first, data, limit))
        whole = device.whole((*FIXED, *smallest(device, known, max_drop)))
        candidates = candidates_of(device, known, whole, source, on_progress)
        for rung in more:
            device = Device(rung, budget_bytes=budget_bytes)
            candidates += candidates_of(device, known, [], source, on_progress)
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
    sure: float  # of an answer of the device, 0..1; -1: it was sent


def candidates_of(
    device: Device, known: Known, whole: Sequence[Partition], energy: Meter | Energy | None, on_progress: Progress
) -> tuple[Candidate, ...]:
    """Measure these partitions and the bundle's cut, in turns on each photo. `energy` is known, or measured here."""
    server, cut, own = Server(device.bundle), split(device.bundle), device.bundle.manifest.exit
    partitions = [*whole, cut, *([] if own is None else [exit_alone(device.bundle)])]
    columns: list[list[Sample]] = [[] for _ in partitions]
    for partition in partitions:
        run(device, server, partition, known.paths[0])  # the first run of everything is slower
    for done, path in enumerate(known.paths, 1):
        for column, partition in zip(columns, partitions, strict=True):
            column.append(run(device, server, partition, path))
        on_progress(done, len(known.paths))
    details = Details(device, server, known.paths)
    candidates = []
    for partition, samples in zip(partitions[: len(whole) + 1], columns, strict=False):
        spent = spent_on(energy, device, partition, known.paths)
        candidates.append(candidate_of(partition, samples, known, spent, details.of(partition)))
    if own is not None:
        sent = candidates.pop()
        candidates += with_exit(device, known, sent, columns[-2:], energy, details)
    return tuple(candidates)


def with_exit(
    device: Device,
    known: Known,
    sent: Candidate,  # the split that sends every photo
    samples: Sequence[Sequence[Sample]],  # of that, and of the exit alone
    energy: Meter | Energy | None,
    details: "Details",
) -> list[Candidate]:
    """Make the candidates of a split with an exit: the exit alone, the split at each bound, all sent."""
    own = device.bundle.manifest.exit
    assert own is not None
    always, alone = samples
    sure = np.array([each.sure for each in alone])
    if (sure < 0).all():  # it gives no numbers
        return [sent]
    own_s = statistics.median(each.device_s for each in alone if each.sure >= 0)
    # Features that the exit gives are those that are sent; an exit on another photo is run before the head.
    before_s = own_s if own.features is None else 0.0
    found = []
    if (sure >= 0).all():
        partition = exit_alone(device.bundle)
        spent, exit = spent_on(energy, device, partition, known.paths), Exit(0.0, 0.0, own_s)
        one = candidate_of(partition, alone, known, spent, details.of(partition), exit)
        found.append(replace(one, needs_bound=own.sure > 0))
    for bound in sorted({*BOUNDS, own.sure} - {0.0, 1.0}):
        unsure = sure < bound
        if bound == own.sure or 0 < unsure.sum() < len(unsure):
            partition = split(device.bundle, bound)
            mixed = [one if is_sent else other for one, other, is_sent in zip(always, alone, unsure, strict=True)]
            spent, exit = spent_on(energy, device, partition, known.paths), Exit(bound, float(unsure.mean()), own_s)
            one = candidate_of(partition, mixed, known, spent, None if before_s else sent.detail, exit)
            one = replace(one, device_s=before_s + sent.device_s, server_s=sent.server_s, needs_bound=bound != own.sure)
            # Any photo may be one that the exit is not sure of.
            found.append(replace(one, payload_bytes_max=sent.payload_bytes_max))
    return [*found, replace(sent, exit=Exit(1.0, 1.0, own_s))]


def run(device: Device, server: Server, partition: Partition, path: Path) -> Sample:
    """Send one photo through one partition, by processor time."""
    started = process_time()
    sent = device.work(partition, path).result
    device_s = process_time() - started
    if isinstance(sent, Answer):
        return Sample(device_s, 0.0, 0, *sent.top[0])
    started = process_time()
    (answer,) = server.answers([sent])
    return Sample(device_s, process_time() - started, len(sent.payload), answer.top[0][0], -1.0)


def spent_on(
    meter: Meter | Energy | None, device: Device, partition: Partition, paths: Sequence[Path]
) -> Energy | None:
    """Return the energy of a photo as it is known, or else metered over as many photos as it takes."""
    if meter is None or isinstance(meter, Energy):
        return meter
    before, started, count = meter.energy_mj(), process_time(), 0
    while count < METERED_PHOTOS and (count == 0 or process_time() - started < METERED_S):
        device.work(partition, paths[count % len(paths)])
        count += 1
    return Energy(meter.how, meter.name, energy_mj=(meter.energy_mj() - before) / count)


def candidate_of(
    partition: Partition,
    samples: Sequence[Sample],
    known: Known,
    energy: Energy | None,
    detail: Detail | None,
    exit: Exit | None = None,
) -> Candidate:
    """Sum up a partition; bytes are of the photos that are sent, if any are."""
    sizes = [sample.payload_bytes for sample in samples if sample.sure < 0] or [0]
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
        exit=exit,
        needs_bound=partition.size is not None,
        payload_bytes_p95=int(np.percentile(sizes, 95, method="inverted_cdf")),
        detail=detail,
    )


class Details:
    """Measures partitions, one after the other, on the same few photos that can be read."""

    def __init__(self, device: Device, server: Server, paths: Sequence[Path]) -> None:
        self._server = server
        self._paths = paths[:PHOTOS]
        self._devices = {1: device}
        for count in threads_here():
            if count > 1:
                self._devices[count] = Device(device.bundle, count, budget_bytes=device.encoder.budget_bytes)
        # Tail and server of cloud-only are the same network whatever the file, so they are measured with the first.
        self._whole: tuple[tuple[Row, ...], tuple[Row, ...]] | None = None

    def of(self, partition: Partition) -> Detail:
        peak = peak_rss_bytes(self._devices[1].bundle.path, partition, self._paths[0])
        done = self._done(self._devices[1], partition)
        prepare, encode = spread(each.prepare_ms for each in done), spread(each.encode_ms for each in done)
        compute = []
        # On smaller photos threads do what they do on the network's own, and a picture file is not computed.
        for threads, device in self._devices.items() if partition.codec is None else ():
            if partition.size is None or threads == 1:
                taken = done if threads == 1 else self._done(device, partition)
                compute.append(row(threads, [each.compute_ms / 1e3 for each in taken]))
        frames = [each.result for each in done if isinstance(each.result, Frame)]
        if not frames:
            return Detail(prepare, tuple(compute), None, None, (), (), peak)
        if partition.codec is None:
            tail, server = by_batch(self._server.answers, frames), by_load(self._server.answers, frames)
        else:
            self._whole = self._whole or (by_batch(self._server.answers, frames), by_load(self._server.answers, frames))
            tail, server = self._whole
        decode = spread(self._server.answers([frame])[0].decode_us / 1e3 for frame in frames)
        return Detail(prepare, tuple(compute), encode, decode, tail, server, peak)

    def _done(self, device: Device, partition: Partition) -> list[Processed]:
        """Process the photos, after a first one that does not count."""
        device.work(partition, self._paths[0])
        return [device.work(partition, path) for path in self._paths]


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


def spread(times_ms: Iterable[float]) -> Spread:
    """Return median and 95th percentile, both of them measured values."""
    median, p95 = np.percentile([each / 1e3 for each in times_ms], (50, 95), method="inverted_cdf")
    return Spread(float(median), float(p95))


def row(count: int, times_s: Iterable[float]) -> Row:
    found = spread(each * 1e3 for each in times_s)
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
