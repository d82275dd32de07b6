"""Where the time of each partition goes on this machine: by threads, by batch, by photos ahead; and its memory.

By a clock, on a few of the photos: on a busy machine these are longer than they have to be, and the profile says how
busy it was. What a step takes comes from the very code that does it in use: `Encoded`, `Answer`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TypeVar

import numpy as np
import onnxruntime

from bottlenet.cloud.batcher import Batcher
from bottlenet.edge.partitions import Device, Partition
from bottlenet.lab.footprint import peak_rss_bytes
from bottlenet.lab.partitions import Server
from bottlenet.photo import photo_to_pixels
from bottlenet.plan.detail import Detail, Row, Spread
from bottlenet.runtime import run_graph
from bottlenet.wire.answer import Answer
from bottlenet.wire.frame import Frame
from bottlenet.wire.inputs import Pixels

Item = TypeVar("Item")
Result = TypeVar("Result")
Answers = Callable[[Sequence[Frame]], list[Answer]]

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


def by_batch(answers: Answers, frames: Sequence[Frame]) -> tuple[Row, ...]:
    """The tail of a whole batch, by its size."""
    rows = []
    for size in BATCHES:
        batch = [frames[i % len(frames)] for i in range(size)]
        answers(batch)  # the first of a size is slower
        rows.append(row(size, [answers(batch)[0].tail_us / 1e6 for _ in range(REPEATS)]))
    return tuple(rows)


def by_load(answers: Answers, frames: Sequence[Frame]) -> tuple[Row, ...]:
    """Until ours is answered, by how many are ahead: one at work, the others in line, as the server's batches go."""
    rows = []
    for load in LOADS:
        times = [asyncio.run(answered_s(answers, frames[i % len(frames)], load)) for i in range(REPEATS)]
        rows.append(row(load, times))
    return tuple(rows)


async def answered_s(answers: Answers, frame: Frame, load: int) -> float:
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
