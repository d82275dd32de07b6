"""Measure each partition of a bundle end to end, over each link, with real sockets and a real server process.

    photo -> Workbench.work -> message -> ShapedLink -> server process -> answer
              `-> class, where nothing is sent              neighbours -'  other devices, without a link

    one_by_one       the next photo when this one is answered     latency, bytes, energy; and the bound beside it
    pipelined_rate   frames made before, several in flight        photos a second

The bound is *round trip + socket bytes / bandwidth + compute*: what no implementation beats on that link. A slower
device is this machine, asleep for as long as the slower one would still compute: scaled, and named so.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from queue import Empty, Queue
from threading import Event, Semaphore, Thread
from time import perf_counter, sleep, thread_time
from typing import IO

import numpy as np

from bottlenet.bundle import Bundle
from bottlenet.cloud.admission import Limits
from bottlenet.edge.connection import Transport, open_websocket
from bottlenet.edge.encoder import EDGE_ONLY, Partition, sides_of
from bottlenet.edge.meter import Meter, open_meter
from bottlenet.errors import BottleNetError, InputError, LinkError, WireError
from bottlenet.measure.evaluate import Progress
from bottlenet.measure.link import ShapedLink
from bottlenet.measure.profile import cpu_model
from bottlenet.photo import photo_to_pixels
from bottlenet.photos.crops import Damaged
from bottlenet.photos.folders import photos_for
from bottlenet.plan.link import FRAME_BYTES, STREAM_OVERHEAD_BYTES, Link
from bottlenet.records import check_integer, check_number
from bottlenet.task import needs_one_label
from bottlenet.wire.answer import parse_answer
from bottlenet.wire.frame import STREAM_PATH, Frame
from bottlenet.wire.pictures import FIXED, InputCodec

LIMIT = 20  # photos
FEWEST = 3  # photos of a row, however slow the link is
SECONDS = 10.0  # for a row
MAX_LOAD = IN_FLIGHT = Limits.max_in_flight  # beyond it the server does not read
MAX_SLOWDOWN = 1000.0
OPEN_S = MARGIN_S = 60.0
PIPELINED_S = 2.0
PIPELINED = (8, 256)  # frames, at least and at most
START_S = 120.0  # a small machine may need long for its first imports
STOP_S = 10.0
MAX_CHARACTERS = 4096
MAX_INPUT_BYTES = 2**22  # of a network's input as a picture file


@dataclass(frozen=True)
class Conditions:
    """Where a partition is measured. InputError: a load or a slowdown out of range."""

    link: Link
    jitter_s: float = 0.0
    server_load: int = 0  # photos of others that are always at the server, at work or in line
    device_slowdown: float = 1.0  # how much slower than this machine the device is
    seed: int = 0

    def __post_init__(self) -> None:
        check_integer("server load", self.server_load, 0, MAX_LOAD)
        check_number("device slowdown", self.device_slowdown, 1, MAX_SLOWDOWN)


@dataclass(frozen=True)
class BenchRow:
    """One partition on one link. Medians of times, means of bytes and energies; None: nothing of the kind.

    Where an exit answers some photos, times are means, as those of the two kinds of photos differ.
    """

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
    needs_bound: bool = False  # as of a `Candidate`


@dataclass(frozen=True)
class BenchReport:
    """What was measured, and on what."""

    bundles: tuple[str, ...]  # ids, hex
    model: str
    device: str
    server: str
    photos: int  # at most; a row says how many it has
    meter: str | None  # of compute_mj; None: none was asked for
    meter_how: str | None  # "measured" or "modelled"
    conditions: tuple[Conditions, ...]
    rows: tuple[BenchRow, ...]  # of each condition all partitions, in the same order
    weights: str = "trained"  # or what the bundle says of them: of random ones bytes and agreement mean nothing
    budget_bytes: int | None = None  # of a split's frames, if one was given

    def by_condition(self) -> Iterator[tuple[Conditions, Sequence[BenchRow]]]:
        count = len(self.rows) // len(self.conditions)
        for number, each in enumerate(self.conditions):
            yield each, self.rows[number * count : (number + 1) * count]


def bench(
    bundles: Sequence[Bundle],
    data: str | Path,
    conditions: Sequence[Conditions],
    *,
    codecs: Sequence[InputCodec] = FIXED,
    limit: int = LIMIT,
    seconds: float = SECONDS,
    budget_bytes: int | None = None,
    meter: str | None = None,
    server_threads: int = 1,
    on_progress: Progress = lambda done, total: None,
) -> BenchReport:
    """Measure every partition under every condition, on `limit` of the photos below `data`, evenly spread.

    `bundles` are of one network with different cuts; edge-only, on smaller photos too, and cloud-only, with each of
    `codecs`, are those of the first. Where a bundle has an exit, its split is measured with all photos sent and at the
    bundle's bound, and the exit alone. `seconds` is about how long each row may take one photo at a time: where a link
    is slow it has fewer photos, 3 at least, and where even one takes longer it is skipped. `meter` is a name that
    `open_meter` knows, and `budget_bytes` the largest frame of a split.

    InputError: as `evaluate` and `Workbench`, a meter that can't be read, or no time. LinkError: a server does not
    start, or goes away.
    """
    if not 0 < seconds < 1e6:
        raise InputError(f"seconds is {seconds}; give a time above 0")
    for bundle in bundles:
        needs_one_label(bundle.manifest.task, "`bottlenet bench`")
    paths = readable(bundles[0], data, limit)
    with ExitStack() as stack:
        opened = None if meter is None else stack.enter_context(closing(open_meter(meter)))
        workbench = stack.enter_context(
            Workbench(bundles, codecs=codecs, budget_bytes=budget_bytes, meter=opened, server_threads=server_threads)
        )
        rows = run(workbench, paths, conditions, seconds=seconds, on_progress=on_progress)
    machine = f"{cpu_model()}, one thread"
    slowdowns = sorted({each.device_slowdown for each in conditions if each.device_slowdown != 1})
    scaled = "".join(f", scaled: computes {each:g} times as long" for each in slowdowns)
    return BenchReport(
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
        budget_bytes=budget_bytes,
    )


def weights_of(bundle: Bundle) -> str:
    return str(bundle.manifest.extra.get("weights", "trained"))


def readable(bundle: Bundle, data: str | Path, limit: int | None) -> list[Path]:
    """List the photos that can be read. InputError: none, or too many can't."""
    photos = photos_for(bundle, data, limit)
    damaged = Damaged(len(photos))
    paths = []
    for photo in photos:
        with damaged.skipping(photo.path):
            photo_to_pixels(photo.path, bundle.manifest.preprocess)
            paths.append(photo.path)
    if not paths:
        raise InputError(f"{data}: no photo could be read, so there is nothing to measure; give a folder of photos")
    return paths


def run(
    workbench: Workbench,
    paths: Sequence[Path],
    conditions: Sequence[Conditions],
    *,
    seconds: float = SECONDS,
    pipelined: bool = True,
    on_progress: Progress = lambda done, total: None,
) -> tuple[BenchRow, ...]:
    """Measure the rows. Without `pipelined` there are no photos a second."""
    uncut = [workbench.work(EDGE_ONLY, path, 0).result for path in paths]
    rows: list[BenchRow] = []
    total = len(conditions) * len(workbench.partitions)
    for each in conditions:
        for partition in workbench.partitions:
            row = measure_row(workbench, partition, each, paths, uncut, seconds=seconds, pipelined=pipelined)
            rows.append(replace(row, needs_bound=workbench.needs_bound(partition)))
            on_progress(len(rows), total)
    return tuple(rows)


def measure_row(
    workbench: Workbench,
    partition: Partition,
    conditions: Conditions,
    paths: Sequence[Path],
    uncut: Sequence[Frame | int],
    *,
    seconds: float,
    pipelined: bool,
) -> BenchRow:
    """Measure one partition under one condition, or say why it is skipped."""
    first = workbench.work(partition, paths[0], 0, conditions.device_slowdown)  # the first run of everything is slower
    link = conditions.link
    expected_s = first.device_s
    if partition.kind != "edge-only":
        frame = workbench.frame(partition, paths[0])
        expected_s += link.exchange_s(len(frame.payload) + STREAM_OVERHEAD_BYTES)
    skipped = why_too_large(workbench, partition, link, paths)
    if partition.kind == "edge-only" and isinstance(first.result, Frame):
        skipped = "its exit gives no numbers"
    if skipped is None and expected_s > seconds:
        skipped = f"a photo takes about {expected_s:,.1f} s, and {seconds:g} s are allowed"
    if skipped is not None:
        return BenchRow(link.name, partition.name, partition.kind, partition.cut, 0, skipped=skipped)
    count = min(len(paths), max(FEWEST, int(seconds / expected_s)))
    with workbench.neighbours(partition, paths[0], conditions.server_load):
        timings = list(one_by_one(workbench, partition, conditions, paths[:count]))
        rate = pipelined_rate(workbench, partition, conditions, paths) if pipelined else None
    return row_of(partition, link, timings, uncut, rate)


def why_too_large(workbench: Workbench, partition: Partition, link: Link, paths: Sequence[Path]) -> str | None:
    """Say why this link does not carry what is sent; None: it does."""
    if link.max_message_bytes is None or partition.kind == "edge-only":
        return None
    largest = max(len(workbench.frame(partition, path).payload) for path in paths) + FRAME_BYTES
    if largest <= link.max_message_bytes:
        return None
    return f"up to {largest:,} bytes don't fit a message of {link.max_message_bytes:,}"


def row_of(
    partition: Partition, link: Link, timings: Sequence[Timing], uncut: Sequence[Frame | int], rate: float | None
) -> BenchRow:
    mixed = partition.sure is not None and 0 < partition.sure < 1
    middle = statistics.fmean if mixed else statistics.median
    latencies = [each.latency_s * 1e3 for each in timings]
    sent = statistics.fmean(each.socket_bytes for each in timings)
    energies = [each.compute_mj for each in timings if each.compute_mj is not None]
    radio_mj = sent * 8 / link.uplink_bps * link.send_mw if sent else 0.0
    return BenchRow(
        *(link.name, partition.name, partition.kind, partition.cut),
        photos=len(timings),
        latency_ms=middle(latencies),
        latency_p95_ms=float(np.percentile(latencies, 95, method="inverted_cdf")),
        bound_ms=middle([each.bound_s * 1e3 for each in timings]),
        device_ms=middle([each.device_s * 1e3 for each in timings]),
        server_ms=middle([each.server_s * 1e3 for each in timings]),
        socket_bytes=sent,
        received_bytes=statistics.fmean(each.received_bytes for each in timings),
        compute_mj=statistics.fmean(energies) if energies else None,
        radio_mj=None if link.radio is None and sent else radio_mj,
        photos_per_s=rate,
        agreement=100 * statistics.fmean(each.answer == want for each, want in zip(timings, uncut, strict=False)),
    )


@dataclass(frozen=True)
class Worked:
    """One photo on the device."""

    result: Frame | int  # what is sent, or the class
    device_s: float  # by a clock, scaled
    compute_mj: float | None  # of this machine, not scaled; None: no meter


class Workbench:
    """Runs partitions: devices in this process, a server in its own, a shaped link between. Use as a context manager.

    `partitions`, `codecs` and `budget_bytes` are as for `sides_of`. InputError: no bundle, one without uncut.onnx, or
    two that are cut at the same place. LinkError: a server does not start.
    """

    def __init__(
        self,
        bundles: Sequence[Bundle],
        partitions: Sequence[Partition] | None = None,
        *,
        codecs: Sequence[InputCodec] = FIXED,
        budget_bytes: int | None = None,
        meter: Meter | None = None,
        server_threads: int = 1,
    ) -> None:
        self.bundles = bundles
        self.meter = meter
        self.server_threads = server_threads
        self._sides = sides_of(bundles, partitions, codecs=codecs, budget_bytes=budget_bytes)
        self._stack = ExitStack()
        self._port = 0

    @property
    def partitions(self) -> list[Partition]:
        return list(self._sides)

    def __enter__(self) -> Workbench:
        paths = [bundle.path for bundle in self.bundles]
        self._port = self._stack.enter_context(split_server(paths, threads=self.server_threads))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def work(self, partition: Partition, path: Path, sequence: int, slowdown: float = 1.0) -> Worked:
        """Do what the device does with a photo, at its own pace. PhotoError: it can't be read."""
        before_mj = None if self.meter is None else self.meter.energy_mj()
        began, computed = perf_counter(), thread_time()
        result = self._sides[partition].work(path, sequence).result
        computed_s = thread_time() - computed
        spent_mj = None if self.meter is None or before_mj is None else self.meter.energy_mj() - before_mj
        pause(slowdown, began, computed_s)
        return Worked(result if isinstance(result, Frame) else result.top[0][0], perf_counter() - began, spent_mj)

    @contextmanager
    def connected(self, partition: Partition, conditions: Conditions) -> Iterator[Transport]:
        link = conditions.link
        with ShapedLink("127.0.0.1", self._port, link, jitter_s=conditions.jitter_s, seed=conditions.seed) as shaped:
            transport = open_websocket(self._url(partition, shaped.port), OPEN_S + 3 * link.setup_s)
            with closing(transport):
                yield transport

    @contextmanager
    def neighbours(self, partition: Partition, path: Path, count: int) -> Iterator[None]:
        """Keep `count` photos of others in the partition's line while this lasts: each answer brings the next."""
        if count == 0 or partition.kind == "edge-only":
            yield
            return
        message = self.frame(partition, path).to_stream_bytes()
        transport = open_websocket(self._url(partition, self._port), OPEN_S)
        ended = Event()
        thread = Thread(target=keep_busy, args=(transport, message, count, ended), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            transport.close()

    def needs_bound(self, partition: Partition) -> bool:
        """Tell whether the planner would choose it only within a bound on the drop."""
        own = self._sides[partition].bundle.manifest.exit
        return partition.size is not None or (partition.sure == 0 and own is not None and own.sure > 0)

    def frame(self, partition: Partition, path: Path) -> Frame:
        """Make the frame of a photo, however sure an exit is of it."""
        side = self._sides[partition]
        frame = side.work(path, 0).result if partition.cut is None else side.encoder.encode(path).frame
        assert isinstance(frame, Frame)
        return frame

    def _url(self, partition: Partition, port: int) -> str:
        return f"ws://127.0.0.1:{port}{STREAM_PATH}?bundle={self._sides[partition].bundle.id.hex()}"


def pause(slowdown: float, began: float, computed_s: float) -> None:
    """Sleep until what began at `began`, and computed for so long, has taken `slowdown` times that."""
    if slowdown > 1:
        sleep(max(0.0, slowdown * computed_s - (perf_counter() - began)))


def keep_busy(transport: Transport, message: bytes, count: int, ended: Event) -> None:
    """Keep `count` in flight until `ended`; then wait for those that are under way."""
    with suppress(BottleNetError):  # a server that fails shows at the connection that is measured
        for _ in range(count):
            transport.send(message)
        while not ended.is_set():
            transport.receive(OPEN_S)
            transport.send(message)
        for _ in range(count):
            transport.receive(OPEN_S)


@dataclass(frozen=True)
class Timing:
    """One photo, from its file to its answer."""

    latency_s: float
    bound_s: float
    device_s: float
    server_s: float  # decode and tail, as the answer says
    socket_bytes: int  # to the server
    received_bytes: int
    compute_mj: float | None
    answer: int  # class index


def one_by_one(
    workbench: Workbench, partition: Partition, conditions: Conditions, paths: Sequence[Path]
) -> Iterator[Timing]:
    """Send each photo when the one before it is answered, unless the device answers it."""
    link, slowdown = conditions.link, conditions.device_slowdown
    with ExitStack() as stack:
        if partition.kind != "edge-only":
            transport = stack.enter_context(workbench.connected(partition, conditions))
            ask(transport, workbench.frame(partition, paths[0]), link)  # the server's first one
        for number, path in enumerate(paths, 1):
            began = perf_counter()
            worked = workbench.work(partition, path, number % 2**16, slowdown)
            if not isinstance(worked.result, Frame):
                took_s = worked.device_s
                yield Timing(took_s, took_s, took_s, 0.0, 0, 0, worked.compute_mj, worked.result)
                continue
            sent, received = transport.sent_bytes, transport.received_bytes
            answer, server_s = ask(transport, worked.result, link)
            latency_s = perf_counter() - began
            sent, received = transport.sent_bytes - sent, transport.received_bytes - received
            bound_s = link.exchange_s(sent) + worked.device_s + server_s
            if link.downlink_bps is not None:
                bound_s += received * 8 / link.downlink_bps
            yield Timing(latency_s, bound_s, worked.device_s, server_s, sent, received, worked.compute_mj, answer)


def ask(transport: Transport, frame: Frame, link: Link) -> tuple[int, float]:
    """Return (class, seconds of the server). FrameError: it refuses the frame. WireError: it says no class."""
    message = frame.to_stream_bytes()
    transport.send(message)
    answer = parse_answer(transport.receive(MARGIN_S + 3 * link.exchange_s(len(message))))
    if not answer.top:  # as of a probe, or of another task
        raise WireError(f"the server's answer to frame {answer.sequence} says no class; give it a bundle of one label")
    return answer.top[0][0], (answer.decode_us + answer.tail_us) / 1e6


def pipelined_rate(workbench: Workbench, partition: Partition, conditions: Conditions, paths: Sequence[Path]) -> float:
    """Measure photos a second that uplink and server allow. Where nothing is sent: what the device computes."""
    few = paths[:IN_FLIGHT]
    frames = [frame for path in few if isinstance(frame := workbench.work(partition, path, 0).result, Frame)]
    if not frames:
        times = [workbench.work(partition, path, 0, conditions.device_slowdown).device_s for path in few]
        return 1 / statistics.median(times)
    mean = statistics.fmean(len(frame.payload) for frame in frames)
    low, high = PIPELINED
    count = min(high, max(low, int(PIPELINED_S * conditions.link.uplink_bps / 8 / mean)))
    messages = [
        Frame(frame.codec, frame.setting, frame.bundle_tag, number, frame.payload).to_stream_bytes()
        for number, frame in enumerate(islice(cycle(frames), count))
    ]
    with workbench.connected(partition, conditions) as transport:
        came = pipeline(transport, messages, MARGIN_S + 3 * conditions.link.exchange_s(mean * IN_FLIGHT))
    # From the first answer on, so that filling the line, a round trip, is not in it.
    return (len(came) - 1) / (came[-1] - came[0]) * len(few) / len(frames)


def pipeline(transport: Transport, messages: Sequence[bytes], timeout_s: float) -> list[float]:
    """Send with up to IN_FLIGHT frames under way, and return when each answer came. Errors as for `ask`."""
    room = Semaphore(IN_FLIGHT)
    failed: list[BottleNetError] = []

    def send() -> None:
        try:
            for message in messages:
                room.acquire()
                transport.send(message)
        except BottleNetError as error:
            failed.append(error)

    thread = Thread(target=send, daemon=True)
    thread.start()
    came = []
    try:
        for _ in messages:
            parse_answer(transport.receive(timeout_s))
            came.append(perf_counter())
            room.release()
    finally:
        room.release(len(messages))  # so that the thread ends, whatever happened
        if len(came) < len(messages):
            transport.close()
        thread.join()
    if failed:
        raise failed[0]
    return came


@contextmanager
def split_server(bundles: Sequence[Path], start_s: float = START_S, *, threads: int = 1) -> Iterator[int]:
    """Start `bottlenet serve` for bundles in these folders and yield its port. LinkError: it did not start in time."""
    folders = [str(bundle.resolve()) for bundle in bundles]
    options = ["--port", "0", "--json", "--stop-with-input", "--max-payload-bytes", str(MAX_INPUT_BYTES)]
    command = ["-m", "bottlenet.cli", "serve", *options, "--threads", str(threads), "--", *folders]
    with server_process(command, start_s) as (port, _):
        yield port


@contextmanager
def server_process(arguments: Sequence[str], start_s: float = START_S) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """Start Python, and yield (port, process) until the block ends. LinkError: it failed, or took too long."""
    # A file in the current folder must not stand in for a module of ours.
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}
    command, pipe = [sys.executable, *arguments], subprocess.PIPE
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=log, env=environment, text=True) as process,
    ):
        try:
            yield listening_port(process, log, start_s), process
        finally:
            stop(process)


def listening_port(process: subprocess.Popen[str], log: IO[bytes], start_s: float) -> int:
    """Wait until the server says that it is ready. LinkError: it does not, or not in time."""
    said: Queue[str] = Queue()
    stdout = process.stdout
    assert stdout is not None

    def read() -> None:
        """Put one JSON object into the queue, up to a line with its last brace; at the end what was read so far."""
        text = ""
        while line := stdout.readline(MAX_CHARACTERS):
            text += line
            if line.rstrip() == "}" or len(text) > MAX_CHARACTERS:
                break
        said.put(text)

    # A pipe can't be read with a deadline everywhere, so a thread reads it. It ends with the server.
    Thread(target=read, daemon=True).start()
    try:
        return int(json.loads(said.get(timeout=start_s))["listening"].rpartition(":")[2])
    except Empty as error:
        raise LinkError(f"the server did not start within {start_s:g} s; try again on a less busy machine") from error
    except (ValueError, KeyError, TypeError) as error:
        log.seek(max(0, log.seek(0, os.SEEK_END) - MAX_CHARACTERS))
        lines = log.read(MAX_CHARACTERS).decode(errors="replace").splitlines() or ["it ended without a word"]
        raise LinkError(f"the server did not start: {lines[-1].removeprefix('error: ')}") from error


def stop(process: subprocess.Popen[str]) -> None:
    """End its input first; where that is not enough, terminate and kill it."""
    assert process.stdin is not None
    with suppress(OSError):
        process.stdin.close()
    for more in (process.terminate, process.kill):
        try:
            process.wait(STOP_S)
            return
        except subprocess.TimeoutExpired:
            more()
    process.wait(STOP_S)
