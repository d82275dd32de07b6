"""Answers: what the server sends back for one frame. docs/wire.md specifies each byte; network byte order.

    answered    version 2 | status 0, sequence number, queue_us, decode_us, tail_us, load, K, K choices
    result      the same with status 3, and in place of K a kind and its body, to the end:
      1 classes   K, K choices
      2 map       rows, columns, zlib stream of each class index less that of the place above it, modulo 256
      3 boxes     K, K times class index, score, left, top, right, bottom
    refused     version 2 | status 1, sequence number, length, message: one line of UTF-8
    busy        version 2 | status 2, sequence number, milliseconds, length, message: the frame may be sent again then

A choice is a class index and a probability; best first. Probabilities, scores and edges, which are shares of the square
that the network saw, travel as multiples of 1 / 65535. A time of 2**24 - 1 us, which is 16.8 s, stands for all longer
ones, and a load, 16 * log2 of it, of 255 for all larger ones.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from bottlenet.errors import BundleError, BusyError, FrameError, InputError, WireError

STEPS = 65535  # of a probability, a score, an edge
MAX_CLASS_INDEX = 65535
MAX_CLASSES = 255
MAX_MAP_PLACES = 2**20
MAX_MAP_INDEX = 255
MAX_BOXES = 1000
CLASS = struct.Struct("!HH")
GRID = struct.Struct("!HH")
BOX = struct.Struct("!6H")
COUNT = struct.Struct("!H")


@dataclass(frozen=True)
class Classes:
    """Classes that are in the photo, each with a probability of its own. InputError: what can't travel."""

    choices: tuple[tuple[int, float], ...]  # (class index 0..65535, probability 0..1), best first, at most 255

    kind = 1

    def __post_init__(self) -> None:
        if len(self.choices) > MAX_CLASSES:
            raise InputError(f"answer: {len(self.choices)} classes; there can be 0 to {MAX_CLASSES}")
        check_best_first(self.choices)

    def to_bytes(self) -> bytes:
        """Encode as 1 + 4 * K bytes."""
        packed = (CLASS.pack(index, round(share * STEPS)) for index, share in self.choices)
        return bytes((len(self.choices),)) + b"".join(packed)


@dataclass(frozen=True)
class ClassMap:
    """A class for each place of a grid. InputError: what can't travel."""

    rows: int
    columns: int
    data: bytes  # rows * columns class indices, row by row

    kind = 2

    def __post_init__(self) -> None:
        check_grid(self.rows, self.columns)
        if len(self.data) != self.rows * self.columns:
            raise InputError(f"answer: {len(self.data)} places for a map of {self.rows} x {self.columns}")

    @classmethod
    def of(cls, places: NDArray[np.uint8]) -> ClassMap:
        """Make a map of (rows, columns) class indices."""
        rows, columns = places.shape
        return cls(rows, columns, places.tobytes())

    @cached_property
    def places(self) -> NDArray[np.uint8]:
        """(rows, columns) class indices, read-only."""
        return np.frombuffer(self.data, np.uint8).reshape(self.rows, self.columns)

    def to_bytes(self) -> bytes:
        """Encode as 4 bytes and a zlib stream."""
        changes = np.diff(self.places, axis=0, prepend=np.uint8(0))  # mostly 0, as a class goes on downwards
        return GRID.pack(self.rows, self.columns) + zlib.compress(changes.tobytes(), 9)


@dataclass(frozen=True)
class Box:
    """Something that was found, and where: edges are shares of the square that the network saw, 0..1."""

    class_index: int  # 0..65535
    score: float  # 0..1
    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True)
class Boxes:
    """What was found. InputError: what can't travel."""

    boxes: tuple[Box, ...]  # best first, at most 1,000

    kind = 3

    def __post_init__(self) -> None:
        if len(self.boxes) > MAX_BOXES:
            raise InputError(f"answer: {len(self.boxes)} boxes; there can be 0 to {MAX_BOXES}")
        check_best_first((box.class_index, box.score) for box in self.boxes)
        for box in self.boxes:
            if not (0 <= box.left <= box.right <= 1 and 0 <= box.top <= box.bottom <= 1):
                raise InputError(f"answer: {box} leaves the square; edges are 0 to 1, left and top first")

    def to_bytes(self) -> bytes:
        """Encode as 2 + 12 * K bytes."""
        packed = [COUNT.pack(len(self.boxes))]
        for box in self.boxes:
            numbers = box.score, box.left, box.top, box.right, box.bottom
            packed.append(BOX.pack(box.class_index, *(round(each * STEPS) for each in numbers)))
        return b"".join(packed)


Result: TypeAlias = Classes | ClassMap | Boxes


def check_best_first(choices: Iterable[tuple[int, float]]) -> None:
    """Raise InputError for an index or a probability that can't travel, or choices that are not best first."""
    last = 1.0
    for index, share in choices:
        if not 0 <= index <= MAX_CLASS_INDEX:
            raise InputError(f"answer: class index is {index}; it can be 0 to {MAX_CLASS_INDEX}")
        if not 0 <= share <= last:  # so refuses NaN
            raise InputError(f"answer: probability {share} follows {last}; give 0 to 1, best first")
        last = share


def check_grid(rows: int, columns: int) -> None:
    """Raise InputError for a grid that no map may have."""
    if not (rows >= 1 and columns >= 1 and rows * columns <= MAX_MAP_PLACES):
        raise InputError(f"answer: a map of {rows} x {columns}; it can have 1 to {MAX_MAP_PLACES} places")


def parse_result(kind: int, body: bytes) -> Result:
    """Parse a whole body as the result of its kind. Sizes are checked before contents. WireError: it is none."""
    if kind not in PARSERS:
        raise WireError(f"an answer of kind {kind}; this side knows {', '.join(map(str, PARSERS))}: use a newer one")
    try:
        return PARSERS[kind](body)
    except (InputError, struct.error, zlib.error) as error:
        raise WireError(f"an answer that can't be used ({error}): the server sent this") from error


def parse_classes(body: bytes) -> Classes:
    """Parse what `Classes.to_bytes` wrote. InputError, struct.error: it is none."""
    check_length(body, 1 + CLASS.size * body[0] if body else 1)
    return Classes(tuple((index, steps / STEPS) for index, steps in CLASS.iter_unpack(body[1:])))


def parse_map(body: bytes) -> ClassMap:
    """Parse what `ClassMap.to_bytes` wrote. InputError, struct.error, zlib.error: it is none."""
    rows, columns = GRID.unpack_from(body)
    check_grid(rows, columns)
    stream = zlib.decompressobj()
    data = stream.decompress(body[GRID.size :], rows * columns + 1)  # never more than the grid holds
    if len(data) != rows * columns or not stream.eof or stream.unused_data:
        raise InputError(f"its zlib stream is not that of {rows * columns} places")
    changes = np.frombuffer(data, np.uint8).reshape(rows, columns)
    return ClassMap.of(np.cumsum(changes, axis=0, dtype=np.uint8))


def parse_boxes(body: bytes) -> Boxes:
    """Parse what `Boxes.to_bytes` wrote. InputError, struct.error: it is none."""
    (count,) = COUNT.unpack_from(body)
    check_length(body, COUNT.size + BOX.size * count)
    rows = BOX.iter_unpack(body[COUNT.size :])
    return Boxes(tuple(Box(index, *(each / STEPS for each in rest)) for index, *rest in rows))


def check_length(body: bytes, wanted: int) -> None:
    """Raise InputError if the length is another."""
    if len(body) != wanted:
        raise InputError(f"{len(body)} bytes where {wanted} belong")


PARSERS: dict[int, Callable[[bytes], Result]] = {
    Classes.kind: parse_classes,
    ClassMap.kind: parse_map,
    Boxes.kind: parse_boxes,
}

VERSION = 2  # of answers; frames have their own
ANSWERED = 0
REFUSED = 1
BUSY = 2
RESULT = 3  # answered, and not with one label

HEAD = struct.Struct("!BH9sBB")  # its three times in one
REFUSAL = struct.Struct("!BHB")
NOT_NOW = struct.Struct("!BHHB")

Top: TypeAlias = tuple[tuple[int, float], ...]  # (class index, probability 0..1), best first

TOP = 5  # classes that whoever answers names
MAX_CHOICES = 255
MAX_US = 2**24 - 1
LOAD_STEPS = 16  # of a doubling
STATUSES = (ANSWERED, REFUSED, BUSY, RESULT)
MAX_LOAD = 2 ** (255 / LOAD_STEPS)
MAX_MESSAGE_BYTES = 255
BESIDE_BYTES = 4096  # all that an answer has beside its places or boxes, at most: head, choices, what zlib adds
MAX_ANSWER_BYTES = MAX_MAP_PLACES + BESIDE_BYTES  # of the largest map, which zlib found nothing to save in
MAX_RETRY_AFTER_MS = 65535
NO_NUMBERS = "the network gave scores that are no numbers; export the bundle again"


@dataclass(frozen=True)
class Answer:
    """Scores or a result for one frame, and what they took. InputError: no room, or `top` isn't best first."""

    sequence: int  # 0..65535
    decode_us: int  # 0..2**24 - 1
    tail_us: int  # 0..2**24 - 1
    top: Top  # class indices 0..65535, at most 255
    queue_us: int = 0  # 0..2**24 - 1
    load: float = 1.0  # 1..62,757; how many times longer than idle
    result: Result | None = None  # of another task than one label, which has no `top`

    def __post_init__(self) -> None:
        for name, value, high in (
            ("sequence", self.sequence, 2**16 - 1),
            ("queue_us", self.queue_us, MAX_US),
            ("decode_us", self.decode_us, MAX_US),
            ("tail_us", self.tail_us, MAX_US),
            ("number of choices", len(self.top), MAX_CHOICES),
        ):
            if not 0 <= value <= high:
                raise InputError(f"answer: {name} is {value}; it can be 0 to {high}")
        if not 1 <= self.load <= MAX_LOAD:
            raise InputError(f"answer: load is {self.load}; it can be 1 to {MAX_LOAD:.0f}")
        check_best_first(self.top)

    @property
    def server_us(self) -> int:
        """All that the server took, waiting included."""
        return self.queue_us + self.decode_us + self.tail_us

    def to_bytes(self) -> bytes:
        """Encode as 14 + 4 * K bytes, or as the result's own length."""
        times = (self.queue_us << 48 | self.decode_us << 24 | self.tail_us).to_bytes(9, "big")
        load = load_byte(self.load)
        if self.result is not None:
            head = HEAD.pack(VERSION << 4 | RESULT, self.sequence, times, load, self.result.kind)
            return head + self.result.to_bytes()
        choices = [number for index, share in self.top for number in (index, round(share * STEPS))]
        whole = answer_struct(len(self.top))
        return whole.pack(VERSION << 4 | ANSWERED, self.sequence, times, load, len(self.top), *choices)


@lru_cache(maxsize=MAX_CHOICES + 1)
def answer_struct(choices: int) -> struct.Struct:
    return struct.Struct(f"{HEAD.format}{2 * choices}H")


@lru_cache(maxsize=64)
def load_byte(load: float) -> int:
    """Encode a load. All answers of a batch have the same, so it is cached."""
    return round(LOAD_STEPS * math.log2(load))


def best(scores: NDArray[np.float32] | NDArray[np.float64]) -> Top:
    """Pick the five largest of logits (classes,), best first. BundleError: one is no number."""
    (top,) = best_of_each(scores[None])
    if top is None:
        raise BundleError(NO_NUMBERS)
    return top


def best_of_each(scores: NDArray[np.float32] | NDArray[np.float64]) -> list[Top | None]:
    """Pick the five largest of each row of logits (B, classes); None for a row in which one is no number."""
    shares = scores.astype(np.float64, order="C")  # (B, classes)
    finite = np.logical_and.reduce(np.isfinite(shares), axis=1)
    if not (whole := finite.all()):
        shares[~finite] = 0
    shares -= shares.max(axis=1, keepdims=True)
    np.exp(shares, out=shares)
    shares /= shares.sum(axis=1, keepdims=True)
    flat, starts = shares.reshape(-1), np.arange(len(shares)) * shares.shape[1]
    places = np.empty((min(TOP, shares.shape[1]), len(shares)), np.intp)  # in `flat`
    values = np.empty_like(places, np.float64)
    for number in range(len(places)):  # five times the largest is less work than to sort a thousand
        places[number] = shares.argmax(axis=1) + starts  # of equal ones the first
        values[number] = flat.take(places[number])
        flat[places[number]] = -1
    indices: list[list[int]] = (places - starts).T.tolist()
    pairs = zip(indices, values.T.tolist(), strict=True)
    tops: list[Top] = [tuple(zip(index, share, strict=True)) for index, share in pairs]
    return [*tops] if whole else [top if finite[number] else None for number, top in enumerate(tops)]


def microseconds(ns: int) -> int:
    """Convert nanoseconds to what an answer can hold."""
    return min(ns // 1000, MAX_US)


def refusal_bytes(sequence: int, message: str) -> bytes:
    """Encode a refusal: one line of at most 255 bytes of UTF-8; longer messages are cut."""
    text = message_bytes(message)
    return REFUSAL.pack(VERSION << 4 | REFUSED, checked(sequence), len(text)) + text


def busy_bytes(sequence: int, retry_after_s: float, message: str) -> bytes:
    """Encode that there is no room for a frame: when to send it again, 0 to 65.535 s, rounded up, and why."""
    text = message_bytes(message)
    retry_after_ms = min(max(math.ceil(retry_after_s * 1000), 0), MAX_RETRY_AFTER_MS)
    return NOT_NOW.pack(VERSION << 4 | BUSY, checked(sequence), retry_after_ms, len(text)) + text


def parse_answer(data: bytes) -> Answer:
    """Parse a whole answer. Probabilities are multiples of 1 / 65535, loads powers of 2 ** (1 / 16).

    FrameError: a refusal, with the server's message. BusyError: the server has no room; `retry_after_s` says when to
    send the frame again. WireError: anything else that isn't an answer.
    """
    if len(data) < REFUSAL.size or data[0] >> 4 != VERSION or data[0] & 15 not in STATUSES:
        raise WireError(f"{len(data)} bytes are no answer of version {VERSION}; is this a BottleNet server?")
    status = data[0] & 15
    if status in (REFUSED, BUSY):
        raise parse_refusal(data, REFUSAL if status == REFUSED else NOT_NOW)
    if status == RESULT:
        if len(data) < HEAD.size:
            raise WireError(f"answer of {len(data)} bytes, but it should have {HEAD.size} or more; ask again")
        return answer_from(data, (), parse_result(data[HEAD.size - 1], data[HEAD.size :]))
    count = data[HEAD.size - 1] if len(data) >= HEAD.size else 0
    if len(data) != HEAD.size + count * CLASS.size:
        raise WireError(f"answer of {len(data)} bytes, but it should have {HEAD.size + count * CLASS.size}; ask again")
    top = tuple((index, steps / STEPS) for index, steps in CLASS.iter_unpack(data[HEAD.size :]))
    return answer_from(data, top)


def answer_from(data: bytes, top: Top, result: Result | None = None) -> Answer:
    """Build an answer from the first 13 bytes of `data`. WireError: no answer that can be."""
    _, sequence, times, load, _ = HEAD.unpack_from(data)
    queue_us, decode_us, tail_us = (int.from_bytes(times[at : at + 3], "big") for at in (0, 3, 6))
    try:
        return Answer(sequence, decode_us, tail_us, top, queue_us, 2 ** (load / LOAD_STEPS), result)
    except InputError as error:
        raise WireError(f"{error}: the server sent this") from error


def parse_refusal(data: bytes, head: struct.Struct) -> WireError | BusyError:
    """Return an error with the server's message, or a WireError where `data` isn't whole."""
    length = data[head.size - 1] if len(data) >= head.size else 0
    if len(data) != head.size + length:
        return WireError(f"refusal of {len(data)} bytes, but it should have {head.size + length}; ask again")
    _, sequence, *retry_after_ms, _ = head.unpack_from(data)
    message = one_line(data[head.size :].decode("utf-8", "replace"))
    if retry_after_ms:
        return BusyError(f"the server has no room for frame {sequence}: {message}", retry_after_ms[0] / 1000)
    return FrameError(f"the server refused frame {sequence}: {message}")


def checked(sequence: int) -> int:
    """Pass a sequence number. InputError: it doesn't fit."""
    if not 0 <= sequence <= 65535:
        raise InputError(f"refusal: sequence is {sequence}; it can be 0 to 65535")
    return sequence


def message_bytes(message: str) -> bytes:
    """Encode one line of UTF-8, at most 255 bytes, cut between characters."""
    text = one_line(message).encode("utf-8", "replace")[:MAX_MESSAGE_BYTES]
    return text.decode("utf-8", "ignore").encode()  # the cut may have split a character


def one_line(text: str) -> str:
    """Replace line breaks and control characters, as the text may end on a terminal."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())
