"""How features lie in memory, and what brings them to a grid of channels and back.

A unit works on a grid of channels, whatever the layout of the features in memory:

    kind     features               grid (B, C, H, W)
    planes   (B, C, H, W)           as they are: the output of convolutions
    rows     (B, H, W, C)           channels come last: Swin
    tokens   (B, extra + H*W, C)    one token for each place, row by row: ViT, DeiT, BEiT, Mixer
    set      row (B, N)             at each place of the smallest grid, the patch of each of its tensors

The `extra` tokens of a transformer stand for no place: class, distillation, registers. They stay on the device. Where
the latent is restored they are made again: a learned token, plus a linear function of the mean over the restored
places that starts at zero. So they cost no byte, and training learns how much of them the places tell.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bottlenet.net.unit import pad_to_multiple

MAX_EXTRA = 16  # tokens without a place; DINOv2 has 5


@dataclass(frozen=True)
class Layout:
    """How the features at a cut lie in memory, and the grid of channels in them."""

    kind: str  # planes | rows | tokens
    grid: tuple[int, int, int]  # C, H, W of them as a unit sees them
    extra: int = 0  # tokens in front that stand for no place

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the features, without batch."""
        channels, height, width = self.grid
        if self.kind == "planes":
            return self.grid
        return (height, width, channels) if self.kind == "rows" else (self.extra + height * width, channels)

    def to_grid(self, features: Tensor) -> Tensor:
        """Drop the extra tokens, and arrange the rest as (B, C, H, W)."""
        if self.kind == "planes":
            return features
        if self.kind == "rows":
            return features.permute(0, 3, 1, 2)
        return features[:, self.extra :].transpose(1, 2).reshape(-1, *self.grid)

    def from_grid(self, grid: Tensor) -> Tensor:
        """Arrange (B, C, H, W) as the features are, without the extra tokens."""
        if self.kind == "planes":
            return grid
        return grid.permute(0, 2, 3, 1) if self.kind == "rows" else grid.flatten(2).transpose(1, 2)


@dataclass(frozen=True)
class SetLayout:
    """How several tensors lie in a row (B, N), and the grid of channels that they have in common.

    A place of it is one of the smallest grid among them, with the patches of all others that cover the same of the
    photo: 56 x 56, 28 x 28 and 14 x 14 places are 14 x 14, with patches of 4 x 4, 2 x 2 and 1.
    """

    grid: tuple[int, int, int]  # C, H, W: C numbers of all patches together
    parts: tuple[Layout, ...]  # of each tensor by itself
    kind: str = "set"

    @classmethod
    def of(cls, parts: Sequence[Layout | None]) -> SetLayout | None:
        """Find the grid; None where a tensor has none, or its places can't be divided into those of the smallest."""
        known = tuple(part for part in parts if part is not None)
        height, width = min((part.grid[1:] for part in known), key=math.prod, default=(0, 0))
        patches = cls((0, height, width), known).patches
        pairs = list(zip(known, patches, strict=True))
        fits = all((-(-part.grid[1] // side), -(-part.grid[2] // side)) == (height, width) for part, side in pairs)
        channels = sum(part.grid[0] * side**2 for part, side in pairs)
        return cls((channels, height, width), known) if fits and len(known) == len(parts) else None

    @property
    def patches(self) -> list[int]:
        """Sides of the patches, a tensor each."""
        _, height, width = self.grid
        return [max(-(-part.grid[1] // height), -(-part.grid[2] // width)) for part in self.parts]

    def apart(self, row: Tensor) -> list[Tensor]:
        """Take a row (B, N) apart into the tensors as the network has them."""
        pieces = torch.split(row, [math.prod(part.shape) for part in self.parts], 1)
        return [piece.reshape(-1, *part.shape) for piece, part in zip(pieces, self.parts, strict=True)]

    def to_grid(self, row: Tensor) -> Tensor:
        """Arrange a row as the grid (B, C, H, W) that all have in common."""
        grids = [part.to_grid(each) for part, each in zip(self.parts, self.apart(row), strict=True)]
        patches = zip(grids, self.patches, strict=True)
        return torch.cat([F.pixel_unshuffle(pad_to_multiple(grid, side), side) for grid, side in patches], 1)


class GridReduction(nn.Module):
    """A reduction of features that are no planes: features -> grid -> latent (B, c', h, w)."""

    def __init__(self, layout: Layout, reduction: nn.Module) -> None:
        super().__init__()
        self.layout, self.reduction = layout, reduction

    def forward(self, features: Tensor) -> Tensor:
        return cast(Tensor, self.reduction(self.layout.to_grid(features)))


class GridRestoration(nn.Module):
    """Its mirror: latent (B, c', h, w) -> grid -> features, with the extra tokens made again."""

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

    def note_extra_tokens(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield the grids of features (B, N, C), then set the token to the mean of the extra tokens in them."""
        photos, total = 0, torch.zeros(())
        for features in batches:
            photos, total = photos + len(features), total + features[:, : self.layout.extra].sum(0)
            yield self.layout.to_grid(features)
        if self.layout.extra:
            self.token.copy_(total / photos)


class SetReduction(nn.Module):
    """A reduction for each tensor of a set, all to one latent: row (B, N) -> the sum of theirs (B, c', h, w).

    So what the tensors have in common is sent once, and what of which is worth a channel is learned over all.
    """

    def __init__(self, layout: SetLayout, reductions: Iterable[nn.Module]) -> None:
        super().__init__()
        self.layout, self.reductions = layout, nn.ModuleList(reductions)

    def forward(self, row: Tensor) -> Tensor:
        first, *others = zip(self.reductions, self.layout.apart(row), strict=True)
        latent: Tensor = first[0](first[1])
        for reduction, each in others:
            latent = latent + reduction(each)
        return latent


class SetRestoration(nn.Module):
    """Its mirror: latent (B, c', h, w) -> each tensor, in a row (B, N)."""

    def __init__(self, layout: SetLayout, restorations: Iterable[nn.Module]) -> None:
        super().__init__()
        self.layout, self.restorations = layout, nn.ModuleList(restorations)

    def forward(self, latent_hat: Tensor) -> Tensor:
        return torch.cat([restore(latent_hat).flatten(1) for restore in self.restorations], 1)

    def note_extra_tokens(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """Do for each tensor what `GridRestoration` does, and yield the grids that all have in common."""
        rows = list(batches)
        for number, (part, restoration) in enumerate(zip(self.layout.parts, self.restorations, strict=True)):
            if part.extra and isinstance(restoration, GridRestoration):
                mine = (self.layout.apart(row)[number] for row in rows)
                for _ in restoration.note_extra_tokens(mine):
                    pass
        return map(self.layout.to_grid, rows)


def layout_of(shape: Sequence[int], sides: Sequence[tuple[int, int]], aspect: tuple[int, int]) -> Layout | None:
    """Find the layout of features of that shape, without batch; None where they hold no grid.

    `sides` (H, W) are those of the grids before them, the nearest last: tokens of as many places come from there.
    `aspect` (H, W) is the photo's size: of a tensor with three sides, the last two that have its aspect are H and W.
    Where only the first two have it, channels come last.
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
    """Tell if H and W have the photo's proportion."""
    return sides[0] * aspect[1] == sides[1] * aspect[0]
