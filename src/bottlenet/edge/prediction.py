"""What became of a photo that was to be sent: answered, or failed and why. The spool keeps both as JSON.

Photo (name and content) -> Answered | Failed <-> JSON

What an answer means for the photo: labels, a map of classes, or boxes in the photo's own pixels.

Answer --seen--> Seen (top, objects, segments)

What a device gets to know about one photo.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bottlenet.bundle import Bundle
from bottlenet.edge.connection import Reply
from bottlenet.errors import InputError, WireError
from bottlenet.photo import Square
from bottlenet.wire.answer import TOP, Answer, Box, Boxes, Classes, ClassMap
from bottlenet.wire.frame import STREAM_HEADER_BYTES

UNIT = Square(0.0, 0.0, 1.0)  # where the photo's size is not known, edges stay shares of the square


@dataclass(frozen=True)
class Choice:
    """One class that the photo may be, or that is in it."""

    label: str
    class_index: int
    score: float  # probability, 0..1; of a segmentation, the share of the square


@dataclass(frozen=True)
class Object:
    """Something that was found in the photo."""

    label: str
    class_index: int
    score: float  # 0..1
    left: float  # edges, pixels of the photo; where that is not at hand, shares of the square that the network saw
    top: float
    right: float
    bottom: float


@dataclass(frozen=True)
class Segments:
    """What the places of the square that the network saw belong to."""

    shares: tuple[Choice, ...]  # of each class that is there, largest first
    square: Square | None  # where it lies in the photo
    map: ClassMap = field(repr=False)

    @property
    def classes(self) -> NDArray[np.uint8]:
        """(rows, columns) class indices, read-only."""
        return self.map.places

    def png(self) -> bytes:
        """The map as a picture of a colour a class, whose pixels are the class indices: a PNG with a palette."""
        image = Image.fromarray(self.classes)
        image.putpalette(palette().tobytes())
        file = io.BytesIO()
        image.save(file, "PNG", optimize=True)
        return file.getvalue()


@dataclass(frozen=True)
class Seen:
    """What is in an answer."""

    top: tuple[Choice, ...]  # best first, at most 5; none where nothing is there
    objects: tuple[Object, ...] = ()
    segments: Segments | None = None


def seen(answer: Answer, bundle: Bundle, square: Square | None = None) -> Seen:
    """In the photo's pixels if it is known where the `square` lies in it. WireError: it does not fit the bundle."""
    result, labels, task = answer.result, bundle.labels, bundle.manifest.task
    if not isinstance(result, task.gives):
        raise misfit(f"the task of this bundle, {task.name}")
    if isinstance(result, ClassMap):
        segments = segments_of(result, labels, square)
        return Seen(segments.shares[:TOP], segments=segments)
    if isinstance(result, Boxes):
        check_indices([box.class_index for box in result.boxes], labels)
        objects = tuple(object_of(box, labels, square or UNIT) for box in result.boxes)
        return Seen(tuple(Choice(each.label, each.class_index, each.score) for each in objects[:TOP]), objects)
    pairs = result.choices if isinstance(result, Classes) else answer.top
    if result is None and not pairs:
        raise misfit(f"the {len(labels)} classes of this bundle")
    check_indices([index for index, _ in pairs], labels)
    most = TOP if result is None else len(pairs)
    return Seen(tuple(Choice(labels[index], index, score) for index, score in pairs[:most]))


def check_indices(indices: Sequence[int], labels: Sequence[str]) -> None:
    """WireError: one that has no label."""
    if max(indices, default=0) >= len(labels):
        raise misfit(f"the {len(labels)} classes of this bundle")


def misfit(what: str) -> WireError:
    """For an answer that is one, but not to a frame of this bundle."""
    return WireError(
        f"the server's answer does not fit {what}: it answers for another bundle, or the answer is damaged; "
        "give server and device the same bundle"
    )


def segments_of(result: ClassMap, labels: Sequence[str], square: Square | None) -> Segments:
    """With the share of each class. WireError: one has no label."""
    counts = np.bincount(result.places.ravel())
    check_indices([len(counts) - 1], labels)
    order = [index for index in np.argsort(-counts, kind="stable").tolist() if counts[index]]
    return Segments(
        tuple(Choice(labels[index], index, float(counts[index] / len(result.data))) for index in order), square, result
    )


def object_of(box: Box, labels: Sequence[str], square: Square) -> Object:
    """In pixels of the photo."""
    x = [square.left + share * square.side for share in (box.left, box.right)]
    y = [square.top + share * square.side for share in (box.top, box.bottom)]
    return Object(labels[box.class_index], box.class_index, box.score, x[0], y[0], x[1], y[1])


def palette() -> NDArray[np.uint8]:
    """(256, 3) RGB: black for class 0, and neighbours far from each other, as PASCAL VOC has them."""
    index = np.arange(256)[:, None]
    bits = [(index >> (3 * place + np.arange(3)) & 1) << (7 - place) for place in range(3)]
    colours: NDArray[np.uint8] = np.bitwise_or.reduce(bits).astype(np.uint8)
    return colours


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


MAX_NAME_BYTES = 4096
KEY_DIGITS = 32

REFUSED = "refused"  # the server can't take it; its frame is kept
DROPPED = "dropped"  # to make room for others
DAMAGED = "damaged"  # its frame was, in the spool
UNUSABLE = "unusable"  # no photo, or its frame does not fit the budget; nothing is kept
FULL = "full"  # the spool is; nothing is kept, offer it again

EDGES = {"left": float, "top": float, "right": float, "bottom": float}
OBJECT = {"label": str, "class_index": int, "score": float, **EDGES}


@dataclass(frozen=True)
class Photo:
    """A photo is its name and its content: the same file is sent once, and a new picture of the same name is another.

    InputError: a name that is empty, or too long.
    """

    name: str
    sha256: str  # of the file, 64 hex digits

    def __post_init__(self) -> None:
        if not 0 < len(os.fsencode(self.name)) <= MAX_NAME_BYTES:
            raise InputError(f"a photo's name has {len(self.name)} characters; give 1 to {MAX_NAME_BYTES} bytes")

    @cached_property
    def key(self) -> str:
        """32 hex digits that stand for both."""
        return hashlib.sha256(self.sha256.encode() + b"\0" + os.fsencode(self.name)).hexdigest()[:KEY_DIGITS]


@dataclass(frozen=True)
class Answered:
    """A photo and what it shows."""

    photo: str
    by: str  # SERVER or LOCAL
    top: tuple[Choice, ...] = field(repr=False)  # as in `Prediction`; none where nothing is there
    payload_bytes: int
    frame_bytes: int  # as one message of a stream
    tries: int  # how often this process sent it
    unix_s: float  # when it was answered, by the device's clock
    again: bool = False  # whether it had been answered before; not kept
    objects: tuple[Object, ...] = field(default=(), repr=False)  # of a detection; edges are shares of the square

    @property
    def label(self) -> str:
        """Of the best class; empty where nothing is there."""
        return self.top[0].label if self.top else ""


@dataclass(frozen=True)
class Failed:
    """A photo that gets no answer."""

    photo: str
    why: str  # one of the names above
    reason: str  # for people, one line
    again: bool = False  # whether it had failed before; not kept


Outcome: TypeAlias = Answered | Failed


def answered_now(photo: str, by: str, found: Seen, *, frame_bytes: int, tries: int) -> Answered:
    """An answer that has just come; `frame_bytes` as one message of a stream."""
    payload_bytes = frame_bytes - STREAM_HEADER_BYTES
    return Answered(photo, by, found.top, payload_bytes, frame_bytes, tries, time.time(), objects=found.objects)


def outcome_bytes(outcome: Outcome) -> bytes:
    """One line of JSON."""
    document = asdict(outcome)
    del document["again"]
    if not document.get("objects"):
        document.pop("objects", None)
    return json.dumps(document).encode() + b"\n"


def parse_outcome(data: bytes) -> Outcome:
    """What `outcome_bytes` wrote. ValueError: anything else."""
    document = json.loads(data)
    if not isinstance(document, dict):
        raise ValueError("no JSON object")
    try:
        if "why" in document:
            return Failed(**fields(document, {"photo": str, "why": str, "reason": str}))
        top = tuple(
            Choice(**fields(one, {"label": str, "class_index": int, "score": float})) for one in document["top"]
        )
        objects = tuple(Object(**fields(one, OBJECT)) for one in document.get("objects", ()))
        plain = {key: value for key, value in document.items() if key not in ("top", "objects")}
        numbers = {"payload_bytes": int, "frame_bytes": int, "tries": int, "unix_s": float}
        answered = Answered(top=top, objects=objects, **fields(plain, {"photo": str, "by": str, **numbers}))
    except (KeyError, TypeError) as error:
        raise ValueError(f"not the fields of an answer: {error}") from error
    if answered.by not in (SERVER, LOCAL):
        raise ValueError("no answer in it")
    return answered


def fields(document: object, kinds: dict[str, type]) -> dict[str, Any]:
    """The document, if it has just these keys with values of these kinds. ValueError: it hasn't."""
    if not isinstance(document, dict) or document.keys() != kinds.keys():
        raise ValueError("other fields")
    for key, kind in kinds.items():
        if type(document[key]) is not kind:
            raise ValueError(f"{key} is no {kind.__name__}")
    return document
