"""What a device learns about one photo: a `Prediction` at once, or an `Outcome` where photos wait in a spool.

Answer --read_answer--> Findings (top, objects, segments) --predict----> Prediction
                                                          `-answered_now-> Answered | Failed <--> JSON
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import time
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bottlenet.bundle import Bundle
from bottlenet.edge.encoder import Processed
from bottlenet.errors import InputError, WireError
from bottlenet.photo import Square
from bottlenet.wire.answer import TOP, Answer, Boxes, Classes, ClassMap
from bottlenet.wire.frame import STREAM_HEADER_BYTES

SERVER = "server"
LOCAL = "local"
DEVICE = "device"

REFUSED = "refused"  # the server can't take it; its frame is kept
DROPPED = "dropped"  # to make room for others
DAMAGED = "damaged"  # its frame was, in the spool
UNUSABLE = "unusable"  # no photo, or its frame does not fit the budget; nothing is kept
UNREADABLE = "unreadable"  # just now, as is a folder; nothing is kept, offer it again
FULL = "full"  # the spool is; nothing is kept, offer it again

MAX_NAME_BYTES = 4096
KEY_DIGITS = 32
UNIT = Square(0.0, 0.0, 1.0)  # where the photo's size is not known, edges stay shares of the square


@dataclass(frozen=True)
class Choice:
    """One class that the photo may be, or that is in it."""

    label: str
    class_index: int
    score: float  # probability, 0..1; of a segmentation, the share of the square


@dataclass(frozen=True)
class Object(Choice):
    """Something that was found in the photo."""

    left: float  # edges, pixels of the photo; where that is not at hand, shares of the square that the network saw
    top: float
    right: float
    bottom: float


@dataclass(frozen=True)
class Segments:
    """The classes of the places of the square that the network saw."""

    shares: tuple[Choice, ...]  # of each class that is there, largest first
    square: Square | None  # where it lies in the photo
    map: ClassMap = field(repr=False)

    @property
    def classes(self) -> NDArray[np.uint8]:
        """(rows, columns) class indices, read-only."""
        return self.map.places

    def png(self) -> bytes:
        """Draw a PNG with the class indices as pixels; neighbours have colours far apart, as in PASCAL VOC."""
        index = np.arange(256)[:, None]
        bits = [(index >> (3 * place + np.arange(3)) & 1) << (7 - place) for place in range(3)]
        image = Image.fromarray(self.classes)
        image.putpalette(np.bitwise_or.reduce(bits).astype(np.uint8).tobytes())  # (256, 3) RGB
        file = io.BytesIO()
        image.save(file, "PNG", optimize=True)
        return file.getvalue()


@dataclass(frozen=True)
class Times:
    """Where the time of one photo went, ms. The last three are the server's and part of the round trip."""

    prepare_ms: float  # read, decode, crop, resize
    head_ms: float
    encode_ms: float  # symbols to payload
    round_trip_ms: float  # sending included, opening the connection not; 0 where no answer came
    decode_ms: float  # payload to symbols
    tail_ms: float
    queue_ms: float = 0.0  # that the frame waited on the server; part of the round trip, too

    @property
    def device_ms(self) -> float:
        return self.prepare_ms + self.head_ms + self.encode_ms

    @property
    def server_ms(self) -> float:
        return self.decode_ms + self.tail_ms


@dataclass(frozen=True)
class Prediction:
    """What the photo shows, and what it took to know.

    `top` has all of several labels; of a segmentation the classes with the largest shares of what the network saw, of a
    detection those of the surest boxes. Where nothing is there, `label` is empty, `score` 0.
    """

    label: str
    class_index: int  # -1 where nothing is there
    score: float  # probability, 0..1; of a segmentation, a share
    top: tuple[Choice, ...] = field(repr=False)  # best first, at most 5 unless the task is several labels
    payload_bytes: int  # the compressed symbols; of what the device answered, of its report
    frame_bytes: int  # with the header, as one message
    socket_bytes: int  # everything given to the socket for this photo; for the first one, opening the connection too
    received_bytes: int  # everything that came back on the socket
    times: Times
    # or LOCAL: the device itself, as the server couldn't, or as that is faster; DEVICE: as its exit was sure
    answered_by: str = SERVER
    partition: str = ""  # who ran what, by its name: "split at blocks.8"
    server_load: float = 1.0  # how many times longer than idle the server took just then
    objects: tuple[Object, ...] = field(default=(), repr=False)  # of a detection, the surest first
    segments: Segments | None = field(default=None, repr=False)  # of a segmentation


@dataclass(frozen=True)
class Findings:
    """What an answer says about a photo: the part of it that does not depend on how the answer came."""

    top: tuple[Choice, ...]  # best first, at most 5 unless the task is several labels; none where nothing is there
    objects: tuple[Object, ...] = ()
    segments: Segments | None = None


def predict(
    bundle: Bundle,
    answer: Answer,
    processed: Processed,
    socket_bytes: tuple[int, int] = (0, 0),
    *,
    answered_by: str,
    partition: str,
    round_trip_ms: float = 0.0,
) -> Prediction:
    """Join an answer, what the device made of the photo, and bytes sent and received. WireError: as `read_answer`."""
    found = read_answer(answer, bundle, processed.square)
    first = found.top[0] if found.top else Choice("", -1, 0.0)
    payload_bytes = 0 if processed.frame is None else len(processed.frame.payload)
    server_ms = (answer.decode_us / 1e3, answer.tail_us / 1e3, answer.queue_us / 1e3)
    return Prediction(
        label=first.label,
        class_index=first.class_index,
        score=first.score,
        top=found.top,
        payload_bytes=payload_bytes,
        frame_bytes=0 if processed.frame is None else payload_bytes + STREAM_HEADER_BYTES,
        socket_bytes=socket_bytes[0],
        received_bytes=socket_bytes[1],
        times=Times(*processed.device_ms, round_trip_ms, *server_ms),
        answered_by=answered_by,
        partition=partition,
        server_load=answer.load,
        objects=found.objects,
        segments=found.segments,
    )


def read_answer(answer: Answer, bundle: Bundle, square: Square | None = None) -> Findings:
    """Look up labels, and put edges in the photo's pixels if its `square` is known. WireError: of another bundle."""
    result, labels, task = answer.result, bundle.labels, bundle.manifest.task

    def choice(index: int, score: float) -> Choice:
        if index >= len(labels):
            raise misfit(f"the {len(labels)} classes of this bundle")
        return Choice(labels[index], index, score)

    if not isinstance(result, task.gives):
        raise misfit(f"the task of this bundle, {task.name}")
    if isinstance(result, ClassMap):
        counts = np.bincount(result.places.ravel())
        largest = [index for index in np.argsort(-counts, kind="stable").tolist() if counts[index]]
        shares = tuple(choice(index, float(counts[index] / len(result.data))) for index in largest)
        return Findings(shares[:TOP], segments=Segments(shares, square, result))
    if isinstance(result, Boxes):
        choices = tuple(choice(box.class_index, box.score) for box in result.boxes)
        left, top, side = (place := square or UNIT).left, place.top, place.side
        objects = []
        for each, box in zip(choices, result.boxes, strict=True):
            corner = left + box.left * side, top + box.top * side
            end = left + box.right * side, top + box.bottom * side
            objects.append(Object(each.label, each.class_index, each.score, *corner, *end))
        return Findings(choices[:TOP], tuple(objects))
    if isinstance(result, Classes):
        return Findings(tuple(choice(index, share) for index, share in result.choices))
    if not answer.top:
        raise misfit(f"the {len(labels)} classes of this bundle")
    return Findings(tuple(choice(index, share) for index, share in answer.top[:TOP]))


def misfit(what: str) -> WireError:
    """Make the error for an answer that is one, but not to a frame of this bundle."""
    why = "it answers for another bundle, or the answer is damaged; give server and device the same bundle"
    return WireError(f"the server's answer does not fit {what}: {why}")


@dataclass(frozen=True)
class Photo:
    """A photo's name and content: a new picture of the same name is another. InputError: a name empty, or too long."""

    name: str
    sha256: str  # of the file, 64 hex digits
    report: bool = False  # not the photo itself, but what is to be reported of its answer

    def __post_init__(self) -> None:
        if not 0 < len(os.fsencode(self.name)) <= MAX_NAME_BYTES:
            raise InputError(f"a photo's name has {len(self.name)} characters; give 1 to {MAX_NAME_BYTES} bytes")

    @cached_property
    def key(self) -> str:
        """32 hex digits that stand for all of it."""
        name = os.fsencode(self.name) + (b"\0report" if self.report else b"")  # no file's name has a zero byte
        return hashlib.sha256(self.sha256.encode() + b"\0" + name).hexdigest()[:KEY_DIGITS]

    def failed(self, why: str, reason: str) -> Failed:
        return Failed(self.name, why, reason, report=self.report)


@dataclass(frozen=True)
class Answered:
    """A photo and what it shows."""

    photo: str
    by: str  # SERVER, LOCAL or DEVICE
    top: tuple[Choice, ...] = field(repr=False)  # as in `Prediction`; none where nothing is there
    payload_bytes: int
    frame_bytes: int  # as one message of a stream
    tries: int  # how often this process sent it
    unix_s: float  # when it was answered, by the device's clock
    again: bool = False  # whether it had been answered before; not kept
    objects: tuple[Object, ...] = field(default=(), repr=False)  # of a detection; edges are shares of the square

    @property
    def label(self) -> str:
        return self.top[0].label if self.top else ""

    @property
    def sent_bytes(self) -> int:
        """Count the message's bytes; 0 where the device answered for a server that it never sent them to."""
        return 0 if self.by == LOCAL and not self.tries else self.frame_bytes


@dataclass(frozen=True)
class Failed:
    """A photo that gets no answer, or whose answer is not reported."""

    photo: str
    why: str  # REFUSED, DROPPED, DAMAGED, UNUSABLE or FULL
    reason: str  # for people, one line
    again: bool = False  # whether it had failed before; not kept
    report: bool = False  # whether the photo has its answer, and only the report failed; not kept


Outcome: TypeAlias = Answered | Failed


def answered_now(photo: str, by: str, found: Findings, *, frame_bytes: int, tries: int) -> Answered:
    """Stamp an answer that has just come with the time; `frame_bytes` as a message of a stream, 0 if none was sent."""
    payload_bytes = max(0, frame_bytes - STREAM_HEADER_BYTES)
    return Answered(photo, by, found.top, payload_bytes, frame_bytes, tries, time.time(), objects=found.objects)


def outcome_bytes(outcome: Outcome) -> bytes:
    document = asdict(outcome)
    for name in ("again", "report"):
        document.pop(name, None)
    if not document.get("objects"):
        document.pop("objects", None)
    return json.dumps(document).encode() + b"\n"


def parse_outcome(data: bytes) -> Outcome:
    """Read what `outcome_bytes` wrote. ValueError: anything else."""
    document = json.loads(data)
    if not isinstance(document, dict):
        raise ValueError("no JSON object")
    try:
        if "why" in document:
            return Failed(**fields(document, {"photo": str, "why": str, "reason": str}))
        top = tuple(Choice(**fields(each, CHOICE)) for each in document.pop("top"))
        objects = tuple(Object(**fields(each, CHOICE | EDGES)) for each in document.pop("objects", ()))
        answered = Answered(top=top, objects=objects, **fields(document, ANSWERED))
    except (KeyError, TypeError) as error:
        raise ValueError(f"not the fields of an answer: {error}") from error
    if answered.by not in (SERVER, LOCAL, DEVICE):
        raise ValueError("no answer in it")
    return answered


CHOICE = {"label": str, "class_index": int, "score": float}
EDGES = {"left": float, "top": float, "right": float, "bottom": float}
ANSWERED = {"photo": str, "by": str, "payload_bytes": int, "frame_bytes": int, "tries": int, "unix_s": float}


def fields(document: object, kinds: dict[str, type]) -> dict[str, Any]:
    """Check that a document has just these keys, with values of these kinds. ValueError: it hasn't."""
    if not isinstance(document, dict) or document.keys() != kinds.keys():
        raise ValueError("other fields")
    for key, kind in kinds.items():
        if type(document[key]) is not kind:
            raise ValueError(f"{key} is no {kind.__name__}")
    return document
