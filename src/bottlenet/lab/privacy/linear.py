"""The baselines that an attacker has to beat, and what it starts from: the best linear maps from symbols to pixels.

    symbols_hat (C, h, w) -> one place, or 3 x 3 places around it, and the payload's size -> a tile of side / h pixels

Ridge regression, with the weight of the penalty that does best on photos that were not fitted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from bottlenet.wire.contexts import ZERO

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # of the standardised inputs, for each row
REACH = 3  # places a side that a tile is made of
BYTES_SCALE = 16.0  # log2 of a payload's bytes is up to that

Batch = tuple[Tensor, Tensor]
"""What was sent (B, C + 1, h, w), as `as_input` gives it, and pixels (B, 3, side, side), 0..1."""


def as_input(symbols: NDArray[np.uint8], payload_bytes: NDArray[np.integer], scale: Tensor) -> Tensor:
    """(B, C, h, w) and (B,) -> (B, C + 1, h, w) float32: symbols over `scale` (C,), and a plane of the size."""
    values = (torch.from_numpy(symbols).float() - ZERO) / scale[:, None, None]
    sizes = torch.from_numpy(np.log2(payload_bytes.astype(np.float32) + 1) / BYTES_SCALE)
    return torch.cat([values, sizes[:, None, None, None].expand(-1, 1, *values.shape[2:])], 1)


def as_pixels(pixels: NDArray[np.uint8]) -> Tensor:
    """(B, side, side, 3) uint8 -> (B, 3, side, side), 0..1."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255


@dataclass(frozen=True)
class Linear:
    """A fitted map."""

    weight: Tensor  # (3 * tile * tile, C + 1, REACH, REACH) float32, channels as pixel_shuffle takes them
    bias: Tensor  # (3 * tile * tile,)
    penalty: float

    def __call__(self, sent: Tensor) -> Tensor:
        """(B, C + 1, h, w) -> (B, 3, side, side), about 0..1."""
        tile = round((len(self.bias) / 3) ** 0.5)
        return F.pixel_shuffle(F.conv2d(padded(sent), self.weight, self.bias), tile)


@dataclass(frozen=True)
class Fits:
    """Two maps that were fitted on the same photos."""

    tile: Linear  # a tile of what is sent for its place alone
    around: Linear  # and for the places around it


@torch.no_grad()
def fit(batches: Iterable[Batch], held_out: Sequence[Batch]) -> Fits:
    """Reads `batches` once; the penalty is that of the least squared error on `held_out`."""
    rows, products, outputs = 0, torch.zeros(()), torch.zeros(())
    channels = 0
    for sent, pixels in batches:
        channels, tile = sent.shape[1], pixels.shape[2] // sent.shape[2]
        x, y = patches(sent), tiles(pixels, tile)
        rows += len(x)
        products = products + (x.T @ x).double()
        outputs = outputs + (x.T @ y).double()
    assert rows, "nothing to fit"
    every = torch.arange(len(products))
    alone = torch.cat([torch.arange(channels) * REACH**2 + REACH**2 // 2, every[-1:]])
    tile_map, around = (
        best([solve(products / rows, outputs / rows, penalty, kept) for penalty in PENALTIES], held_out)
        for kept in (alone, every)
    )
    return Fits(tile_map, around)


def best(maps: Sequence[Linear], held_out: Sequence[Batch]) -> Linear:
    """The one with the least squared error."""
    return min(maps, key=lambda made: sum(F.mse_loss(made(sent).clamp(0, 1), seen).item() for sent, seen in held_out))


def solve(products: Tensor, outputs: Tensor, penalty: float, kept: Tensor) -> Linear:
    """Means of x x' (d + 1, d + 1) and x y' (d + 1, 3 * tile * tile), the last of x being 1 -> the map that takes
    the inputs `kept` alone, of which the last is that 1.
    """
    weights = torch.full((len(kept),), penalty, dtype=torch.float64, device=products.device)
    weights[-1] = 1e-9  # the mean is free
    made = torch.zeros_like(outputs)
    made[kept] = torch.linalg.solve(products[kept][:, kept] + torch.diag(weights), outputs[kept])
    weight = made[:-1].T.reshape(outputs.shape[1], -1, REACH, REACH)
    return Linear(weight.float().contiguous(), made[-1].float(), penalty)


def patches(sent: Tensor) -> Tensor:
    """(B, C, h, w) -> (B * h * w, C * REACH * REACH + 1), the last of them 1."""
    x = F.unfold(padded(sent), REACH).transpose(1, 2).flatten(0, 1)
    return torch.cat([x, x.new_ones(len(x), 1)], 1)


def tiles(pixels: Tensor, tile: int) -> Tensor:
    """(B, 3, side, side) -> (B * h * w, 3 * tile * tile), where h is side / tile."""
    return F.pixel_unshuffle(pixels, tile).flatten(2).transpose(1, 2).flatten(0, 1)


def padded(sent: Tensor) -> Tensor:
    """Its edges once more."""
    return F.pad(sent, (REACH // 2,) * 4, mode="replicate")
