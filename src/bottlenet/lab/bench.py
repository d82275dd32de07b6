"""End to end, measured: each partition of a bundle over each link, with real sockets and real server processes.

    link -> partition -> photos one after the other       latency, bytes, energy; and the bound beside it
                    `--> frames, several in flight        photos a second

The bound is *round trip + socket bytes / bandwidth + compute*: what no implementation beats on that link. Compute is
the device's, as measured, and the server's, as it says in its answers.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bottlenet.bundle import Bundle
from bottlenet.edge.meter import open_meter
from bottlenet.edge.partitions import EDGE_ONLY, Partition
from bottlenet.errors import InputError, PhotoError
from bottlenet.lab.crops import Damaged
from bottlenet.lab.evaluate import photos_for
from bottlenet.lab.exchange import Sample, one_by_one, pipelined_rate
from bottlenet.lab.profile import cpu_model
from bottlenet.lab.rig import Conditions, Rig
from bottlenet.photo import photo_to_pixels
from bottlenet.plan.link import FRAME_BYTES, STREAM_OVERHEAD_BYTES, Link
from bottlenet.task import needs_one_label
from bottlenet.wire.frame import Frame
from bottlenet.wire.inputs import FIXED, InputCodec

FEWEST = 3  # photos
LIMIT = 20
SECONDS = 10.0

Progress = Callable[[int, int], None]
"""Called with (partitions done, partitions in all)."""


@dataclass(frozen=True)
class Row:
    """One partition on one link. Medians of times, means of bytes and energies; None: nothing of the kind."""

    link: str
    partition: str
    kind: str
    cut: str | None
    photos: int
    latency_ms: float | None = None
    latency_p95_ms: float | None = None
    bound_ms: float | None = None
    device_ms: float | None = None
    server_ms: float | None = None
    socket_bytes: float | None = None
    received_bytes: float | None = None
    compute_mj: float | None = None  # of this machine; its meter is in the report
    radio_mj: float | None = None  # modelled: the paper's power while it sends
    photos_per_s: float | None = None  # frames made before, several in flight: what uplink and server take
    agreement: float | None = None  # photos of 100 with the uncut network's answer
    skipped: str | None = None  # why it was not measured


@dataclass(frozen=True)
class Report:
    """What was measured, and on what."""

    bundles: tuple[str, ...]  # ids, hex
    model: str
    device: str
    server: str
    photos: int  # at most; a row says how many it has
    meter: str | None  # of compute_mj; None: none was asked for
    meter_how: str | None  # "measured" or "modelled"
    conditions: tuple[Conditions, ...]
    rows: tuple[Row, ...]  # of each condition all partitions, in the same order
    weights: str = "trained"  # or what the bundle says of them: of random ones bytes and agreement mean nothing


def bench(
    bundles: Sequence[Bundle],
    data: str | Path,
    conditions: Sequence[Conditions],
    *,
    codecs: Sequence[InputCodec] = FIXED,
    limit: int = LIMIT,
    seconds: float = SECONDS,
    meter: str | None = None,
    server_threads: int = 1,
    on_progress: Progress | None = None,
) -> Report:
    """Every partition under every condition, on `limit` of the photos below `data`, evenly spread over the folder.

    `bundles` are of one network with different cuts; edge-only and cloud-only, with each of `codecs`, are those of the
    first. `seconds` is about how long each row may take one photo at a time: where a link is slow it has fewer photos,
    3 at least, and where even one takes longer it is skipped. `meter` is a name that `open_meter` knows.

    InputError: as `evaluate` and `Rig`, a meter that can't be read, or no time. LinkError: a server does not start, or
    goes away.
    """
    if not 0 < seconds < 1e6:
        raise InputError(f"seconds is {seconds}; give a time above 0")
    for bundle in bundles:
        needs_one_label(bundle.manifest.task, "`bottlenet bench`")
    paths = readable(bundles[0], data, limit)
    with ExitStack() as stack:
        opened = None if meter is None else stack.enter_context(closing(open_meter(meter)))
        rig = stack.enter_context(Rig(bundles, codecs=codecs, meter=opened, server_threads=server_threads))
        rows = run(rig, paths, conditions, seconds=seconds, on_progress=on_progress)
    machine = f"{cpu_model()}, one thread"
    slowdowns = sorted({each.device_slowdown for each in conditions if each.device_slowdown != 1})
    scaled = "".join(f", scaled: computes {each:g} times as long" for each in slowdowns)
    return Report(
        bundles=tuple(bundle.id.hex() for bundle in bundles),
        model=bundles[0].manifest.model,
        device=machine + scaled,
        server=machine if server_threads == 1 else f"{cpu_model()}, {server_threads} threads",
        photos=len(paths),
        meter=None if opened is None else opened.name,
        meter_how=None if opened is None else opened.how,
        conditions=tuple(conditions),
        rows=rows,
        weights=weights_of(bundles[0]),
    )


def weights_of(bundle: Bundle) -> str:
    """What it says of its network's weights."""
    return str(bundle.manifest.extra.get("weights", "trained"))


def readable(bundle: Bundle, data: str | Path, limit: int | None) -> list[Path]:
    """Photos that can be read. InputError: none, or too many can't."""
    photos = photos_for(bundle, data, limit)
    damaged = Damaged(len(photos))
    paths = []
    for photo in photos:
        try:
            photo_to_pixels(photo.path, bundle.manifest.preprocess)
            paths.append(photo.path)
        except PhotoError as error:
            damaged.add(photo.path, error)
    if not paths:
        raise InputError(f"{data}: no photo could be read, so there is nothing to measure; give a folder of photos")
    return paths


def run(
    rig: Rig,
    paths: Sequence[Path],
    conditions: Sequence[Conditions],
    *,
    seconds: float = SECONDS,
    pipelined: bool = True,
    on_progress: Progress | None = None,
) -> tuple[Row, ...]:
    """The rows. Without `pipelined` there are no photos a second."""
    uncut = [rig.work(EDGE_ONLY, path, 0).result for path in paths]
    rows: list[Row] = []
    total = len(conditions) * len(rig.partitions)
    for each in conditions:
        for partition in rig.partitions:
            rows.append(measure(rig, partition, each, paths, uncut, seconds=seconds, pipelined=pipelined))
            if on_progress is not None:
                on_progress(len(rows), total)
    return tuple(rows)


def measure(
    rig: Rig,
    partition: Partition,
    conditions: Conditions,
    paths: Sequence[Path],
    uncut: Sequence[Frame | int],
    *,
    seconds: float,
    pipelined: bool,
) -> Row:
    """One row."""
    first = rig.work(partition, paths[0], 0, conditions.device_slowdown)  # and the first run of everything is slower
    link = conditions.link
    expected_s = first.device_s
    if isinstance(first.result, Frame):
        expected_s += link.exchange_s(len(first.result.payload) + STREAM_OVERHEAD_BYTES)
    name = (link.name, partition.name, partition.kind, partition.cut)
    skipped = too_large(rig, partition, link, paths)
    if skipped is None and expected_s > seconds:
        skipped = f"a photo takes about {expected_s:,.1f} s, and {seconds:g} s are allowed"
    if skipped is not None:
        return Row(*name, 0, skipped=skipped)
    count = min(len(paths), max(FEWEST, int(seconds / expected_s)))
    with rig.neighbours(partition, paths[0], conditions.server_load):
        samples = list(one_by_one(rig, partition, conditions, paths[:count]))
        rate = pipelined_rate(rig, partition, conditions, paths) if pipelined else None
    return summarise(name, samples, uncut, link, rate)


def too_large(rig: Rig, partition: Partition, link: Link, paths: Sequence[Path]) -> str | None:
    """Why this link does not carry what is sent; None: it does."""
    if link.max_message_bytes is None or partition.kind == "edge-only":
        return None
    results = [rig.work(partition, path, 0).result for path in paths]
    largest = max(len(each.payload) for each in results if isinstance(each, Frame)) + FRAME_BYTES
    if largest <= link.max_message_bytes:
        return None
    return f"up to {largest:,} bytes don't fit a message of {link.max_message_bytes:,}"


def summarise(
    name: tuple[str, str, str, str | None],
    samples: Sequence[Sample],
    uncut: Sequence[Frame | int],
    link: Link,
    rate: float | None,
) -> Row:
    """Medians and means."""
    latencies = [each.latency_s * 1e3 for each in samples]
    sent = statistics.fmean(each.socket_bytes for each in samples)
    energies = [each.compute_mj for each in samples if each.compute_mj is not None]
    radio_mj = sent * 8 / link.uplink_bps * link.send_mw if sent else 0.0
    return Row(
        *name,
        photos=len(samples),
        latency_ms=statistics.median(latencies),
        latency_p95_ms=float(np.percentile(latencies, 95, method="inverted_cdf")),
        bound_ms=statistics.median(each.bound_s * 1e3 for each in samples),
        device_ms=statistics.median(each.device_s * 1e3 for each in samples),
        server_ms=statistics.median(each.server_s * 1e3 for each in samples),
        socket_bytes=sent,
        received_bytes=statistics.fmean(each.received_bytes for each in samples),
        compute_mj=statistics.fmean(energies) if energies else None,
        radio_mj=None if link.radio is None and sent else radio_mj,
        photos_per_s=rate,
        agreement=100 * statistics.fmean(each.answer == want for each, want in zip(samples, uncut, strict=False)),
    )


def by_condition(report: Report) -> Iterator[tuple[Conditions, Sequence[Row]]]:
    """Each with its rows."""
    count = len(report.rows) // len(report.conditions)
    for number, each in enumerate(report.conditions):
        yield each, report.rows[number * count : (number + 1) * count]
