"""Detectors as modules from tensor to tensor: torchvision's with their own layers, and what ends a YOLO.

torchvision's own forward takes lists of photos of any size and gives lists of boxes, as many as there are. Here all
photos have one size, and all answers too, so that they can be traced, cut, exported and run in batches. What comes out
is the same but for rounding. Behind a detector's layers, a photo gives the rows of a detection (`task.py`):

    rows of a YOLO (B, N, 4 + 1 + classes) -> RowsToBoxes ---.
    corrections of anchors -> decoded -> boxes (B, N, 4) ----.
    scores (B, C, N) --------------------> the surest of each -> kept -> best_boxes -> rows (B, K, 6)

`kept` is non-maximum suppression as one operation of both runtimes, whose mask has a shape that no photo changes.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SsdDetector(nn.Module):
    """An SSD of torchvision as one module from tensor to tensor.

    (B, 3, S, S) -> backbone -> features, six of them -> head -> corrections, logits -> rows (B, K, 6)
    """

    anchors: Tensor

    def __init__(self, network: Any, side: int) -> None:
        super().__init__()
        self.backbone, self.head = network.backbone, network.head
        self.weights, self.overlap = network.box_coder.weights, network.nms_thresh
        self.least, self.candidates = network.score_thresh, network.topk_candidates
        self.most, self.side = network.detections_per_img, side
        photos, features = features_of(network, side)
        (anchors,) = network.anchor_generator(ImageList(photos, [(side, side)]), list(features.values()))
        self.register_buffer("anchors", anchors, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        outputs = self.head(list(self.backbone(x).values()))
        boxes = decoded(outputs["bbox_regression"], self.anchors, self.weights, self.side)  # (B, N, 4)
        scores = outputs["cls_logits"].softmax(-1)[..., 1:].transpose(1, 2)  # (B, classes - 1, N): 0 is the background
        scores = surest(scores, self.candidates)
        best = best_boxes(boxes, scores, overlap=self.overlap, least=self.least, most=self.most)
        return rows(*best[:2], best[2] + 1, self.side)


class FasterDetector(nn.Module):
    """A Faster R-CNN of torchvision.

    (B, 3, S, S) -> backbone -> features of some scales -> rpn.head -> the surest P places
                                    `-> their features -> roi_heads -> corrections, logits -> rows (B, K, 6)
    """

    anchors: Tensor
    each: Tensor

    def __init__(self, network: Any, side: int) -> None:
        super().__init__()
        self.backbone, self.rpn, self.roi_heads, self.side = network.backbone, network.rpn, network.roi_heads, side
        rpn, roi = network.rpn, network.roi_heads
        photos, features = features_of(network, side)
        (anchors,) = rpn.anchor_generator(ImageList(photos, [(side, side)]), list(features.values()))
        self.register_buffer("anchors", anchors, persistent=False)
        per_place = rpn.anchor_generator.num_anchors_per_location()
        areas = [each.shape[-2] * each.shape[-1] for each in features.values()]
        self.anchor_counts = [places * count for places, count in zip(areas, per_place, strict=True)]
        self.proposed, self.most = rpn.pre_nms_top_n(), roi.detections_per_img
        self.count = min(rpn.post_nms_top_n(), sum(min(self.proposed, count) for count in self.anchor_counts))
        self.least_sure, self.proposal_overlap = rpn.score_thresh, rpn.nms_thresh
        self.least, self.overlap = roi.score_thresh, roi.nms_thresh
        self.smallest, self.weights = rpn.min_size, roi.box_coder.weights
        pool = roi.box_roi_pool
        sides = [features[name].shape[-1] for name in pool.featmap_names if name in features]
        self.scales = [2.0 ** round(math.log2(each / side)) for each in sides]
        self.parts, self.samples = pool.output_size, pool.sampling_ratio
        self.canonical = (pool.canonical_scale, pool.canonical_level)
        classes = roi.box_predictor.cls_score.out_features - 1  # without the background
        self.register_buffer("each", torch.eye(classes)[:, None], persistent=False)  # (C, 1, C)

    def forward(self, x: Tensor) -> Tensor:
        features = list(self.backbone(x).values())
        objectness, corrections = self.rpn.head(features)
        proposals, there = self.proposals(objectness, corrections)  # (B, P, 4), (B, P)
        parts = self.roi_heads.box_head(self.parts_of(features, proposals))  # (B * P, c)
        logits, moves = self.roi_heads.box_predictor(parts)  # (B * P, 1 + C), (B * P, 4 + 4 * C)
        scores = logits.softmax(1)[:, 1:].unflatten(0, (-1, self.count)) * there[..., None]  # (B, P, C)
        moves = moves.unflatten(1, (-1, 4))[:, 1:].unflatten(0, (-1, self.count))  # (B, P, C, 4)
        boxes = decoded(moves, proposals[:, :, None], self.weights, self.side)
        scores = (scores * large(boxes, 1e-2)).transpose(1, 2)  # (B, C, P)
        apart = (scores[..., None] * self.each).flatten(2)  # (B, C, P * C): a box is one class's alone
        best = best_boxes(boxes.flatten(1, 2), apart, overlap=self.overlap, least=self.least, most=self.most)
        return rows(*best[:2], best[2] + 1, self.side)

    def proposals(self, objectness: list[Tensor], corrections: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Turn (B, A, h, w), (B, 4 * A, h, w) of each scale into the surest boxes (B, P, 4), and 1 for sure (B, P)."""
        boxes, scores, first, ahead = [], [], 0, 0
        for sure, moves, count in zip(objectness, corrections, self.anchor_counts, strict=True):
            apart_moves: Tensor = moves.unflatten(1, (-1, 4))  # type: ignore[no-untyped-call]
            flat = apart_moves.permute(0, 3, 4, 1, 2).flatten(1, 3)  # (B, N, 4)
            found = decoded(flat, self.anchors[first : first + count], (1.0, 1.0, 1.0, 1.0), self.side)
            values, at = sure.permute(0, 2, 3, 1).flatten(1).topk(min(self.proposed, count))
            boxes.append(found.gather(1, at[..., None].expand(-1, -1, 4)))
            values = values.sigmoid() * large(boxes[-1], self.smallest)
            scores.append(values * (values >= self.least_sure).to(values.dtype))
            first += count
        total = sum(min(self.proposed, count) for count in self.anchor_counts)
        apart = []
        for values, count in zip(scores, self.anchor_counts, strict=True):
            mine = min(self.proposed, count)
            apart.append(F.pad(values, (ahead, total - ahead - mine)))  # a box is of one scale alone
            ahead += mine
        every, sure = torch.cat(boxes, 1), torch.stack(apart, 1)
        best = best_boxes(every, sure, overlap=self.proposal_overlap, least=0.0, most=self.count)
        return best[0], (best[1] > 0).to(best[0].dtype)

    def parts_of(self, features: list[Tensor], proposals: Tensor) -> Tensor:
        """Cut each proposal (B, P, 4) out of the features (B * P, c, 7, 7), at the scale that fits its size."""
        photo = torch.ones_like(proposals[..., :1]).cumsum(0) - 1
        places = torch.cat((photo, proposals), -1).flatten(0, 1)  # (B * P, 5)
        sides = places[:, 3:] - places[:, 1:3]
        scale, level = self.canonical
        lowest, highest = (round(-math.log2(self.scales[end])) for end in (0, -1))
        size = (sides[:, 0] * sides[:, 1]).sqrt() / scale
        levels = (level + size.log2() + 1e-6).floor().clamp(lowest, highest) - lowest
        align = torch.ops.torchvision.roi_align
        every = [
            align(features[number], places, share, *self.parts, self.samples, False)
            for number, share in enumerate(self.scales)
        ]
        parts: Tensor = every[0]
        for number, aligned in enumerate(every[1:], 1):
            parts = torch.where((levels == number)[:, None, None, None], aligned, parts)
        return parts


STRIDES = (8, 16, 32)  # pixels a cell of a YOLO's three grids
LARGEST_SIDE = 10.0  # of the logarithm of a side in cells: any photo's is smaller


class RowsToBoxes(nn.Module):
    """Rows of a YOLO (B, N, 4 + 1 + classes) -> rows of a detection (B, K, 6).

    A row is a box's centre and sides, how sure it is that something is there, and which class that then is, 0..1 each.
    Centre and sides are in pixels; `in_cells`, as YOLOX has it, the centre counts from the row's cell in cells of its
    grid, and of the sides there are logarithms.
    """

    corners: Tensor
    cells: Tensor

    def __init__(self, side: int, *, in_cells: bool, most: int, least: float) -> None:
        super().__init__()
        self.side, self.in_cells, self.most, self.least = side, in_cells, most, least
        corners, cells = grid_of(side)
        self.register_buffer("corners", corners, persistent=False)
        self.register_buffer("cells", cells, persistent=False)

    def forward(self, found: Tensor) -> Tensor:
        boxes, scores = self.boxes_and_scores(found)
        best = best_boxes(boxes, scores, overlap=SAME_BOX, least=self.least, most=self.most)
        return rows(*best, 1.0)

    def boxes_and_scores(self, found: Tensor) -> tuple[Tensor, Tensor]:
        """Return all boxes as shares of the photo (B, N, 4), and the scores of their classes (B, classes, N)."""
        centres, sides = found[..., :2], found[..., 2:4]
        if self.in_cells:
            corners, cells = self.corners.to(found.device), self.cells.to(found.device)
            centres = centres * cells + corners
            sides = sides.clamp(max=LARGEST_SIDE).exp() * cells
        boxes = torch.cat((centres - sides / 2, centres + sides / 2), -1) / self.side
        return boxes.clamp(0, 1), (found[..., 4:5] * found[..., 5:]).transpose(1, 2)


SAME_BOX = 0.65  # intersection over union from which on two boxes of a YOLO are one, as YOLOX is measured with


def grid_of(side: int) -> tuple[Tensor, Tensor]:
    """List the cells of a YOLO's grids, the finest first and row by row: their corners (N, 2) and sides (N, 1)."""
    corners, cells = [], []
    for stride in STRIDES:
        at = torch.arange(side // stride, dtype=torch.float32) * stride
        down, right = torch.meshgrid(at, at, indexing="ij")
        corners.append(torch.stack((right, down), -1).flatten(0, 1))
        cells.append(torch.full((len(at) ** 2, 1), float(stride)))
    return torch.cat(corners), torch.cat(cells)


@dataclass(frozen=True)
class ImageList:
    """The argument of torchvision's anchor generators."""

    tensors: Tensor
    image_sizes: list[tuple[int, int]]


def features_of(network: Any, side: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Run an empty photo through the backbone: the photo, and its features."""
    photos = torch.zeros(1, 3, side, side)
    with torch.no_grad():
        features: dict[str, Tensor] = network.backbone(photos)
    return photos, features


LARGEST = math.log(1000 / 16)  # of the logarithm of a correction of a side, as torchvision has it


def decoded(corrections: Tensor, anchors: Tensor, weights: tuple[float, float, float, float], side: float) -> Tensor:
    """Apply corrections (..., N, 4) to anchors (..., N, 4), whose edges stay within 0..side."""
    sides = anchors[..., 2:] - anchors[..., :2]
    centres = anchors[..., :2] + 0.5 * sides
    moves = corrections / corrections.new_tensor(weights)
    centres = moves[..., :2] * sides + centres
    halves = 0.5 * moves[..., 2:].clamp(max=LARGEST).exp() * sides
    return torch.cat((centres - halves, centres + halves), -1).clamp(0, side)


def surest(scores: Tensor, most: int) -> Tensor:
    """Set all of (B, C, N) to 0 but the `most` largest of each class."""
    if most >= scores.shape[2]:
        return scores
    least = scores.topk(most, dim=2).values[..., -1:]
    return torch.where(scores >= least, scores, torch.zeros_like(scores))


def large(boxes: Tensor, least: float) -> Tensor:
    """Mark boxes (..., 4) with 1 where both sides have `least` pixels or more, else 0: (...)."""
    sides = boxes[..., 2:] - boxes[..., :2]
    return (sides.amin(-1) >= least).to(boxes.dtype)


def best_boxes(
    boxes: Tensor, scores: Tensor, *, overlap: float, least: float, most: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Select the `most` boxes that suppression keeps, best first: (B, most, 4), scores and classes (B, most)."""
    count = scores.shape[2]
    alive = (scores * kept(boxes, scores, overlap, least)).flatten(1)
    values, at = alive.topk(min(most, alive.shape[1]))
    picked = boxes.gather(1, (at % count)[..., None].expand(-1, -1, 4))
    return picked, values, torch.div(at, count, rounding_mode="floor")


def rows(boxes: Tensor, values: Tensor, classes: Tensor, side: float) -> Tensor:
    """Join the columns of a detection: (B, K, 6), all 0 where the score is."""
    columns = (boxes / side, values[..., None], classes.to(boxes.dtype)[..., None])
    return torch.cat(columns, -1) * (values > 0).to(boxes.dtype)[..., None]


SCHEMA = "(Tensor boxes, Tensor scores, float overlap, float least) -> Tensor"


def kept_in_torch(boxes: Tensor, scores: Tensor, overlap: float, least: float) -> Tensor:
    """Mark the boxes (B, N, 4) with scores (B, C, N) that stay, class by class: (B, C, N) float, 1 or 0.

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
    """Tell which of the boxes (B, N, 4) have more than `overlap` in common: (B, N, N)."""
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
    """Write the same for the exporter."""
    import onnxscript

    op: Any = onnxscript.opset18
    numbers = [op.Constant(value_float=value) for value in (overlap, least)]
    every = op.Reshape(op.Gather(op.Shape(scores), op.Constant(value_ints=[2])), op.Constant(value_ints=[1]))
    selected = op.NonMaxSuppression(boxes, scores, every, *numbers)  # (M, 3): photo, class, box
    rows = op.Gather(op.Shape(selected), op.Constant(value_ints=[0]))
    ones = op.Expand(op.Constant(value_float=1.0), rows)
    return op.ScatterND(op.Mul(scores, op.Constant(value_float=0.0)), selected, ones)
