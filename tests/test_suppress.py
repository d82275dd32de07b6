"""Suppression in torch and in onnxruntime: the same, and by its definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bottlenet.net.detectors import best_boxes, decoded, kept, large, rows, surest
from bottlenet.net.export import to_onnx
from bottlenet.runtime import open_session


def some(seed: int, photos: int = 2, count: int = 40, classes: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(photos, count, 4, generator=generator)
    low, high = torch.minimum(corners[..., :2], corners[..., 2:]), torch.maximum(corners[..., :2], corners[..., 2:])
    return torch.cat((low, high), -1), torch.rand(photos, classes, count, generator=generator)


def by_definition(boxes: np.ndarray, scores: np.ndarray, overlap: float, least: float) -> np.ndarray:
    """One photo, one class."""
    stays: list[int] = []
    for number in np.argsort(-scores, kind="stable"):
        if scores[number] <= least:
            break
        for other in stays:
            sides = np.minimum(boxes[number, 2:], boxes[other, 2:]) - np.maximum(boxes[number, :2], boxes[other, :2])
            common = sides.clip(0).prod()
            areas = [(boxes[i, 2:] - boxes[i, :2]).prod() for i in (number, other)]
            if common / (sum(areas) - common) > overlap:
                break
        else:
            stays.append(number)
    mask = np.zeros(len(scores), np.float32)
    mask[stays] = 1
    return mask


@pytest.mark.parametrize("overlap", [0.1, 0.5, 0.9])
def test_it_is_what_it_says(overlap: float) -> None:
    boxes, scores = some(1)
    mask = kept(boxes, scores, overlap, 0.2)
    for photo in range(2):
        for number in range(3):
            expected = by_definition(boxes[photo].numpy(), scores[photo, number].numpy(), overlap, 0.2)
            assert np.array_equal(mask[photo, number].numpy(), expected)


def test_nothing_is_sure_enough() -> None:
    boxes, scores = some(2)
    assert kept(boxes, scores, 0.5, 1.0).sum() == 0
    _, values, _ = best_boxes(boxes, scores, overlap=0.5, least=1.0, most=5)
    assert values.tolist() == [[0] * 5] * 2


class Whole(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        boxes, scores = x[..., :4], x[..., 4:].transpose(1, 2)
        return rows(*best_boxes(boxes, surest(scores, 30), overlap=0.5, least=0.2, most=25), 2.0)


def test_onnxruntime_does_the_same_for_any_number_of_photos() -> None:
    boxes, scores = some(3, photos=4)
    x = torch.cat((boxes, scores.transpose(1, 2)), -1)
    session = open_session(to_onnx(Whole(), x[:2], inputs=["x"], outputs=["boxes"]))
    for count in (1, 2, 4):
        (given,) = session.run(None, {"x": x[:count].numpy()})
        assert given.shape == (count, 25, 6)
        np.testing.assert_allclose(given, Whole()(x[:count]).numpy(), atol=1e-6)
    assert (given[:, :-1, 4] >= given[:, 1:, 4]).all()


def test_anchors_that_need_no_correction() -> None:
    anchors = torch.tensor([[1.0, 2, 5, 6], [-3, 0, 20, 4]])
    found = decoded(torch.zeros(2, 2, 4), anchors, (10, 10, 5, 5), 10)
    assert found[0].tolist() == [[1, 2, 5, 6], [0, 0, 10, 4]]
    moved = decoded(torch.tensor([[[10.0, 0, 0, 5 * float(np.log(2))]]]), anchors[:1], (10, 10, 5, 5), 100)
    torch.testing.assert_close(moved[0, 0], torch.tensor([5.0, 0, 9, 8]))


def test_large() -> None:
    assert large(torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 0.5]]), 1).tolist() == [1, 0]
