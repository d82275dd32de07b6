"""Bytes against accuracy: which points of many settings count, and what lies between them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Point:
    """One setting: mean bytes and top-1 in percent."""

    bytes: float
    top1: float
    name: str


@dataclass(frozen=True)
class Needed:
    """Bytes for an accuracy, and the settings it lies between."""

    bytes: float | None  # None: the accuracy is outside of what the settings span
    between: tuple[str, ...]


def front(points: Sequence[Point]) -> list[Point]:
    """The points that no other beats in both bytes and top-1, from few bytes to many."""
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (p.bytes, -p.top1)):
        if not best or point.top1 > best[-1].top1:
            best.append(point)
    return best


def bytes_needed(points: Sequence[Point], top1: float) -> Needed:
    """Bytes at `top1` on the front, linear in log bytes between its points.

    Nothing is guessed beyond its ends: below the lowest the answer would flatter, above the highest there is none.
    """
    line = front(points)
    for low, high in pairwise(line):
        if low.top1 <= top1 <= high.top1:
            share = (top1 - low.top1) / (high.top1 - low.top1)
            log = math.log(low.bytes) + share * (math.log(high.bytes) - math.log(low.bytes))
            return Needed(math.exp(log), (low.name, high.name))
    return Needed(None, ())
