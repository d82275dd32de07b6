"""What a device gets to know about one photo."""

from __future__ import annotations

from dataclasses import dataclass, field

from bottlenet.bundle import Bundle
from bottlenet.edge.seen import Choice, Object, Segments, seen
from bottlenet.edge.stream import Reply
from bottlenet.photo import Square
from bottlenet.wire.answer import Answer

__all__ = ["LOCAL", "SERVER", "Choice", "Cost", "Prediction", "Times", "predicted", "replied"]

SERVER = "server"
LOCAL = "local"


@dataclass(frozen=True)
class Times:
    """Where the time of one photo went, ms. The last three are the server's and part of the round trip."""

    prepare_ms: float  # read, decode, crop, resize
    head_ms: float
    encode_ms: float  # symbols to payload
    round_trip_ms: float  # from sending to the answer; opening the connection is not in it; 0 where none came
    decode_ms: float  # payload to symbols
    tail_ms: float
    queue_ms: float = 0.0  # that the frame waited on the server; part of the round trip, too


@dataclass(frozen=True)
class Prediction:
    """What the photo shows, and what it took to know.

    Of several labels, `top` has all that are there; of a segmentation the classes with the largest shares of the square
    that the network saw, of a detection those of the surest boxes. Where nothing is there, `label` is empty, `score` 0.
    """

    label: str
    class_index: int  # -1 where nothing is there
    score: float  # probability, 0..1; of a segmentation, a share
    top: tuple[Choice, ...] = field(repr=False)  # best first, at most 5 unless the task is several labels
    payload_bytes: int  # the compressed symbols
    frame_bytes: int  # with the header, as one message
    socket_bytes: int  # everything given to the socket for this photo; for the first one, opening the connection too
    received_bytes: int  # everything that came back on the socket
    times: Times
    answered_by: str = SERVER  # or LOCAL: the device itself, as the server couldn't, or as that is faster
    partition: str = ""  # who ran what, by its name: "split at blocks.8"
    server_load: float = 1.0  # how many times longer than idle the server took just then
    objects: tuple[Object, ...] = field(default=(), repr=False)  # of a detection, the surest first
    segments: Segments | None = field(default=None, repr=False)  # of a segmentation


@dataclass(frozen=True)
class Cost:
    """What one photo took on the network, bytes. Names as in `Prediction`."""

    payload_bytes: int = 0
    frame_bytes: int = 0
    socket_bytes: int = 0
    received_bytes: int = 0


def predicted(
    bundle: Bundle,
    answer: Answer,
    cost: Cost,
    times: Times,
    *,
    answered_by: str,
    partition: str,
    square: Square | None = None,
) -> Prediction:
    """All of it together; `square`: what of the photo the network saw. WireError: an answer that does not fit."""
    found = seen(answer, bundle, square)
    first = found.top[0] if found.top else Choice("", -1, 0.0)
    return Prediction(
        label=first.label,
        class_index=first.class_index,
        score=first.score,
        top=found.top,
        payload_bytes=cost.payload_bytes,
        frame_bytes=cost.frame_bytes,
        socket_bytes=cost.socket_bytes,
        received_bytes=cost.received_bytes,
        times=times,
        answered_by=answered_by,
        partition=partition,
        server_load=answer.load,
        objects=found.objects,
        segments=found.segments,
    )


def replied(
    bundle: Bundle,
    reply: Reply,
    answer: Answer,
    payload_bytes: int,
    device_ms: tuple[float, float, float],
    *,
    answered_by: str,
    partition: str,
    square: Square | None = None,
) -> Prediction:
    """What an exchange with a server, or with the device's own tail, makes of it. `device_ms`: preparing, computing and
    encoding. WireError: an answer that does not fit the bundle.
    """
    times = Times(
        *device_ms,
        reply.round_trip_ms,
        decode_ms=answer.decode_us / 1e3,
        tail_ms=answer.tail_us / 1e3,
        queue_ms=answer.queue_us / 1e3,
    )
    cost = Cost(payload_bytes, reply.frame_bytes, reply.sent_bytes, reply.received_bytes)
    return predicted(bundle, answer, cost, times, answered_by=answered_by, partition=partition, square=square)
