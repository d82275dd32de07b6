"""What a benchmark runs on: devices in this process, a server in a process of its own, a shaped link between them.

    photo -> Rig.work -> message -> ShapedLink -> server process -> answer
              `-> class, where nothing is sent                neighbours -'  other devices, without a link

A slower device is this one, asleep for as long as the slower one would still compute: scaled, and named so.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, sleep, thread_time
from types import TracebackType

from bottlenet.bundle import Bundle
from bottlenet.check import check_number
from bottlenet.cloud.limits import Limits
from bottlenet.edge.meter import Meter
from bottlenet.edge.partitions import Partition, sides_of
from bottlenet.edge.transport import Transport, open_websocket
from bottlenet.errors import BottleNetError, InputError
from bottlenet.lab.servers import split_server
from bottlenet.lab.shaped import ShapedLink
from bottlenet.plan.link import Link
from bottlenet.wire.frame import Frame
from bottlenet.wire.inputs import FIXED, InputCodec
from bottlenet.wire.protocol import STREAM_PATH

OPEN_S = 60.0
MAX_LOAD = Limits.max_in_flight  # beyond it the server does not read
MAX_SLOWDOWN = 1000.0


@dataclass(frozen=True)
class Conditions:
    """Where a partition is measured. InputError: a load or a slowdown out of range."""

    link: Link
    jitter_s: float = 0.0
    server_load: int = 0  # photos of others that are always at the server, at work or in line
    device_slowdown: float = 1.0  # how much slower than this machine the device is
    seed: int = 0

    def __post_init__(self) -> None:
        load: object = self.server_load
        if isinstance(load, bool) or not isinstance(load, int) or not 0 <= load <= MAX_LOAD:
            raise InputError(f"server load is {load}; give a whole number of photos, 0 to {MAX_LOAD}")
        check_number("device slowdown", self.device_slowdown, 1, MAX_SLOWDOWN)


@dataclass(frozen=True)
class Worked:
    """One photo on the device."""

    result: Frame | int  # what is sent, or the class
    device_s: float  # by a clock, scaled
    compute_mj: float | None  # of this machine, not scaled; None: no meter


class Rig:
    """Runs the partitions of bundles of one network. Use as a context manager.

    Edge-only and cloud-only are those of the first bundle. InputError: no bundle, one without uncut.onnx, or two that
    are cut at the same place. LinkError: a server does not start.
    """

    def __init__(
        self,
        bundles: Sequence[Bundle],
        *,
        codecs: Sequence[InputCodec] = FIXED,
        meter: Meter | None = None,
        server_threads: int = 1,
    ) -> None:
        self.bundles = bundles
        self.meter = meter
        self.server_threads = server_threads
        self._sides = sides_of(bundles, codecs)
        self._stack = contextlib.ExitStack()
        self._port = 0

    @property
    def partitions(self) -> list[Partition]:
        """All that can be measured."""
        return list(self._sides)

    def __enter__(self) -> Rig:
        paths = [bundle.path for bundle in self.bundles]
        self._port = self._stack.enter_context(split_server(paths, threads=self.server_threads))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def work(self, partition: Partition, path: Path, sequence: int, slowdown: float = 1.0) -> Worked:
        """What the device does with a photo, at its own pace. PhotoError: it can't be read."""
        before_mj = None if self.meter is None else self.meter.energy_mj()
        started, computed = perf_counter(), thread_time()
        made = self._sides[partition].work(path, sequence).result
        computed_s = thread_time() - computed
        spent_mj = None if self.meter is None or before_mj is None else self.meter.energy_mj() - before_mj
        pause(slowdown, started, computed_s)
        result = made if isinstance(made, Frame) else made.top[0][0]
        return Worked(result, perf_counter() - started, spent_mj)

    @contextlib.contextmanager
    def connected(self, partition: Partition, conditions: Conditions) -> Iterator[Transport]:
        """A connection to the server over the link."""
        link = conditions.link
        with ShapedLink("127.0.0.1", self._port, link, jitter_s=conditions.jitter_s, seed=conditions.seed) as shaped:
            transport = open_websocket(self._url(partition, shaped.port), OPEN_S + 3 * link.setup_s)
            with contextlib.closing(transport):
                yield transport

    @contextlib.contextmanager
    def neighbours(self, partition: Partition, path: Path, count: int) -> Iterator[None]:
        """While this lasts, `count` photos of others are in the partition's line: each answer brings the next."""
        if count == 0 or partition.kind == "edge-only":
            yield
            return
        frame = self._sides[partition].work(path, 0).result
        assert isinstance(frame, Frame)
        message = frame.to_stream_bytes()
        transport = open_websocket(self._url(partition, self._port), OPEN_S)
        ended = threading.Event()
        thread = threading.Thread(target=keep_busy, args=(transport, message, count, ended), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            transport.close()

    def _url(self, partition: Partition, port: int) -> str:
        return f"ws://127.0.0.1:{port}{STREAM_PATH}?bundle={self._sides[partition].bundle.id.hex()}"


def pause(slowdown: float, started: float, computed_s: float) -> None:
    """Sleep until what began at `started`, and computed for so long, has taken `slowdown` times that."""
    if slowdown > 1:
        sleep(max(0.0, slowdown * computed_s - (perf_counter() - started)))


def keep_busy(transport: Transport, message: bytes, count: int, ended: threading.Event) -> None:
    """`count` in flight until `ended`; then wait for those that are under way."""
    with contextlib.suppress(BottleNetError):  # a server that fails shows at the connection that is measured
        for _ in range(count):
            transport.send(message)
        while not ended.is_set():
            transport.receive(OPEN_S)
            transport.send(message)
        for _ in range(count):
            transport.receive(OPEN_S)
