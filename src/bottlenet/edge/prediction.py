"""What a device gets to know about one photo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from bottlenet.edge.stream import Reply
from bottlenet.errors import WireError
from bottlenet.wire.answer import TOP, Answer

SERVER = "server"
LOCAL = "local"


@dataclass(frozen=True)
class Choice:
    """One class that the photo may be."""

    label: str
    class_index: int
    score: float  # probability, 0..1


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
    """What the photo shows, and what it took to know."""

    label: str
    class_index: int
    score: float  # probability, 0..1
    top: tuple[Choice, ...] = field(repr=False)  # best first, at most 5
    payload_bytes: int  # the compressed symbols
    frame_bytes: int  # with the header, as one message
    socket_bytes: int  # everything given to the socket for this photo; for the first one, opening the connection too
    received_bytes: int  # everything that came back on the socket
    times: Times
    answered_by: str = SERVER  # or LOCAL: the device itself, as the server couldn't, or as that is faster
    partition: str = ""  # who ran what, by its name: "split at blocks.8"
    server_load: float = 1.0  # how many times longer than idle the server took just then


@dataclass(frozen=True)
class Cost:
    """What one photo took on the network, bytes. Names as in `Prediction`."""

    payload_bytes: int = 0
    frame_bytes: int = 0
    socket_bytes: int = 0
    received_bytes: int = 0


def predicted(
    labels: Sequence[str], answer: Answer, cost: Cost, times: Times, *, answered_by: str, partition: str
) -> Prediction:
    """All of it together. WireError: an answer that does not fit the labels."""
    top = choices(answer, labels)
    return Prediction(
        label=top[0].label,
        class_index=top[0].class_index,
        score=top[0].score,
        top=top,
        payload_bytes=cost.payload_bytes,
        frame_bytes=cost.frame_bytes,
        socket_bytes=cost.socket_bytes,
        received_bytes=cost.received_bytes,
        times=times,
        answered_by=answered_by,
        partition=partition,
        server_load=answer.load,
    )


def replied(
    labels: Sequence[str],
    reply: Reply,
    answer: Answer,
    payload_bytes: int,
    device_ms: tuple[float, float, float],
    *,
    answered_by: str,
    partition: str,
) -> Prediction:
    """What an exchange with a server, or with the device's own tail, makes of it. `device_ms`: preparing, computing and
    encoding. WireError: an answer that does not fit the labels.
    """
    times = Times(
        *device_ms,
        reply.round_trip_ms,
        decode_ms=answer.decode_us / 1e3,
        tail_ms=answer.tail_us / 1e3,
        queue_ms=answer.queue_us / 1e3,
    )
    cost = Cost(payload_bytes, reply.frame_bytes, reply.sent_bytes, reply.received_bytes)
    return predicted(labels, answer, cost, times, answered_by=answered_by, partition=partition)


def choices(answer: Answer, labels: Sequence[str]) -> tuple[Choice, ...]:
    """The best classes of an answer, at least one and at most 5. WireError: it does not fit the labels."""
    if not answer.top or max(index for index, _ in answer.top) >= len(labels):
        raise WireError(f"the server's answer does not fit the {len(labels)} classes of this bundle; try again")
    return tuple(Choice(labels[index], index, score) for index, score in answer.top[:TOP])
