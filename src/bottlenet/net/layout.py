"""How features lie in memory, and the grid of channels that a unit works on.

    kind     features               grid (B, C, H, W)
    planes   (B, C, H, W)           as they are: what convolutions give
    rows     (B, H, W, C)           channels come last: Swin
    tokens   (B, extra + H*W, C)    a token a place, row by row: ViT, DeiT, BEiT, Mixer

The `extra` tokens of a transformer stand for no place: class, distillation, registers. They stay on the device. Where
the latent is restored they are made again: a learned token, plus a linear function of the mean over the restored
places that starts at zero. So they cost no byte, and training learns what of them the places tell.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

MAX_EXTRA = 16  # tokens without a place; DINOv2 has 5


@dataclass(frozen=True)
class Layout:
    """What the features at a cut are."""

    kind: str  # planes | rows | tokens
    grid: tuple[int, int, int]  # C, H, W of them as a unit sees them
    extra: int = 0  # tokens in front that stand for no place

    def to_grid(self, features: Tensor) -> Tensor:
        """Features -> (B, C, H, W), without the extra tokens."""
        if self.kind == "planes":
            return features
        if self.kind == "rows":
            return features.permute(0, 3, 1, 2)
        return features[:, self.extra :].transpose(1, 2).reshape(-1, *self.grid)

    def from_grid(self, grid: Tensor) -> Tensor:
        """(B, C, H, W) -> features, but for the extra tokens."""
        if self.kind == "planes":
            return grid
        return grid.permute(0, 2, 3, 1) if self.kind == "rows" else grid.flatten(2).transpose(1, 2)


class GridReduction(nn.Module):
    """A reduction of features that are no planes: features -> grid -> latent (B, c', h, w)."""

    def __init__(self, layout: Layout, reduction: nn.Module) -> None:
        super().__init__()
        self.layout, self.reduction = layout, reduction

    def forward(self, features: Tensor) -> Tensor:
        latent: Tensor = self.reduction(self.layout.to_grid(features))
        return latent


class GridRestoration(nn.Module):
    """Its mirror: latent (B, c', h, w) -> grid -> features, the extra tokens made again."""

    def __init__(self, layout: Layout, restoration: nn.Module) -> None:
        super().__init__()
        self.layout, self.restoration = layout, restoration
        channels, extra = layout.grid[0], layout.extra
        if extra:
            self.token = nn.Parameter(torch.zeros(extra, channels))
            self.from_places = nn.Linear(channels, extra * channels, bias=False)
            nn.init.zeros_(self.from_places.weight)

    def forward(self, latent_hat: Tensor) -> Tensor:
        places = self.layout.from_grid(self.restoration(latent_hat))  # (B, H*W, C), or (B, H, W, C) without extra
        if not self.layout.extra:
            return places
        extra = self.token + self.from_places(places.mean(1)).view(-1, *self.token.shape)  # (B, extra, C)
        return torch.cat([extra, places], 1)

    def started(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """The grids of features (B, N, C), one batch after the other; at their end the token is the mean of theirs."""
        photos, total = 0, torch.zeros(())
        for features in batches:
            photos, total = photos + len(features), total + features[:, : self.layout.extra].sum(0)
            yield self.layout.to_grid(features)
        if self.layout.extra:
            self.token.copy_(total / photos)


def layout_of(shape: Sequence[int], sides: Sequence[tuple[int, int]], aspect: tuple[int, int]) -> Layout | None:
    """The layout of features of that shape, without batch; None where they are no grid.

    `sides` (H, W) are those of the grids before them, the nearest last: tokens of as many places come from there.
    `aspect` (H, W) is the photo's size: of a tensor with three sides, the last two that have its aspect are H and W.
    Where the first two have it alone, channels come last.
    """
    if len(shape) == 3:
        rows = same_aspect(shape[:2], aspect) and not same_aspect(shape[1:], aspect)
        return Layout("rows", (shape[2], shape[0], shape[1])) if rows else Layout("planes", tuple(shape))  # type: ignore[arg-type]
    if len(shape) != 2:
        return None
    count, channels = shape
    for height, width in reversed(sides):
        if 0 <= count - height * width <= MAX_EXTRA:
            return Layout("tokens", (channels, height, width), count - height * width)
    side = math.isqrt(count)  # no grid seen, as the module that makes tokens of the photo is left whole
    if same_aspect((1, 1), aspect) and count - side**2 <= MAX_EXTRA:
        return Layout("tokens", (channels, side, side), count - side**2)
    return None


def same_aspect(sides: Sequence[int], aspect: tuple[int, int]) -> bool:
    """Whether H and W are in the photo's proportion."""
    return sides[0] * aspect[1] == sides[1] * aspect[0]
