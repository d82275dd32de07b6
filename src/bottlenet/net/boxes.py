"""What stands behind a detector's layers, so that a photo gives the rows of a detection (`task.py`).

corrections of anchors -> decoded -> boxes (B, N, 4) ----.
scores (B, C, N) --------------------> the surest of each -> kept -> best_boxes -> rows (B, K, 6)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bottlenet.net.suppress import kept

LARGEST = math.log(1000 / 16)  # of the logarithm of a correction of a side, as torchvision has it


def decoded(corrections: Tensor, anchors: Tensor, weights: tuple[float, float, float, float], side: float) -> Tensor:
    """(..., N, 4) of anchors (..., N, 4) -> left, top, right, bottom, within 0..side.

    A correction moves the anchor's centre by a share of its sides, and stretches these by an exponential.
    """
    sides = anchors[..., 2:] - anchors[..., :2]
    centres = anchors[..., :2] + 0.5 * sides
    moves = corrections / corrections.new_tensor(weights)
    centres = moves[..., :2] * sides + centres
    halves = 0.5 * moves[..., 2:].clamp(max=LARGEST).exp() * sides
    return torch.cat((centres - halves, centres + halves), -1).clamp(0, side)


def surest(scores: Tensor, most: int) -> Tensor:
    """(B, C, N), and 0 for all but the `most` largest of each class."""
    if most >= scores.shape[2]:
        return scores
    least = scores.topk(most, dim=2).values[..., -1:]
    return torch.where(scores >= least, scores, torch.zeros_like(scores))


def large(boxes: Tensor, least: float) -> Tensor:
    """(..., 4) -> (...): 1 where both sides have `least` pixels or more, else 0."""
    sides = boxes[..., 2:] - boxes[..., :2]
    return (sides.amin(-1) >= least).to(boxes.dtype)


def best_boxes(
    boxes: Tensor, scores: Tensor, *, overlap: float, least: float, most: int
) -> tuple[Tensor, Tensor, Tensor]:
    """boxes (B, N, 4), scores (B, C, N) -> those that suppression keeps, at most `most`, best first: boxes
    (B, most, 4), scores (B, most), class indices (B, most); a score of 0 where there are fewer.
    """
    count = scores.shape[2]
    alive = (scores * kept(boxes, scores, overlap, least)).flatten(1)
    values, at = alive.topk(min(most, alive.shape[1]))
    picked = boxes.gather(1, (at % count)[..., None].expand(-1, -1, 4))
    return picked, values, torch.div(at, count, rounding_mode="floor")


def rows(boxes: Tensor, values: Tensor, classes: Tensor, side: float) -> Tensor:
    """(B, K, 6), all 0 where the score is."""
    columns = (boxes / side, values[..., None], classes.to(boxes.dtype)[..., None])
    return torch.cat(columns, -1) * (values > 0).to(boxes.dtype)[..., None]
