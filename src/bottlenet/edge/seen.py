"""What an answer means for the photo: labels, a map of classes, or boxes in the photo's own pixels.

Answer --seen--> Seen (top, objects, segments)
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bottlenet.bundle import Bundle
from bottlenet.errors import WireError
from bottlenet.photo import Square
from bottlenet.wire.answer import TOP, Answer
from bottlenet.wire.results import Box, Boxes, Classes, ClassMap

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
