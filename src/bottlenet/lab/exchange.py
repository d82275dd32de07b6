"""Photos through one partition, over one link: one after the other, or as many as the uplink takes.

one_by_one   photo -> device -> link -> server -> link -> answer, then the next photo
pipelined    frames made before, several under way at once
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from threading import Semaphore, Thread
from time import perf_counter

from bottlenet.cloud.limits import Limits
from bottlenet.edge.partitions import Partition
from bottlenet.edge.transport import Transport
from bottlenet.errors import BottleNetError, WireError
from bottlenet.lab.rig import Conditions, Rig, Worked
from bottlenet.plan.link import Link
from bottlenet.wire.answer import parse_answer
from bottlenet.wire.frame import Frame

IN_FLIGHT = Limits.max_in_flight
PIPELINED_S = 2.0
PIPELINED = (8, 256)  # frames, at least and at most
MARGIN_S = 60.0


@dataclass(frozen=True)
class Sample:
    """One photo, from its file to its answer."""

    latency_s: float
    bound_s: float
    device_s: float
    server_s: float  # decode and tail, as the answer says
    socket_bytes: int  # to the server
    received_bytes: int
    compute_mj: float | None
    answer: int  # class index


def one_by_one(rig: Rig, partition: Partition, conditions: Conditions, paths: Sequence[Path]) -> Iterator[Sample]:
    """Each photo when the one before it is answered."""
    slowdown = conditions.device_slowdown
    if partition.kind == "edge-only":
        for path in paths:
            worked = rig.work(partition, path, 0, slowdown)
            assert isinstance(worked.result, int)
            yield Sample(worked.device_s, worked.device_s, worked.device_s, 0.0, 0, 0, worked.compute_mj, worked.result)
        return
    with rig.connected(partition, conditions) as transport:
        exchange(transport, rig.work(partition, paths[0], 0).result, conditions.link)  # the server's first one
        for number, path in enumerate(paths, 1):
            started = perf_counter()
            worked = rig.work(partition, path, number % 2**16, slowdown)
            yield sample(transport, worked, conditions.link, started)


def sample(transport: Transport, worked: Worked, link: Link, started: float) -> Sample:
    """Send what the device made of a photo and wait for the answer."""
    sent, received = transport.sent_bytes, transport.received_bytes
    answer, server_s = exchange(transport, worked.result, link)
    latency_s = perf_counter() - started
    sent, received = transport.sent_bytes - sent, transport.received_bytes - received
    bound_s = link.exchange_s(sent) + worked.device_s + server_s
    if link.downlink_bps is not None:
        bound_s += received * 8 / link.downlink_bps
    return Sample(latency_s, bound_s, worked.device_s, server_s, sent, received, worked.compute_mj, answer)


def exchange(transport: Transport, frame: Frame | int, link: Link) -> tuple[int, float]:
    """(class, seconds of the server) for one frame. FrameError: the server refuses it. WireError: it says no class."""
    assert isinstance(frame, Frame)
    message = frame.to_stream_bytes()
    transport.send(message)
    answer = parse_answer(transport.receive(MARGIN_S + 3 * link.exchange_s(len(message))))
    if not answer.top:  # as of a probe, or of another task
        raise WireError(f"the server's answer to frame {answer.sequence} says no class; give it a bundle of one label")
    return answer.top[0][0], (answer.decode_us + answer.tail_us) / 1e6


def pipelined_rate(rig: Rig, partition: Partition, conditions: Conditions, paths: Sequence[Path]) -> float:
    """Photos a second. Edge-only has no uplink: what the device computes."""
    few = paths[:IN_FLIGHT]
    if partition.kind == "edge-only":
        times = [rig.work(partition, path, 0, conditions.device_slowdown).device_s for path in few]
        return 1 / statistics.median(times)
    frames = [frame for path in few if isinstance(frame := rig.work(partition, path, 0).result, Frame)]
    mean = statistics.fmean(len(frame.payload) for frame in frames)
    low, high = PIPELINED
    count = min(high, max(low, int(PIPELINED_S * conditions.link.uplink_bps / 8 / mean)))
    messages = [
        Frame(frame.codec, frame.setting, frame.bundle_tag, number, frame.payload).to_stream_bytes()
        for number, frame in enumerate(islice(cycle(frames), count))
    ]
    with rig.connected(partition, conditions) as transport:
        came = pipeline(transport, messages, MARGIN_S + 3 * conditions.link.exchange_s(mean * IN_FLIGHT))
    # From the first answer on, so that filling the line, a round trip, is not in it.
    return (len(came) - 1) / (came[-1] - came[0])


def pipeline(transport: Transport, messages: Sequence[bytes], timeout_s: float) -> list[float]:
    """When each answer came, with up to IN_FLIGHT frames under way. Errors as for `exchange`."""
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
