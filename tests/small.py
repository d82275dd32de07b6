"""A classifier that learns in a second, and photos for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from bottlenet.bundle import Preprocess
from bottlenet.net.detectors import best_boxes, rows
from bottlenet.net.models import Classifier
from bottlenet.task import Detection, Multilabel, Segmentation
from bottlenet.train.config import TrainConfig

SIZE = 32
LABELS = ("red", "green", "blue", "grey")


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm(self.conv(x)).relu()


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 12, 3, stride=2, padding=1), nn.BatchNorm2d(12), nn.ReLU())
        self.first = Residual(12)
        self.second = Residual(12)
        self.classifier = nn.Linear(12, len(LABELS))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.second(self.first(self.stem(x))).mean((2, 3)))


def classifier() -> Classifier:
    """Weights are random, and always the same."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        module = Small().eval()
    return Classifier("small", module, Preprocess(SIZE, 0.875, "bicubic"), (127,) * 3, (64,) * 3, LABELS, "none")


def telling(made: Classifier | None = None) -> Classifier:
    """The same, or another, but its answers differ from photo to photo."""
    made = made or classifier()
    seen = (torch.from_numpy(pixels(64)).permute(0, 3, 1, 2).float() - made.mean[0]) / made.std[0]
    with torch.no_grad():
        scores = made.module(seen)
        layer = made.module.classifier
        scale = 3 / scores.std(0)
        layer.weight.mul_(scale[:, None])
        layer.bias.copy_((layer.bias - scores.mean(0)) * scale)
    return replace(made, name="telling" if made.name == "small" else made.name)


def three() -> Classifier:
    """A network of fewer classes."""
    made = classifier()
    made.module.classifier = nn.Linear(12, 3)
    return replace(made, name="three", labels=LABELS[:3])


class Fixed(Small):
    """Takes photos of one size."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Linear(12 * 16 * 16, len(LABELS))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.second(self.first(self.stem(x))).flatten(1))


def fixed() -> Classifier:
    return replace(classifier(), name="fixed", module=Fixed().eval())


class Segmenter(Small):
    """A class for each place of a grid of half the photo's sides, with more channels behind the cut."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Conv2d(12, len(LABELS), 1)

    def forward(self, x: Tensor) -> Tensor:
        features = self.second(self.first(self.stem(x)))
        return nn.functional.interpolate(self.classifier(features), size=x.shape[-2:], mode="bilinear")


def segmenter() -> Classifier:
    """Its classes are all there."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        module = Segmenter().eval()
    seen = (torch.from_numpy(pixels(16)).permute(0, 3, 1, 2).float() - 127) / 64
    with torch.no_grad():
        module.classifier.bias -= module(seen).mean((0, 2, 3))
    preprocess = Preprocess(SIZE, 1.0, "bilinear")
    return Classifier("segmenter", module, preprocess, (127,) * 3, (64,) * 3, LABELS, "none", Segmentation(SIZE, SIZE))


class Detector(Small):
    """Boxes of a quarter of the photo's sides around each place; those that cover each other are put out."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Conv2d(12, len(LABELS), 1)
        at = torch.arange(16) * 2 + 1.0
        centres = torch.stack(torch.meshgrid(at, at, indexing="xy"), -1).reshape(-1, 2)  # row by row: x, y
        self.register_buffer("anchors", torch.cat((centres - 4, centres + 4), -1).clamp(0, SIZE), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        scores = self.classifier(self.second(self.first(self.stem(x)))).flatten(2).sigmoid()  # (B, 4, 256)
        boxes = self.anchors.expand(x.shape[0], -1, -1)
        return rows(*best_boxes(boxes, scores, overlap=0.4, least=0.05, most=20), SIZE)


class Yolo(Small):
    """Rows of three grids, whose cells have 8, 16 and 32 pixels a side, as YOLOX gives them."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Conv2d(12, 5 + len(LABELS), 1)

    def forward(self, x: Tensor) -> Tensor:
        features = self.second(self.first(self.stem(x)))
        grids = [self.classifier(nn.functional.avg_pool2d(features, side)) for side in (4, 8, 16)]
        every = torch.cat([grid.flatten(2) for grid in grids], 2).transpose(1, 2)  # (B, N, 5 + classes)
        return torch.cat((every[..., :4], every[..., 4:].sigmoid()), 2)


def yolo() -> nn.Module:
    """Its boxes are all there, of many sizes."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        module = Yolo().eval()
    seen = (torch.from_numpy(pixels(16)).permute(0, 3, 1, 2).float() - 127) / 64
    with torch.no_grad():
        layer = module.classifier
        layer.weight *= 3
        rows = module(seen)
        layer.bias[:4] -= rows[..., :4].mean((0, 1))
        layer.bias[4] += 1
    return module


def detector() -> Classifier:
    """Finds several things in a photo."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        module = Detector().eval()
    with torch.no_grad():
        module.classifier.weight *= 6
    preprocess = Preprocess(SIZE, 1.0, "bilinear")
    return Classifier("detector", module, preprocess, (127,) * 3, (64,) * 3, LABELS, "none", Detection(20, 0.5))


def tagger() -> Classifier:
    """Several labels."""
    made = telling()
    task = Multilabel((0.5, 0.4, 0.6, 0.5))
    return replace(made, name="tagger", task=task)


def photo(seed: int) -> np.ndarray:
    """Soft random colours, (40, 48, 3) uint8: something for a transform to save on."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((48, 40), Image.Resampling.BICUBIC))


def config_of(folder: Path, *, epochs: int, model: str = "small:classifier") -> TrainConfig:
    """A run on the photos in `folder`/photos, with all that it writes in `folder`."""
    return TrainConfig(
        model=model,
        data=(str(folder / "photos"),),
        out=str(folder / "run"),
        cut="first",
        channels=6,
        epochs=epochs,
        crops=2,
        batch=16,
        target_bytes=150.0,
        cache=str(folder / "cache"),
    )


def save_photos(folder: Path, count: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.fromarray(photo(number)).save(folder / f"{number:03}.png")
    return folder


def pixels(count: int) -> np.ndarray:
    """(count, SIZE, SIZE, 3) uint8."""
    return np.stack([photo(seed)[:SIZE, :SIZE] for seed in range(count)])


class Scales(nn.Module):
    """Three scales of features, each with channels of its own, and a top-down path with skips over them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.down = nn.Sequential(nn.Conv2d(8, 12, 3, stride=2, padding=1), nn.BatchNorm2d(12), nn.ReLU(inplace=True))
        self.deep = nn.Sequential(nn.Conv2d(12, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.sides = nn.ModuleList(nn.Conv2d(channels, 12, 1) for channels in (8, 12, 16))
        self.classifier = nn.Linear(12, len(LABELS))

    def forward(self, x: Tensor) -> Tensor:
        stem = self.stem(x)
        down = self.down(stem)
        maps = [side(each) for side, each in zip(self.sides, (stem, down, self.deep(down)), strict=True)]
        top = maps[2]
        for finer in maps[1::-1]:
            top = (finer + nn.functional.interpolate(top, size=finer.shape[-2:])).relu()
        return self.answers(top)

    def answers(self, top: Tensor) -> Tensor:
        return self.classifier(top.mean((2, 3)))


SCALES = "stem+down+deep"


def scales() -> Classifier:
    """A network at whose best cut three tensors cross, 16 x 16, 8 x 8 and 4 x 4 places."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        module = Scales().eval()
    return telling(replace(classifier(), name="scales", module=module))
