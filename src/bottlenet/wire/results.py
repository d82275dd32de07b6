"""What an answer says where it is not one label: classes side by side, a map of classes, or boxes. docs/wire.md
specifies them. The body of an answer of status 3, behind its 13 bytes of head:

    byte    what              values
    13      kind              1 classes, 2 map, 3 boxes
    14-     body              to the end of the message

Classes, each by itself (multi-label), 1 + 4 * K bytes:

    0       count K           0..255
    1-      K times 4         class index, probability * 65535 rounded, 2 bytes each; best first

A map, a class for each place of a grid of at most 2**20 places:

    0-1     rows R            1..65535
    2-3     columns C         1..65535
    4-      zlib stream       R * C bytes, row by row: the class index, less that of the place above it, modulo 256

Boxes, 2 + 12 * K bytes:

    0-1     count K           0..1000
    2-      K times 12        class index, score * 65535 rounded, left, top, right, bottom, 2 bytes each; best first

Edges are shares of the square that the network saw, times 65535, rounded.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from bottlenet.errors import InputError, WireError

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
        """1 + 4 * K bytes."""
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
        """(rows, columns) class indices."""
        rows, columns = places.shape
        return cls(rows, columns, places.tobytes())

    @cached_property
    def places(self) -> NDArray[np.uint8]:
        """(rows, columns) class indices, read-only."""
        return np.frombuffer(self.data, np.uint8).reshape(self.rows, self.columns)

    def to_bytes(self) -> bytes:
        """4 bytes and a zlib stream."""
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
        """2 + 12 * K bytes."""
        return COUNT.pack(len(self.boxes)) + b"".join(
            BOX.pack(box.class_index, *(round(each * STEPS) for each in numbers(box))) for box in self.boxes
        )


Result: TypeAlias = Classes | ClassMap | Boxes


def numbers(box: Box) -> tuple[float, float, float, float, float]:
    """Score and edges."""
    return box.score, box.left, box.top, box.right, box.bottom


def check_best_first(choices: Iterable[tuple[int, float]]) -> None:
    """InputError: an index or a probability that can't travel, or not best first."""
    last = 1.0
    for index, share in choices:
        if not 0 <= index <= MAX_CLASS_INDEX:
            raise InputError(f"answer: class index is {index}; it can be 0 to {MAX_CLASS_INDEX}")
        if not 0 <= share <= last:  # so refuses NaN
            raise InputError(f"answer: probability {share} follows {last}; give 0 to 1, best first")
        last = share


def check_grid(rows: int, columns: int) -> None:
    """InputError: no grid that a map may have."""
    if not (rows >= 1 and columns >= 1 and rows * columns <= MAX_MAP_PLACES):
        raise InputError(f"answer: a map of {rows} x {columns}; it can have 1 to {MAX_MAP_PLACES} places")


def parse_result(kind: int, body: bytes) -> Result:
    """The result that `body` is, all of it. Sizes are looked at before contents. WireError: none that can be."""
    if kind not in PARSERS:
        raise WireError(f"an answer of kind {kind}; this side knows {', '.join(map(str, PARSERS))}: use a newer one")
    try:
        return PARSERS[kind](body)
    except (InputError, struct.error, zlib.error) as error:
        raise WireError(f"an answer that can't be used ({error}): the server sent this") from error


def parse_classes(body: bytes) -> Classes:
    """As `Classes.to_bytes` has them. InputError, struct.error: it is none."""
    check_length(body, 1 + CLASS.size * body[0] if body else 1)
    return Classes(tuple((index, steps / STEPS) for index, steps in CLASS.iter_unpack(body[1:])))


def parse_map(body: bytes) -> ClassMap:
    """As `ClassMap.to_bytes` has it. InputError, struct.error, zlib.error: it is none."""
    rows, columns = GRID.unpack_from(body)
    check_grid(rows, columns)
    stream = zlib.decompressobj()
    data = stream.decompress(body[GRID.size :], rows * columns + 1)  # never more than the grid holds
    if len(data) != rows * columns or not stream.eof or stream.unused_data:
        raise InputError(f"its zlib stream is not that of {rows * columns} places")
    changes = np.frombuffer(data, np.uint8).reshape(rows, columns)
    return ClassMap.of(np.cumsum(changes, axis=0, dtype=np.uint8))


def parse_boxes(body: bytes) -> Boxes:
    """As `Boxes.to_bytes` has them. InputError, struct.error: it is none."""
    (count,) = COUNT.unpack_from(body)
    check_length(body, COUNT.size + BOX.size * count)
    rows = BOX.iter_unpack(body[COUNT.size :])
    return Boxes(tuple(Box(index, *(each / STEPS for each in rest)) for index, *rest in rows))


def check_length(body: bytes, wanted: int) -> None:
    """InputError: another length."""
    if len(body) != wanted:
        raise InputError(f"{len(body)} bytes where {wanted} belong")


PARSERS: dict[int, Callable[[bytes], Result]] = {
    Classes.kind: parse_classes,
    ClassMap.kind: parse_map,
    Boxes.kind: parse_boxes,
}
