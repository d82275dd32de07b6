"""Non-maximum suppression as one operation that both runtimes have: `kept(boxes, scores, overlap, least)`.

In torch it is written out; ONNX has NonMaxSuppression. Both give a mask of a shape that doesn't depend on what is in
the photo, so that a batch of photos goes through, and a network around it can be traced and cut.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

SCHEMA = "(Tensor boxes, Tensor scores, float overlap, float least) -> Tensor"


def kept_in_torch(boxes: Tensor, scores: Tensor, overlap: float, least: float) -> Tensor:
    """boxes (B, N, 4), scores (B, C, N) -> (B, C, N) float: 1 where a box stays, class by class, else 0.

    From the surest down, a box stays if its score is above `least` and it has no more than `overlap` (intersection over
    union) in common with any that stays. Boxes are left, top, right, bottom.
    """
    classes = scores.shape[1]
    most = int((scores > least).sum(2).max()) if scores.numel() else 0
    mask = torch.zeros_like(scores)
    if most == 0:
        return mask
    values, order = scores.topk(most, dim=2)  # (B, C, most)
    corners = boxes[:, None].expand(-1, classes, -1, -1).gather(2, order[..., None].expand(-1, -1, -1, 4))
    stays = values > least
    for number in range(classes):  # the table of all pairs is large
        here = stays[:, number]
        free = ~covered(corners[:, number], overlap)  # (B, most, most)
        for first in range(most - 1):
            here[:, first + 1 :] &= free[:, first, first + 1 :] | ~here[:, first : first + 1]
    return mask.scatter(2, order, stays.to(scores.dtype))


def covered(boxes: Tensor, overlap: float) -> Tensor:
    """(B, N, 4) -> (B, N, N): which of them have more than `overlap` in common."""
    sides = torch.minimum(boxes[:, :, None, 2:], boxes[:, None, :, 2:])
    sides = (sides - torch.maximum(boxes[:, :, None, :2], boxes[:, None, :, :2])).clamp_min(0)
    common = sides[..., 0] * sides[..., 1]
    areas = (boxes[..., 2:] - boxes[..., :2]).prod(2)
    return common > overlap * (areas[:, :, None] + areas[:, None, :] - common)


kept = torch.library.custom_op("bottlenet::kept", kept_in_torch, mutates_args=(), schema=SCHEMA)


@kept.register_fake
def _(boxes: Tensor, scores: Tensor, overlap: float, least: float) -> Tensor:
    return torch.empty_like(scores)


def kept_in_onnx(boxes: Any, scores: Any, overlap: float, least: float) -> Any:
    """The same, for the exporter."""
    import onnxscript

    op: Any = onnxscript.opset18
    numbers = [op.Constant(value_float=value) for value in (overlap, least)]
    every = op.Reshape(op.Gather(op.Shape(scores), op.Constant(value_ints=[2])), op.Constant(value_ints=[1]))
    selected = op.NonMaxSuppression(boxes, scores, every, *numbers)  # (M, 3): photo, class, box
    rows = op.Gather(op.Shape(selected), op.Constant(value_ints=[0]))
    ones = op.Expand(op.Constant(value_float=1.0), rows)
    return op.ScatterND(op.Mul(scores, op.Constant(value_float=0.0)), selected, ones)


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """For `torch.onnx.export`."""
    return {torch.ops.bottlenet.kept.default: kept_in_onnx}
