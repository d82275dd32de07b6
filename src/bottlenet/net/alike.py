"""How near two runtimes, or two kinds of weights, come to each other, by task: what is allowed, and what counts as one.

output of a graph (B, ...) x2 -> difference -> compared with `allowed`
                              -> same, 0..1 a photo
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bottlenet.task import Detection, Multilabel, Segmentation, Task

MAX_SCORES_DIFFERENCE = 1e-3  # of a score, relative to the largest; of a map, the share of its places
TINY = float(np.finfo(np.float32).tiny)  # what scores that are all 0 are divided by
MAX_BOXES_DIFFERENCE = 0.05  # the share of the boxes
OVERLAP = 0.5  # from which on two boxes are of one thing: intersection over union
NEAR = 0.01  # of a score, and of the square's side: boxes that are nearer are one


class BestClass(nn.Module):
    """Logits (B, classes, rows, columns) -> the map (B, rows, columns) uint8."""

    def forward(self, scores: Tensor) -> Tensor:
        return scores.argmax(1).to(torch.uint8)


def answering(task: Task) -> nn.Module:
    """What stands behind a module of that task, so that a graph gives what the task says."""
    return BestClass() if isinstance(task, Segmentation) else nn.Identity()


def allowed(task: Task) -> float:
    """The largest difference: of scores relative to the largest; of a map, or of boxes, the share of them."""
    # In a crowd of boxes one decides about others.
    return MAX_BOXES_DIFFERENCE if isinstance(task, Detection) else MAX_SCORES_DIFFERENCE


def difference(task: Task, mine: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    """The largest of any photo."""
    if isinstance(task, Segmentation):
        return float((mine != theirs).mean(axis=(1, 2)).max())
    if isinstance(task, Detection):
        pairs = zip(mine, theirs, strict=True)
        return max(1 - min(found(a, b, exact=True), found(b, a, exact=True)) for a, b in pairs)
    return relative_difference(mine, theirs)


def same(task: Task, mine: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    """So many photos have the same answer; of maps and boxes the shares that are the same, summed up."""
    if isinstance(task, Segmentation):
        return float((mine == theirs).mean(axis=(1, 2)).sum())
    if isinstance(task, Detection):
        return sum(found(a[task.told(a)], b) for a, b in zip(mine, theirs, strict=True))
    if isinstance(task, Multilabel):
        logits = np.log(np.clip(task.thresholds, 1e-9, 1 - 1e-9)) - np.log1p(-np.clip(task.thresholds, 1e-9, 1 - 1e-9))
        return float(((mine >= logits) == (theirs >= logits)).all(axis=1).sum())
    return float((mine.argmax(1) == theirs.argmax(1)).sum())


def found(wanted: NDArray[np.float32], rows: NDArray[np.float32], *, exact: bool = False) -> float:
    """The share of the boxes `wanted` (K, 6) that are among `rows` too, with the same class; 1 where none is wanted.

    There, a box is the same if most of it is; with `exact` its edges and score must be nearly equal.
    """
    wanted, rows = (each[each[:, 4] > 0] for each in (wanted, rows))
    if not len(wanted):
        return 1.0
    if not len(rows):
        return 0.0
    alike = wanted[:, None, 5] == rows[None, :, 5]
    if exact:
        alike &= np.abs(wanted[:, None, :5] - rows[None, :, :5]).max(axis=2) <= NEAR
    else:
        alike &= overlaps(wanted[:, :4], rows[:, :4]) >= OVERLAP
    return float(alike.any(axis=1).mean())


def overlaps(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """Intersection over union of boxes (K, 4) and (L, 4) -> (K, L)."""
    sides = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    common = sides.clip(0).prod(axis=2)
    areas = [(each[:, 2:] - each[:, :2]).prod(axis=1) for each in (a, b)]
    shares: NDArray[np.float32] = common / np.maximum(areas[0][:, None] + areas[1][None, :] - common, 1e-12)
    return shares


def relative_difference(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Largest absolute difference, as a share of the largest score; NaN where a score is no number."""
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return math.nan
    return float(np.abs(a - b).max() / max(TINY, float(np.abs(a).max())))
