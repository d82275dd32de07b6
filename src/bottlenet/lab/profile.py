"""What each partition of a bundle or a ladder takes on this machine, measured on photos: a `Profile` for the planner.

    photos --uncut network--> answers --> the smallest JPEG, WebP and AVIF within the bound
    photos --each partition--> time, bytes, answer --> Candidate, with its energy and its Detail

One photo at a time and one thread, as on a device. `device_s` and `server_s` are medians of processor time: on an idle
machine that is what a clock shows, and on a busy one it is still the same. Both sides are measured on this machine, so
a profile of a device is made on the device. No torch.
"""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import process_time
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from bottlenet.bundle import Bundle
from bottlenet.edge.meter import Meter, open_meter
from bottlenet.edge.partitions import EDGE_ONLY, Device, Partition, cloud_only, partitions_of, split
from bottlenet.errors import InputError, PhotoError
from bottlenet.lab.crops import Damaged
from bottlenet.lab.data import Photo
from bottlenet.lab.detail import Details
from bottlenet.lab.evaluate import Progress, photos_for
from bottlenet.lab.partitions import Server
from bottlenet.ladder import Ladder
from bottlenet.plan.profile import Candidate, Energy, Profile
from bottlenet.runtime import run_graph
from bottlenet.task import needs_one_label
from bottlenet.wire.frame import Frame
from bottlenet.wire.inputs import FIXED, QUALITIES, InputCodec, available, decode

Result = TypeVar("Result")
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
